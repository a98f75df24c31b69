//! Published examples: RFC 7597 appendix A, VPP, CSIT, Jool and the shapes of Japanese services.
//!
//! Tables that contradict RFC 7597 §5.2 stand here too, as refusals.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    map::{
        address::map_address,
        domain::{Domain, DomainError, GivenPsid, Note},
        prefix::Ipv6Prefix,
        rule::{InterfaceId, Rule},
        select::{Overlap, SelectError, check_overlap, select_bmr},
        spec::{RuleError, RuleSpec},
    },
    wire::port::Port,
};

const NO_PSID: GivenPsid = GivenPsid {
    psid_len: None,
    psid: None,
};

fn spec(ipv6: &str, ipv4: &str, ea_len: u8, offset: u8) -> RuleSpec {
    RuleSpec::new(ipv6.parse().unwrap(), ipv4.parse().unwrap(), ea_len, offset)
}

fn rule(ipv6: &str, ipv4: &str, ea_len: u8, offset: u8) -> Rule {
    Rule::new(&spec(ipv6, ipv4, ea_len, offset)).unwrap()
}

fn draft(ipv6: &str, ipv4: &str, ea_len: u8, offset: u8) -> Rule {
    Rule::new(&RuleSpec {
        format: InterfaceId::Draft03,
        ..spec(ipv6, ipv4, ea_len, offset)
    })
    .unwrap()
}

fn prefix(text: &str) -> Ipv6Prefix {
    text.parse().unwrap()
}

/// Written as addresses are, so that a failure can be read.
fn address(rule: &Rule, ipv4: &str, port: u16) -> Option<Ipv6Addr> {
    map_address(rule, ipv4.parse::<Ipv4Addr>().unwrap().octets(), Port(port)).map(Ipv6Addr::from)
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn ranges(domain: &Domain) -> Vec<(u16, u16)> {
    domain
        .port_set()
        .ranges()
        .map(|(first, last)| (first.0, last.0))
        .collect()
}

/// The rule of RFC 7597 appendix A.
fn example() -> Rule {
    rule("2001:db8::/40", "192.0.2.0/24", 16, 6)
}

#[test]
fn the_customer_edge_of_rfc_7597_example_1_is_the_one_it_prints() {
    let domain = Domain::new(prefix("2001:db8:12:3400::/56"), &example(), NO_PSID).unwrap();
    assert_eq!(domain.ipv4().to_string(), "192.0.2.18/32");
    assert_eq!(domain.ce_address(), v6("2001:db8:12:3400:0:c000:212:34"));
    assert_eq!(
        (
            domain.port_set().psid().0,
            domain.port_set().psid_len(),
            domain.port_set().len()
        ),
        (0x34, 8, 252)
    );
    let ranges = ranges(&domain);
    assert_eq!(
        (ranges[0], ranges[1], ranges[61], ranges[62]),
        ((1232, 1235), (2256, 2259), (63696, 63699), (64720, 64723))
    );
    assert_eq!((ranges.len(), domain.note()), (63, None));
}

#[test]
fn the_destination_of_rfc_7597_examples_2_and_3_is_the_one_they_print() {
    assert_eq!(
        address(&example(), "192.0.2.18", 1232),
        Some(v6("2001:db8:12:3400:0:c000:212:34"))
    );
}

#[test]
fn an_address_of_its_own_has_every_port_as_in_rfc_7597_example_4() {
    // Whatever offset stands in the rule: it is for sharing.
    for offset in [0, 6] {
        let rule = rule("2001:db8:12:3400::/56", "192.0.2.18/32", 0, offset);
        let domain = Domain::new(prefix("2001:db8:12:3400::/56"), &rule, NO_PSID).unwrap();
        assert_eq!(domain.ce_address(), v6("2001:db8:12:3400:0:c000:212:0"));
        assert_eq!((domain.port_set().len(), ranges(&domain)), (65536, vec![(0, 65535)]));
        assert_eq!(address(&rule, "192.0.2.18", 80), Some(domain.ce_address()));
    }
}

#[test]
fn a_provisioned_psid_gives_what_it_would_in_the_ea_bits_as_in_rfc_7597_example_5() {
    let plain = rule("2001:db8:12:3400::/56", "192.0.2.18/32", 0, 6);
    let given = GivenPsid {
        psid_len: Some(8),
        psid: Some(0x34),
    };
    let domain = Domain::new(prefix("2001:db8:12:3400::/56"), &plain, given).unwrap();
    let shared = Domain::new(prefix("2001:db8:12:3400::/56"), &example(), NO_PSID).unwrap();
    assert_eq!(
        (domain.ce_address(), domain.port_set()),
        (shared.ce_address(), shared.port_set())
    );
    assert_eq!(address(domain.rule(), "192.0.2.18", 1232), Some(domain.ce_address()));
    assert_eq!(address(domain.rule(), "192.0.2.18", 1236), None, "the next PSID's port");
    assert_eq!(address(domain.rule(), "192.0.2.18", 80), None, "nobody's port");
}

#[test]
fn destinations_are_those_of_vpp() {
    let rule_16 = rule("2001::/32", "192.168.0.0/16", 20, 4);
    assert_eq!(
        address(&rule_16, "192.168.1.1", 10000),
        Some(v6("2001:0:101:7000:0:c0a8:101:7"))
    );
    assert_eq!(
        address(&rule_16, "192.168.1.1", 30000),
        Some(v6("2001:0:101:5000:0:c0a8:101:5"))
    );
    let rule_24 = rule("2001:db8:f0::/48", "198.18.0.0/24", 12, 6);
    let right = v6("2001:db8:f0:c30:0:c612:c:3");
    assert_eq!(address(&rule_24, "198.18.0.12", 16606), Some(right));
    for spoofed in [
        "2001:db8:f0:c30:0:c612:1c:3",
        "2001:db8:f0:a00:0:c612:c:3",
        "2001:db8:f0:c30:0:c612:c:4",
        "2001:db8:f1:c30:0:c612:c:3",
    ] {
        assert_ne!(address(&rule_24, "198.18.0.12", 16606), Some(v6(spoofed)));
    }
    assert_ne!(address(&rule_24, "198.18.0.12", 16862), Some(right));
}

#[test]
fn what_a_rule_gives_to_nobody_has_no_address() {
    assert_eq!(
        address(&example(), "192.0.3.18", 1232),
        None,
        "not in the rule's IPv4 prefix"
    );
    assert_eq!(address(&example(), "192.0.2.18", 1023), None, "A = 0");
    assert!(address(&example(), "192.0.2.18", 1024).is_some());
}

#[test]
fn lightweight_psids_are_those_of_csit() {
    let set = |psid| {
        Rule::new(&RuleSpec {
            psid_len: Some(8),
            psid: Some(psid),
            ..spec("2001::/64", "20.0.0.1/32", 0, 6)
        })
        .unwrap()
    };
    assert!(address(&set(52), "20.0.0.1", 1232).is_some());
    assert!(address(&set(22), "20.0.0.1", 6232).is_some());
    assert!(address(&set(22), "20.0.0.1", 1232).is_none());
}

/// IPv4 prefix, IPv6 prefix, EA length, offset, PSID length, result.
type Row = (&'static str, &'static str, u8, u8, u8, Option<&'static str>);

/// The rules and, where there is one, the address of 20.169.201.219:1232 in CSIT's table.
///
/// Its rows where the PSID length is not what the EA bits leave have no address here: they are refused.
const CSIT: [Row; 50] = [
    ("20.0.0.0/8", "2001:db8::/32", 4, 0, 0, Some("2001:db8:a000::14a0:0:0")),
    ("20.0.0.0/8", "2001:db8::/32", 8, 0, 0, Some("2001:db8:a900::14a9:0:0")),
    (
        "20.0.0.0/8",
        "2001:db8::/32",
        10,
        0,
        0,
        Some("2001:db8:a9c0::14a9:c000:0"),
    ),
    (
        "20.0.0.0/8",
        "2001:db8::/32",
        16,
        0,
        0,
        Some("2001:db8:a9c9::14a9:c900:0"),
    ),
    (
        "20.0.0.0/8",
        "2001:db8::/32",
        20,
        0,
        0,
        Some("2001:db8:a9c9:d000:0:14a9:c9d0:0"),
    ),
    (
        "20.0.0.0/8",
        "2001:db8::/32",
        23,
        0,
        0,
        Some("2001:db8:a9c9:da00:0:14a9:c9da:0"),
    ),
    (
        "20.169.201.0/24",
        "2001:db8::/32",
        4,
        0,
        0,
        Some("2001:db8:d000::14a9:c9d0:0"),
    ),
    (
        "20.169.201.0/24",
        "2001:db8::/32",
        7,
        0,
        0,
        Some("2001:db8:da00::14a9:c9da:0"),
    ),
    (
        "20.0.0.0/8",
        "2001:db8::/32",
        24,
        0,
        0,
        Some("2001:db8:a9c9:db00:0:14a9:c9db:0"),
    ),
    (
        "20.160.0.0/12",
        "2001:db8::/32",
        20,
        0,
        0,
        Some("2001:db8:9c9d:b000:0:14a9:c9db:0"),
    ),
    (
        "20.169.0.0/16",
        "2001:db8::/32",
        16,
        0,
        0,
        Some("2001:db8:c9db::14a9:c9db:0"),
    ),
    (
        "20.169.200.0/22",
        "2001:db8::/32",
        10,
        0,
        0,
        Some("2001:db8:76c0::14a9:c9db:0"),
    ),
    (
        "20.169.201.0/24",
        "2001:db8::/32",
        8,
        0,
        0,
        Some("2001:db8:db00::14a9:c9db:0"),
    ),
    (
        "20.169.201.208/28",
        "2001:db8::/32",
        4,
        0,
        0,
        Some("2001:db8:b000::14a9:c9db:0"),
    ),
    (
        "20.169.201.219/32",
        "2001:db8::/32",
        0,
        0,
        0,
        Some("2001:db8::14a9:c9db:0"),
    ),
    (
        "20.0.0.0/8",
        "2001:db8::/40",
        24,
        0,
        0,
        Some("2001:db8:a9:c9db:0:14a9:c9db:0"),
    ),
    (
        "20.160.0.0/12",
        "2001:db8::/44",
        20,
        0,
        0,
        Some("2001:db8:9:c9db:0:14a9:c9db:0"),
    ),
    (
        "20.169.0.0/16",
        "2001:db8::/48",
        16,
        0,
        0,
        Some("2001:db8:0:c9db:0:14a9:c9db:0"),
    ),
    (
        "20.169.200.0/22",
        "2001:db8::/54",
        10,
        0,
        0,
        Some("2001:db8:0:1db:0:14a9:c9db:0"),
    ),
    ("20.0.0.0/8", "2001::/16", 48, 6, 8, None),
    ("20.169.0.0/16", "2001::/16", 48, 6, 8, None),
    ("20.169.201.0/24", "2001::/16", 48, 6, 8, None),
    ("20.169.201.219/32", "2001::/16", 48, 6, 8, None),
    ("20.0.0.0/8", "2001::/24", 40, 6, 8, None),
    ("20.169.0.0/16", "2001::/24", 40, 6, 8, None),
    ("20.169.201.0/24", "2001::/24", 40, 6, 8, None),
    ("20.169.201.219/32", "2001::/24", 40, 6, 8, None),
    ("20.169.0.0/16", "2001::/16", 40, 6, 8, None),
    ("20.169.201.219/32", "2001::/16", 40, 6, 8, None),
    (
        "20.0.0.0/8",
        "2001:db8::/32",
        32,
        6,
        8,
        Some("2001:db8:a9c9:db34:0:14a9:c9db:34"),
    ),
    ("20.169.0.0/16", "2001:db8::/32", 32, 6, 8, None),
    ("20.169.201.0/24", "2001:db8::/32", 32, 6, 8, None),
    ("20.169.201.219/32", "2001:db8::/32", 32, 6, 8, None),
    ("20.169.0.0/16", "2001::/24", 32, 6, 8, None),
    ("20.169.201.0/24", "2001::/24", 32, 6, 8, None),
    ("20.169.0.0/16", "2001::/16", 32, 6, 8, None),
    ("20.169.201.0/24", "2001::/16", 32, 6, 8, None),
    (
        "20.160.0.0/12",
        "2001:db8::/32",
        25,
        6,
        5,
        Some("2001:db8:9c9d:b300:0:14a9:c9db:6"),
    ),
    ("20.169.0.0/16", "2001:db8::/32", 25, 6, 8, None),
    ("20.169.201.0/24", "2001:db8::/32", 25, 6, 8, None),
    ("20.169.201.219/32", "2001:db8::/32", 25, 6, 8, None),
    (
        "20.169.192.0/20",
        "2001:db8::/32",
        17,
        6,
        5,
        Some("2001:db8:9db3::14a9:c9db:6"),
    ),
    ("20.169.201.0/24", "2001:db8::/32", 17, 6, 8, None),
    ("20.169.201.219/32", "2001:db8::/32", 17, 6, 8, None),
    (
        "20.169.201.0/24",
        "2001:db8::/32",
        12,
        6,
        4,
        Some("2001:db8:db30::14a9:c9db:3"),
    ),
    ("20.169.201.219/32", "2001:db8::/32", 12, 6, 8, None),
    // VPP-318.
    ("20.169.0.0/16", "2001:db8::/32", 20, 6, 8, None),
    // An IPv4 prefix of length zero, which VPP could not do: the rules are CSIT's, the addresses follow from §5.2.
    ("0.0.0.0/0", "2001:db8::/40", 8, 0, 0, Some("2001:db8:14::1400:0:0")),
    (
        "0.0.0.0/0",
        "2001:db8::/40",
        16,
        0,
        0,
        Some("2001:db8:14:a900:0:14a9:0:0"),
    ),
    (
        "0.0.0.0/0",
        "2001:db8::/32",
        32,
        0,
        0,
        Some("2001:db8:14a9:c9db:0:14a9:c9db:0"),
    ),
];

#[test]
fn destinations_are_those_of_csit_and_its_contradicting_rules_are_refused() {
    let mut refused = 0;
    for (ipv4, ipv6, ea_len, offset, psid_len, expected) in CSIT {
        let made = Rule::new(&RuleSpec {
            psid_len: Some(psid_len),
            ..spec(ipv6, ipv4, ea_len, offset)
        });
        match (expected, made) {
            (Some(expected), Ok(rule)) => {
                assert_eq!(
                    address(&rule, "20.169.201.219", 1232),
                    Some(v6(expected)),
                    "{ipv4} {ipv6} {ea_len}"
                );
            }
            (None, Err(RuleError::PsidLenMismatch { .. } | RuleError::BeyondPort { .. })) => refused += 1,
            (expected, made) => panic!("{ipv4} {ipv6} {ea_len}: {expected:?}, {made:?}"),
        }
    }
    assert_eq!(refused, 23 + 1, "23 rows, and VPP-318");
}

#[test]
fn the_shapes_of_japanese_services_give_what_their_users_see() {
    let v6plus = draft("240b:10::/32", "106.72.0.0/16", 24, 4);
    let domain = Domain::new(prefix("240b:10:3251:6400::/56"), &v6plus, NO_PSID).unwrap();
    assert_eq!(domain.ipv4_address().to_string(), "106.72.50.81");
    assert_eq!(domain.ce_address(), v6("240b:10:3251:6400:6a:4832:5100:6400"));
    let v6plus_ranges = ranges(&domain);
    assert_eq!(
        (v6plus_ranges[0], v6plus_ranges[2], v6plus_ranges[14]),
        ((5696, 5711), (13888, 13903), (63040, 63055))
    );
    assert_eq!((v6plus_ranges.len(), domain.port_set().len()), (15, 240));
    let rfc = Domain::new(
        prefix("240b:10:3251:6400::/56"),
        &rule("240b:10::/32", "106.72.0.0/16", 24, 4),
        NO_PSID,
    )
    .unwrap();
    assert_eq!(rfc.ce_address(), v6("240b:10:3251:6400:0:6a48:3251:64"));

    // With six bits of PSID one that stands at the wrong end would show.
    let ocn = draft("2400:4050::/34", "153.240.0.0/16", 22, 6);
    let domain = Domain::new(prefix("2400:4050:1234:5600::/56"), &ocn, NO_PSID).unwrap();
    assert_eq!(
        (domain.ipv4_address().to_string().as_str(), domain.port_set().psid().0),
        ("153.240.72.209", 22)
    );
    assert_eq!(domain.ce_address(), v6("2400:4050:1234:5600:99:f048:d100:1600"));
    let ocn_ranges = ranges(&domain);
    assert_eq!(
        (ocn_ranges[0], ocn_ranges[1], ocn_ranges[62]),
        ((1376, 1391), (2400, 2415), (64864, 64879))
    );
    assert_eq!((ocn_ranges.len(), domain.port_set().len()), (63, 1008));
    let rfc = Domain::new(
        prefix("2400:4050:1234:5600::/56"),
        &rule("2400:4050::/34", "153.240.0.0/16", 22, 6),
        NO_PSID,
    )
    .unwrap();
    assert_eq!(rfc.ce_address(), v6("2400:4050:1234:5600:0:99f0:48d1:16"));
}

#[test]
fn a_rule_without_offset_gives_one_range_as_in_jool() {
    let rule = rule("2001:db8:ce::/51", "192.0.2.0/24", 13, 0);
    for (ea, ipv4, range) in [
        (0x11b, "192.0.2.8", (55296, 57343)),
        (0x774, "192.0.2.59", (40960, 43007)),
    ] {
        let end_user = Ipv6Addr::from_bits(v6("2001:db8:ce::").to_bits() | ea << 64);
        let domain = Domain::new(Ipv6Prefix::new(end_user, 64).unwrap(), &rule, NO_PSID).unwrap();
        assert_eq!(
            (domain.ipv4_address().to_string(), ranges(&domain)),
            (ipv4.to_owned(), vec![range])
        );
    }
}

#[test]
fn a_prefix_longer_than_the_rule_defines_it_changes_nothing_but_is_noted_where_the_address_is_elsewhere() {
    let rule = draft("240b:10::/32", "106.72.0.0/16", 24, 4);
    let whole = Domain::new(prefix("240b:10:1234:ab00::/56"), &rule, NO_PSID).unwrap();
    for (given, is_noted) in [
        ("240b:10:1234:ab00::/60", false),
        ("240b:10:1234:ab00::/64", false),
        ("240b:10:1234:ab40::/60", true),
        ("240b:10:1234:ab01::/64", true),
    ] {
        let part = Domain::new(prefix(given), &rule, NO_PSID).unwrap();
        assert_eq!(
            (part.ce_address(), part.ipv4(), part.port_set()),
            (whole.ce_address(), whole.ipv4(), whole.port_set())
        );
        assert_eq!(part.rule_defined_prefix(), prefix("240b:10:1234:ab00::/56"));
        let subnet = prefix("240b:10:1234:ab00::/64");
        let note = Note::AddressOutside {
            subnet,
            end_user_prefix: prefix(given),
        };
        assert_eq!(part.note(), is_noted.then_some(note));
    }
}

#[test]
fn a_prefix_that_does_not_go_with_the_rule_is_refused() {
    let short = Domain::new(prefix("2001:db8::/48"), &example(), NO_PSID).unwrap_err();
    assert!(
        matches!(short, DomainError::TooShort { needed: 56, .. }) && short.to_string().contains("at least /56"),
        "{short}"
    );
    let shorter = Domain::new(prefix("2001:d00::/24"), &example(), NO_PSID).unwrap_err();
    assert!(matches!(shorter, DomainError::TooShort { .. }), "{shorter}");
    let other = Domain::new(prefix("2001:db9::/56"), &example(), NO_PSID).unwrap_err();
    assert!(matches!(other, DomainError::NotInRule { .. }), "{other}");
}

#[test]
fn a_psid_beside_the_ea_bits_must_be_theirs() {
    let end_user = prefix("2001:db8:12:3400::/56");
    let with = |psid_len, psid| Domain::new(end_user, &example(), GivenPsid { psid_len, psid });
    assert!(with(Some(8), Some(0x34)).is_ok() && with(None, Some(0x34)).is_ok() && with(Some(8), None).is_ok());
    assert_eq!(
        with(Some(8), Some(0x35)),
        Err(DomainError::PsidMismatch {
            given: 0x35,
            embedded: 0x34,
            end_user_prefix: end_user
        })
    );
    assert!(matches!(
        with(Some(6), None),
        Err(DomainError::Rule(RuleError::PsidLenMismatch {
            given: 6,
            derived: 8,
            ..
        }))
    ));
}

#[test]
fn rules_that_cannot_be_are_refused_with_what_could() {
    let refusal = |spec: RuleSpec| Rule::new(&spec).unwrap_err().to_string();
    let example = spec("2001:db8::/40", "192.0.2.0/24", 16, 6);
    let with = |psid_len, psid, spec: RuleSpec| refusal(RuleSpec { psid_len, psid, ..spec });
    let owner = spec("2001:db8:12:3400::/56", "192.0.2.18/32", 0, 6);
    let many = spec("2001:db8::/40", "192.0.2.0/24", 4, 6);
    for (said, part) in [
        (refusal(RuleSpec { ea_len: 49, ..example }), "EA length 49 is over 48"),
        (
            refusal(RuleSpec { ea_len: 25, ..example }),
            "the EA length is at most 24",
        ),
        (
            refusal(spec("2001:db8::/120", "192.0.2.0/24", 16, 6)),
            "has 8 bits left",
        ),
        (
            refusal(RuleSpec {
                psid_offset: 16,
                ..example
            }),
            "offset 16 is over 15",
        ),
        (
            refusal(RuleSpec {
                psid_offset: 9,
                ..example
            }),
            "the offset is at most 8",
        ),
        (
            with(Some(4), None, example),
            "leave the PSID length out, or the EA length is 12",
        ),
        (with(Some(0), None, example), "PSID length 0 contradicts"),
        (with(Some(8), Some(1), example), "the last 8 EA bits carry"),
        (with(Some(8), Some(256), owner), "the largest is 255"),
        (with(None, Some(1), owner), "give the PSID length too"),
        (with(Some(8), None, owner), "give the PSID too, or the EA length is 8"),
        (with(Some(8), Some(1), many), "a whole IPv4 prefix, /28"),
        (with(Some(12), Some(1), owner), "the offset is at most 4"),
    ] {
        assert!(said.contains(part), "{said} should say: {part}");
    }
    assert!(
        Rule::new(&RuleSpec {
            psid_len: Some(0),
            psid: Some(7),
            ..owner
        })
        .unwrap()
        .explicit_psid()
        .is_none()
    );
}

#[test]
fn a_rule_is_given_back_as_it_was_given() {
    let shared = RuleSpec {
        format: InterfaceId::Draft03,
        fmr: true,
        ..spec("240b:10::/32", "106.72.0.0/16", 24, 4)
    };
    let own = RuleSpec {
        psid_len: Some(8),
        psid: Some(0x34),
        ..spec("2001:db8:12:3400::/56", "192.0.2.18/32", 0, 6)
    };
    for spec in [shared, own] {
        assert_eq!(RuleSpec::from(&Rule::new(&spec).unwrap()), spec);
    }
    assert_eq!(
        Rule::new(&shared).unwrap().to_string(),
        "240b:10::/32,106.72.0.0/16,24,4"
    );
    assert_eq!("Draft-03".parse(), Ok(InterfaceId::Draft03));
    assert!("draft".parse::<InterfaceId>().is_err());
}

#[test]
fn the_longest_matching_rule_is_the_basic_one() {
    let rules = [
        rule("2001:db8::/32", "192.0.2.0/24", 16, 6),
        rule("2001:db8:1200::/40", "198.51.100.0/24", 16, 6),
        rule("2001:db9::/32", "203.0.113.0/24", 16, 6),
    ];
    assert_eq!(select_bmr(&rules, prefix("2001:db8:1234:5600::/56")), Ok(&rules[1]));
    assert_eq!(select_bmr(&rules, prefix("2001:db8:3434:5600::/56")), Ok(&rules[0]));
    assert!(matches!(
        select_bmr(&rules, prefix("2001:dba::/56")),
        Err(SelectError::NoRule { .. })
    ));
    assert!(matches!(
        select_bmr(&rules[2..], prefix("2001:d00::/24")),
        Err(SelectError::TooShort { needed: 48, .. })
    ));
    assert!(check_overlap(&rules).is_ok());
}

#[test]
fn two_rules_with_the_same_prefix_are_refused() {
    let one = rule("2001:db8::/40", "192.0.2.0/24", 16, 6);
    let same_v6 = rule("2001:db8::/40", "198.51.100.0/24", 16, 6);
    let same_v4 = rule("2001:db8:100::/40", "192.0.2.0/24", 16, 6);
    assert!(matches!(
        select_bmr(&[one, same_v6], prefix("2001:db8:12:3400::/56")),
        Err(SelectError::Ambiguous { .. })
    ));
    assert!(matches!(check_overlap(&[one, same_v6]), Err(Overlap::Ipv6 { .. })));
    assert!(matches!(check_overlap(&[one, same_v4]), Err(Overlap::Ipv4 { .. })));
}
