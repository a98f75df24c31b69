//! A row for each way in which something can be wrong.

use std::path::PathBuf;

use mape_common::hop::Mac;

use super::{
    super::{
        Level, Mode,
        ethtool::Channels,
        firewall::Unread,
        kind::{self, Kind},
        route::Obstacle,
        tunnel,
        virtio::{CTRL_GUEST_OFFLOADS, MRG_RXBUF, VERSION_1},
    },
    Case, ESTABLISHED, FORWARD, FROM_LAN, INPUT, masquerade, program, rule,
};
use crate::{
    gateway::Ipv6Forward,
    netlink::{filter::Side, obstacle as way},
};

fn chain() -> way::Obstacle {
    way::Obstacle::Chain {
        family: "inet",
        table: "f".to_owned(),
        name: "fwd".to_owned(),
        hook: "forward",
    }
}

/// Makes a machine that is well have a fault.
pub(super) type Change = fn(&mut Case);

/// What is wrong, and how the finding is to be; its text has to have these words.
#[expect(clippy::too_many_lines, reason = "a table of all kinds")]
pub(super) fn rows() -> Vec<(&'static Kind, Level, &'static str, Change)> {
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
        (
            kind::FIREWALL_BYPASSED,
            Note,
            "passes all rules by: the chain inet f fwd (hook forward)",
            |case| {
                case.subject.ipv6_forward = Ipv6Forward::Always;
                case.firewall().obstacles = Ok(vec![way::Obstacle::NoForwarding, chain()]);
            },
        ),
        (
            kind::FIREWALL_NATIVE,
            Note,
            "does not forward IPv6 (net.ipv6.conf.all.forwarding = 0); the chain inet f fwd (hook forward)",
            |case| {
                case.firewall().obstacles = Ok(vec![way::Obstacle::NoForwarding, chain()]);
            },
        ),
        (kind::FIREWALL_NATIVE, Note, "cannot ask", |case| {
            case.firewall().obstacles = Err("cannot ask".to_owned());
        }),
        (kind::FIREWALL_NATIVE, Note, "nobody sees to it", |case| {
            case.firewall().is_looked_after = false;
        }),
        (kind::FIREWALL_NATIVE, Note, "\"never\"", |case| {
            case.subject.ipv6_forward = Ipv6Forward::Never;
        }),
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
