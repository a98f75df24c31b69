//! Every map, each with who writes it; what a map holds is in `mape_common::layout`.
//!
//! Sizes here are the smallest that load; `mape-ctl` sets the real ones.
#![expect(unsafe_code, reason = "map values are memory that the kernel owns")]

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps,
    helpers::generated::{bpf_get_smp_processor_id, bpf_redirect},
    macros::{btf_map, map},
    maps::{Array, CpuMap, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf, Stack, XskMap},
    programs::{TcContext, XdpContext},
};
use mape_common::{
    hop::{Link, NextHop},
    layout::{
        self, Config, Counter, EVENT_BYTES, FRAGMENTS as FRAGMENT_RECORDS, Gauge, HOLDER_QUEUES, HostUse, LAN_HOSTS,
        NATIVE_WORDS, NEXT_HOPS, OVERLAP_CELLS, PermissionKey, PortOrder, REFUSALS, RuleRef, SweepOrder,
    },
    map::rule::Rule,
    nat::{fragment, index::Bucket, session::Session},
    step::{
        spread,
        stage::{self, Next},
    },
    trace::Watch,
    verdict::{Direction, OUTCOMES, Reason},
    word::Word,
};

use crate::{
    measure::{Generate, PLACES, Pace, Template},
    sweep::SweepTimer,
    trace::Fate,
};

/// User space, while the gate is closed.
#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
/// User space; the programs end a trace whose time is over.
#[map]
pub(crate) static GATE: Array<Word> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// User space; the programs set ALIVE.
#[map]
pub(crate) static LINKS: Array<Link> = Array::with_max_entries(1, 0);
/// User space (far ends) and the programs (LAN hosts).
#[map]
pub(crate) static HOPS: Array<NextHop> = Array::with_max_entries(NEXT_HOPS, 0);
/// User space.
#[map]
pub(crate) static RULES: Array<Rule> = Array::with_max_entries(1, 0);
/// User space.
#[map]
pub(crate) static RULES_V4: LpmTrie<[u8; 4], RuleRef> = LpmTrie::with_max_entries(1, 0);
/// User space.
#[map]
pub(crate) static RULES_V6: LpmTrie<[u8; 16], RuleRef> = LpmTrie::with_max_entries(1, 0);
/// The programs. Memory-mappable, so that a bucket is a line of the cache and not parts of two.
#[map]
pub(crate) static FLOWS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The programs; user space reads it through a memory mapping.
#[map]
pub(crate) static SESSIONS: Array<Session> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Filled once by user space, then the programs'.
#[map]
pub(crate) static FREE_SLOTS: Stack<u32> = Stack::with_max_entries(1, 0);
/// The programs; user space reserves ports before they run.
#[map]
pub(crate) static PORTS: Array<Word> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// The programs.
#[map]
pub(crate) static OVERLAP: Array<Word> = Array::with_max_entries(OVERLAP_CELLS, 0);
/// The programs.
#[map]
pub(crate) static REFUSED: Array<Word> = Array::with_max_entries(REFUSALS, 0);
/// The programs; user space reads it through a memory mapping.
#[map]
pub(crate) static FRAGMENTS: Array<fragment::Record> = Array::with_max_entries(FRAGMENT_RECORDS, BPF_F_MMAPABLE);
/// The programs.
#[map]
pub(crate) static PERMISSIONS: HashMap<PermissionKey, u64> = HashMap::with_max_entries(1, 0);
/// The programs; user space reads it through a memory mapping.
#[map]
pub(crate) static HOSTS: Array<HostUse> = Array::with_max_entries(LAN_HOSTS, BPF_F_MMAPABLE);
/// The programs, each processor its own.
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(2 * OUTCOMES, 0);
/// The programs.
#[map]
pub(crate) static GAUGES: Array<Word> = Array::with_max_entries(Gauge::COUNT, 0);
/// The kernel's timer.
#[btf_map]
pub(crate) static SWEEP: btf_maps::Array<SweepTimer, 1, 0> = btf_maps::Array::new();
/// User space asks, the sweeper answers.
#[map]
pub(crate) static SWEEP_ORDER: Array<SweepOrder> = Array::with_max_entries(1, 0);
/// User space asks, the program answers.
#[map]
pub(crate) static PORT_ORDER: Array<PortOrder> = Array::with_max_entries(1, 0);
/// User space: the programs of the stages.
#[map]
pub(crate) static STAGES: ProgramArray = ProgramArray::with_max_entries(stage::STAGES, 0);
/// User space: the programs of the tunnel device's stages, by the same numbers.
#[map]
pub(crate) static TUNNEL_STAGES: ProgramArray = ProgramArray::with_max_entries(stage::STAGES, 0);
/// User space says what is to be told; the programs count.
#[map]
pub(crate) static WATCH: Array<Watch> = Array::with_max_entries(1, 0);
/// User space says how long native IPv6 is forwarded; the programs note neighbours.
#[map]
pub(crate) static NATIVE: Array<Word> = Array::with_max_entries(NATIVE_WORDS, 0);
/// The programs.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);
/// For measurements: what the source makes.
#[map]
pub(crate) static GENERATE: Array<Generate> = Array::with_max_entries(1, 0);
/// For measurements: the frames that the source makes in turn.
#[map]
pub(crate) static TEMPLATES: Array<Template> = Array::with_max_entries(1, 0);
/// For measurements: whose turn it is.
#[map]
pub(crate) static GENERATED: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
/// For measurements: frames that the sink has seen.
#[map]
pub(crate) static SUNK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// For measurements: how the paced source goes.
#[map]
pub(crate) static PACE: Array<Pace> = Array::with_max_entries(1, 0);
/// For measurements: when the paced source's next frame is due.
#[map]
pub(crate) static DUE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// For measurements: frames by the time that they were under way.
#[map]
pub(crate) static AGES: PerCpuArray<u64> = PerCpuArray::with_max_entries(PLACES, 0);
/// For measurements: user space says where the bare redirect goes.
#[map]
pub(crate) static REDIRECT_TO: Array<u32> = Array::with_max_entries(1, 0);

/// Counts a frame of `len` bytes.
#[inline(always)]
pub(crate) fn count(direction: Direction, outcome: u32, len: usize) {
    let first = match direction {
        Direction::Outbound => 0,
        Direction::Inbound => OUTCOMES,
    };
    if let Some(counter) = COUNTERS.get_ptr_mut(first + outcome) {
        // SAFETY: this processor's own copy, and programs are not interrupted by each other on one processor.
        unsafe { (*counter).packets += 1 };
        // SAFETY: as above.
        unsafe { (*counter).bytes += len as u64 };
    }
}

/// The programs, each processor its own: the reason for which one stage handed a frame on to the next.
#[map]
pub(crate) static HANDOVER: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// The reason that came with the frame from the stage before.
#[inline(always)]
pub(crate) fn handed_over() -> Reason {
    // SAFETY: this processor's own copy.
    let number = HANDOVER.get_ptr(0).map_or(0, |reason| unsafe { *reason });
    Reason::from_number(number)
}

/// Hands the frame on to a stage's program; comes back only where there is none. `stages`: those of where this program runs.
#[inline(always)]
pub(crate) fn go_on(ctx: &XdpContext, stages: &ProgramArray, next: Next) {
    if let Some(reason) = HANDOVER.get_ptr_mut(0) {
        // SAFETY: this processor's own copy, and programs are not interrupted by each other on one processor.
        unsafe { *reason = next.reason.number() };
    }
    // SAFETY: nothing that has to be dropped or given back is alive: the frame is untouched and no map's element is locked.
    unsafe { stages.tail_call(ctx, next.stage.number()) };
}

/// Hands a packet at the tunnel device on to a stage's program; comes back only where there is none.
#[inline(always)]
pub(crate) fn go_on_behind(ctx: &TcContext, next: Next) {
    // SAFETY: as in `go_on`.
    unsafe { TUNNEL_STAGES.tail_call(ctx, next.stage.number()) };
}

/// The programs, each processor its own: what became of a frame, for the program that tells it.
#[map]
pub(crate) static FATE: PerCpuArray<Fate> = PerCpuArray::with_max_entries(1, 0);

/// Hands a frame whose way is over on to the program that tells of it; comes back only where there is none.
#[inline(always)]
pub(crate) fn tell(ctx: &XdpContext, stages: &ProgramArray, fate: Fate) {
    if let Some(own) = FATE.get_ptr_mut(0) {
        // SAFETY: this processor's own copy, and programs are not interrupted by each other on one processor.
        unsafe { *own = fate };
        // SAFETY: nothing that has to be dropped or given back is alive.
        unsafe { stages.tail_call(ctx, stage::TRACE) };
    }
}

/// User space; a socket that closes takes itself out.
#[map]
pub(crate) static HOLDERS: XskMap = XskMap::with_max_entries(HOLDER_QUEUES, 0);

/// Gives the frame to who holds fragments that come too early, or gives the action without anybody there.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "interface indices have 31 bits")]
pub(crate) fn hold(ctx: &XdpContext, otherwise: u32) -> u32 {
    let Some(place) = layout::holder(ctx.ingress_ifindex() as u32, ctx.rx_queue_index()) else {
        return otherwise;
    };
    match HOLDERS.redirect(place, u64::from(otherwise)) {
        Ok(action) | Err(action) => action,
    }
}

/// User space: the processors that take packets over, each with its queue.
#[map]
pub(crate) static CPUS: CpuMap = CpuMap::with_max_entries(1, 0);
/// User space: which of them takes which packets over.
#[map]
pub(crate) static SPREAD: Array<u32> = Array::with_max_entries(spread::PLACES, 0);
/// User space: the programs of the stages there.
#[map]
pub(crate) static CPU_STAGES: ProgramArray = ProgramArray::with_max_entries(stage::STAGES, 0);
/// The programs, each processor its own: packets handed on and taken over.
#[map]
pub(crate) static HANDED: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Counts a packet that was handed on or taken over.
#[inline(always)]
pub(crate) fn count_handed(which: u32) {
    if let Some(count) = HANDED.get_ptr_mut(which) {
        // SAFETY: this processor's own copy, and programs are not interrupted by each other on one processor.
        unsafe { *count += 1 };
    }
}

/// Hands the frame on to another processor once the program has returned, and gives the action; none where it is to stay on this one.
#[inline(always)]
pub(crate) fn hand_on(place: u32) -> Option<u32> {
    let processor = *SPREAD.get(place)?;
    // SAFETY: the helper takes nothing.
    if processor == spread::HERE || processor == unsafe { bpf_get_smp_processor_id() } {
        return None;
    }
    let action = CPUS.redirect(processor, 0).ok()?;
    count_handed(layout::HANDED_ON);
    Some(action)
}

/// Sends the frame out of an interface once the program has returned.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the helper gives XDP_REDIRECT or XDP_ABORTED"
)]
pub(crate) fn redirect(ifindex: u32) -> u32 {
    // SAFETY: the helper takes two numbers.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}
