//! Every kind of finding, shown by facts that have it, and not by those of a machine that is well.

mod rows;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use mape_common::hop::Mac;

use self::rows::rows;
use super::{
    ethtool::Channels,
    firewall, kernel, kind, loaded, mtu, nic, route,
    ruleset::Ruleset,
    sysctl, tc, tunnel,
    virtio::{self, CTRL_GUEST_OFFLOADS, GUEST_CSUM, GUEST_TSO4, MRG_RXBUF, VERSION_1},
    *,
};
use crate::{
    host::nic::tests::nic as interface,
    netlink::{
        filter::Side,
        link::{Attached, Interface},
    },
};

const SHARED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 18);
const NEAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x12, 0x3400, 0, 0xc000, 0x212, 0x34);
const RELAY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const LAN_PROGRAM: u32 = 41;
const WAN_PROGRAM: u32 = 42;
const OUT: u32 = 51;
const IN: u32 = 52;

/// A loaded customer edge in a virtual machine, and all that is known of it.
#[derive(Clone)]
struct Case {
    subject: Subject,
    facts: Facts,
}

impl Case {
    fn lan(&mut self) -> &mut nic::Nic {
        &mut self.facts.nics[0]
    }

    fn lan_link(&mut self) -> &mut Interface {
        self.lan().interface.as_mut().unwrap()
    }

    fn tunnel(&mut self) -> &mut tunnel::Facts {
        self.facts.tunnel.as_mut().unwrap()
    }

    fn loaded(&mut self) -> &mut loaded::Facts {
        self.facts.loaded.as_mut().unwrap()
    }

    fn firewall(&mut self) -> &mut firewall::Facts {
        self.facts.firewall.as_mut().unwrap()
    }

    fn virtio(&mut self, on: u64, off: u64) {
        let features = self.lan().virtio.unwrap();
        self.lan().virtio = Some((features | on) & !off);
    }

    fn rules(&mut self, chains_and_rules: &str) {
        let text = format!(r#"{{"nftables":[{{"metainfo":{{}}}},{chains_and_rules}]}}"#);
        self.firewall().rules = Ok(Ruleset::parse(&text).expect("rules that can be read"));
    }

    fn report(&self) -> Report {
        judge(&self.subject, &self.facts)
    }

    fn planned(&mut self) {
        self.subject.is_loaded = false;
        self.facts.loaded = None;
    }
}

fn attached(index: u32, name: &str, program: u32) -> Interface {
    Interface {
        xdp: Some(Attached { program, native: true }),
        ..interface(index, name)
    }
}

fn virtio_nic(index: u32, name: &str, program: u32) -> nic::Nic {
    nic::Nic {
        name: name.to_owned(),
        interface: Ok(attached(index, name, program)),
        above: None,
        foreign: None,
        classifiers: Vec::new(),
        driver: Some("virtio_net".to_owned()),
        features: ["rx-gro-hw".to_owned()].into(),
        // Two in use by the stack, and one for each processor.
        channels: Some(Channels { current: 4, most: 4 }),
        virtio: Some(CTRL_GUEST_OFFLOADS | GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF | VERSION_1),
    }
}

fn loaded_nic(index: u32, name: &str, program: u32) -> loaded::Nic {
    loaded::Nic {
        name: name.to_owned(),
        interface: Some(attached(index, name, program)),
        program: Some(program),
        told: Some((1500, MAC.to_bits())),
        is_detached: false,
    }
}

fn seen(interfaces: &str) -> loaded::Seen {
    loaded::Seen {
        interfaces: interfaces.to_owned(),
        received: 7,
        counted: 7,
    }
}

fn program(side: Side, id: u32, name: &str) -> tc::Classifier {
    tc::Classifier {
        side,
        id: Some(id),
        name: name.to_owned(),
        preference: None,
    }
}

fn no_rules() -> firewall::Facts {
    firewall::Facts {
        rules: Ok(Ruleset::default()),
        legacy: Vec::new(),
        has_conntrack: false,
        obstacles: Ok(Vec::new()),
        is_looked_after: true,
    }
}

fn well() -> Case {
    let device = Interface {
        mtu: 1460,
        mac: None,
        ..interface(9, "mape0")
    };
    let setting = |name: &str| sysctl::Interface {
        name: name.to_owned(),
        forwards_ipv4: Some(true),
    };
    Case {
        subject: Subject {
            instance: Instance::default(),
            role: Role::CustomerEdge,
            lan: vec!["lan0".to_owned()],
            wan: "wan0".to_owned(),
            mode: Mode::Native,
            address: Some(SHARED),
            is_shared: true,
            ports: 4_032,
            near: NEAR,
            targets: vec![(RELAY, Target::Host)],
            device: "mape0".to_owned(),
            mtu: 1460,
            clamps_mss: true,
            ipv6_forward: Ipv6Forward::Auto,
            makes_routes: false,
            may_start: true,
            is_loaded: true,
        },
        facts: Facts {
            kernel: kernel::Facts {
                release: "6.12.0-1-amd64".to_owned(),
                is_root: true,
                capabilities: u64::MAX,
                has_btf: true,
                is_jit_off: false,
                is_bpffs: true,
                shares_mounts: true,
                has_tcx: true,
                has_ip6_tunnel: true,
                has_tun: true,
                has_af_xdp: true,
            },
            other_layout: None,
            nics: vec![virtio_nic(2, "lan0", LAN_PROGRAM), virtio_nic(3, "wan0", WAN_PROGRAM)],
            machine: virtio::Facts {
                processors: 2,
                machine: Some("Standard PC (Q35 + ICH9, 2009)".to_owned()),
            },
            sysctl: sysctl::Facts {
                forwarding: vec![setting("lan0"), setting("mape0")],
                rp_filter: Some(2),
                is_default: true,
                ignores_linkdown: (false, false),
                wan_forwards_ipv6: Some(false),
                wan_accept_ra: Some(1),
                wan_disables_ipv6: Some(false),
            },
            mtu: mtu::Facts {
                wan: Some(1500),
                lan: vec![("lan0".to_owned(), 1500)],
                device: Some(1460),
            },
            route: route::Facts {
                ways: vec![(RELAY.to_string(), None)],
                is_passive: false,
                answers: Some(true),
                is_routed: true,
                has_address: true,
            },
            firewall: Some(no_rules()),
            loaded: Some(loaded::Facts {
                again: "mape-ctl load".to_owned(),
                is_elsewhere: false,
                is_open: true,
                nics: vec![loaded_nic(2, "lan0", LAN_PROGRAM), loaded_nic(3, "wan0", WAN_PROGRAM)],
                seen: vec![seen("lan0"), seen("wan0")],
                hops: vec![loaded::Hop {
                    router: ROUTER,
                    told: MAC,
                    known: Some(MAC),
                }],
            }),
            tunnel: Some(tunnel::Facts {
                device: Some(device),
                owner: Some("default".to_owned()),
                shared: Vec::new(),
                classifiers: vec![
                    program(Side::Egress, OUT, "mape_tun_out"),
                    program(Side::Ingress, IN, "mape_tun_in"),
                ],
                own: [(Side::Egress, Some(OUT)), (Side::Ingress, Some(IN))],
                process: tunnel::Process::NotNeeded,
                canary: Some(true),
            }),
        },
    }
}

const POSTROUTING: &str = r#"{"chain":{"family":"ip","table":"nat","name":"post","handle":1,"type":"nat","hook":"postrouting","prio":100,"policy":"accept"}}"#;
const FORWARD: &str = r#"{"chain":{"family":"inet","table":"f","name":"fwd","handle":1,"type":"filter","hook":"forward","prio":0,"policy":"drop"}}"#;
const INPUT: &str = r#"{"chain":{"family":"inet","table":"f","name":"in","handle":1,"type":"filter","hook":"input","prio":0,"policy":"drop"}}"#;
const ESTABLISHED: &str =
    r#"{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}"#;
const FROM_LAN: &str = r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"lan0"}},{"accept":null}"#;

fn rule(table: &str, chain: &str, handle: u32, expressions: &str) -> String {
    let family = if table == "nat" { "ip" } else { "inet" };
    format!(
        r#"{{"rule":{{"family":"{family}","table":"{table}","chain":"{chain}","handle":{handle},"expr":[{expressions}]}}}}"#
    )
}

fn masquerade(before: &str) -> String {
    let comma = if before.is_empty() { "" } else { "," };
    format!(
        "{POSTROUTING},{}",
        rule("nat", "post", 7, &format!(r#"{before}{comma}{{"masquerade":null}}"#))
    )
}

#[test]
fn a_gateway_that_is_well_has_every_kind_of_finding_and_all_are_fine() {
    let report = well().report();
    let wrong: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.level > Level::Ok)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(report.worst(), Level::Ok);
    let ids: BTreeSet<_> = report.findings.iter().map(|finding| finding.kind.id).collect();
    let all: BTreeSet<_> = kind::ALL.iter().map(|kind| kind.id).collect();
    assert_eq!(ids, all, "kinds that were not looked at, or are in no table");
}

#[test]
fn every_kind_is_found_where_it_is_and_says_what_mends_it() {
    let mut shown: BTreeMap<&str, bool> = BTreeMap::new();
    for (kind, level, words, change) in rows() {
        let mut case = well();
        change(&mut case);
        let report = case.report();
        let found: Vec<_> = report
            .findings
            .iter()
            .filter(|finding| finding.kind == kind && finding.level > Level::Ok)
            .collect();
        assert!(
            found
                .iter()
                .any(|finding| finding.level == level && finding.what.contains(words)),
            "{} {level:?} {words:?}: {found:#?}",
            kind.id
        );
        for finding in found {
            assert!(finding.level <= kind.level, "{}: worse than its kind can be", kind.id);
            assert!(
                finding.mend.as_ref().is_some_and(|mend| !mend.is_empty()),
                "{}",
                kind.id
            );
            if let Some(fix) = &finding.fix {
                assert_eq!(finding.mend, Some(fix.to_string()));
            }
            *shown.entry(kind.id).or_default() |= finding.fix.is_some();
        }
    }
    let expected: BTreeMap<_, _> = kind::ALL.iter().map(|kind| (kind.id, kind.is_fixable)).collect();
    assert_eq!(
        shown, expected,
        "kinds without a row, or whose fix is not as the table says"
    );
}

#[test]
fn a_worst_level_is_reached_for_every_kind() {
    for kind in kind::ALL {
        let is_reached = rows()
            .iter()
            .any(|(shown, level, ..)| shown == kind && *level == kind.level);
        assert!(is_reached, "{} never is {:?}", kind.id, kind.level);
    }
}

#[test]
fn a_border_relay_has_no_tunnel_and_no_translation() {
    let mut case = well();
    case.subject.role = Role::BorderRelay;
    case.subject.address = None;
    case.facts.firewall = None;
    case.facts.tunnel = None;
    case.facts.sysctl.forwarding[0].forwards_ipv4 = Some(false);
    case.facts.route.is_routed = false;
    case.subject.ports = 0;
    assert_eq!(case.report().worst(), Level::Ok);
}

#[test]
fn what_is_said_begins_with_the_level_and_ends_with_a_sum() {
    let mut case = well();
    case.facts.kernel.is_jit_off = true;
    case.subject.ports = 240;
    let report = case.report();
    let text = show::text(&report, false).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("note     line-ports: the line has 240 ports"),
        "{text}"
    );
    assert!(lines[3].starts_with("warning  kernel-jit: "), "{text}");
    assert!(
        lines[5].ends_with("sysctl -w net/core/bpf_jit_enable=1   (--fix does it)"),
        "{text}"
    );
    assert!(
        lines[6].ends_with("things looked at: 0 errors, 1 warning, 1 note"),
        "{text}"
    );
    assert!(
        show::text(&report, true)
            .unwrap()
            .contains("\nok       nic-xdp: other XDP programs on NICs (lan0)")
    );
    let json = show::json(Some(&case.subject), &report, &[], false);
    assert_eq!(json["worst"], "warning");
    assert_eq!(json["counts"]["note"], 1);
    let found = json["findings"].as_array().unwrap();
    let jit = found.iter().find(|finding| finding["id"] == "kernel-jit").unwrap();
    assert_eq!(jit["fixable"], true);
    assert_eq!(jit["level"], "warning");
}
