//! Outcome to XDP action, and counting: the only file that names an action of the kernel's.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use mape_common::{
    packet::Packet as _,
    step::{edge, relay},
    verdict::{DELIVERED, Direction, FORWARDED, Failure, Verdict},
    wire::eth::EtherType,
};

use crate::{env::KernelEnv, maps, packet::xdp::XdpPacket};

#[inline(always)]
pub(crate) fn lan(ctx: &XdpContext) -> u32 {
    let mut frame = XdpPacket::new(ctx);
    let len = frame.len();
    let env = KernelEnv::new(ctx);
    finish(
        ctx,
        Direction::Outbound,
        len,
        edge::outbound(&mut frame, &env, env.ingress()),
    )
}

#[inline(always)]
pub(crate) fn wan(ctx: &XdpContext) -> u32 {
    let mut frame = XdpPacket::new(ctx);
    let len = frame.len();
    let env = KernelEnv::new(ctx);
    finish(
        ctx,
        Direction::Inbound,
        len,
        edge::inbound(&mut frame, &env, env.ingress()),
    )
}

/// On one NIC the frame's type tells which way it goes.
#[inline(always)]
pub(crate) fn one_arm(ctx: &XdpContext) -> u32 {
    match XdpPacket::new(ctx).read(12).map(EtherType) {
        Ok(EtherType::IPV4) => lan(ctx),
        _ => wan(ctx),
    }
}

#[inline(always)]
pub(crate) fn relay_v4(ctx: &XdpContext) -> u32 {
    let mut frame = XdpPacket::new(ctx);
    let len = frame.len();
    let env = KernelEnv::new(ctx);
    finish(
        ctx,
        Direction::Outbound,
        len,
        relay::to_domain(&mut frame, &env, env.ingress()),
    )
}

#[inline(always)]
pub(crate) fn relay_v6(ctx: &XdpContext) -> u32 {
    let mut frame = XdpPacket::new(ctx);
    let len = frame.len();
    let env = KernelEnv::new(ctx);
    finish(
        ctx,
        Direction::Inbound,
        len,
        relay::from_domain(&mut frame, &env, env.ingress()),
    )
}

#[inline(always)]
pub(crate) fn relay_one_arm(ctx: &XdpContext) -> u32 {
    match XdpPacket::new(ctx).read(12).map(EtherType) {
        Ok(EtherType::IPV4) => relay_v4(ctx),
        _ => relay_v6(ctx),
    }
}

/// Counts a frame by its outcome and gives the action. `len` is the frame's length as it came.
#[inline(always)]
fn finish(ctx: &XdpContext, direction: Direction, len: usize, outcome: Result<Verdict, Failure>) -> u32 {
    let (slot, action) = match outcome {
        Ok(Verdict::Forward { ifindex }) => (FORWARDED, redirect(ctx, ifindex)),
        Ok(Verdict::Deliver) => (DELIVERED, xdp_action::XDP_PASS),
        Err(Failure::Refused(reason)) => (
            reason.number(),
            if reason.action().passes() {
                xdp_action::XDP_PASS
            } else {
                xdp_action::XDP_DROP
            },
        ),
        Err(broken @ Failure::Broken(_)) => (broken.reason().number(), xdp_action::XDP_DROP),
    };
    maps::count(direction, slot, len);
    action
}

/// Out of the interface: back out of the same one needs no redirect.
#[inline(always)]
fn redirect(ctx: &XdpContext, ifindex: u32) -> u32 {
    if ifindex as usize == ctx.ingress_ifindex() {
        xdp_action::XDP_TX
    } else {
        maps::redirect(ifindex)
    }
}
