//! The entry points, one line each: decisions are mape-common's, actions are `action.rs`'s.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    reason = "the verifier follows packet offsets only through inlined leaves"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "aya's macro makes the context and hands it over"
)]

mod action;
mod ask;
mod env;
mod maps;
mod measure;
mod neighbour;
mod order;
mod packet;
mod part;
mod sweep;
mod trace;
mod tunnel;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use mape_common::step::stage::Stage;

/// Customer edge, a NIC that is only LAN.
#[xdp]
fn mape_lan_xdp(ctx: XdpContext) -> u32 {
    action::lan(&ctx)
}

/// Customer edge, a NIC that is only WAN.
#[xdp]
fn mape_wan_xdp(ctx: XdpContext) -> u32 {
    action::wan(&ctx)
}

/// Customer edge, a NIC that is only WAN, whose packets from the tunnel are shared out to processors.
#[xdp]
fn mape_spread_xdp(ctx: XdpContext) -> u32 {
    action::spread(&ctx)
}

/// Customer edge, from the WAN: what another processor has received.
#[xdp(map = "cpumap")]
fn mape_cpu_wan(ctx: XdpContext) -> u32 {
    action::taken_over(&ctx)
}

/// Customer edge, a stage: as `mape_wan_open`, for what another processor has received.
#[xdp(map = "cpumap")]
fn mape_cpu_open(ctx: XdpContext) -> u32 {
    action::stage_taken_over(&ctx, Stage::InboundOpen)
}

/// As `mape_trace_xdp`, for what another processor has received.
#[xdp(map = "cpumap")]
fn mape_cpu_trace(ctx: XdpContext) -> u32 {
    trace::tell(&ctx)
}

/// Customer edge, one NIC for both.
#[xdp]
fn mape_one_arm_xdp(ctx: XdpContext) -> u32 {
    action::one_arm(&ctx)
}

/// Customer edge, a stage: a LAN host's session is looked after or opened.
#[xdp]
fn mape_lan_open(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::OutboundOpen)
}

/// Customer edge, a stage: the same for packets from the tunnel.
#[xdp]
fn mape_wan_open(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::InboundOpen)
}

/// Customer edge, a stage: ICMP errors from the LAN.
#[xdp]
fn mape_lan_error(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::OutboundError)
}

/// Customer edge, a stage: ICMP errors in the tunnel.
#[xdp]
fn mape_wan_error(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::InboundError)
}

/// Customer edge, a stage: ICMPv6 errors about the tunnel.
#[xdp]
fn mape_wan_tunerr(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::TunnelError)
}

/// Customer edge, a stage: answers to LAN hosts.
#[xdp]
fn mape_answer(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::Answer)
}

/// Customer edge, a stage: from one LAN host to another by the shared address.
#[xdp]
fn mape_hairpin(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::Hairpin)
}

/// Customer edge, a stage: ICMP errors about packets from one LAN host to another.
#[xdp]
fn mape_hair_error(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::HairpinError)
}

/// Customer edge, a stage: a fragment of a LAN host's packet.
#[xdp]
fn mape_lan_frag(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::OutboundFragment)
}

/// Customer edge, a stage: the same for packets from the tunnel.
#[xdp]
fn mape_wan_frag(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::InboundFragment)
}

/// Customer edge, a stage: native IPv6 from a LAN.
#[xdp]
fn mape_lan_native(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::NativeOutbound)
}

/// Customer edge, a stage: native IPv6 from the WAN.
#[xdp]
fn mape_wan_native(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::NativeInbound)
}

/// Customer edge, the WAN NIC: what the stack sends.
#[classifier]
fn mape_wan_sent(ctx: TcContext) -> i32 {
    neighbour::sent(&ctx)
}

/// Customer edge, the WAN NIC: what the stack gets.
#[classifier]
fn mape_wan_heard(ctx: TcContext) -> i32 {
    neighbour::heard(&ctx)
}

/// Customer edge, the tunnel device: what enters the tunnel.
#[classifier]
fn mape_tun_out(ctx: TcContext) -> i32 {
    tunnel::out(&ctx)
}

/// Customer edge, the tunnel device: what has come out of the tunnel.
#[classifier]
fn mape_tun_in(ctx: TcContext) -> i32 {
    tunnel::into(&ctx)
}

/// Customer edge, the tunnel device, a stage: ICMP errors that enter the tunnel.
#[classifier]
fn mape_tout_error(ctx: TcContext) -> i32 {
    tunnel::stage(&ctx, Stage::OutboundError)
}

/// Customer edge, the tunnel device, a stage: ICMP errors that have come out of it.
#[classifier]
fn mape_tin_error(ctx: TcContext) -> i32 {
    tunnel::stage(&ctx, Stage::InboundError)
}

/// Customer edge, the tunnel device, a stage: fragments that enter the tunnel.
#[classifier]
fn mape_tout_frag(ctx: TcContext) -> i32 {
    tunnel::stage(&ctx, Stage::OutboundFragment)
}

/// Customer edge, the tunnel device, a stage: fragments that have come out of it.
#[classifier]
fn mape_tin_frag(ctx: TcContext) -> i32 {
    tunnel::stage(&ctx, Stage::InboundFragment)
}

/// Border relay, a NIC towards the IPv4 Internet.
#[xdp]
fn mape_relay4_xdp(ctx: XdpContext) -> u32 {
    action::relay_v4(&ctx)
}

/// Border relay, a NIC towards the domain.
#[xdp]
fn mape_relay6_xdp(ctx: XdpContext) -> u32 {
    action::relay_v6(&ctx)
}

/// Border relay, a stage: a fragment from the Internet.
#[xdp]
fn mape_relay4_frg(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::RelayOutboundFragment)
}

/// Border relay, a stage: a fragment from the domain.
#[xdp]
fn mape_relay6_frg(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::RelayInboundFragment)
}

/// Border relay, a stage: ICMP errors from the Internet, and packets that are too big.
#[xdp]
fn mape_relay4_icm(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::RelayOutboundIcmp)
}

/// Border relay, a stage: ICMP errors from the domain, and packets that end here.
#[xdp]
fn mape_relay6_icm(ctx: XdpContext) -> u32 {
    action::stage(&ctx, Stage::RelayInboundIcmp)
}

/// Border relay, one NIC for both.
#[xdp]
fn mape_relay_xdp(ctx: XdpContext) -> u32 {
    action::relay_one_arm(&ctx)
}

/// Passes everything: for the far end of a veth, which takes redirected frames only from a device with a program.
#[xdp]
fn mape_pass_xdp(_: XdpContext) -> u32 {
    aya_ebpf::bindings::xdp_action::XDP_PASS
}

/// For measurements: redirects everything to the interface in REDIRECT_TO, the ceiling that the others are held against.
#[xdp]
fn mape_bare_xdp(_: XdpContext) -> u32 {
    measure::bare_redirect()
}

/// For measurements: the same with an outer header before each packet.
#[xdp]
fn mape_encap_xdp(ctx: XdpContext) -> u32 {
    measure::encapsulate(&ctx)
}

/// For measurements: the same with all look-ups that a gateway makes for each packet, and nothing asked of what they give.
#[xdp]
fn mape_least_xdp(ctx: XdpContext) -> u32 {
    measure::least(&ctx)
}

/// For measurements: makes frames out of TEMPLATES. Never attached; run by user space with live frames.
#[xdp]
fn mape_source_xdp(ctx: XdpContext) -> u32 {
    measure::generate(&ctx)
}

/// For measurements: counts and drops.
#[xdp]
fn mape_sink_xdp(ctx: XdpContext) -> u32 {
    measure::sink(&ctx)
}

/// For measurements: as the source, a frame each interval, with the time in it.
#[xdp]
fn mape_paced_xdp(ctx: XdpContext) -> u32 {
    measure::paced(&ctx)
}

/// For measurements: as the sink, and notes how old each frame is.
#[xdp]
fn mape_clock_xdp(ctx: XdpContext) -> u32 {
    measure::clocked(&ctx)
}

/// The end of every program's way while somebody follows packets.
#[xdp]
fn mape_trace_xdp(ctx: XdpContext) -> u32 {
    trace::tell(&ctx)
}

/// Never attached: run by user space. Asks the routing table what the data path would ask it.
#[xdp]
fn mape_route_xdp(ctx: XdpContext) -> u32 {
    ask::route(&ctx)
}

/// Never attached: run once by user space. Sweeps the session table as SWEEP_ORDER says and arms the timer.
#[xdp]
fn mape_sweep_xdp(_: XdpContext) -> u32 {
    sweep::run()
}

/// Never attached: run by user space. Carries out PORT_ORDER: a static forward or a reservation, made or ended.
#[xdp]
fn mape_port_xdp(_: XdpContext) -> u32 {
    order::run()
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked: `cargo xtask ebpf-check` fails on an object that has a panic path.
    loop {}
}

/// The helpers that are called want a GPL-compatible program.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the kernel looks for the licence in this section")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
