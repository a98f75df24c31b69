//! Outcome to XDP action, and counting: the only file that names an action of the kernel's.
#![expect(
    clippy::redundant_closure,
    reason = "a function's name as a value is called through a frame of stack of its own; a closure is inlined"
)]

use aya_ebpf::{bindings::xdp_action, maps::ProgramArray, programs::XdpContext};
use mape_common::{
    layout::TAKEN_OVER,
    packet::Packet as _,
    step::{
        edge, relay, spread,
        stage::{Attempt, Stage},
    },
    verdict::{DELIVERED, Direction, FORWARDED, Failure, HELD, NATIVE, Reason, Verdict},
    wire::eth::{self, EtherType},
};

use crate::{
    env::{Kept, KernelEnv, Memory},
    maps,
    packet::xdp::XdpPacket,
    trace::Fate,
};

/// Where a program runs: what it hands frames on to, and what else depends on it.
trait Hook {
    /// The programs of the stages there.
    fn stages() -> &'static ProgramArray;

    /// Back out of the interface that the frame came by.
    fn back(ctx: &XdpContext) -> u32;
}

/// At a NIC, on the processor that has received the frame.
struct AtNic;

impl Hook for AtNic {
    #[inline(always)]
    fn stages() -> &'static ProgramArray {
        &maps::STAGES
    }

    #[inline(always)]
    fn back(_: &XdpContext) -> u32 {
        xdp_action::XDP_TX
    }
}

/// At the map CPUS, on another processor, where the kernel sends nothing back by itself.
struct AtCpu;

impl Hook for AtCpu {
    #[inline(always)]
    fn stages() -> &'static ProgramArray {
        &maps::CPU_STAGES
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "interface indices have 31 bits")]
    fn back(ctx: &XdpContext) -> u32 {
        maps::redirect(ctx.ingress_ifindex() as u32)
    }
}

/// Customer edge, from the LAN.
#[inline(always)]
pub(crate) fn lan(ctx: &XdpContext) -> u32 {
    hand::<Kept, AtNic>(
        ctx,
        Direction::Outbound,
        false,
        #[inline(always)]
        |frame, env, ifindex| edge::outbound(frame, env, ifindex),
    )
}

/// Customer edge, from the WAN.
#[inline(always)]
pub(crate) fn wan(ctx: &XdpContext) -> u32 {
    from_wan::<AtNic>(ctx)
}

/// Customer edge, from the WAN: packets from the tunnel are shared out to processors.
#[inline(always)]
pub(crate) fn spread(ctx: &XdpContext) -> u32 {
    if let Some(place) = spread::place(&XdpPacket::new(ctx))
        && let Some(action) = maps::hand_on(place)
    {
        return action;
    }
    wan(ctx)
}

/// Customer edge, from the WAN, on the processor that it was handed on to.
#[inline(always)]
pub(crate) fn taken_over(ctx: &XdpContext) -> u32 {
    maps::count_handed(TAKEN_OVER);
    from_wan::<AtCpu>(ctx)
}

#[inline(always)]
fn from_wan<H: Hook>(ctx: &XdpContext) -> u32 {
    hand::<Kept, H>(
        ctx,
        Direction::Inbound,
        false,
        #[inline(always)]
        |frame, env, ifindex| edge::inbound(frame, env, ifindex),
    )
}

/// A stage.
#[inline(always)]
pub(crate) fn stage(ctx: &XdpContext, stage: Stage) -> u32 {
    stage_at::<AtNic>(ctx, stage)
}

/// A stage, on the processor that the frame was handed on to.
#[inline(always)]
pub(crate) fn stage_taken_over(ctx: &XdpContext, stage: Stage) -> u32 {
    stage_at::<AtCpu>(ctx, stage)
}

#[inline(always)]
fn stage_at<H: Hook>(ctx: &XdpContext, stage: Stage) -> u32 {
    hand::<(), H>(
        ctx,
        stage.direction(),
        stage.is_of_fragments(),
        #[inline(always)]
        |frame, env, ifindex| edge::run(stage, maps::handed_over(), frame, env, ifindex),
    )
}

/// Customer edge, one NIC for both.
#[inline(always)]
pub(crate) fn one_arm(ctx: &XdpContext) -> u32 {
    if is_ipv4(ctx) { lan(ctx) } else { wan(ctx) }
}

/// Border relay, from the Internet.
#[inline(always)]
pub(crate) fn relay_v4(ctx: &XdpContext) -> u32 {
    hand::<Kept, AtNic>(
        ctx,
        Direction::Outbound,
        false,
        #[inline(always)]
        |frame, env, ifindex| relay::to_domain(frame, env, ifindex),
    )
}

/// Border relay, from the domain.
#[inline(always)]
pub(crate) fn relay_v6(ctx: &XdpContext) -> u32 {
    hand::<Kept, AtNic>(
        ctx,
        Direction::Inbound,
        false,
        #[inline(always)]
        |frame, env, ifindex| relay::from_domain(frame, env, ifindex),
    )
}

/// Border relay, one NIC for both.
#[inline(always)]
pub(crate) fn relay_one_arm(ctx: &XdpContext) -> u32 {
    if is_ipv4(ctx) { relay_v4(ctx) } else { relay_v6(ctx) }
}

/// On one NIC the frame's type tells which way it goes.
#[inline(always)]
fn is_ipv4(ctx: &XdpContext) -> bool {
    XdpPacket::new(ctx).read(eth::TYPE).map(EtherType) == Ok(EtherType::IPV4)
}

/// Gives the frame to a stage, and on to the next one where that stage says so. `may_hold`: it is a stage of fragments, of which
/// those that come too early may be held.
#[inline(always)]
fn hand<'a, M: Memory, H: Hook>(
    ctx: &'a XdpContext,
    direction: Direction,
    may_hold: bool,
    stage: impl FnOnce(&mut XdpPacket<'a>, &KernelEnv<M>, u32) -> Attempt,
) -> u32 {
    run::<M, H>(
        ctx,
        direction,
        may_hold,
        #[inline(always)]
        |frame, env, ifindex| match stage(frame, env, ifindex).outcome() {
            Ok(outcome) => outcome,
            Err(next) => {
                maps::go_on(ctx, H::stages(), next);
                Err(next.reason.into())
            }
        },
    )
}

/// Gives the frame to a program of the core.
#[inline(always)]
fn run<'a, M: Memory, H: Hook>(
    ctx: &'a XdpContext,
    direction: Direction,
    may_hold: bool,
    program: impl FnOnce(&mut XdpPacket<'a>, &KernelEnv<M>, u32) -> Result<Verdict, Failure>,
) -> u32 {
    let mut frame = XdpPacket::new(ctx);
    let len = frame.len();
    let env = KernelEnv::<M>::new(ctx);
    let outcome = program(&mut frame, &env, env.ingress());
    finish::<M, H>(ctx, &env, (direction, may_hold), len, outcome)
}

/// Counts a frame by its outcome, tells of it where somebody asks, and gives the action. `len` is the frame's length as it came.
#[inline(always)]
fn finish<M: Memory, H: Hook>(
    ctx: &XdpContext,
    env: &KernelEnv<M>,
    (direction, may_hold): (Direction, bool),
    len: usize,
    outcome: Result<Verdict, Failure>,
) -> u32 {
    let (slot, action) = match outcome {
        // Somebody may keep it until its first fragment has come.
        Err(Failure::Refused(Reason::FragmentFirstMissing)) if may_hold => {
            match maps::hold(ctx, xdp_action::XDP_DROP) {
                xdp_action::XDP_REDIRECT => (HELD, xdp_action::XDP_REDIRECT),
                action => (Reason::FragmentFirstMissing.number(), action),
            }
        }
        Ok(Verdict::Forward { ifindex }) => (FORWARDED, redirect::<H>(ctx, ifindex)),
        Ok(Verdict::Native { ifindex }) => (NATIVE, redirect::<H>(ctx, ifindex)),
        Ok(Verdict::Answer(reason)) => (reason.number(), H::back(ctx)),
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
    if env.is_traced() {
        maps::tell(ctx, H::stages(), Fate::new(direction, slot, len, &outcome, action));
    }
    action
}

/// Out of the interface: back out of the same one needs no redirect.
#[inline(always)]
fn redirect<H: Hook>(ctx: &XdpContext, ifindex: u32) -> u32 {
    if ifindex as usize == ctx.ingress_ifindex() {
        H::back(ctx)
    } else {
        maps::redirect(ifindex)
    }
}
