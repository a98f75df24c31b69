//! Every kind of finding, shown by facts that have it, and not by those of a machine that is well.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use mape_common::hop::Mac;

use super::{
    ethtool::Channels,
    firewall::{self, Unread},
    kernel,
    kind::{self, Kind},
    loaded, mtu, nic,
    route::{self, Obstacle},
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
            firewall: Some(firewall::Facts {
                rules: Ok(Ruleset::default()),
                legacy: Vec::new(),
                has_conntrack: false,
            }),
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

fn interface_match(key: &str, op: &str, right: &str) -> String {
    format!(r#"{{"match":{{"op":"{op}","left":{{"meta":{{"key":"{key}"}}}},"right":{right}}}}}"#)
}

fn address_match(field: &str, right: &str) -> String {
    format!(r#"{{"match":{{"op":"==","left":{{"payload":{{"protocol":"ip6","field":"{field}"}}}},"right":{right}}}}}"#)
}

fn masquerade(before: &str) -> String {
    let comma = if before.is_empty() { "" } else { "," };
    format!(
        "{POSTROUTING},{}",
        rule("nat", "post", 7, &format!(r#"{before}{comma}{{"masquerade":null}}"#))
    )
}

type Change = fn(&mut Case);

/// What is wrong, and how the finding is to be; its text has to have these words.
#[expect(clippy::too_many_lines, reason = "a table of all kinds")]
fn rows() -> Vec<(&'static Kind, Level, &'static str, Change)> {
    use Level::{Error, Note, Warning};
    vec![
        (kind::KERNEL_ROOT, Error, "root", |case| {
            case.facts.kernel.is_root = false;
        }),
        (kind::KERNEL_CAPABILITIES, Error, "CAP_BPF", |case| {
            case.facts.kernel.capabilities = !(1 << 39);
        }),
        (kind::KERNEL_VERSION, Error, "too old", |case| {
            case.facts.kernel.release = "5.10.0-30-amd64".to_owned();
        }),
        (kind::KERNEL_VERSION, Error, "6.19", |case| {
            case.facts.kernel.release = "6.19.14-amd64".to_owned();
        }),
        (kind::KERNEL_BTF, Error, "vmlinux", |case| {
            case.facts.kernel.has_btf = false;
        }),
        (kind::KERNEL_JIT, Warning, "off", |case| {
            case.facts.kernel.is_jit_off = true;
        }),
        (kind::KERNEL_BPFFS, Note, "not mounted", |case| {
            case.facts.kernel.is_bpffs = false;
        }),
        (kind::KERNEL_BPFFS, Error, "mounts of its own", |case| {
            case.facts.kernel.is_bpffs = false;
            case.facts.kernel.shares_mounts = false;
        }),
        (kind::KERNEL_TCX, Note, "TCX", |case| case.facts.kernel.has_tcx = false),
        (kind::KERNEL_TUNNEL, Note, "ip6_tunnel", |case| {
            case.facts.kernel.has_ip6_tunnel = false;
        }),
        (kind::KERNEL_TUNNEL, Error, "/dev/net/tun", |case| {
            case.facts.kernel.has_ip6_tunnel = false;
            case.facts.kernel.has_tun = false;
        }),
        (kind::KERNEL_AF_XDP, Note, "AF_XDP", |case| {
            case.facts.kernel.has_af_xdp = false;
        }),
        (kind::NIC_USABLE, Error, "is down", |case| {
            case.lan().interface = Err(("lan0 is down".to_owned(), "ip link set dev lan0 up".to_owned()));
        }),
        (kind::NIC_CARRIER, Warning, "no carrier", |case| {
            case.lan_link().state = rtnetlink::packet_route::link::State::Down;
        }),
        (kind::NIC_PORT, Warning, "port of br0", |case| {
            case.lan().above = Some("br0".to_owned());
        }),
        (kind::NIC_XDP, Error, "xdp_filter", |case| {
            case.lan().foreign = Some((
                "another: xdp_filter".to_owned(),
                "ip link set dev lan0 xdp off".to_owned(),
            ));
        }),
        (kind::NIC_TC, Warning, "count_all (id 77)", |case| {
            case.lan().classifiers = vec![program(Side::Ingress, 77, "count_all")];
        }),
        (kind::NIC_GENERIC, Note, "generic", |case| {
            case.subject.mode = Mode::Generic;
        }),
        (kind::NIC_MERGING, Warning, "rx-lro", |case| {
            case.lan().virtio = None;
            case.lan().features = ["rx-lro".to_owned()].into();
        }),
        (kind::NIC_CHECKSUM, Note, "veth", |case| {
            case.lan().driver = Some("veth".to_owned());
        }),
        (kind::NIC_MTU, Error, "9000", |case| case.lan_link().mtu = 9000),
        (kind::NIC_MTU, Warning, "9000", |case| {
            case.lan().virtio = None;
            case.lan_link().mtu = 9000;
        }),
        (kind::VIRTIO_OFFLOADS, Error, "lan0", |case| {
            case.virtio(0, CTRL_GUEST_OFFLOADS);
        }),
        (kind::VIRTIO_MERGEABLE, Error, "lan0", |case| case.virtio(0, MRG_RXBUF)),
        (kind::VIRTIO_LAYOUT, Error, "before 1.0", |case| {
            case.virtio(0, VERSION_1);
        }),
        (kind::VIRTIO_QUEUES, Warning, "2 queue pairs for 2 processors", |case| {
            case.lan().channels = Some(Channels { current: 2, most: 2 });
        }),
        (kind::VIRTIO_QUEUES, Warning, "all 4 queue pairs", |case| {
            case.lan_link().xdp = None;
        }),
        (kind::VIRTIO_QUEUES, Note, "1 queue pair for 1", |case| {
            case.facts.machine.processors = 1;
            case.lan().channels = Some(Channels { current: 1, most: 1 });
        }),
        (kind::VIRTIO_MACHINE, Note, "i440FX", |case| {
            case.facts.machine.machine = Some("Standard PC (i440FX + PIIX, 1996)".to_owned());
        }),
        (kind::SYSCTL_FORWARDING, Error, "lan0", |case| {
            case.facts.sysctl.forwarding[0].forwards_ipv4 = Some(false);
        }),
        (kind::SYSCTL_FORWARDING, Note, "lan0", |case| {
            case.planned();
            case.facts.sysctl.forwarding[0].forwards_ipv4 = Some(false);
        }),
        (kind::SYSCTL_RP_FILTER, Warning, "strict", |case| {
            case.facts.sysctl.rp_filter = Some(1);
            case.facts.sysctl.is_default = false;
        }),
        (kind::SYSCTL_LINKDOWN, Warning, "no carrier", |case| {
            case.facts.sysctl.ignores_linkdown = (true, false);
        }),
        (kind::SYSCTL_LINKDOWN, Warning, "no carrier", |case| {
            case.facts.sysctl.ignores_linkdown = (false, true);
        }),
        (kind::SYSCTL_ACCEPT_RA, Warning, "accept_ra=1", |case| {
            case.facts.sysctl.wan_forwards_ipv6 = Some(true);
        }),
        (kind::SYSCTL_IPV6, Error, "switched off", |case| {
            case.facts.sysctl.wan_disables_ipv6 = Some(true);
        }),
        (kind::FIREWALL_READ, Note, "no program nft", |case| {
            case.firewall().rules = Err(Unread::NoProgram);
        }),
        (kind::FIREWALL_READ, Note, "could not list", |case| {
            case.firewall().rules = Err(Unread::Failed);
        }),
        (kind::FIREWALL_READ, Note, "iptables-legacy", |case| {
            case.firewall().legacy = vec!["nat".to_owned()];
        }),
        (
            kind::FIREWALL_NAT,
            Warning,
            "masquerade in ip nat post (handle 7)",
            |case| {
                case.rules(&masquerade(""));
            },
        ),
        (
            kind::FIREWALL_FORWARD,
            Warning,
            "inet f fwd drops packets out of mape0",
            |case| {
                let rules = [rule("f", "fwd", 2, ESTABLISHED), rule("f", "fwd", 3, FROM_LAN)].join(",");
                case.rules(&format!("{FORWARD},{rules}"));
            },
        ),
        (
            kind::FIREWALL_FORWARD,
            Warning,
            "packets of the LAN into mape0",
            |case| case.rules(FORWARD),
        ),
        (kind::FIREWALL_INPUT, Warning, "inet f in drops", |case| {
            let rules = rule("f", "in", 2, ESTABLISHED);
            case.rules(&format!("{INPUT},{rules}"));
        }),
        (
            kind::FIREWALL_BYPASSED,
            Note,
            "inet f fwd (1 rules, policy drop)",
            |case| {
                case.rules(&format!("{FORWARD},{}", rule("f", "fwd", 2, ESTABLISHED)));
            },
        ),
        (kind::FIREWALL_CONNTRACK, Note, "tracking", |case| {
            case.firewall().has_conntrack = true;
        }),
        (kind::ROUTE_RELAY, Error, "no IPv6 route", |case| {
            case.facts.route.ways[0].1 = Some((Obstacle::NoRoute, "there is no IPv6 route".to_owned()));
        }),
        (kind::ROUTE_NEIGHBOUR, Error, "does not answer", |case| {
            case.facts.route.ways[0].1 = Some((Obstacle::Silent, "the router does not answer".to_owned()));
        }),
        (kind::ROUTE_ECHO, Note, "ping", |case| {
            case.facts.route.answers = Some(false);
        }),
        (kind::ROUTE_TUNNEL, Warning, "mape0", |case| {
            case.facts.route.is_routed = false;
        }),
        (kind::ROUTE_TUNNEL, Note, "mape0", |case| {
            case.planned();
            case.facts.route.is_routed = false;
        }),
        (kind::ROUTE_ADDRESS, Error, "is not on wan0", |case| {
            case.facts.route.has_address = false;
        }),
        (kind::MTU_WAN, Error, "MTU of 1500 on wan0", |case| {
            case.facts.mtu.wan = Some(1492);
        }),
        (kind::MTU_ROOM, Note, "room for 1460", |case| {
            case.subject.mtu = 1420;
            case.facts.mtu.device = Some(1420);
        }),
        (kind::MTU_LAN, Warning, "MTU of 1400", |case| {
            case.facts.mtu.lan[0].1 = 1400;
        }),
        (kind::MTU_LAN, Warning, "not clamped", |case| {
            case.subject.clamps_mss = false;
        }),
        (kind::MTU_DEVICE, Warning, "MTU of 1280", |case| {
            case.facts.mtu.device = Some(1280);
        }),
        (kind::TUNNEL_DEVICE, Error, "no device", |case| {
            case.tunnel().device = None;
        }),
        (kind::TUNNEL_DEVICE, Error, "belongs to instance office", |case| {
            case.tunnel().owner = Some("office".to_owned());
        }),
        (kind::TUNNEL_DEVICE, Error, "is down", |case| {
            case.tunnel().device.as_mut().unwrap().up = false;
        }),
        (
            kind::TUNNEL_SHARED_ADDRESS,
            Error,
            "mape0 has the shared address 192.0.2.18/32",
            |case| {
                case.tunnel().shared = vec![("mape0".to_owned(), 32)];
            },
        ),
        (kind::TUNNEL_SHARED_ADDRESS, Error, "lo has", |case| {
            case.tunnel().shared = vec![("lo".to_owned(), 32)];
        }),
        (kind::TUNNEL_PROGRAMS, Error, "mape0 ingress", |case| {
            case.tunnel().classifiers.pop();
        }),
        (
            kind::TUNNEL_TC,
            Warning,
            "the tc program meter (id 99) is at mape0 egress",
            |case| {
                case.tunnel().classifiers.push(program(Side::Egress, 99, "meter"));
            },
        ),
        (kind::TUNNEL_PROCESS, Error, "does not run", |case| {
            case.tunnel().process = tunnel::Process::Missing;
        }),
        (kind::TUNNEL_CANARY, Error, "not translated", |case| {
            case.tunnel().canary = Some(false);
        }),
        (kind::LOADED_LAYOUT, Error, "layout v0", |case| {
            case.facts.other_layout = Some(("v0".to_owned(), PathBuf::from("/sys/fs/bpf/mape/v0/default")));
        }),
        (kind::LOADED_PLACE, Error, "namespace", |case| {
            case.loaded().is_elsewhere = true;
        }),
        (kind::LOADED_GATE, Error, "closed", |case| case.loaded().is_open = false),
        (kind::LOADED_ATTACHED, Error, "lan0 is gone", |case| {
            case.loaded().nics[0].interface = None;
        }),
        (kind::LOADED_ATTACHED, Error, "not on lan0", |case| {
            case.loaded().nics[0].interface.as_mut().unwrap().xdp = None;
        }),
        (kind::LOADED_ATTACHED, Error, "not on lan0", |case| {
            case.loaded().nics[0].told = None;
        }),
        (kind::LOADED_ATTACHED, Warning, "lan0 has been detached", |case| {
            case.loaded().nics[0].is_detached = true;
        }),
        (kind::LOADED_RUNNING, Error, "7 frames came in by lan0", |case| {
            case.loaded().seen[0].counted = 0;
        }),
        (kind::LOADED_NIC, Warning, "MTU of lan0 is 9000", |case| {
            case.loaded().nics[0].interface.as_mut().unwrap().mtu = 9000;
        }),
        (kind::LOADED_NIC, Warning, "MAC address of lan0", |case| {
            case.loaded().nics[0].interface.as_mut().unwrap().mac = Some(Mac([2, 0, 0, 0, 0, 9]));
        }),
        (kind::LOADED_HOP, Warning, "sends to 02:00:00:00:00:01", |case| {
            case.loaded().hops[0].known = Some(Mac([2, 0, 0, 0, 0, 9]));
        }),
        (kind::LINE_PORTS, Note, "240 ports", |case| case.subject.ports = 240),
    ]
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
