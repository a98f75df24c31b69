//! Rows of configurations: what each means, or the message that it gets.

mod forward;

use clap::{Args as _, FromArgMatches as _};

use mape_common::layout::{Filtering, Transport};

use super::*;
use crate::gateway::{Ipv6Forward, Mode, Pressed, Role, Seconds, Spread};

const FULL: &str = r#"
role = "ce"
lan = ["lan0", "lan1"]
wan = "wan0"
generic = true

[map]
prefix = "2001:db8:12:3400::/56"
br = "2001:db8:ffff::1"
format = "rfc7597"

[[map.rule]]
ipv6 = "2001:db8::/40"
ipv4 = "192.0.2.0/24"
ea-len = 16
psid-offset = 6
fmr = true

[[map.rule]]
ipv6 = "2001:db8:100::/40"
ipv4 = "198.51.100.0/24"
ea-len = 16
psid-offset = 6

[tunnel]
device = "tun7"
mtu = 1500
mss-clamp = 1300
copy-dscp = false
routes = ["198.51.100.0/24"]

[ipv6]
forward = "always"

[nat]
sessions = 1024
udp-mapping = "overlap"
tcp-mapping = "endpoint-independent"
icmp-mapping = "overlap"
udp-filtering = "endpoint-independent"
tcp-filtering = "address-and-port"
host-sessions = 500
host-ports = 60
mapping-permissions = 100
quarantine = 0
watermark = 90
overlap-ports = [53]
reserved-ports = [4304]

[nat.timeouts]
icmp = 61
udp = 301
udp-query = 30
tcp-opening = 241
tcp-closing = 242
tcp-established = 7441
fragment = 15

[nat.pressed]
udp-query = 5
tcp-opening = 20
tcp-closing = 1
"#;

/// The least that a customer edge needs.
const LEAST: &str = "lan = [\"lan0\"]\nwan = \"wan0\"\n[map]\nprefix = \"2001:db8:12:3400::/56\"\nbr = \"2001:db8:ffff::1\"\n\
    [[map.rule]]\nipv6 = \"2001:db8::/40\"\nipv4 = \"192.0.2.0/24\"\nea-len = 16\npsid-offset = 6\n";

fn flags(words: &[&str]) -> LoadArgs {
    let command = LoadArgs::augment_args(clap::Command::new("load").no_binary_name(true));
    LoadArgs::from_arg_matches(&command.try_get_matches_from(words).unwrap()).unwrap()
}

fn with(text: &str, words: &[&str]) -> Result<Resolved, String> {
    read(&Instance::default(), Some(("ce.toml", text)), &flags(words)).map_err(|error| error.to_string())
}

fn file(text: &str) -> Result<Resolved, String> {
    with(text, &[])
}

fn wrong(text: &str) -> String {
    file(text).unwrap_err()
}

#[test]
fn every_key_of_the_file_arrives() {
    let Resolved { gateway, warnings } = file(FULL).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(
        (gateway.role, gateway.mode, gateway.instance.as_str()),
        (Role::CustomerEdge, Mode::Generic, "default")
    );
    assert_eq!(
        (gateway.lan, gateway.wan.as_str()),
        (vec!["lan0".to_owned(), "lan1".to_owned()], "wan0")
    );
    let domain = gateway.domain.unwrap();
    assert_eq!(
        domain.ce_address(),
        "2001:db8:12:3400:0:c000:212:34".parse::<std::net::Ipv6Addr>().unwrap()
    );
    assert_eq!(domain.port_set().len(), 252);
    assert_eq!(gateway.relay, "2001:db8:ffff::1".parse::<std::net::Ipv6Addr>().unwrap());
    assert_eq!(gateway.rules.len(), 1, "only the rule that says so is for forwarding");
    let tunnel = gateway.tunnel;
    assert_eq!(
        (tunnel.device.as_str(), tunnel.mtu, tunnel.mss, tunnel.copy_dscp),
        ("tun7", 1500, Some(1300), false)
    );
    assert_eq!(tunnel.routes, ["198.51.100.0/24".parse().unwrap()]);
    assert_eq!(gateway.ipv6_forward, Ipv6Forward::Always);
    let nat = gateway.nat;
    assert_eq!(
        (nat.sessions, nat.policies.map(|policy| policy.endpoint_independent)),
        (1024, [false, true, false])
    );
    assert_eq!(
        (
            nat.policy(Transport::Udp).filtering,
            nat.policy(Transport::Tcp).filtering
        ),
        (Filtering::EndpointIndependent, Filtering::AddressAndPort)
    );
    assert_eq!(
        (nat.host_sessions, nat.host_ports, nat.mapping_permissions),
        (500, 60, 100)
    );
    assert_eq!((nat.quarantine, nat.watermark), (0, 90));
    let pressed = Pressed {
        udp_query: 5,
        tcp_opening: 20,
        tcp_closing: 1,
    };
    assert_eq!(nat.pressed, pressed);
    assert_eq!(
        (nat.overlap_ports, nat.reserved_ports, nat.external_address),
        (vec![53], vec![4304], None)
    );
    let seconds = Seconds {
        icmp: 61,
        udp: 301,
        udp_query: 30,
        tcp_opening: 241,
        tcp_closing: 242,
        tcp_established: 7441,
        fragment: 15,
    };
    assert_eq!(nat.timeouts, seconds);
}

#[test]
fn what_nobody_says_has_a_default() {
    let Resolved { gateway, warnings } = file(LEAST).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!((gateway.role, gateway.mode), (Role::CustomerEdge, Mode::Native));
    let tunnel = gateway.tunnel;
    assert_eq!(
        (tunnel.device.as_str(), tunnel.mtu, tunnel.mss, tunnel.copy_dscp),
        ("mape0", 1460, Some(1420), true)
    );
    assert_eq!(tunnel.routes, ["0.0.0.0/0".parse().unwrap()]);
    let nat = &gateway.nat;
    assert_eq!(
        (nat.sessions, nat.policies.map(|policy| policy.endpoint_independent)),
        (65_536, [true, false, true])
    );
    assert_eq!(nat.overlap_ports, [53, 123, 443]);
    assert!(nat.reserved_ports.is_empty());
    assert_eq!(nat.timeouts, Seconds::default());
    assert_eq!(nat.pressed, Pressed::default());
    assert_eq!(
        (
            nat.policy(Transport::Udp).filtering,
            nat.policy(Transport::Tcp).filtering
        ),
        (Filtering::Address, Filtering::Address),
        "RFC 7597 section 10"
    );
    assert_eq!((nat.host_sessions, nat.host_ports), (0, 0), "no limit");
    assert_eq!(
        (nat.quarantine, nat.watermark, nat.mapping_permissions),
        (120, 80, 1_024)
    );
    assert!(gateway.rules.is_empty());
}

#[test]
fn processors_that_share_are_all_a_list_or_none() {
    let spread = |words: &[&str]| with(LEAST, words).map(|resolved| resolved.gateway.spread);
    assert_eq!(spread(&["--spread"]).unwrap(), Spread::All);
    assert_eq!(spread(&["--spread", "none"]).unwrap(), Spread::None);
    assert_eq!(
        spread(&["--spread", "1-3,5"]).unwrap(),
        Spread::These([1, 2, 3, 5].into_iter().collect())
    );
    let in_file = file(&format!("spread = \"0,2\"\n{LEAST}")).unwrap();
    assert_eq!(in_file.gateway.spread, Spread::These([0, 2].into_iter().collect()));
    for list in ["", "half", "3-1", "1,,2"] {
        let refused = spread(&["--spread", list]).unwrap_err();
        assert!(
            refused.contains("--spread") && refused.contains("1-3,5"),
            "{list}: {refused}"
        );
    }
    let refused = spread(&["--spread", "--lan", "wan0", "--wan", "wan0"]).unwrap_err();
    assert!(refused.contains("one NIC for both sides"), "{refused}");
    let relay = ["--role", "br", "--spread"];
    assert!(spread(&relay).unwrap_err().contains("border relay"));
}

#[test]
fn flags_override_the_file_and_suffice_without_one() {
    let words = [
        "--wan",
        "eth9",
        "--lan",
        "a",
        "--lan",
        "b",
        "--mtu",
        "1400",
        "--mss-clamp",
        "false",
        "--generic",
        "false",
        "--ipv6-forward",
        "never",
    ];
    let gateway = with(FULL, &words).unwrap().gateway;
    assert_eq!(
        (gateway.wan.as_str(), gateway.lan),
        ("eth9", vec!["a".to_owned(), "b".to_owned()])
    );
    assert_eq!(
        (gateway.tunnel.mtu, gateway.tunnel.mss, gateway.mode),
        (1400, None, Mode::Native)
    );
    assert_eq!(gateway.ipv6_forward, Ipv6Forward::Never);
    assert_eq!(file(LEAST).unwrap().gateway.ipv6_forward, Ipv6Forward::Auto);
    let mistaken = wrong(&format!("{LEAST}[ipv6]\nforward = \"sometimes\"\n"));
    assert!(mistaken.contains("auto, always, never"), "{mistaken}");
    assert_eq!(gateway.nat.sessions, 1024, "what no flag names stays");
    assert_eq!(gateway.spread, Spread::None);

    let words = [
        "--lan=lan0",
        "--wan=wan0",
        "--prefix=2001:db8:12:3400::/56",
        "--br=2001:db8:ffff::1",
        "--rule=2001:db8::/40,192.0.2.0/24,16,6,fmr",
        "--overlap-ports=53,853",
        "--timeout-udp=200",
    ];
    let gateway = read(&Instance::default(), None, &flags(&words)).unwrap().gateway;
    assert_eq!(
        (gateway.rules.len(), gateway.nat.overlap_ports, gateway.nat.timeouts.udp),
        (1, vec![53, 853], 200)
    );
}

#[test]
fn a_mistake_in_a_flag_is_wrong_usage_and_one_in_the_file_is_not() {
    let error = read(&Instance::default(), Some(("ce.toml", LEAST)), &flags(&["--mtu", "9"])).unwrap_err();
    assert!(error.is_usage());
    assert_eq!(error.to_string(), "--mtu: mtu is 9, and must be 1280 to 65495");
    let error = read(&Instance::default(), None, &flags(&["--lan", "lan0"])).unwrap_err();
    assert!(error.is_usage());
    assert_eq!(
        error.to_string(),
        "wan is missing; name the interface of the IPv6 side: wan = \"eth1\", or --wan eth1"
    );
    let error = read(&Instance::default(), Some(("ce.toml", "lan = [\"lan0\"]")), &flags(&[])).unwrap_err();
    assert!(!error.is_usage());
    assert!(error.to_string().starts_with("ce.toml: wan is missing; "), "{error}");
}

#[test]
fn a_service_brings_its_border_relay_and_rules() {
    let text = "lan = [\"a\"]\nwan = \"b\"\n[map]\nservice = \"v6plus\"\nprefix = \"240b:10:1234:5600::/56\"\n";
    let gateway = file(text).unwrap().gateway;
    assert_eq!(
        gateway.relay,
        "2404:9200:225:100::64".parse::<std::net::Ipv6Addr>().unwrap()
    );
    assert_eq!(gateway.domain.unwrap().port_set().len(), 240);
    assert_eq!(
        with(text, &["--br", "2001:db8::9"]).unwrap().gateway.relay,
        "2001:db8::9".parse::<std::net::Ipv6Addr>().unwrap()
    );
    let other = text.replace("v6plus", "ocn");
    assert!(wrong(&other).starts_with(
        "ce.toml:5: 240b:10:1234:5600::/56 is in no rule's IPv6 prefix; it looks like one of JPNE v6plus"
    ));
    let unknown = text.replace("v6plus", "v5plus");
    assert!(wrong(&unknown).starts_with("ce.toml:4: no service is named \"v5plus\"; there are "));
}

#[test]
fn a_border_relay_has_rules_and_no_line() {
    let text = "role = \"br\"\nlan = [\"inet0\"]\nwan = \"wan0\"\n[map]\nbr = \"2001:db8:ffff::1\"\n[[map.rule]]\n\
        ipv6 = \"2001:db8::/40\"\nipv4 = \"192.0.2.0/24\"\nea-len = 16\npsid-offset = 6\n";
    let gateway = file(text).unwrap().gateway;
    assert_eq!(
        (gateway.role, gateway.domain, gateway.rules.len()),
        (Role::BorderRelay, None, 1)
    );
    assert_eq!(gateway.tunnel.routes, ["192.0.2.0/24".parse().unwrap()]);
    let error = with(text, &["--prefix", "2001:db8:12:3400::/56"]).unwrap_err();
    assert_eq!(
        error,
        "--prefix: prefix does not go with role br; leave it out: a border relay has rules and its own address, no line"
    );
    let (without, _) = text.split_once("[[map.rule]]").unwrap();
    assert!(wrong(without).starts_with("ce.toml: map.rule is missing; a border relay needs at least one rule"));
}

#[test]
fn times_below_the_rfcs_are_warned_of_and_zero_is_refused() {
    let warnings = with(LEAST, &["--timeout-udp", "30", "--timeout-udp-query", "5"])
        .unwrap()
        .warnings;
    assert_eq!(
        warnings,
        ["timeout udp of 30 s is below the 120 s that RFC 4787 REQ-5 asks for: sessions may end while they are in use"]
    );
    let zero = format!("{LEAST}[nat.timeouts]\nicmp = 0\n");
    assert_eq!(wrong(&zero), "ce.toml:12: icmp is 0, and must be 1 to 10000000");
}

#[test]
fn an_external_address_is_for_a_prefix_only() {
    let error = with(LEAST, &["--external-address", "192.0.2.18"]).unwrap_err();
    assert!(
        error.starts_with("--external-address: external-address does not go with a line that has no IPv4 prefix"),
        "{error}"
    );
    let prefix = LEAST.replace("ea-len = 16", "ea-len = 4");
    let gateway = with(&prefix, &["--external-address", "192.0.2.18"]).unwrap().gateway;
    assert_eq!(gateway.nat.external_address, Some([192, 0, 2, 18].into()));
    let error = with(&prefix, &["--external-address", "192.0.2.200"]).unwrap_err();
    assert!(error.contains("192.0.2.200 is not in 192.0.2.16/28"), "{error}");
}

/// What stands in [`LEAST`], what stands there instead, and how the message begins.
const MISTAKES: [(&str, &str, &str); 20] = [
    (
        "wan =",
        "wann =",
        "ce.toml:2: there is no key `wann`, probably meant: `wan`; the keys here are role, lan, wan, ",
    ),
    (
        "ea-len",
        "ea_len",
        "ce.toml:9: there is no key `ea_len`, probably meant: `ea-len`; the keys here are ",
    ),
    (
        "wan = \"wan0\"",
        "wan = 7",
        "ce.toml:2: invalid type: integer `7`, expected a string; see docs/config.md",
    ),
    ("wan = \"wan0\"", "wan = ", "ce.toml:2: "),
    (
        "lan = [\"lan0\"]",
        "role = \"cpe\"",
        "ce.toml:1: role is \"cpe\"; it is one of: ce, br",
    ),
    (
        "[\"lan0\"]",
        "[]",
        "ce.toml: lan is missing; name at least one interface of the IPv4 side",
    ),
    (
        "[\"lan0\"]",
        "[\"lan0\", \"lan0\"]",
        "ce.toml:1: interface lan0 stands twice in lan; name each once",
    ),
    (
        "\"wan0\"",
        "\"wan 0\"",
        "ce.toml:2: wan is \"wan 0\", which no interface can be named",
    ),
    (
        "2001:db8:12:3400::/56",
        "2001:db8:12:3456::/56",
        "ce.toml:4: prefix is \"2001:db8:12:3456::/56\": bits beyond the prefix",
    ),
    (
        "2001:db8:12:3400::/56",
        "2001:db9::/56",
        "ce.toml:4: 2001:db9::/56 is in no rule's IPv6 prefix; give the rule",
    ),
    (
        "2001:db8:12:3400::/56",
        "2001:db8::/48",
        "ce.toml:4: 2001:db8::/48 is too short: ",
    ),
    (
        "2001:db8:ffff::1",
        "192.0.2.1",
        "ce.toml:5: br is \"192.0.2.1\", which is no IPv6 address, like 2001:db8:ffff::1",
    ),
    (
        "2001:db8:ffff::1",
        "ff02::1",
        "ce.toml:5: br is ff02::1, which no router can have; ",
    ),
    (
        "br = \"2001:db8:ffff::1\"",
        "",
        "ce.toml: br is missing; own rules come without a border relay; ",
    ),
    (
        "br = \"2001:db8:ffff::1\"",
        "format = \"draft3\"",
        "ce.toml:5: format is \"draft3\"; the format is rfc7597 or draft-03",
    ),
    (
        "br = \"2001:db8:ffff::1\"",
        "service = \"ocn\"",
        "ce.toml:5: service does not go with map.rule; leave one out",
    ),
    (
        "psid-offset = 6",
        "psid-offset = 16",
        "ce.toml:10: psid-offset is 16, and must be 0 to 15",
    ),
    (
        "psid-offset = 6",
        "psid-offset = 9",
        "ce.toml:6: PSID offset 9 and PSID length 8 need 17 bits",
    ),
    (
        "psid-offset = 6",
        "",
        "ce.toml:6: psid-offset is missing; a rule has ipv6, ipv4, ea-len and psid-offset",
    ),
    (
        "prefix = \"2001:db8:12:3400::/56\"",
        "",
        "ce.toml: prefix is missing; give the IPv6 prefix",
    ),
];

#[test]
fn a_mistake_is_named_with_its_line_and_what_to_write() {
    for (old, new, message) in MISTAKES {
        let text = LEAST.replacen(old, new, 1);
        let found = wrong(&text);
        assert!(
            found.starts_with(message),
            "{old} → {new}:\n  {found}\ninstead of\n  {message}"
        );
    }
}

#[test]
fn a_mistake_behind_the_line_is_named_with_its_line_too() {
    let more = [
        (
            "[tunnel]\nmss-clamp = \"big\"",
            "ce.toml:12: mss-clamp is \"big\"; it is one of: true, false, a number of bytes",
        ),
        (
            "[tunnel]\nmss-clamp = 1421",
            "ce.toml:12: mss-clamp is 1421, and must be 536 to 1420",
        ),
        (
            "[nat]\nsessions = 100",
            "ce.toml:12: sessions is 100, and must be 256 to 1048576",
        ),
        (
            "[nat]\nudp-mapping = \"symmetric\"",
            "ce.toml:12: udp-mapping is \"symmetric\"; it is one of: ",
        ),
        (
            "[nat]\noverlap-ports = [1,2,3,4,5,6,7,8,9]",
            "ce.toml:12: overlap-ports has 9 entries, at most 8 are possible; ",
        ),
        (
            "[nat]\nreserved-ports = [0]",
            "ce.toml:12: reserved-ports is 0, and must be 1 to 65535",
        ),
        (
            "[nat]\nexternal-address = \"x\"",
            "ce.toml:12: external-address is \"x\", which is no IPv4 address",
        ),
        (
            "[[map.rule]]\nipv6 = \"2001:db8::/40\"\nipv4 = \"203.0.113.0/24\"\nea-len = 16\npsid-offset = 6",
            "ce.toml:11: the rules ",
        ),
    ];
    for (text, message) in more {
        let found = wrong(&format!("{LEAST}{text}\n"));
        assert!(
            found.starts_with(message),
            "{text}:\n  {found}\ninstead of\n  {message}"
        );
    }
    let error = with(
        "lan = [\"a\"]\nwan = \"b\"",
        &["--prefix=2001:db8::/56", "--rule=2001:db8::/40,192.0.2.0/24,16"],
    )
    .unwrap_err();
    assert!(
        error.starts_with("--rule: \"2001:db8::/40,192.0.2.0/24,16\" is no rule; write "),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = resolve(&Instance::default(), &flags(&["--config", "/nowhere/ce.toml"])).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the configuration file /nowhere/ce.toml");
}
