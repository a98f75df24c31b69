//! The WAN NIC as the stack uses it: every packet goes on as it came, but for one that should have been translated.
#![expect(unsafe_code, reason = "the context is the kernel's")]

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use mape_common::{
    packet::Packet as _,
    step::{guard, neighbour},
    verdict::{Direction, Reason},
};

use crate::{env::KernelEnv, maps, packet::skb::SkbPacket};

/// What the stack sends.
#[inline(always)]
pub(crate) fn sent(ctx: &TcContext) -> i32 {
    let (packet, env) = (SkbPacket::new(ctx), KernelEnv::of_packet(ctx));
    if guard::is_untranslated(&packet, &env) {
        maps::count(Direction::Outbound, Reason::Untranslated.number(), packet.len());
        return TC_ACT_SHOT;
    }
    neighbour::sent(&packet, &env, ifindex(ctx));
    TC_ACT_UNSPEC
}

/// What the stack gets.
#[inline(always)]
pub(crate) fn heard(ctx: &TcContext) -> i32 {
    neighbour::heard(&SkbPacket::new(ctx), &KernelEnv::of_packet(ctx), ifindex(ctx));
    TC_ACT_UNSPEC
}

/// The NIC's number.
#[inline(always)]
fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context the kernel called the program with.
    unsafe { (*ctx.skb.skb).ifindex }
}
