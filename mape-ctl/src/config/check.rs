//! From what was typed to a gateway: roles, interfaces, tunnel and translation; the line itself is in [`super::line`].

use std::{
    net::{AddrParseError, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use mape_common::{
    layout::{DEFAULT_SESSIONS, Filtering, OVERLAP_PORTS},
    map::{
        domain::Domain,
        prefix::{Ipv4Prefix, PrefixError},
    },
};

use super::{
    Resolved, forward, line,
    low::{Clamp, Given, Low, LowNat, LowPressed, LowTimeouts, LowTunnel, Number, Origin, Switch, Text},
    problem::{Mistake, Problem},
};
use crate::{
    gateway::{Gateway, Ipv6Forward, Mode, Nat, Policy, Pressed, Role, Seconds, Spread, Tunnel, TunnelKind},
    instance::Instance,
    tun::is_device_name,
};

/// Bytes of the IPv4 and TCP headers before the segment.
const HEADERS: u16 = 40;
const DEFAULT_MTU: u16 = 1460;
/// The MSS that every host must take (RFC 9293 §3.7.1).
const LEAST_MSS: u16 = 536;
const DEFAULT_OVERLAP_PORTS: [u16; 3] = [53, 123, 443];
const MOST_SECONDS: u32 = 10_000_000;
/// Longer than any receiver waits.
const MOST_FRAGMENT_SECONDS: u32 = 120;
const DEFAULT_PERMISSIONS: u32 = 1_024;

/// Checks everything.
pub(super) fn gateway(instance: &Instance, low: &Low) -> Result<Resolved, Mistake> {
    let role = match word(low.role.as_ref(), "role", &["ce", "br"])? {
        Some("br") => Role::BorderRelay,
        _ => Role::CustomerEdge,
    };
    let lan = lan(low)?;
    let wan = low.wan.as_ref().ok_or_else(|| {
        Mistake::missing(
            "wan",
            "name the interface of the IPv6 side: wan = \"eth1\", or --wan eth1",
        )
    })?;
    let line = line::line(role, &low.map)?;
    let mut warnings = line.warnings;
    let tunnel = tunnel(&low.tunnel, &line.default_routes)?;
    let nat = nat(&low.nat, line.domain.as_ref(), &mut warnings)?;
    let forwards = forward::forwards(low, line.domain.as_ref(), &nat)?;
    let ipv6_forward = match word(low.ipv6.forward.as_ref(), "forward", &["auto", "always", "never"])? {
        Some("always") => Ipv6Forward::Always,
        Some("never") => Ipv6Forward::Never,
        _ => Ipv6Forward::Auto,
    };
    let wan = interface("wan", wan)?;
    let spread = spread(&low.spread, role, lan.contains(&wan))?;
    let gateway = Gateway {
        instance: instance.to_string(),
        role,
        lan,
        wan,
        mode: if is_on(&low.generic, false) {
            Mode::Generic
        } else {
            Mode::Native
        },
        domain: line.domain,
        relay: line.relay,
        rules: line.rules,
        tunnel,
        nat,
        forwards,
        ipv6_forward,
        spread,
    };
    Ok(Resolved { gateway, warnings })
}

fn lan(low: &Low) -> Result<Vec<String>, Mistake> {
    let hint = "name at least one interface of the IPv4 side: lan = [\"eth0\"], or --lan eth0";
    let given = low
        .lan
        .as_ref()
        .filter(|names| !names.is_empty())
        .ok_or_else(|| Mistake::missing("lan", hint))?;
    let mut names = Vec::new();
    for name in given {
        let checked = interface("lan", name)?;
        if names.contains(&checked) {
            return Err(Mistake::at(name.origin, Problem::Twice(checked)));
        }
        names.push(checked);
    }
    Ok(names)
}

/// Who shares the packets from the tunnel.
fn spread(given: &Text, role: Role, is_one_arm: bool) -> Result<Spread, Mistake> {
    let Some(Given { value, origin }) = given else {
        return Ok(Spread::None);
    };
    let spread = match value.as_str() {
        "none" => return Ok(Spread::None),
        "all" => Spread::All,
        list => Spread::These(list.parse().map_err(|error| {
            let problem = Problem::Value {
                key: "spread",
                value: value.clone(),
                hint: format!("{error}; write \"all\", \"none\", or a list of processors like \"1-3,5\""),
            };
            Mistake::at(*origin, problem)
        })?),
    };
    let (with, hint) = match role {
        Role::BorderRelay => (
            "role = \"br\"",
            "leave it out: a border relay's packets come from many addresses, which a NIC with several queues tells apart",
        ),
        Role::CustomerEdge if is_one_arm => (
            "one NIC for both sides",
            "leave it out, or give the WAN a NIC of its own",
        ),
        Role::CustomerEdge => return Ok(spread),
    };
    let problem = Problem::Contradiction {
        key: "spread",
        with,
        hint,
    };
    Err(Mistake::at(*origin, problem))
}

fn tunnel(low: &LowTunnel, default_routes: &[Ipv4Prefix]) -> Result<Tunnel, Mistake> {
    let mtu = number(&low.mtu, "mtu", 1280, 65_495)?.unwrap_or(DEFAULT_MTU);
    let most = mtu - HEADERS;
    let mss = match &low.mss_clamp {
        None
        | Some(Given {
            value: Clamp::Switch(true),
            ..
        }) => Some(most),
        Some(Given {
            value: Clamp::Switch(false),
            ..
        }) => None,
        Some(Given {
            value: Clamp::Bytes(bytes),
            origin,
        }) => Some(range(*bytes, *origin, "mss-clamp", LEAST_MSS, most)?),
        Some(Given {
            value: Clamp::Other(value),
            origin,
        }) => {
            let problem = Problem::Word {
                key: "mss-clamp",
                value: value.clone(),
                words: &["true", "false", "a number of bytes"],
            };
            return Err(Mistake::at(*origin, problem));
        }
    };
    let routes = match &low.routes {
        None => default_routes.to_vec(),
        Some(given) => given
            .iter()
            .map(|route| prefix("routes", route))
            .collect::<Result<_, _>>()?,
    };
    Ok(Tunnel {
        device: low
            .device
            .as_ref()
            .map_or_else(|| Ok("mape0".to_owned()), |name| interface("device", name))?,
        kind: match word(low.kind.as_ref(), "kind", &["auto", "kernel", "user"])? {
            Some("kernel") => TunnelKind::Kernel,
            Some("user") => TunnelKind::User,
            _ => TunnelKind::Auto,
        },
        mtu,
        mss,
        copy_dscp: is_on(&low.copy_dscp, true),
        process: is_on(&low.process, true),
        routes,
    })
}

fn nat(low: &LowNat, domain: Option<&Domain>, warnings: &mut Vec<String>) -> Result<Nat, Mistake> {
    let udp = Policy {
        endpoint_independent: mapping(&low.udp_mapping, "udp-mapping", true)?,
        filtering: filtering(&low.udp_filtering, "udp-filtering")?,
    };
    let tcp = Policy {
        endpoint_independent: mapping(&low.tcp_mapping, "tcp-mapping", false)?,
        filtering: filtering(&low.tcp_filtering, "tcp-filtering")?,
    };
    // Nobody opens a session of ICMP from outside, so there is nothing to filter.
    let icmp = Policy {
        endpoint_independent: mapping(&low.icmp_mapping, "icmp-mapping", true)?,
        filtering: Filtering::AddressAndPort,
    };
    let timeouts = timeouts(&low.timeouts, warnings)?;
    Ok(Nat {
        sessions: number(&low.sessions, "sessions", 256, 1_048_576)?.unwrap_or(DEFAULT_SESSIONS),
        policies: [udp, tcp, icmp],
        host_sessions: number(&low.host_sessions, "host-sessions", 0, 1_048_576)?.unwrap_or(0),
        host_ports: number(&low.host_ports, "host-ports", 0, 65_535)?.unwrap_or(0),
        mapping_permissions: number(&low.mapping_permissions, "mapping-permissions", 1, 1_048_576)?
            .unwrap_or(DEFAULT_PERMISSIONS),
        quarantine: number(&low.quarantine, "quarantine", 0, MOST_SECONDS)?.unwrap_or(120),
        watermark: number(&low.watermark, "watermark", 1, 100)?.unwrap_or(80),
        pressed: pressed(&low.pressed)?,
        overlap_ports: ports(low.overlap_ports.as_deref(), "overlap-ports", OVERLAP_PORTS)?
            .unwrap_or_else(|| DEFAULT_OVERLAP_PORTS.to_vec()),
        reserved_ports: ports(low.reserved_ports.as_deref(), "reserved-ports", usize::from(u16::MAX))?
            .unwrap_or_default(),
        external_address: low
            .external_address
            .as_ref()
            .map(|given| external(given, domain))
            .transpose()?,
        timeouts,
    })
}

fn mapping(given: &Text, key: &'static str, usual: bool) -> Result<bool, Mistake> {
    let said = word(given.as_ref(), key, &["endpoint-independent", "overlap"])?;
    Ok(said.map_or(usual, |word| word == "endpoint-independent"))
}

fn filtering(given: &Text, key: &'static str) -> Result<Filtering, Mistake> {
    let said = word(
        given.as_ref(),
        key,
        &["endpoint-independent", "address", "address-and-port"],
    )?;
    Ok(match said {
        Some("endpoint-independent") => Filtering::EndpointIndependent,
        Some("address-and-port") => Filtering::AddressAndPort,
        // RFC 7597 §10
        _ => Filtering::Address,
    })
}

fn pressed(low: &LowPressed) -> Result<Pressed, Mistake> {
    let usual = Pressed::default();
    let seconds =
        |given: &Number, key, usual: u32| Ok::<u32, Mistake>(number(given, key, 1, MOST_SECONDS)?.unwrap_or(usual));
    Ok(Pressed {
        udp_query: seconds(&low.udp_query, "pressed.udp-query", usual.udp_query)?,
        tcp_opening: seconds(&low.tcp_opening, "pressed.tcp-opening", usual.tcp_opening)?,
        tcp_closing: seconds(&low.tcp_closing, "pressed.tcp-closing", usual.tcp_closing)?,
    })
}

fn external(given: &Given<String>, domain: Option<&Domain>) -> Result<Ipv4Addr, Mistake> {
    let address: Ipv4Addr = address("external-address", given, "IPv4", "192.0.2.18")?;
    let Some(prefix) = domain.map(Domain::ipv4).filter(|prefix| prefix.len() < 32) else {
        let problem = Problem::Contradiction {
            key: "external-address",
            with: "a line that has no IPv4 prefix of its own",
            hint: "leave it out: the address follows from the prefix",
        };
        return Err(Mistake::at(given.origin, problem));
    };
    if prefix.contains(address) {
        Ok(address)
    } else {
        Err(Mistake::at(given.origin, Problem::Foreign { address, prefix }))
    }
}

fn timeouts(low: &LowTimeouts, warnings: &mut Vec<String>) -> Result<Seconds, Mistake> {
    let usual = Seconds::default();
    let mut seconds = |given: &Number, key, usual: u32, least: u32, rfc: &str| -> Result<u32, Mistake> {
        let seconds = number(given, key, 1, MOST_SECONDS)?.unwrap_or(usual);
        if seconds < least {
            warnings.push(format!(
                "timeout {key} of {seconds} s is below the {least} s that {rfc} asks for: sessions may end while they are in use"
            ));
        }
        Ok(seconds)
    };
    Ok(Seconds {
        icmp: seconds(&low.icmp, "icmp", usual.icmp, 60, "RFC 5508 REQ-2")?,
        udp: seconds(&low.udp, "udp", usual.udp, 120, "RFC 4787 REQ-5")?,
        // RFC 4787 REQ-5a allows any time for well-known ports.
        udp_query: seconds(&low.udp_query, "udp-query", usual.udp_query, 0, "")?,
        tcp_opening: seconds(
            &low.tcp_opening,
            "tcp-opening",
            usual.tcp_opening,
            240,
            "RFC 5382 REQ-5",
        )?,
        tcp_closing: seconds(
            &low.tcp_closing,
            "tcp-closing",
            usual.tcp_closing,
            240,
            "RFC 5382 REQ-5",
        )?,
        tcp_established: seconds(
            &low.tcp_established,
            "tcp-established",
            usual.tcp_established,
            7_440,
            "RFC 5382 REQ-5",
        )?,
        // RFC 1122 §3.3.2 has the receiver wait for 60 to 120 s.
        fragment: number(&low.fragment, "fragment", 1, MOST_FRAGMENT_SECONDS)?.unwrap_or(usual.fragment),
    })
}

fn ports(given: Option<&[Given<i64>]>, key: &'static str, most: usize) -> Result<Option<Vec<u16>>, Mistake> {
    let Some(list) = given else { return Ok(None) };
    if let Some(first_too_many) = list.get(most) {
        return Err(Mistake::at(
            first_too_many.origin,
            Problem::TooMany {
                key,
                count: list.len(),
                most,
            },
        ));
    }
    list.iter()
        .map(|port| range(port.value, port.origin, key, 1, u16::MAX))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn interface(key: &'static str, given: &Given<String>) -> Result<String, Mistake> {
    if is_device_name(&given.value) {
        Ok(given.value.clone())
    } else {
        Err(Mistake::at(
            given.origin,
            Problem::Interface {
                key,
                value: given.value.clone(),
            },
        ))
    }
}

/// One of some words, as it stands in their list.
pub(super) fn word(
    given: Option<&Given<String>>,
    key: &'static str,
    words: &'static [&'static str],
) -> Result<Option<&'static str>, Mistake> {
    let Some(Given { value, origin }) = given else {
        return Ok(None);
    };
    match words.iter().find(|word| **word == value.as_str()) {
        Some(word) => Ok(Some(word)),
        None => Err(Mistake::at(
            *origin,
            Problem::Word {
                key,
                value: value.clone(),
                words,
            },
        )),
    }
}

/// A number of a range.
pub(super) fn number<T>(given: &Number, key: &'static str, least: T, most: T) -> Result<Option<T>, Mistake>
where
    T: TryFrom<i64> + Into<i64> + Copy,
{
    given
        .as_ref()
        .map(|given| range(given.value, given.origin, key, least, most))
        .transpose()
}

fn range<T>(value: i64, origin: Origin, key: &'static str, least: T, most: T) -> Result<T, Mistake>
where
    T: TryFrom<i64> + Into<i64> + Copy,
{
    let (least, most) = (least.into(), most.into());
    T::try_from(value)
        .ok()
        .filter(|_| (least..=most).contains(&value))
        .ok_or_else(|| {
            Mistake::at(
                origin,
                Problem::Range {
                    key,
                    value,
                    least,
                    most,
                },
            )
        })
}

/// An address of a family.
pub(super) fn address<T: FromStr<Err = AddrParseError>>(
    key: &'static str,
    given: &Given<String>,
    family: &'static str,
    example: &'static str,
) -> Result<T, Mistake> {
    let Given { value, origin } = given;
    value.parse().map_err(|source| {
        Mistake::at(
            *origin,
            Problem::Address {
                key,
                value: value.clone(),
                family,
                example,
                source,
            },
        )
    })
}

/// The IPv6 address of a tunnel's end.
pub(super) fn tunnel_end(key: &'static str, given: &Text) -> Result<Option<Ipv6Addr>, Mistake> {
    let Some(given) = given else { return Ok(None) };
    let value: Ipv6Addr = address(key, given, "IPv6", "2001:db8:ffff::1")?;
    if value.is_unspecified() || value.is_multicast() || value.is_loopback() {
        return Err(Mistake::at(given.origin, Problem::NotUnicast { key, value }));
    }
    Ok(Some(value))
}

/// A prefix of either family.
pub(super) fn prefix<T: FromStr<Err = PrefixError>>(key: &'static str, given: &Given<String>) -> Result<T, Mistake> {
    let Given { value, origin } = given;
    value.parse().map_err(|reason| {
        Mistake::at(
            *origin,
            Problem::Prefix {
                key,
                value: value.clone(),
                reason,
            },
        )
    })
}

/// A switch and what it is when nobody says.
pub(super) fn is_on(given: &Switch, usual: bool) -> bool {
    given.as_ref().map_or(usual, |given| given.value)
}
