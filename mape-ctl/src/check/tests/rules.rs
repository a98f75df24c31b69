//! Firewall rules: which of them reach the gateway's packets.

use super::{
    super::{Level, kind, kind::Kind},
    FORWARD, FROM_LAN, INPUT, POSTROUTING, masquerade, rule, well,
};

fn interface_match(key: &str, op: &str, right: &str) -> String {
    format!(r#"{{"match":{{"op":"{op}","left":{{"meta":{{"key":"{key}"}}}},"right":{right}}}}}"#)
}

fn address_match(field: &str, right: &str) -> String {
    format!(r#"{{"match":{{"op":"==","left":{{"payload":{{"protocol":"ip6","field":"{field}"}}}},"right":{right}}}}}"#)
}

fn nat_found(chains_and_rules: &str) -> bool {
    let mut case = well();
    case.rules(chains_and_rules);
    let report = case.report();
    report
        .findings
        .iter()
        .any(|finding| finding.kind == kind::FIREWALL_NAT && finding.level > Level::Ok)
}

#[test]
fn only_translation_that_reaches_the_tunnels_packets_is_named() {
    for (op, right, expected) in [
        ("==", r#""mape0""#, true),
        ("==", r#""wan0""#, false),
        ("==", r#"{"set":["wan0","mape0"]}"#, true),
        ("==", r#"{"set":["wan0","ppp0"]}"#, false),
        ("==", r#""mape*""#, true),
        ("!=", r#""mape0""#, false),
        ("!=", r#""wan0""#, true),
        // A set with a name may have anything.
        ("==", r#""@uplinks""#, true),
    ] {
        let rules = masquerade(&interface_match("oifname", op, right));
        assert_eq!(nat_found(&rules), expected, "{op} {right}");
    }
    // IPv6 only, and only what comes from elsewhere.
    assert!(!nat_found(&masquerade(
        r#"{"match":{"op":"==","left":{"payload":{"protocol":"ip6","field":"saddr"}},"right":"2001:db8::1"}}"#
    )));
    assert!(!nat_found(&masquerade(&interface_match("iifname", "==", r#""wg0""#))));
    // Rules of iptables-nft.
    let foreign = rule("nat", "post", 7, r#"{"xt":{"type":"target","name":"MASQUERADE"}}"#);
    assert!(nat_found(&format!("{POSTROUTING},{foreign}")));
}

#[test]
fn a_rule_before_spares_the_tunnels_packets_and_a_jump_leads_to_others() {
    let all = rule("nat", "post", 9, r#"{"masquerade":null}"#);
    let to_tunnel = interface_match("oifname", "==", r#""mape0""#);
    for verdict in ["return", "accept"] {
        let spared = rule("nat", "post", 8, &format!(r#"{to_tunnel},{{"{verdict}":null}}"#));
        assert!(!nat_found(&format!("{POSTROUTING},{spared},{all}")), "{verdict}");
    }
    let unsure = r#"{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":"198.51.100.1"}}"#;
    let some = rule("nat", "post", 8, &format!(r#"{unsure},{{"return":null}}"#));
    assert!(nat_found(&format!("{POSTROUTING},{some},{all}")));
    let other = r#"{"chain":{"family":"ip","table":"nat","name":"sub","handle":2}}"#;
    let jump = rule("nat", "post", 8, r#"{"jump":{"target":"sub"}}"#);
    let in_sub = rule("nat", "sub", 10, r#"{"snat":{"addr":"192.0.2.1"}}"#);
    assert!(nat_found(&format!("{POSTROUTING},{other},{jump},{in_sub}")));
    // Nothing jumps there.
    assert!(!nat_found(&format!("{POSTROUTING},{other},{in_sub}")));
}

#[test]
fn rules_that_let_the_slow_path_in_are_recognised() {
    let dropping = |rules: &[String], kind: &'static Kind, chain: &str| {
        let mut case = well();
        case.rules(&format!("{chain},{}", rules.join(",")));
        let report = case.report();
        report
            .findings
            .iter()
            .any(|finding| finding.kind == kind && finding.level > Level::Ok)
    };
    let from_lan = rule("f", "fwd", 2, FROM_LAN);
    for (accept, expected) in [
        (interface_match("iifname", "==", r#""mape0""#), false),
        (interface_match("oifname", "==", r#""lan0""#), false),
        (interface_match("mark", "==", "77"), false),
        (interface_match("iifname", "==", r#""wg0""#), true),
        (
            r#"{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":443}}"#.to_owned(),
            true,
        ),
    ] {
        let rules = [
            from_lan.clone(),
            rule("f", "fwd", 3, &format!(r#"{accept},{{"accept":null}}"#)),
        ];
        assert_eq!(dropping(&rules, kind::FIREWALL_FORWARD, FORWARD), expected, "{accept}");
    }
    // `ct state vmap { established : accept, invalid : drop }` says nothing of new packets; one with `new` does.
    for (entry, expected) in [
        (r#"["established",{"accept":null}]"#, true),
        (r#"["new",{"accept":null}]"#, false),
    ] {
        let map = format!(r#"{{"vmap":{{"key":{{"ct":{{"key":"state"}}}},"data":{{"set":[{entry}]}}}}}}"#);
        let rules = [from_lan.clone(), rule("f", "fwd", 3, &map)];
        assert_eq!(dropping(&rules, kind::FIREWALL_FORWARD, FORWARD), expected, "{entry}");
    }
    for (accept, expected) in [
        (interface_match("l4proto", "==", r#""ipencap""#), false),
        (interface_match("l4proto", "==", "4"), false),
        (
            interface_match("l4proto", "==", r#"{"set":["ipv6-icmp","ipencap"]}"#),
            false,
        ),
        (interface_match("l4proto", "==", r#""ipv6-icmp""#), true),
        (interface_match("iifname", "==", r#""wan0""#), false),
        (interface_match("iifname", "==", r#""lan0""#), true),
        (address_match("saddr", r#""2001:db8:ffff::1""#), false),
        (address_match("saddr", r#""2001:db8:eeee::1""#), true),
        (
            address_match("saddr", r#"{"prefix":{"addr":"2001:db8::","len":32}}"#),
            false,
        ),
        (address_match("daddr", r#"{"prefix":{"addr":"fe80::","len":10}}"#), true),
        (
            address_match("daddr", r#"{"set":["::1","2001:db8:12:3400:0:c000:212:34"]}"#),
            false,
        ),
        (
            r#"{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":22}}"#.to_owned(),
            true,
        ),
    ] {
        let rules = [rule("f", "in", 2, &format!(r#"{accept},{{"accept":null}}"#))];
        assert_eq!(dropping(&rules, kind::FIREWALL_INPUT, INPUT), expected, "{accept}");
    }
}

#[test]
fn chains_that_jump_in_a_circle_come_to_an_end() {
    let chain = |name: &str| format!(r#"{{"chain":{{"family":"inet","table":"f","name":"{name}","handle":3}}}}"#);
    let jump = |from: &str, to: &str| rule("f", from, 4, &format!(r#"{{"jump":{{"target":"{to}"}}}}"#));
    let rules = [chain("a"), chain("b"), jump("fwd", "a"), jump("a", "b"), jump("b", "a")].join(",");
    let mut case = well();
    case.rules(&format!("{FORWARD},{rules}"));
    assert_eq!(case.report().worst(), Level::Warning);
}
