//! What was typed, in a file or in flags: unread words and numbers, each with the place it stands at.

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::cli::LoadArgs;

/// Where something was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// At this byte of the file.
    File(usize),
    /// In this flag.
    Flag(&'static str),
    /// Nowhere: something is missing, or wrong as a whole.
    Whole,
}

/// Something typed.
#[derive(Clone, Debug)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

impl<T> Given<T> {
    fn flag(value: T, name: &'static str) -> Self {
        Self {
            value,
            origin: Origin::Flag(name),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        let origin = Origin::File(spanned.span().start);
        Ok(Self {
            value: spanned.into_inner(),
            origin,
        })
    }
}

pub(super) type Text = Option<Given<String>>;
pub(super) type Number = Option<Given<i64>>;
pub(super) type Switch = Option<Given<bool>>;
pub(super) type List<T> = Option<Vec<Given<T>>>;

/// The file, or the flags, or one over the other.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Low {
    pub(super) role: Text,
    pub(super) lan: List<String>,
    pub(super) wan: Text,
    pub(super) generic: Switch,
    pub(super) spread: Text,
    pub(super) map: LowMap,
    pub(super) tunnel: LowTunnel,
    pub(super) nat: LowNat,
    pub(super) ipv6: LowIpv6,
    pub(super) forward: List<LowForward>,
}

/// `[ipv6]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct LowIpv6 {
    pub(super) forward: Text,
}

/// `[map]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct LowMap {
    pub(super) service: Text,
    pub(super) unconfirmed: Switch,
    pub(super) prefix: Text,
    pub(super) br: Text,
    pub(super) format: Text,
    pub(super) psid: Number,
    pub(super) psid_len: Number,
    pub(super) rule: List<LowRule>,
}

/// `[[map.rule]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct LowRule {
    pub(super) ipv6: Text,
    pub(super) ipv4: Text,
    pub(super) ea_len: Number,
    pub(super) psid_offset: Number,
    pub(super) fmr: Switch,
    /// The rule in one word, as the flag has it; not a key of the file.
    #[serde(skip)]
    pub(super) typed: Option<String>,
}

/// `[tunnel]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct LowTunnel {
    pub(super) device: Text,
    pub(super) kind: Text,
    pub(super) mtu: Number,
    pub(super) mss_clamp: Option<Given<Clamp>>,
    pub(super) copy_dscp: Switch,
    pub(super) process: Switch,
    pub(super) routes: List<String>,
}

/// `mss-clamp`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "mss-clamp is true (the MTU less 40), false, or a number of bytes"
)]
pub(super) enum Clamp {
    Switch(bool),
    Bytes(i64),
    Other(String),
}

impl Clamp {
    fn read(text: String) -> Self {
        match (text.parse(), text.parse()) {
            (Ok(switch), _) => Self::Switch(switch),
            (_, Ok(bytes)) => Self::Bytes(bytes),
            _ => Self::Other(text),
        }
    }
}

/// `[nat]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct LowNat {
    pub(super) sessions: Number,
    pub(super) udp_mapping: Text,
    pub(super) tcp_mapping: Text,
    pub(super) icmp_mapping: Text,
    pub(super) udp_filtering: Text,
    pub(super) tcp_filtering: Text,
    pub(super) host_sessions: Number,
    pub(super) host_ports: Number,
    pub(super) mapping_permissions: Number,
    pub(super) quarantine: Number,
    pub(super) watermark: Number,
    pub(super) overlap_ports: List<i64>,
    pub(super) reserved_ports: List<i64>,
    pub(super) external_address: Text,
    pub(super) timeouts: LowTimeouts,
    pub(super) pressed: LowPressed,
}

/// `[nat.pressed]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct LowPressed {
    pub(super) udp_query: Number,
    pub(super) tcp_opening: Number,
    pub(super) tcp_closing: Number,
}

/// `[nat.timeouts]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct LowTimeouts {
    pub(super) icmp: Number,
    pub(super) udp: Number,
    pub(super) udp_query: Number,
    pub(super) tcp_opening: Number,
    pub(super) tcp_closing: Number,
    pub(super) tcp_established: Number,
    pub(super) fragment: Number,
}

/// `[[forward]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct LowForward {
    pub(super) protocol: Text,
    pub(super) external: Option<Given<Ports>>,
    pub(super) inside: Text,
    /// The forward in one word, as the flag has it; not a key of the file.
    #[serde(skip)]
    pub(super) typed: Option<String>,
}

/// A port, or text that may be several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "external is a port, or the first and the last of several: 1232 or \"1232-1235\""
)]
pub(super) enum Ports {
    One(i64),
    Text(String),
}

/// Puts a flag over what the file says.
fn over<T>(place: &mut Option<Given<T>>, flag: Option<T>, name: &'static str) {
    if let Some(value) = flag {
        *place = Some(Given::flag(value, name));
    }
}

/// Puts a flag that can be repeated over a list: the file's whole list gives way.
fn over_list<T>(place: &mut List<T>, flags: Vec<T>, name: &'static str) {
    if !flags.is_empty() {
        *place = Some(flags.into_iter().map(|value| Given::flag(value, name)).collect());
    }
}

impl Low {
    /// Puts the flags over what the file says.
    pub(super) fn override_by(&mut self, flags: &LoadArgs) {
        let LoadArgs {
            config: _,
            role,
            lan,
            wan,
            generic,
            spread,
            map,
            tunnel,
            nat,
            ipv6,
            forward,
        } = flags.clone();
        let forwards = forward.into_iter().map(|typed| LowForward {
            typed: Some(typed),
            ..LowForward::default()
        });
        over_list(&mut self.forward, forwards.collect(), "--forward");
        over(&mut self.role, role, "--role");
        over_list(&mut self.lan, lan, "--lan");
        over(&mut self.wan, wan, "--wan");
        over(&mut self.generic, generic, "--generic");
        over(&mut self.spread, spread, "--spread");

        over(&mut self.map.prefix, map.prefix, "--prefix");
        over(&mut self.map.br, map.br, "--br");
        over(&mut self.map.service, map.service, "--service");
        over(&mut self.map.unconfirmed, map.unconfirmed, "--unconfirmed");
        over(&mut self.map.format, map.format, "--format");
        over(&mut self.map.psid, map.psid, "--psid");
        over(&mut self.map.psid_len, map.psid_len, "--psid-len");
        let rules = map.rule.into_iter().map(|typed| LowRule {
            typed: Some(typed),
            ..LowRule::default()
        });
        over_list(&mut self.map.rule, rules.collect(), "--rule");

        over(&mut self.tunnel.device, tunnel.tunnel_device, "--tunnel-device");
        over(&mut self.tunnel.kind, tunnel.tunnel_kind, "--tunnel-kind");
        over(&mut self.tunnel.mtu, tunnel.mtu, "--mtu");
        over(
            &mut self.tunnel.mss_clamp,
            tunnel.mss_clamp.map(Clamp::read),
            "--mss-clamp",
        );
        over(&mut self.tunnel.copy_dscp, tunnel.copy_dscp, "--copy-dscp");
        over(&mut self.tunnel.process, tunnel.tunnel_process, "--tunnel-process");
        over_list(&mut self.tunnel.routes, tunnel.route, "--route");

        over(&mut self.ipv6.forward, ipv6.ipv6_forward, "--ipv6-forward");

        over(&mut self.nat.sessions, nat.sessions, "--sessions");
        over(&mut self.nat.udp_mapping, nat.udp_mapping, "--udp-mapping");
        over(&mut self.nat.tcp_mapping, nat.tcp_mapping, "--tcp-mapping");
        over(&mut self.nat.icmp_mapping, nat.icmp_mapping, "--icmp-mapping");
        over(&mut self.nat.udp_filtering, nat.udp_filtering, "--udp-filtering");
        over(&mut self.nat.tcp_filtering, nat.tcp_filtering, "--tcp-filtering");
        over(&mut self.nat.host_sessions, nat.host_sessions, "--host-sessions");
        over(&mut self.nat.host_ports, nat.host_ports, "--host-ports");
        over(
            &mut self.nat.mapping_permissions,
            nat.mapping_permissions,
            "--mapping-permissions",
        );
        over(&mut self.nat.quarantine, nat.quarantine, "--quarantine");
        over(&mut self.nat.watermark, nat.watermark, "--watermark");
        over_list(&mut self.nat.overlap_ports, nat.overlap_ports, "--overlap-ports");
        over_list(&mut self.nat.reserved_ports, nat.reserved_ports, "--reserved-ports");
        over(
            &mut self.nat.external_address,
            nat.external_address,
            "--external-address",
        );
        let times = &mut self.nat.timeouts;
        over(&mut times.icmp, nat.timeout_icmp, "--timeout-icmp");
        over(&mut times.udp, nat.timeout_udp, "--timeout-udp");
        over(&mut times.udp_query, nat.timeout_udp_query, "--timeout-udp-query");
        over(&mut times.tcp_opening, nat.timeout_tcp_opening, "--timeout-tcp-opening");
        over(&mut times.tcp_closing, nat.timeout_tcp_closing, "--timeout-tcp-closing");
        over(
            &mut times.tcp_established,
            nat.timeout_tcp_established,
            "--timeout-tcp-established",
        );
        over(&mut times.fragment, nat.timeout_fragment, "--timeout-fragment");
        let pressed = &mut self.nat.pressed;
        over(&mut pressed.udp_query, nat.pressed_udp_query, "--pressed-udp-query");
        over(
            &mut pressed.tcp_opening,
            nat.pressed_tcp_opening,
            "--pressed-tcp-opening",
        );
        over(
            &mut pressed.tcp_closing,
            nat.pressed_tcp_closing,
            "--pressed-tcp-closing",
        );
    }
}
