//! What `load` decides before it touches anything.

use std::net::Ipv6Addr;

use mape_common::layout::Filtering;

use super::*;
use crate::{
    gateway::{Ipv6Forward, Mode, Nat, Policy, Pressed, Seconds, Spread, Tunnel, TunnelKind},
    host::nic::tests::nic as interface,
};

fn relay(lan: &[&str], wan: &str, role: Role) -> Gateway {
    Gateway {
        instance: "test".to_owned(),
        role,
        lan: lan.iter().map(|name| (*name).to_owned()).collect(),
        wan: wan.to_owned(),
        mode: Mode::Native,
        domain: None,
        relay: Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1),
        rules: Vec::new(),
        forwards: Vec::new(),
        ipv6_forward: Ipv6Forward::Auto,
        spread: Spread::None,
        tunnel: Tunnel {
            device: "mape0".to_owned(),
            kind: TunnelKind::Auto,
            mtu: 1460,
            mss: Some(1420),
            copy_dscp: true,
            process: true,
            routes: Vec::new(),
        },
        nat: Nat {
            sessions: 0,
            policies: [Policy {
                endpoint_independent: true,
                filtering: Filtering::Address,
            }; 3],
            host_sessions: 0,
            host_ports: 0,
            mapping_permissions: 1_024,
            quarantine: 120,
            watermark: 80,
            pressed: Pressed::default(),
            overlap_ports: vec![53],
            reserved_ports: Vec::new(),
            external_address: None,
            timeouts: Seconds::default(),
        },
    }
}

fn chosen(lan: &[&str], wan: &str, role: Role) -> Vec<(String, &'static str)> {
    let there = [interface(1, "a"), interface(2, "b"), interface(3, "w")];
    let (ports, uplink) = ports(&relay(lan, wan, role), &there).unwrap();
    assert_eq!(uplink.name, wan);
    ports.into_iter().map(|port| (port.nic.name, port.program)).collect()
}

#[test]
fn every_interface_gets_the_program_of_its_side() {
    let own = |name: &str, program| (name.to_owned(), program);
    assert_eq!(
        chosen(&["a", "b"], "w", Role::CustomerEdge),
        [own("a", names::LAN), own("b", names::LAN), own("w", names::WAN)]
    );
    assert_eq!(chosen(&["w"], "w", Role::CustomerEdge), [own("w", names::ONE_ARM)]);
    let shared = Gateway {
        spread: Spread::All,
        ..relay(&["a"], "w", Role::CustomerEdge)
    };
    let (found, _) = ports(&shared, &[interface(1, "a"), interface(3, "w")]).unwrap();
    assert_eq!(
        found.iter().map(|port| port.program).collect::<Vec<_>>(),
        [names::LAN, names::SPREAD]
    );
    assert_eq!(
        chosen(&["a", "w"], "w", Role::CustomerEdge),
        [own("a", names::LAN), own("w", names::ONE_ARM)]
    );
    assert_eq!(
        chosen(&["a"], "w", Role::BorderRelay),
        [own("a", names::RELAY_V4), own("w", names::RELAY_V6)]
    );
    assert_eq!(chosen(&["w"], "w", Role::BorderRelay), [own("w", names::RELAY_ONE_ARM)]);
}

#[test]
fn a_gateway_of_another_place_or_role_is_left_alone() {
    let instance = Instance::default();
    let before = State {
        role: "ce".to_owned(),
        network_namespace: 5,
        ..State::default()
    };
    let refuse = |here, role| refuse_other_place(&instance, Some(&before), here, role);
    assert!(refuse(5, Role::CustomerEdge).is_ok());
    assert!(matches!(
        refuse(6, Role::CustomerEdge),
        Err(LoadError::OtherNamespace(_))
    ));
    assert!(matches!(
        refuse(5, Role::BorderRelay),
        Err(LoadError::OtherRole {
            loaded: "ce",
            wanted: "br",
            ..
        })
    ));
    assert!(refuse_other_place(&instance, None, 6, Role::BorderRelay).is_ok());
}

#[test]
fn a_tunnel_that_does_not_fit_says_what_would() {
    let error = LoadError::Mtu {
        mtu: 1460,
        wan: "wan0".to_owned(),
        wan_mtu: 1492,
    }
    .to_string();
    assert!(
        error.contains("need an MTU of 1500 on wan0") && error.ends_with("set tunnel.mtu = 1452"),
        "{error}"
    );
}
