//! Owns the command line of `load`, `run` and whatever else takes a configuration: its flags, section by section.

use std::path::PathBuf;

use clap::{ArgAction, Args};

/// Arguments of `load`.
///
/// Flags hold what was typed, unread: file and flags are checked by the same code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct LoadArgs {
    /// Configuration file (see docs/config.md)
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which end of the tunnel: ce (the customer's) or br (the provider's border relay)
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// Interface of the IPv4 side; may be given several times
    #[arg(long, value_name = "INTERFACE")]
    pub lan: Vec<String>,
    /// Interface of the IPv6 side; may be the same as --lan (one arm)
    #[arg(long, value_name = "INTERFACE")]
    pub wan: Option<String>,
    /// Attach in the generic layer, for NICs whose driver has no XDP; much slower
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub generic: Option<bool>,
    /// Processors that share the packets from the tunnel: none (the one that the NIC interrupts has all), all, or a list like 1-3,5
    /// [default: none]
    #[arg(long, value_name = "PROCESSORS", num_args = 0..=1, default_missing_value = "all")]
    pub spread: Option<String>,
    #[command(flatten)]
    /// The line.
    pub map: MapFlags,
    #[command(flatten)]
    /// The tunnel.
    pub tunnel: TunnelFlags,
    #[command(flatten)]
    /// Translation.
    pub nat: NatFlags,
    #[command(flatten)]
    /// Native IPv6.
    pub ipv6: Ipv6Flags,
    /// A static forward: tcp, udp or both, port or ports of the line, LAN host with or without its first port; may be given
    /// several times
    #[arg(
        long,
        value_name = "PROTOCOL,PORT[-PORT],ADDRESS[:PORT]",
        help_heading = "Translation"
    )]
    pub forward: Vec<String>,
}

/// Flags of the `[map]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "The line")]
pub struct MapFlags {
    /// The IPv6 prefix that the provider gave this line
    #[arg(long, value_name = "PREFIX/LEN")]
    pub prefix: Option<String>,
    /// IPv6 address of the border relay
    #[arg(long, value_name = "ADDRESS")]
    pub br: Option<String>,
    /// Look only in this service's rules of the built-in table
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Also use rules of the built-in table that nobody has confirmed
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub unconfirmed: Option<bool>,
    /// Layout of the interface identifier: rfc7597 or draft-03 (Japanese services)
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// The PSID, where it is not in the prefix
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub psid: Option<i64>,
    /// Length of that PSID, bits
    #[arg(long, value_name = "BITS", allow_negative_numbers = true)]
    pub psid_len: Option<i64>,
    /// A mapping rule: IPv6 prefix, IPv4 prefix, EA length, PSID offset, and `fmr` where packets may go straight to other
    /// customers by it; may be given several times
    #[arg(long, value_name = "V6,V4,EA,OFFSET[,fmr]")]
    pub rule: Vec<String>,
}

/// Flags of the `[tunnel]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "The tunnel")]
pub struct TunnelFlags {
    /// Name of the device that the routing table points at [default: mape0]
    #[arg(long, value_name = "NAME")]
    pub tunnel_device: Option<String>,
    /// Who carries the tunnel's packets where `load` makes the device: auto, kernel (ip6tnl), or user (a process) [default: auto]
    #[arg(long, value_name = "KIND")]
    pub tunnel_kind: Option<String>,
    /// Largest IPv4 packet in the tunnel, bytes [default: 1460]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub mtu: Option<i64>,
    /// Largest TCP MSS let through: true (MTU less 40), false, or bytes [default: true]
    #[arg(long, value_name = "BYTES|BOOL")]
    pub mss_clamp: Option<String>,
    /// Copy the DSCP of IPv4 packets to their tunnel header [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub copy_dscp: Option<bool>,
    /// Start `mape-ctl tunnel` where the device needs it [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub tunnel_process: Option<bool>,
    /// IPv4 destination that goes into the tunnel; may be given several times [default: 0.0.0.0/0]
    #[arg(long, value_name = "PREFIX/LEN")]
    pub route: Vec<String>,
}

/// Flags of the `[ipv6]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Native IPv6")]
pub struct Ipv6Flags {
    /// When native IPv6 is forwarded in XDP, past all firewall rules: auto (while `mape-ctl run` finds no rules that it would
    /// bypass), always, never [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub ipv6_forward: Option<String>,
}

/// Flags of the `[nat]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Translation")]
pub struct NatFlags {
    /// Most sessions at once [default: 65536]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub sessions: Option<i64>,
    /// How UDP endpoints get ports: endpoint-independent or overlap [default: endpoint-independent]
    #[arg(long, value_name = "HOW")]
    pub udp_mapping: Option<String>,
    /// How TCP endpoints get ports: overlap or endpoint-independent [default: overlap]
    #[arg(long, value_name = "HOW")]
    pub tcp_mapping: Option<String>,
    /// How ICMP queries get identifiers: endpoint-independent or overlap [default: endpoint-independent]
    #[arg(long, value_name = "HOW")]
    pub icmp_mapping: Option<String>,
    /// Who may send to a UDP mapping: address (hosts it has sent to), endpoint-independent (anybody), address-and-port
    /// [default: address]
    #[arg(long, value_name = "WHO")]
    pub udp_filtering: Option<String>,
    /// Who may send to a TCP mapping [default: address]
    #[arg(long, value_name = "WHO")]
    pub tcp_filtering: Option<String>,
    /// Most sessions of one LAN host, 0 for any number [default: 0]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub host_sessions: Option<i64>,
    /// Most ports that one LAN host has to itself, per protocol; beyond them it shares; 0 for any number [default: 0]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub host_ports: Option<i64>,
    /// Most remote hosts that one mapping remembers as allowed to send to it [default: 1024]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub mapping_permissions: Option<i64>,
    /// Seconds for which a port that anybody could send to stays unused after its mapping's end [default: 120]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub quarantine: Option<i64>,
    /// Percent of sessions or ports in use from which on closed, opening and query sessions end sooner [default: 80]
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    pub watermark: Option<i64>,
    /// Seconds in the place of --timeout-udp-query while ports or sessions are short [default: 10]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub pressed_udp_query: Option<i64>,
    /// Seconds in the place of --timeout-tcp-opening while ports or sessions are short [default: 30]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub pressed_tcp_opening: Option<i64>,
    /// Seconds in the place of --timeout-tcp-closing while ports or sessions are short [default: 2]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub pressed_tcp_closing: Option<i64>,
    /// UDP destination ports whose endpoints overlap even so [default: 53,123,443]
    #[arg(long, value_name = "PORT,…", value_delimiter = ',', action = ArgAction::Append)]
    pub overlap_ports: Vec<i64>,
    /// Ports of the set that are kept from translation
    #[arg(long, value_name = "PORT,…", value_delimiter = ',', action = ArgAction::Append)]
    pub reserved_ports: Vec<i64>,
    /// The address to translate to, where the line has an IPv4 prefix
    #[arg(long, value_name = "ADDRESS")]
    pub external_address: Option<String>,
    /// Seconds after which an idle ICMP echo session ends [default: 60]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout_icmp: Option<i64>,
    /// Seconds after which an idle UDP session ends [default: 300]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout_udp: Option<i64>,
    /// Seconds after which an idle UDP session to port 53 or 123 ends [default: 60]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout_udp_query: Option<i64>,
    /// Seconds after which a TCP session ends that is opening [default: 240]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout_tcp_opening: Option<i64>,
    /// Seconds after which a TCP session ends that both sides have closed or one has reset [default: 240]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout_tcp_closing: Option<i64>,
    /// Seconds after which an idle established TCP session ends [default: 7440]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout_tcp_established: Option<i64>,
    /// Seconds for which a packet's later fragments may come after its first, at most 120 [default: 30]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub timeout_fragment: Option<i64>,
}
