//! Owns the table of what is looked at: the stable id of each kind of finding, how bad it is, and why it matters.

use super::Level;

/// What can be found.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Stable; its first word is the domain.
    pub id: &'static str,
    /// How bad it is, at worst.
    pub level: Level,
    /// What is looked at.
    pub title: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// Whether `--fix` can mend it.
    pub is_fixable: bool,
}

impl Kind {
    /// The first word of the id.
    pub fn domain(&self) -> &'static str {
        self.id.split('-').next().unwrap_or(self.id)
    }
}

macro_rules! kinds {
    ($($name:ident $id:literal $level:ident $fixable:literal $title:literal $why:literal)*) => {
        $(
            #[doc = $title]
            pub const $name: &Kind = &Kind {
                id: $id,
                level: Level::$level,
                title: $title,
                why: $why,
                is_fixable: $fixable,
            };
        )*
        /// All of them.
        pub const ALL: &[&Kind] = &[$($name),*];
    };
}

kinds! {
    KERNEL_ROOT "kernel-root" Error false
        "who runs mape-ctl"
        "only root may look at BPF programs and load them"
    KERNEL_CAPABILITIES "kernel-capabilities" Error false
        "privileges of this root"
        "a container's root may lack what loading BPF programs and changing the network needs"
    KERNEL_VERSION "kernel-version" Error false
        "version of the kernel"
        "older ones lack compare-and-swap in BPF, bpf_loop or timers; one never comes to an end with the programs; load refuses both"
    KERNEL_BTF "kernel-btf" Error false
        "type information of the kernel (BTF)"
        "timers in maps cannot be described to a kernel without it; load refuses"
    KERNEL_JIT "kernel-jit" Warning true
        "the BPF compiler"
        "without it every packet is interpreted, which is several times slower"
    KERNEL_BPFFS "kernel-bpffs" Error true
        "the BPF file system"
        "programs and maps are pinned there, which is how they outlive mape-ctl"
    KERNEL_TCX "kernel-tcx" Note false
        "links for tc programs (TCX, Linux 6.6)"
        "without them the programs at the tunnel device are filters that another tool can take off"
    KERNEL_TUNNEL "kernel-tunnel" Error false
        "tunnels: ip6_tunnel, or TUN devices"
        "what XDP does not take goes through a tunnel device; a process carries its packets where the kernel has no ip6_tunnel"
    KERNEL_AF_XDP "kernel-af-xdp" Note false
        "AF_XDP sockets"
        "fragments that come before their first one can only be put together with them"

    NIC_USABLE "nic-usable" Error false
        "interfaces are there, are Ethernet NICs, and are up"
        "XDP runs on a NIC that receives frames, not on a bridge, bond or VLAN above it; load refuses others"
    NIC_CARRIER "nic-carrier" Warning false
        "carrier"
        "nothing can be sent or received without one"
    NIC_PORT "nic-port" Warning false
        "NICs are in no bridge or bond"
        "packets whose route leads to the bridge are left to the kernel"
    NIC_XDP "nic-xdp" Error false
        "other XDP programs on NICs"
        "an interface runs one XDP program; load refuses to take another's place"
    NIC_TC "nic-tc" Warning false
        "tc programs and filters of others on NICs"
        "packets that XDP forwards do not pass them, so what they count, shape or refuse is only a part"
    NIC_GENERIC "nic-generic" Note false
        "where in the kernel XDP runs"
        "in the generic layer every packet costs several times as much as in the driver"
    NIC_MERGING "nic-merging" Warning false
        "frames merged by the NIC (LRO, GRO-HW)"
        "drivers refuse XDP, or show it frames that no wire carries, while the NIC merges frames on arrival"
    NIC_CHECKSUM "nic-checksum" Note false
        "frames that come without checksums (veth)"
        "the other end of a veth pair leaves checksums to the receiver; translated and sent on they stay wrong and are lost"
    NIC_MTU "nic-mtu" Error false
        "MTU that XDP can have"
        "a frame must fit into a page beside XDP's room; larger MTUs are refused when attaching, and larger frames are lost when the MTU is raised later"

    VIRTIO_OFFLOADS "virtio-offloads" Error false
        "virtio: guest offloads can be switched off"
        "the driver refuses XDP while the host merges frames and the guest cannot tell it to stop (ctrl_guest_offloads=off)"
    VIRTIO_MERGEABLE "virtio-mergeable" Error false
        "virtio: mergeable receive buffers"
        "without them (mrg_rxbuf=off) attaching succeeds, but the program never runs"
    VIRTIO_LAYOUT "virtio-layout" Error false
        "virtio: layout of headers"
        "devices from before virtio 1.0 put the header apart from the data, and the driver refuses XDP"
    VIRTIO_QUEUES "virtio-queues" Warning false
        "virtio: queue pairs and processors"
        "XDP sends by a queue of each processor's own; where there are too few, processors wait for each other"
    VIRTIO_MACHINE "virtio-machine" Note false
        "virtual machine type"
        "what was measured with which one is in docs/kernels.md"

    SYSCTL_FORWARDING "sysctl-forwarding" Error true
        "IPv4 forwarding"
        "what XDP does not take is routed by the kernel, which drops it where forwarding is off"
    SYSCTL_RP_FILTER "sysctl-rp-filter" Warning true
        "reverse path filter of the tunnel device"
        "a strict one drops packets out of the tunnel whose sender is not routed into it"
    SYSCTL_LINKDOWN "sysctl-linkdown" Warning true
        "routes into devices without carrier"
        "the tunnel device may have none, and its routes would be passed over"
    SYSCTL_ACCEPT_RA "sysctl-accept-ra" Warning true
        "router advertisements on the WAN"
        "with IPv6 forwarding on they are only accepted with accept_ra=2: address and default route of the WAN run out"
    SYSCTL_IPV6 "sysctl-ipv6" Error false
        "IPv6 on the WAN"
        "the tunnel is made of IPv6 packets"

    FIREWALL_READ "firewall-read" Note false
        "firewall rules can be read"
        "rules that cannot be read cannot be looked at: those of nft need the program nft, those of iptables-legacy are in no list of nft"
    FIREWALL_NAT "firewall-nat" Warning false
        "rules that translate what the gateway translates"
        "a flow that changes from the fast path to the slow one would get another port, and break"
    FIREWALL_FORWARD "firewall-forward" Warning false
        "forwarding rules let the slow path's packets in"
        "a stateful rule sees only half of a flow whose other half XDP forwards: answers look new to it and are dropped"
    FIREWALL_INPUT "firewall-input" Warning false
        "input rules let tunnelled packets in"
        "what XDP passes reaches the tunnel as IPv6 packets with next header 4, by way of the input rules"
    FIREWALL_BYPASSED "firewall-bypassed" Note false
        "rules that the fast path bypasses"
        "packets that XDP forwards pass no firewall rule: what is refused or counted there is only the slow path's part"
    FIREWALL_NATIVE "firewall-native" Note false
        "native IPv6 is forwarded in XDP"
        "the kernel forwards it slower while our programs are on the NICs, but past rules that may refuse or translate it XDP must not lead it unasked"
    FIREWALL_CONNTRACK "firewall-conntrack" Note false
        "connection tracking"
        "it sees no packet that XDP forwards, so its table does not show the gateway's flows (mape-ctl sessions does)"

    ROUTE_RELAY "route-relay" Error false
        "route to the far end of the tunnel"
        "without one by the WAN no tunnelled packet can be sent"
    ROUTE_NEIGHBOUR "route-neighbour" Error false
        "the router towards the far end answers"
        "the data path sends to its MAC address"
    ROUTE_ECHO "route-echo" Note false
        "the border relay answers pings"
        "many do not, so this only tells something where it answered before"
    ROUTE_TUNNEL "route-tunnel" Warning false
        "IPv4 routes into the tunnel device"
        "the routing table decides what is tunnelled; without a route nothing is"
    ROUTE_ADDRESS "route-address" Error true
        "the tunnel's address is on the WAN"
        "the provider's router asks for it (neighbour discovery), and nobody would answer"

    MTU_WAN "mtu-wan" Error false
        "MTU of the WAN for the tunnel's packets"
        "a tunnelled packet is 40 bytes larger than the IPv4 packet in it"
    MTU_ROOM "mtu-room" Note false
        "MTU of the tunnel uses what the WAN has"
        "larger packets are fewer packets"
    MTU_LAN "mtu-lan" Warning false
        "MTU of the LAN for the tunnel's packets"
        "packets out of the tunnel that do not fit a LAN are fragmented or answered with an error, each of them on the slow path"
    MTU_DEVICE "mtu-device" Warning true
        "MTU of the tunnel device"
        "the kernel fragments by it what takes the slow path; both paths should take packets of one size"

    TUNNEL_DEVICE "tunnel-device" Error true
        "the tunnel device is there, ours, and up"
        "what XDP does not take is routed into it"
    TUNNEL_SHARED_ADDRESS "tunnel-shared-address" Error true
        "the shared IPv4 address is on no interface"
        "the kernel would keep for itself what belongs to LAN hosts, and drop packets of other customers with the same address"
    TUNNEL_PROGRAMS "tunnel-programs" Error false
        "programs at the tunnel device"
        "without them the slow path's packets are dropped at the WAN, or come in unchecked"
    TUNNEL_TC "tunnel-tc" Warning false
        "tc programs and filters of others at the tunnel device"
        "they may change or drop packets before or after translation, of the slow path only"
    TUNNEL_PROCESS "tunnel-process" Error true
        "the process that carries the tunnel's packets"
        "without ip6_tunnel in the kernel it is the slow path's tunnel"
    TUNNEL_CANARY "tunnel-canary" Error false
        "a packet sent into the tunnel device is translated"
        "what XDP does not take is lost where the slow path is dead"

    LOADED_LAYOUT "loaded-layout" Error false
        "pins of another release"
        "maps of another layout cannot be read or changed by this mape-ctl; load refuses"
    LOADED_PLACE "loaded-place" Error false
        "network namespace of the loaded gateway"
        "its interfaces are not to be seen from here"
    LOADED_GATE "loaded-gate" Error false
        "the gate"
        "while it is closed the programs pass everything to the kernel and forward nothing"
    LOADED_ATTACHED "loaded-attached" Error false
        "programs are attached to their NICs"
        "a NIC without its program forwards nothing, and the kernel drops what is redirected to it"
    LOADED_RUNNING "loaded-running" Error false
        "programs run and count"
        "a driver may accept a program and never run it"
    LOADED_NIC "loaded-nic" Warning false
        "MTU and MAC address are those that were loaded"
        "the data path sends with the MAC address and sizes that it was given; frames of an MTU raised later are lost"
    LOADED_HOP "loaded-hop" Warning false
        "MAC address of the router towards the far end"
        "the data path sends to the one it was given"

    LINE_PORTS "line-ports" Note false
        "ports of the line"
        "few ports are enough for many flows, since TCP ports are shared by destination, but not for anything"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ALL;

    #[test]
    fn ids_are_unique_and_begin_with_their_domain() {
        let ids: BTreeSet<_> = ALL.iter().map(|kind| kind.id).collect();
        assert_eq!(ids.len(), ALL.len());
        for kind in ALL {
            assert!(
                kind.id.len() > kind.domain().len()
                    && kind
                        .id
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte == b'-' || byte.is_ascii_digit()),
                "{}",
                kind.id
            );
        }
    }

    #[test]
    fn the_document_has_a_row_for_every_kind_and_no_other() {
        let text = include_str!("../../../docs/check.md");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> = ALL
            .iter()
            .map(|kind| {
                let fix = if kind.is_fixable { "yes" } else { "" };
                format!(
                    "| `{}` | {} | {} | {} | {fix} |",
                    kind.id,
                    kind.level.name(),
                    kind.title,
                    kind.why
                )
            })
            .collect();
        assert_eq!(rows, expected, "the table should be:\n{}", expected.join("\n"));
    }
}
