//! Tells whoever follows packets what became of one: an event in the ring buffer, from a program of its own, so that the
//! others have only a branch for it.
#![expect(unsafe_code, reason = "an event is memory that the kernel lends")]

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_ktime_get_ns, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use mape_common::{
    packet::Packet as _,
    time::Tick,
    trace::{Event, Facts, Gate, SNAP},
    verdict::{Direction, Failure, Verdict},
};

use crate::{maps, packet::xdp::XdpPacket};

/// What became of a frame.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Fate {
    /// What the program before has decided for the kernel.
    action: u32,
    outcome: u32,
    len: u32,
    /// [`Self::INBOUND`] and [`Self::ANSWERED`].
    flags: u32,
}

impl Fate {
    const INBOUND: u32 = 1;
    const ANSWERED: u32 = 2;

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "no frame is as long")]
    pub(crate) const fn new(
        direction: Direction,
        outcome: u32,
        len: usize,
        verdict: &Result<Verdict, Failure>,
        action: u32,
    ) -> Self {
        let inbound = if matches!(direction, Direction::Inbound) {
            Self::INBOUND
        } else {
            0
        };
        let answered = if matches!(verdict, Ok(Verdict::Answer(_))) {
            Self::ANSWERED
        } else {
            0
        };
        Self {
            action,
            outcome,
            len: len as u32,
            flags: inbound | answered,
        }
    }
}

/// Tells of the frame, and gives the action that it was to get.
#[inline(always)]
pub(crate) fn tell(ctx: &XdpContext) -> u32 {
    let Some(fate) = maps::FATE.get_ptr(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: this processor's own copy, written by the program that handed the frame on.
    let fate = unsafe { *fate };
    write(ctx, fate);
    fate.action
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "no frame is as long")]
fn write(ctx: &XdpContext, fate: Fate) {
    // SAFETY: the helper takes nothing.
    let nanos = unsafe { bpf_ktime_get_ns() };
    let now = Tick::from_nanos(nanos);
    let (Some(word), Some(watch)) = (maps::GATE.get(0), maps::WATCH.get(0)) else {
        return;
    };
    let gate = Gate(word.load());
    if !gate.is_traced() {
        return;
    }
    if gate.is_over(now) {
        // Where it fails, the reader has just said that it is still there, or the gate has been closed.
        let _ = word.compare_exchange(gate.0, gate.untraced().0);
        return;
    }
    let direction = if fate.flags & Fate::INBOUND == 0 {
        Direction::Outbound
    } else {
        Direction::Inbound
    };
    let Some(kind) = watch.take(direction, fate.outcome, now) else {
        return;
    };
    let Some(mut entry) = maps::EVENTS.reserve::<Event>(0) else {
        watch.suppress();
        return;
    };
    let event = entry.as_mut_ptr();
    let len = XdpPacket::new(ctx).len();
    // At least one and at most all that there is room for, in a form that the verifier sees too.
    let captured = (if len > SNAP { SNAP } else { len }.wrapping_sub(1) & (SNAP - 1)) as u32 + 1;
    // SAFETY: the event has room for that many bytes behind the offset of its frame.
    let to = unsafe { event.cast::<u8>().add(Event::FRAME) };
    // SAFETY: as above; the context is the one that the kernel called this program with.
    let code = unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, to.cast(), captured) };
    let facts = Facts {
        nanos,
        came: fate.len,
        len: len as u32,
        ifindex: ctx.ingress_ifindex() as u32,
        suppressed: watch.suppressed() as u32,
        direction,
        kind,
        outcome: fate.outcome,
        answered: fate.flags & Fate::ANSWERED != 0,
        captured: if code == 0 { captured } else { 0 },
    };
    // SAFETY: an event begins with these words, and the ring buffer aligns its entries to eight bytes.
    unsafe { event.cast::<[u64; 4]>().write(facts.words()) };
    entry.submit(0);
}
