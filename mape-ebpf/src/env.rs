//! The kernel's state and clock, for the steps.
#![expect(unsafe_code, reason = "helpers take pointers")]

use core::{arch::asm, cell::Cell, mem::MaybeUninit};

use aya_ebpf::{
    bindings::{
        BPF_EXIST, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_NOEXIST, bpf_fib_lookup as FibLookup,
        bpf_tunnel_key,
    },
    helpers::generated::{
        bpf_fib_lookup, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_loop, bpf_skb_set_tunnel_key,
    },
    maps::lpm_trie::Key,
    programs::{TcContext, XdpContext},
};
use mape_common::{
    env::{Env, InsertError, Noted, Route, Rules, Search, Side},
    hop::{Hop, Link, Mac, NextHop},
    layout::{Config, FlowKey, Gauge, HostUse, PermissionKey, RuleRef, SessionRef, Transport},
    map::rule::Rule,
    nat::{
        fragment,
        index::{self, Bucket},
        part::{Done, Part},
        session::{Session, State},
        table::{Draft, Ending},
    },
    time::Tick,
    trace::Gate,
    word::Word,
};

use crate::{maps, part};

const _: () = assert!(size_of::<FibLookup>() == 64);
const EEXIST: i32 = -17;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The maps, the context that some helpers want, and what is kept of the gate's word.
pub(crate) struct KernelEnv<M = ()>(*mut core::ffi::c_void, M);

/// What is kept of the gate's word between the beginning of a program and its end.
pub(crate) trait Memory: Default {
    /// Keeps the word.
    fn keep(&self, gate: Gate);
    /// Whether the frame may be one that somebody wants to be told of.
    fn may_be_traced(&self) -> bool;
}

/// Nothing: eight bytes of stack less, for programs that are not on every packet's way.
impl Memory for () {
    #[inline(always)]
    fn keep(&self, _: Gate) {}

    #[inline(always)]
    fn may_be_traced(&self) -> bool {
        true
    }
}

/// The word: a packet that has passed the gate costs no second look at it.
pub(crate) struct Kept(Cell<Gate>);

impl Default for Kept {
    #[inline(always)]
    fn default() -> Self {
        // A frame that ends before the gate is looked at: it has to be asked then.
        Self(Cell::new(Gate(Gate::TRACED)))
    }
}

impl Memory for Kept {
    #[inline(always)]
    fn keep(&self, gate: Gate) {
        self.0.set(gate);
    }

    #[inline(always)]
    fn may_be_traced(&self) -> bool {
        self.0.get().is_traced()
    }
}

impl KernelEnv {
    /// Without a frame, for the sweeper: there are no routes then.
    #[inline(always)]
    pub(crate) const fn without_frame() -> Self {
        Self(core::ptr::null_mut(), ())
    }
}

impl KernelEnv {
    /// For one program run at the tunnel device.
    #[inline(always)]
    pub(crate) const fn of_packet(ctx: &TcContext) -> Self {
        Self(ctx.skb.skb.cast(), ())
    }
}

impl<M: Memory> KernelEnv<M> {
    /// For one program run.
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Self(ctx.ctx.cast(), M::default())
    }

    /// Whether somebody wants to be told what becomes of the frame.
    #[inline(always)]
    pub(crate) fn is_traced(&self) -> bool {
        self.1.may_be_traced() && maps::GATE.get(0).is_some_and(|gate| Gate(gate.load()).is_traced())
    }

    /// Index of the interface that the frame came by.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the load fills no more of the register than it reads"
    )]
    pub(crate) fn ingress(&self) -> u32 {
        let ifindex: u64;
        // Written as an instruction, or the compiler adds the offset to the context first, which the verifier does not allow.
        // SAFETY: reads the field `ingress_ifindex`, at offset 12, of the context that the kernel called this program with.
        unsafe {
            asm!("{0} = *(u32 *)({1} + 12)", out(reg) ifindex, in(reg) self.0, options(pure, readonly, nostack, preserves_flags));
        }
        ifindex as u32
    }
}

impl<M: Memory> Rules for KernelEnv<M> {
    #[inline(always)]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a key handed over by value takes stack twice"
    )]
    fn rule_by_ipv4(&self, address: [u8; 4]) -> Option<RuleRef> {
        maps::RULES_V4.get(&Key::new(32, address)).copied()
    }

    #[inline(always)]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a key handed over by value takes stack twice"
    )]
    fn rule_by_ipv6(&self, address: [u8; 16]) -> Option<RuleRef> {
        maps::RULES_V6.get(&Key::new(128, address)).copied()
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<&Rule> {
        maps::RULES.get(index)
    }
}

impl<M: Memory> Env for KernelEnv<M> {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        // The entry is all zeros until user space has written it; a gateway without an MTU is none.
        maps::CONFIG.get(0).filter(|config| config.tunnel_mtu != 0)
    }

    #[inline(always)]
    fn is_gate_open(&self) -> bool {
        let gate = Gate(maps::GATE.get(0).map_or(0, Word::load));
        self.1.keep(gate);
        gate.is_open()
    }

    #[inline(always)]
    fn is_slow_gate_open(&self) -> bool {
        Gate(maps::GATE.get(0).map_or(0, Word::load)).is_slow_open()
    }

    #[inline(always)]
    fn now(&self) -> Tick {
        // SAFETY: the helper takes nothing.
        Tick::from_nanos(unsafe { bpf_ktime_get_coarse_ns() })
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn link(&self, ifindex: u32) -> Option<&Link> {
        maps::LINKS.get(ifindex)
    }

    #[inline(always)]
    fn hop(&self, index: u16) -> Option<&NextHop> {
        maps::HOPS.get(u32::from(index))
    }

    #[inline(always)]
    fn route(&self, ifindex: u32, source: [u8; 4], destination: [u8; 4]) -> Route {
        let mut hop = MaybeUninit::uninit();
        let code = route(
            self.0,
            ifindex,
            u32::from_ne_bytes(source),
            u32::from_ne_bytes(destination),
            &mut hop,
        );
        // SAFETY: `route` has written it whatever the code.
        answered(code, unsafe { hop.assume_init() })
    }

    #[inline(always)]
    fn route6(&self, ifindex: u32, source: &[u8; 16], destination: &[u8; 16]) -> Route {
        let mut hop = MaybeUninit::uninit();
        let code = route6(self.0, ifindex, source, destination, &mut hop);
        // SAFETY: `route6` has written it whatever the code.
        answered(code, unsafe { hop.assume_init() })
    }

    #[inline(always)]
    fn native(&self, index: u32) -> Option<&Word> {
        maps::NATIVE.get(index)
    }

    #[inline(always)]
    fn bucket(&self, side: Side, index: u32) -> Option<&Bucket> {
        maps::FLOWS.get(index::number(side, index))
    }

    #[inline(always)]
    fn find(&self, side: Side, key: &FlowKey) -> Option<SessionRef> {
        part::find(side, key)
    }

    #[inline(always)]
    fn insert(&self, side: Side, slot: u32) -> Result<(), InsertError> {
        part::insert(side, slot)
    }

    #[inline(always)]
    fn remove(&self, side: Side, slot: u32) {
        part::remove(side, slot);
    }

    #[inline(always)]
    fn session(&self, slot: u32) -> Option<&Session> {
        maps::SESSIONS.get(slot)
    }

    #[inline(always)]
    fn take_slot(&self) -> Option<u32> {
        maps::FREE_SLOTS.pop().ok().flatten()
    }

    #[inline(always)]
    fn give_slot(&self, slot: u32) {
        // The stack holds every slot there is, so there is room for one that was taken from it.
        let _ = maps::FREE_SLOTS.push(slot, 0);
    }

    #[inline(always)]
    fn port(&self, transport: Transport, ordinal: u32) -> Option<&Word> {
        let ports = self.config()?.ports;
        maps::PORTS.get(transport.index() * ports + ordinal)
    }

    #[inline(always)]
    fn overlap(&self, cell: u32) -> Option<&Word> {
        maps::OVERLAP.get(cell)
    }

    #[inline(always)]
    fn refusal(&self, index: u32) -> Option<&Word> {
        maps::REFUSED.get(index)
    }

    #[inline(always)]
    fn fragment(&self, index: u32) -> Option<&fragment::Record> {
        maps::FRAGMENTS.get(index)
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "`permit` writes a tick, which has 32 bits"
    )]
    fn permission(&self, key: &PermissionKey) -> Option<Tick> {
        // SAFETY: copied out at once.
        unsafe { maps::PERMISSIONS.get(key) }.map(|tick| Tick(*tick as u32))
    }

    #[inline(always)]
    fn permit(&self, key: &PermissionKey, now: Tick) -> Noted {
        let value = u64::from(now.0);
        if maps::PERMISSIONS.insert(key, value, u64::from(BPF_EXIST)).is_ok() {
            return Noted::Again;
        }
        match maps::PERMISSIONS.insert(key, value, u64::from(BPF_NOEXIST)) {
            Ok(()) => Noted::Anew,
            Err(EEXIST) => Noted::Again,
            Err(_) => Noted::NoRoom,
        }
    }

    #[inline(always)]
    fn forbid(&self, key: &PermissionKey) -> bool {
        maps::PERMISSIONS.remove(key).is_ok()
    }

    #[inline(always)]
    fn host_use(&self, place: u32) -> Option<&HostUse> {
        maps::HOSTS.get(place)
    }

    #[inline(always)]
    fn part(&self, part: Part, draft: Draft) -> Done {
        part::call(part, draft)
    }

    #[inline(always)]
    fn end(&self, slot: u32, state: State, ending: Ending) -> bool {
        part::end(slot, state, ending)
    }

    #[inline(always)]
    fn lead(&self, far_end: &[u8; 16], traffic_class: u8, label: u32) -> bool {
        self.config()
            .is_some_and(|config| lead(self.0, far_end, &config.tunnel_address, traffic_class, label))
    }

    #[inline(always)]
    fn gauge(&self, gauge: Gauge) -> Option<&Word> {
        maps::GAUGES.get(gauge.index())
    }

    #[inline(always)]
    fn search<S: Search>(&self, steps: u32, search: &mut S) {
        // SAFETY: the callback gets back the pointer given here, which outlives the call.
        unsafe {
            bpf_loop(
                steps,
                step::<S> as *mut core::ffi::c_void,
                core::ptr::from_mut(search).cast(),
                0,
            )
        };
    }
}

/// Gives the packet a tunnel key, by which the kernel's tunnel device sends it.
///
/// A function of its own because the key takes 44 bytes of stack.
#[inline(never)]
fn lead(ctx: *mut core::ffi::c_void, far_end: &[u8; 16], near_end: &[u8; 16], traffic_class: u8, label: u32) -> bool {
    // BPF_F_TUNINFO_IPV6, which the bindings do not have.
    const IPV6: u64 = 1;
    // Of the outer header, as in the fast path.
    const HOP_LIMIT: u8 = 64;
    // All of it, also what lies between the fields: the verifier wants every byte written.
    let mut words = [0_u32; size_of::<bpf_tunnel_key>() / 4];
    for word in &mut words {
        // SAFETY: the pointer comes from a reference.
        unsafe { core::ptr::from_mut(word).write_volatile(0) };
    }
    // SAFETY: as large, aligned alike, and all zeros is a valid key: integers and unions of them.
    let key = unsafe { &mut *(&raw mut words).cast::<bpf_tunnel_key>() };
    // SAFETY: sixteen bytes either way, with no invalid value; the kernel's words are in network order.
    key.__bindgen_anon_1.remote_ipv6 = unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(*far_end) };
    // SAFETY: as above.
    key.__bindgen_anon_3.local_ipv6 = unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(*near_end) };
    key.tunnel_tos = traffic_class & !3;
    key.tunnel_ttl = HOP_LIMIT;
    key.tunnel_label = label;
    #[expect(clippy::cast_possible_truncation, reason = "44")]
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: `ctx` is the packet that a program at the tunnel device was called with; the key is as long as said.
    (unsafe { bpf_skb_set_tunnel_key(ctx.cast(), key, size, IPV6) }) == 0
}

/// What `bpf_loop` calls: 0 to go on, 1 to stop.
#[expect(clippy::cast_possible_truncation, reason = "the number of steps has 32 bits")]
unsafe extern "C" fn step<S: Search>(index: u64, search: *mut S) -> i64 {
    // SAFETY: `search` is the exclusive reference that `KernelEnv::search` lent to `bpf_loop`.
    let search = unsafe { &mut *search };
    i64::from(!search.step(index as u32))
}

/// What the kernel's code says of a look-up that has filled in the hop.
#[inline(always)]
const fn answered(code: u32, hop: Hop) -> Route {
    match code {
        BPF_FIB_LKUP_RET_SUCCESS => Route::Resolved(hop),
        BPF_FIB_LKUP_RET_NO_NEIGH => Route::Unresolved { ifindex: hop.ifindex },
        _ => Route::Other,
    }
}

/// Asks the kernel's routing table about a packet that came in by `ifindex`; fills in `hop` and gives the kernel's code.
///
/// A function of its own because the request takes 64 bytes of stack.
#[inline(never)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the request is 64 bytes long; the kernel's errors are negative and stay what no code of the look-up is"
)]
fn route(ctx: *mut core::ffi::c_void, ifindex: u32, source: u32, destination: u32, hop: &mut MaybeUninit<Hop>) -> u32 {
    // As words, zeroed one by one: zeroing 64 bytes at once is a call, and a call is 32 bytes of stack more.
    let mut words = [0_u64; size_of::<FibLookup>() / 8];
    for word in &mut words {
        // SAFETY: the pointer comes from a reference.
        unsafe { core::ptr::from_mut(word).write_volatile(0) };
    }
    // SAFETY: as large, aligned to more, and all zeros is a valid request: integers, byte arrays and unions of them.
    let request = unsafe { &mut *(&raw mut words).cast::<FibLookup>() };
    request.family = AF_INET;
    request.ifindex = ifindex;
    request.__bindgen_anon_3.ipv4_src = source;
    request.__bindgen_anon_4.ipv4_dst = destination;
    // SAFETY: the context is the kernel's, the request is on our stack and as long as said.
    let code = unsafe { bpf_fib_lookup(ctx, request, size_of::<FibLookup>() as i32, 0) };
    hop.write(Hop {
        ifindex: request.ifindex,
        mtu: maps::LINKS.get(request.ifindex).map_or(0, Link::mtu),
        destination: Mac(request.dmac),
        source: Mac(request.smac),
    });
    code as u32
}

/// The same for IPv6. The MTU is the smaller of the NIC's and, on kernels that say it, the route's.
#[inline(never)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "as in `route`"
)]
fn route6(
    ctx: *mut core::ffi::c_void,
    ifindex: u32,
    source: &[u8; 16],
    destination: &[u8; 16],
    hop: &mut MaybeUninit<Hop>,
) -> u32 {
    let mut words = [0_u64; size_of::<FibLookup>() / 8];
    for word in &mut words {
        // SAFETY: the pointer comes from a reference.
        unsafe { core::ptr::from_mut(word).write_volatile(0) };
    }
    // SAFETY: as large, aligned to more, and all zeros is a valid request: integers, byte arrays and unions of them.
    let request = unsafe { &mut *(&raw mut words).cast::<FibLookup>() };
    request.family = AF_INET6;
    request.ifindex = ifindex;
    // SAFETY: sixteen bytes either way, with no invalid value; the kernel's words are in network order.
    request.__bindgen_anon_3.ipv6_src = unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(*source) };
    // SAFETY: as above.
    request.__bindgen_anon_4.ipv6_dst = unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(*destination) };
    // SAFETY: the context is the kernel's, the request is on our stack and as long as said.
    let code = unsafe { bpf_fib_lookup(ctx, request, size_of::<FibLookup>() as i32, 0) };
    // SAFETY: two bytes that the kernel has written or left zero.
    let of_route = unsafe { request.__bindgen_anon_1.mtu_result };
    let of_link = maps::LINKS.get(request.ifindex).map_or(0, Link::mtu);
    hop.write(Hop {
        ifindex: request.ifindex,
        mtu: if of_route != 0 && of_route < of_link {
            of_route
        } else {
            of_link
        },
        destination: Mac(request.dmac),
        source: Mac(request.smac),
    });
    code as u32
}
