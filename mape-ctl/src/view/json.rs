//! `stat --json`: keys are stable, new ones may come.

use std::net::{Ipv4Addr, Ipv6Addr};

use mape_common::{
    layout::Counter,
    verdict::{Direction, Reason},
};
use serde_json::{Map, Value, json};

use super::{
    snapshot::{HopView, LinkView, Rate, Snapshot, is_border_relay},
    text::mac,
};
use crate::instance::Instance;

/// The whole snapshot; of LAN hosts the heaviest `hosts` one by one.
pub fn stat(instance: &Instance, shot: &Snapshot, rates: Option<&[(Direction, Rate); 2]>, hosts: usize) -> Value {
    let config = &shot.config;
    let is_br = is_border_relay(config);
    let mut lan_hosts = shot.hosts.json(hosts);
    if let Value::Object(map) = &mut lan_hosts {
        map.insert("refused_packets".to_owned(), shot.refused_by_quota().into());
    }
    let directions = Direction::ALL.map(|direction| (direction.name().to_owned(), direction_of(shot, direction)));
    let sessions = shot
        .use_of
        .iter()
        .map(|(transport, used)| (transport.name().to_owned(), json!(used)));
    json!({
        "instance": instance.as_ref(),
        "role": if is_br { "br" } else { "ce" },
        "loaded_seconds": shot.loaded_for,
        "gate": if shot.is_gate_open { "open" } else { "closed" },
        "native_ipv6": if shot.is_native_on { "xdp" } else { "stack" },
        "tunnel_address": Ipv6Addr::from(config.tunnel_address),
        "relay_address": Ipv6Addr::from(config.relay_address),
        "external_address": (!is_br).then(|| Ipv4Addr::from(config.external_address)),
        "ports": {
            "total": config.ports,
            "psid": config.port_set.psid().0,
            "psid_len": config.port_set.psid_len(),
            "psid_offset": config.port_set.offset(),
        },
        "links": shot.links.iter().map(link).collect::<Vec<_>>(),
        "next_hops": shot.hops.iter().map(hop).collect::<Vec<_>>(),
        "directions": directions.into_iter().collect::<Map<_, _>>(),
        "sessions": sessions.collect::<Map<_, _>>(),
        "spread": (!shot.handed.is_empty()).then(|| json!({
            "processors": shot.handed,
            "not_taken_over": shot.not_taken_over(),
        })),
        "session_slots": config.sessions,
        "hosts": if is_br { Value::Null } else { lan_hosts },
        "pressure": if is_br { Value::Null } else { shot.pressure.json() },
        "fragmented": { "noted": shot.fragmented.0, "displaced": shot.fragmented.1 },
        "early_fragments": shot.held,
        "permissions": { "noted": shot.permissions.0, "lost": shot.permissions.1 },
        "icmp_errors": { "sent": shot.answers.0, "suppressed": shot.answers.1 },
        "rates": rates.map(|rates| {
            rates.iter().map(|(direction, rate)| (direction.name().to_owned(), json!(rate))).collect::<Map<_, _>>()
        }),
    })
}

fn counter(sum: Counter) -> Value {
    json!({ "packets": sum.packets, "bytes": sum.bytes })
}

fn direction_of(shot: &Snapshot, direction: Direction) -> Value {
    let reason = |(reason, sum): (Reason, Counter)| {
        json!({
            "label": reason.label(), "action": reason.action().name(), "meaning": reason.meaning(),
            "packets": sum.packets, "bytes": sum.bytes,
        })
    };
    json!({
        "forwarded": counter(shot.counters.forwarded(direction)),
        "native": counter(shot.counters.native(direction)),
        "delivered": counter(shot.counters.delivered(direction)),
        "reasons": shot.counters.reasons(direction).map(reason).collect::<Vec<_>>(),
    })
}

fn link(link: &LinkView) -> Value {
    json!({
        "name": link.name, "ifindex": link.ifindex, "mac": mac(link.mac), "mtu": link.mtu,
        "mode": link.mode, "alive": link.is_alive, "detached": link.is_detached, "gone": link.is_gone, "device": link.losses,
    })
}

fn hop(view: &HopView) -> Value {
    json!({
        "index": view.index,
        "address": view.address.map(Ipv4Addr::from),
        "router": view.router,
        "interface": view.interface,
        "ifindex": view.hop.ifindex,
        "mac": mac(view.hop.destination),
        "source_mac": mac(view.hop.source),
        "mtu": view.hop.mtu,
        "path_mtu": view.path_mtu,
        "silent_seconds": view.silent,
    })
}
