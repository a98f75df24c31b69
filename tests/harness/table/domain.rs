//! The domain of the border relay's tests: its rules, and the relay itself.

use std::net::Ipv4Addr;

use mape_common::{
    env::Route,
    host::HostEnv,
    layout::{Config, RuleRef},
    map::{
        rule::{InterfaceId, Rule},
        spec::RuleSpec,
    },
};

use super::{
    host::{LAN, WAN},
    world::{LAN_MAC, RELAY, WAN_MAC, config, host, router},
};

/// 198.18.0.0/24 in 2001:db8:f0::/48, EA 12, offset 6: k = 4, as in VPP's border relay test.
fn vpp_rule() -> Rule {
    rule("2001:db8:f0::", 48, [198, 18, 0, 0], 24, 12)
}

/// A rule to forward by, offset 6.
///
/// # Panics
/// Where there can be no such rule.
pub fn rule(ipv6: &str, ipv6_len: u8, ipv4: [u8; 4], ipv4_len: u8, ea_len: u8) -> Rule {
    Rule::new(&RuleSpec {
        ipv6: format!("{ipv6}/{ipv6_len}").parse().expect("a prefix"),
        ipv4: format!("{}/{ipv4_len}", Ipv4Addr::from(ipv4))
            .parse()
            .expect("a prefix"),
        ea_len,
        psid_offset: 6,
        psid_len: None,
        psid: None,
        format: InterfaceId::Rfc7597,
        fmr: true,
    })
    .expect("a rule")
}

/// Gives a gateway a rule.
///
/// # Panics
/// Never: rules are few.
pub fn add(env: &mut HostEnv, rule: Rule) {
    let found = RuleRef {
        rule: u32::try_from(env.rules.len()).expect("few rules"),
        hop: 0,
    };
    env.rules_v4.push((rule.ipv4(), rule.ipv4_len(), found));
    env.rules_v6.push((rule.ipv6(), rule.ipv6_len(), found));
    env.rules.push(rule);
}

/// A relay whose IPv4 side is the LAN NIC and whose IPv6 side is the WAN NIC.
///
/// # Panics
/// If the plan of indices contradicts itself.
pub fn border_relay() -> HostEnv {
    let config = Config {
        tunnel_address: RELAY.octets(),
        mss: 0,
        ..config(100, 8)
    };
    let mut env = HostEnv::new(config);
    assert_eq!((env.add_link(LAN_MAC, 1500), env.add_link(WAN_MAC, 1500)), (LAN, WAN));
    env.set_far_hop(0, &router(WAN));
    env.routes.borrow_mut().push(([0; 4], 0, Route::Resolved(host(LAN))));
    add(&mut env, vpp_rule());
    add(&mut env, rule("2001:db8::", 40, [192, 0, 2, 0], 24, 16));
    env
}
