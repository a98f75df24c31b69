//! Owns the command line: every doc comment here is help text and manual page.

mod endpoint;
mod load;

use std::{net::Ipv6Addr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use mape_common::layout::Transport;

pub use self::{
    endpoint::{BadEndpoint, Endpoint},
    load::{Ipv6Flags, LoadArgs, MapFlags, NatFlags, TunnelFlags},
};
use crate::{
    command::calc::CalcArgs,
    forward::{Inside, PortRange, Protocols},
    instance::Instance,
};

/// Controls a MAP-E gateway (RFC 7597) that runs in the kernel's XDP hook
///
/// A MAP-E line shares one IPv4 address between several customers: each has some of its ports, and its IPv4 packets travel
/// inside IPv6 to the provider's border relay. `load` puts the gateway into the kernel, where it stays when mape-ctl ends;
/// `stat`, `sessions` and `ports` look at it; `forward` leads ports to a server; `unload` takes it out.
///
/// Exit codes: 0 done, 1 could not, 2 wrong usage, 3 partly up (loaded, but something configured cannot work).
#[derive(Debug, Parser)]
#[command(name = "mape-ctl", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    /// Name of the gateway: several can live on one kernel
    #[arg(long, global = true, value_name = "NAME", default_value_t)]
    pub instance: Instance,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compute address, ports and border relay of a line from its IPv6 prefix
    Calc(CalcArgs),
    /// Put a gateway into the kernel; again with a changed configuration to change it
    ///
    /// Everything can stand in a configuration file, in flags, or in both; a flag overrides the file.
    /// If any step fails, everything done so far is taken back.
    Load(Box<LoadArgs>),
    /// Look the machine over before a gateway is loaded, or whether a loaded one is well
    ///
    /// With a configuration (file or flags, as for `load`) that gateway is looked at, else the loaded one. Each finding says
    /// what is wrong, why it matters, and what mends it (docs/check.md has them all). A few packets are sent: pings to
    /// neighbours and the border relay, and one through the tunnel device.
    ///
    /// Exit codes: 0 nothing wrong (notes at most), 3 warnings, 1 errors, 2 wrong usage.
    Check(Box<CheckArgs>),
    /// Load the gateway, and look after it: follow the kernel's routes, neighbours and devices, until a signal ends this
    ///
    /// It is made for a service manager (docs/run.md). SIGTERM ends it and leaves the gateway forwarding as it is, SIGHUP has it read
    /// the configuration again, `unload` ends both.
    Run(Box<LoadArgs>),
    /// Take the gateway out of the kernel; its sessions end
    Unload,
    /// Take the XDP programs off NICs; their traffic takes the slow path, with the same sessions, until `mape-ctl load`
    ///
    /// For comparison, or to see whether the fast path is to blame for something. No packet is lost to it.
    Detach {
        /// The NICs; all of the gateway's if none is named
        #[arg(value_name = "NIC")]
        nics: Vec<String>,
    },
    /// Show what the gateway does: rates, sessions, ports, and why packets were not forwarded
    Stat(StatArgs),
    /// Measure how fast the gateway is with its own traffic, by the fast path and without it
    ///
    /// It says what to start on a LAN host, waits for that, and reads what passes and what this machine's processors do meanwhile.
    /// Nothing is sent. With --compare the fast path is shut for as long again; an end, however it comes about, opens it.
    Bench(BenchArgs),
    /// List, count or end the sessions of the translation table
    Sessions(SessionsArgs),
    /// Show the line's ports as a picture: free, held, shared, forwarded, reserved
    Ports(PortsArgs),
    /// Add, remove or list static forwards: ports of the line that lead to a host of the LAN
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Say step by step what the gateway does with a packet, and why; nothing is sent or changed
    ///
    /// The packet is one in words (`mape-ctl explain udp 192.168.1.10:5000 198.51.100.7:4000`), one of a capture, or bytes.
    /// The data path's own code runs on it here, over the loaded gateway's state and the kernel's routing table.
    Explain(Box<ExplainArgs>),
    /// Show packets as they pass, and what becomes of each
    ///
    /// What the kernel is asked to tell ends a few seconds after this command, however it ends. Of a flood only a part is
    /// shown; how much was left out is said.
    Trace(TraceArgs),
    /// Carry tunnelled packets in user space, for kernels without a tunnel of their own (ip6_tunnel), until a signal ends it
    ///
    /// `load` starts it by itself where it is needed (see tunnel.process in docs/config.md), and `unload` ends it. SIGUSR1 has it
    /// say what it has done so far, SIGHUP has it look at the gateway again.
    Tunnel(TunnelArgs),
    /// Write the BPF object that this program carries, or try it on this kernel
    #[command(hide = true)]
    Object(ObjectArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(ManArgs),
    /// Print the completion script of a shell
    #[command(hide = true)]
    Completions(CompletionsArgs),
}

/// Arguments of `check`.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Clone, Debug, Default, Args)]
pub struct CheckArgs {
    /// Print JSON, with stable keys
    #[arg(long)]
    pub json: bool,
    /// Show what is as it should be, too
    #[arg(long)]
    pub all: bool,
    /// Mend what is safe to mend, say what was done, and look again
    #[arg(long)]
    pub fix: bool,
    /// With --fix: only say what would be done
    #[arg(long, requires = "fix")]
    pub dry_run: bool,
    /// Send no packets
    #[arg(long)]
    pub passive: bool,
    #[command(flatten)]
    /// The gateway.
    pub gateway: LoadArgs,
}

/// Arguments of `stat`.
#[derive(Clone, Debug, Args)]
pub struct StatArgs {
    /// Print JSON, with stable keys
    #[arg(long)]
    pub json: bool,
    /// Show counters that are zero, too
    #[arg(long)]
    pub all: bool,
    /// Show so many LAN hosts one by one, the heaviest first, or all [default: 10]
    #[arg(long, value_name = "COUNT", num_args = 0..=1, default_missing_value = "4294967295")]
    pub hosts: Option<u32>,
    /// Do not wait a second to measure rates
    #[arg(long, conflicts_with = "watch")]
    pub no_rates: bool,
    /// Show it again and again, every so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub watch: Option<u32>,
}

/// Arguments of `bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Measure for so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Measure once more with the fast path shut, by the slow path
    #[arg(long)]
    pub compare: bool,
    /// Do not wait for traffic
    #[arg(long)]
    pub no_wait: bool,
    /// Print JSON, with stable keys
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `sessions`.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Clone, Debug, Default, Args)]
pub struct SessionsArgs {
    /// Only this protocol
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    pub protocol: Option<Protocol>,
    /// Only of this LAN host
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub inside: Option<Endpoint>,
    /// Only with this remote host
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub remote: Option<Endpoint>,
    /// Only on this port of the shared address
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub external_port: Option<u16>,
    /// Only in this state: open, query, opening, unanswered, established, fin-sent, fin-received, closing, reset, static (a forward, with --mappings)
    #[arg(long, value_name = "STATE", value_parser = ["open", "query", "opening", "unanswered", "established", "fin-sent", "fin-received", "closing", "reset", "static"])]
    pub state: Option<String>,
    /// Show endpoint-independent mappings, too
    #[arg(long)]
    pub mappings: bool,
    /// Show what each LAN host has instead: sessions, and ports to itself
    #[arg(long, conflicts_with_all = ["count", "flush", "mappings"])]
    pub by_host: bool,
    /// Print JSON, with stable keys
    #[arg(long, conflicts_with = "count")]
    pub json: bool,
    /// Print only how many there are
    #[arg(long)]
    pub count: bool,
    /// End the sessions instead of showing them
    #[arg(long, conflicts_with_all = ["json", "count", "mappings"])]
    pub flush: bool,
    /// With --flush and no filter: yes, end all of them
    #[arg(long, requires = "flush")]
    pub yes: bool,
}

/// Arguments of `ports`.
#[derive(Clone, Debug, Default, Args)]
pub struct PortsArgs {
    /// Only this protocol
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    pub protocol: Option<Protocol>,
    /// Print JSON, with stable keys: every port with its state, its sessions and who has it
    #[arg(long)]
    pub json: bool,
}

/// What to do with static forwards.
#[derive(Clone, Debug, Subcommand)]
pub enum ForwardCommand {
    /// Forward ports of the line to a host of the LAN, until `forward del` or `unload`
    ///
    /// Anybody on the Internet may send to them. Sessions that use the ports for something else are ended. To keep a forward
    /// for longer, write it into the configuration ([[forward]], see docs/config.md).
    #[command(after_help = "Example: mape-ctl forward add tcp 1232 192.168.10.5:80")]
    Add(ForwardAddArgs),
    /// Take a forward away that was added by command, and end its sessions
    #[command(visible_alias = "delete")]
    Del(ForwardDelArgs),
    /// List the forwards, where each comes from, and how many sessions it has
    List(ForwardListArgs),
}

/// Arguments of `forward add`.
#[derive(Clone, Debug, Args)]
pub struct ForwardAddArgs {
    /// Which protocols
    #[arg(value_enum, value_name = "PROTOCOL")]
    pub protocol: Protocols,
    /// Port of the line, or the first and the last of several
    #[arg(value_name = "PORT[-PORT]")]
    pub external: PortRange,
    /// The LAN host, with its first port where that is another number
    #[arg(value_name = "ADDRESS[:PORT]")]
    pub inside: Inside,
}

/// Arguments of `forward del`.
#[derive(Clone, Debug, Args)]
pub struct ForwardDelArgs {
    /// Which protocols, as the forward was added
    #[arg(value_enum, value_name = "PROTOCOL")]
    pub protocol: Protocols,
    /// Port of the line, or the first and the last of several, as the forward was added
    #[arg(value_name = "PORT[-PORT]")]
    pub external: PortRange,
}

/// Arguments of `forward list`.
#[derive(Clone, Debug, Args)]
pub struct ForwardListArgs {
    /// Print JSON, with stable keys
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `explain`.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Clone, Debug, Default, Args)]
pub struct ExplainArgs {
    /// udp, tcp or icmp (an echo)
    #[arg(value_enum, value_name = "PROTOCOL", conflicts_with_all = ["pcap", "hex"])]
    pub protocol: Option<Protocol>,
    /// Who sends it; without a port, one that a host might choose; the port of icmp is the echo's identifier
    #[arg(value_name = "SOURCE[:PORT]")]
    pub source: Option<Endpoint>,
    /// To whom
    #[arg(value_name = "DESTINATION[:PORT]")]
    pub destination: Option<Endpoint>,
    /// The interface it comes by [default: the LAN interface that the source is behind]
    #[arg(long, value_name = "INTERFACE")]
    pub from: Option<String>,
    /// It comes out of the tunnel
    #[arg(long)]
    pub inbound: bool,
    /// The same, from this tunnel address [default: the border relay's]
    #[arg(long, value_name = "ADDRESS")]
    pub outer_source: Option<Ipv6Addr>,
    /// TCP flags [default: syn]
    #[arg(long, value_enum, value_name = "FLAG,...", value_delimiter = ',')]
    pub flags: Vec<TcpFlag>,
    /// An echo reply instead of a request
    #[arg(long)]
    pub echo_reply: bool,
    /// TTL [default: 64]
    #[arg(long, value_name = "HOPS")]
    pub ttl: Option<u8>,
    /// Length of the IPv4 packet, bytes
    #[arg(long, value_name = "BYTES")]
    pub length: Option<u16>,
    /// MSS option of a TCP packet with syn [default: 1460]
    #[arg(long, value_name = "BYTES")]
    pub mss: Option<u16>,
    /// Routers may fragment it (no DF)
    #[arg(long)]
    pub may_fragment: bool,
    /// Frames of a capture (pcap or pcapng) instead, one after the other: each meets what the ones before it would have made
    #[arg(long, value_name = "FILE", conflicts_with = "hex")]
    pub pcap: Option<PathBuf>,
    /// Only this frame of it, from 1
    #[arg(long, value_name = "NUMBER", requires = "pcap", conflicts_with = "hex")]
    pub frame: Option<usize>,
    /// A frame or an IP packet in hexadecimal instead
    #[arg(long, value_name = "BYTES")]
    pub hex: Option<String>,
    /// A gateway of this configuration that nobody has used, instead of the loaded one
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON, with stable keys
    #[arg(long)]
    pub json: bool,
}

/// A TCP flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TcpFlag {
    /// Opens
    Syn,
    /// Acknowledges
    Ack,
    /// Closes
    Fin,
    /// Resets
    Rst,
    /// Pushes
    Psh,
}

/// Arguments of `trace`.
#[derive(Clone, Debug, Default, Args)]
pub struct TraceArgs {
    /// Only this protocol
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    pub protocol: Option<Protocol>,
    /// Only with this address at either end, or this address and port
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub host: Vec<Endpoint>,
    /// Only with this port at either end
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Only one direction
    #[arg(long, value_enum, value_name = "DIRECTION")]
    pub direction: Option<Way>,
    /// Only what was counted so: forwarded, delivered, or a reason as `stat --all` lists them; may be given several times
    #[arg(long, value_name = "NAME")]
    pub outcome: Vec<String>,
    /// Only what was not forwarded
    #[arg(long, conflicts_with = "outcome")]
    pub refused: bool,
    /// Most packets a second that the kernel tells of
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// End after so many packets
    #[arg(long, value_name = "COUNT")]
    pub count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
    /// Print a line of JSON for each, with stable keys
    #[arg(long)]
    pub json: bool,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// Into the tunnel
    Outbound,
    /// Out of the tunnel
    Inbound,
}

/// Arguments of `tunnel`.
#[derive(Clone, Debug, Default, Args)]
pub struct TunnelArgs {
    /// The TUN device [default: the one that `load` has made]
    #[arg(long, value_name = "DEVICE", conflicts_with = "config")]
    pub name: Option<String>,
    /// No gateway is loaded: make the device, its routes and the tunnel's address from this configuration, and take them away at
    /// the end. Nothing is translated then
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say at the end, and at SIGUSR1, in a line of JSON with stable keys what was done
    #[arg(long)]
    pub json: bool,
    /// Leave the session of whoever has started it
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// User datagrams
    Udp,
    /// Transmission control
    Tcp,
    /// ICMP echo
    Icmp,
}

impl From<Protocol> for Transport {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Udp => Self::Udp,
            Protocol::Tcp => Self::Tcp,
            Protocol::Icmp => Self::Icmp,
        }
    }
}

/// Arguments of `object`.
#[derive(Clone, Debug, Args)]
pub struct ObjectArgs {
    /// Where to write it
    #[arg(long, short, value_name = "FILE", required_unless_present = "verify")]
    pub output: Option<PathBuf>,
    /// Load every program, attach none, and show what the kernel's verifier says
    #[arg(long)]
    pub verify: bool,
    /// With --verify: print JSON, with stable keys
    #[arg(long, requires = "verify")]
    pub json: bool,
}

/// Arguments of `man`.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// Folder for the pages
    #[arg(long, short, value_name = "FOLDER", default_value = ".")]
    pub output: PathBuf,
}

/// Arguments of `completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }
}
