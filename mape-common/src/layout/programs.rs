//! Names of the programs in the object.

/// XDP, customer edge, a NIC that is only LAN.
pub const LAN: &str = "mape_lan_xdp";
/// XDP, customer edge, a NIC that is only WAN.
pub const WAN: &str = "mape_wan_xdp";
/// XDP, customer edge, one NIC for both.
pub const ONE_ARM: &str = "mape_one_arm_xdp";
/// XDP, customer edge, a stage: looks after a LAN host's session or opens one.
pub const OUTBOUND_OPEN: &str = "mape_lan_open";
/// XDP, customer edge, a stage: the same for packets from the tunnel.
pub const INBOUND_OPEN: &str = "mape_wan_open";
/// XDP, customer edge, a stage: ICMP errors from the LAN.
pub const OUTBOUND_ERROR: &str = "mape_lan_error";
/// XDP, customer edge, a stage: ICMP errors in the tunnel.
pub const INBOUND_ERROR: &str = "mape_wan_error";
/// XDP, customer edge, a stage: ICMPv6 errors about the tunnel.
pub const TUNNEL_ERROR: &str = "mape_wan_tunerr";
/// XDP, customer edge, a stage: answers to LAN hosts.
pub const ANSWER: &str = "mape_answer";
/// XDP, customer edge, a stage: from one LAN host to another by the shared address.
pub const HAIRPIN: &str = "mape_hairpin";
/// XDP, customer edge, a stage: ICMP errors about packets from one LAN host to another.
pub const HAIRPIN_ERROR: &str = "mape_hair_error";
/// XDP, customer edge, a stage: a LAN host's packets that come in fragments.
pub const OUTBOUND_FRAGMENT: &str = "mape_lan_frag";
/// XDP, customer edge, a stage: the same for packets from the tunnel.
pub const INBOUND_FRAGMENT: &str = "mape_wan_frag";
/// XDP, customer edge, a stage: native IPv6 from a LAN.
pub const NATIVE_OUTBOUND: &str = "mape_lan_native";
/// XDP, customer edge, a stage: native IPv6 from the WAN.
pub const NATIVE_INBOUND: &str = "mape_wan_native";
/// XDP, customer edge, a NIC that is only WAN: as WAN, and hands packets from the tunnel on to other processors.
pub const SPREAD: &str = "mape_spread_xdp";
/// XDP at the map CPUS, customer edge: packets from the tunnel that another processor has received.
pub const CPU_INBOUND: &str = "mape_cpu_wan";
/// XDP at the map CPUS, a stage: as INBOUND_OPEN.
pub const CPU_INBOUND_OPEN: &str = "mape_cpu_open";
/// XDP at the map CPUS: as TRACE.
pub const CPU_TRACE: &str = "mape_cpu_trace";
/// XDP, border relay, a NIC towards the IPv4 Internet.
pub const RELAY_V4: &str = "mape_relay4_xdp";
/// XDP, border relay, a NIC towards the domain.
pub const RELAY_V6: &str = "mape_relay6_xdp";
/// XDP, border relay, one NIC for both.
pub const RELAY_ONE_ARM: &str = "mape_relay_xdp";
/// XDP, border relay, a stage: packets from the Internet that come in fragments.
pub const RELAY_OUTBOUND_FRAGMENT: &str = "mape_relay4_frg";
/// XDP, border relay, a stage: the same for packets from the domain.
pub const RELAY_INBOUND_FRAGMENT: &str = "mape_relay6_frg";
/// XDP, border relay, a stage: ICMP errors from the Internet, and packets that are too big.
pub const RELAY_OUTBOUND_ICMP: &str = "mape_relay4_icm";
/// XDP, border relay, a stage: ICMP errors from the domain, and packets that end here.
pub const RELAY_INBOUND_ICMP: &str = "mape_relay6_icm";
/// tc, egress of the WAN NIC: learns the routers from what the stack sends into the tunnel.
pub const NEIGHBOUR_OUT: &str = "mape_wan_sent";
/// tc, ingress of the WAN NIC: looks out for neighbours' announcements.
pub const NEIGHBOUR_IN: &str = "mape_wan_heard";
/// tc, egress of the tunnel device: translates what enters the tunnel.
pub const TUNNEL_OUT: &str = "mape_tun_out";
/// tc, ingress of the tunnel device: translates what has come out of the tunnel.
pub const TUNNEL_IN: &str = "mape_tun_in";
/// tc, egress, a stage: ICMP errors that enter the tunnel.
pub const TUNNEL_OUT_ERROR: &str = "mape_tout_error";
/// tc, ingress, a stage: ICMP errors that have come out of the tunnel.
pub const TUNNEL_IN_ERROR: &str = "mape_tin_error";
/// tc, egress, a stage: fragments that enter the tunnel.
pub const TUNNEL_OUT_FRAGMENT: &str = "mape_tout_frag";
/// tc, ingress, a stage: fragments that have come out of the tunnel.
pub const TUNNEL_IN_FRAGMENT: &str = "mape_tin_frag";
/// XDP that passes everything: for the far end of a veth.
pub const PASS: &str = "mape_pass_xdp";
/// XDP for measurements: redirects everything to REDIRECT_TO.
pub const BARE: &str = "mape_bare_xdp";
/// XDP for measurements: as BARE, and encapsulates.
pub const ENCAPSULATE: &str = "mape_encap_xdp";
/// XDP for measurements: as ENCAPSULATE, and looks up and counts what has to be for each packet.
pub const LEAST: &str = "mape_least_xdp";
/// XDP for measurements: makes frames.
pub const SOURCE: &str = "mape_source_xdp";
/// XDP for measurements: counts and drops frames.
pub const SINK: &str = "mape_sink_xdp";
/// XDP for measurements: makes frames at a pace, with the time in each.
pub const PACED: &str = "mape_paced_xdp";
/// XDP for measurements: counts and drops frames, and notes how old they are.
pub const CLOCK: &str = "mape_clock_xdp";
/// XDP, the last stage of every program while somebody follows packets: tells what became of one.
pub const TRACE: &str = "mape_trace_xdp";
/// XDP, never attached: run by user space, asks the routing table as the data path does.
pub const ROUTE: &str = "mape_route_xdp";
/// XDP, never attached: run once by user space, sweeps the session table as SWEEP_ORDER says and arms the timer.
pub const SWEEP: &str = "mape_sweep_xdp";
/// XDP, never attached: run by user space, carries out PORT_ORDER.
pub const PORT: &str = "mape_port_xdp";
