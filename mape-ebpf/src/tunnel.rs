//! The tunnel device's two directions: outcome to tc action, and counting. Outwards, what is not translated is dropped.
#![expect(unsafe_code, reason = "helpers take pointers")]

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_tunnel_key},
    helpers::generated::bpf_skb_get_tunnel_key,
    programs::TcContext,
};
use mape_common::{
    env::Env as _,
    layout::MARK,
    packet::{Bare, Packet as _},
    step::{
        slow,
        stage::{Attempt, Stage},
    },
    verdict::{Action, Direction, Failure, TRANSLATED},
};

use crate::{env::KernelEnv, maps, packet::skb::SkbPacket};

/// Into the tunnel.
#[inline(always)]
pub(crate) fn out(ctx: &TcContext) -> i32 {
    hand(
        ctx,
        Direction::Outbound,
        #[inline(always)]
        |packet, env| slow::outbound(&mut Bare::new(packet), env, came_by(ctx)),
    )
}

/// The interface that the packet came in by.
#[inline(always)]
fn came_by(ctx: &TcContext) -> u32 {
    // SAFETY: the context the kernel called the program with.
    unsafe { (*ctx.skb.skb).ingress_ifindex }
}

/// Out of the tunnel.
#[inline(always)]
pub(crate) fn into(ctx: &TcContext) -> i32 {
    hand(
        ctx,
        Direction::Inbound,
        #[inline(always)]
        |packet, env| slow::inbound(&mut Bare::new(packet), env, &sender(ctx)),
    )
}

/// A stage.
#[inline(always)]
pub(crate) fn stage(ctx: &TcContext, stage: Stage) -> i32 {
    hand(
        ctx,
        stage.direction(),
        #[inline(always)]
        |packet, env| slow::run(stage, packet, env, &sender(ctx)),
    )
}

/// The outer source, if the device says who it was; devices that do not take packets from the border relay only.
///
/// A function of its own for the sake of the stack; true, see `step::edge`.
#[inline(never)]
fn find_sender(ctx: &TcContext, from: &mut [u8; 16]) -> bool {
    // BPF_F_TUNINFO_IPV6, which the bindings do not have.
    const IPV6: u64 = 1;
    let mut key = core::mem::MaybeUninit::<bpf_tunnel_key>::zeroed();
    #[expect(clippy::cast_possible_truncation, reason = "the key is small")]
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: the context is the one the kernel called the program with; the key is as long as said.
    let code = unsafe { bpf_skb_get_tunnel_key(ctx.skb.skb, key.as_mut_ptr(), size, IPV6) };
    if code == 0 {
        // SAFETY: zeroed, then written by the helper.
        let key = unsafe { key.assume_init() };
        // SAFETY: four words whichever of the two addresses was written; they are in network order.
        let words = unsafe { key.__bindgen_anon_1.remote_ipv6 };
        // SAFETY: sixteen bytes either way, with no invalid value.
        *from = unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) };
    } else {
        *from = KernelEnv::of_packet(ctx)
            .config()
            .map_or([0; 16], |config| config.relay_address);
    }
    true
}

#[inline(always)]
fn sender(ctx: &TcContext) -> [u8; 16] {
    let mut from = [0; 16];
    find_sender(ctx, &mut from);
    from
}

#[inline(always)]
fn hand(ctx: &TcContext, direction: Direction, stage: impl FnOnce(&mut SkbPacket, &KernelEnv) -> Attempt) -> i32 {
    let mut packet = SkbPacket::new(ctx);
    let len = packet.len();
    let env = KernelEnv::of_packet(ctx);
    match stage(&mut packet, &env).outcome() {
        Ok(Ok(_)) => {
            maps::count(direction, TRANSLATED, len);
            if matches!(direction, Direction::Inbound) {
                ctx.set_mark(MARK);
            }
            TC_ACT_UNSPEC
        }
        Ok(Err(failure)) => finish(direction, failure, len),
        Err(next) => {
            maps::go_on_behind(ctx, next);
            finish(direction, next.reason.into(), len)
        }
    }
}

/// Counts what is not translated. What comes out of the tunnel and is not ours is the stack's; outwards, nothing is.
#[inline(always)]
fn finish(direction: Direction, failure: Failure, len: usize) -> i32 {
    let reason = failure.reason();
    maps::count(direction, reason.number(), len);
    match (direction, failure) {
        (Direction::Inbound, Failure::Refused(_)) if matches!(reason.action(), Action::PassNotOurs) => TC_ACT_UNSPEC,
        _ => TC_ACT_SHOT,
    }
}
