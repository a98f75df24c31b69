//! The sweeper: a kernel timer that ends expired records, a slice of the table at a time, and the call by which user
//! space arms it and has records ended.
#![expect(unsafe_code, reason = "timers and their callback are pointers")]

use aya_ebpf::{
    bindings::{bpf_timer, xdp_action},
    helpers::generated::{bpf_timer_init, bpf_timer_set_callback, bpf_timer_start},
};
use mape_common::{env::Env as _, layout::Config, nat::sweep::Sweep};

use crate::{env::KernelEnv, maps};

/// The value of SWEEP.
#[repr(C)]
pub(crate) struct SweepTimer {
    timer: bpf_timer,
    next_slot: u64,
}

/// Clock that timers run by.
const CLOCK_MONOTONIC: u64 = 1;
/// Time between two slices; with [`SLICES`] the whole table is seen in a second.
const PERIOD_NS: u64 = 62_500_000;
const SLICES: u32 = 16;

/// A call from user space: carries out SWEEP_ORDER on a slice and sees to it that the timer runs.
#[inline(always)]
pub(crate) fn run() -> u32 {
    let env = KernelEnv::without_frame();
    if let Some(config) = env.config()
        && let Some(order) = maps::SWEEP_ORDER.get_ptr_mut(0)
    {
        // SAFETY: user space waits for this call before it touches the order again.
        let order = unsafe { &mut *order };
        let copy = *order;
        let mut sweep = Sweep {
            env: &env,
            config,
            order: Some(&copy),
            first: copy.next_slot,
            now: env.now(),
            ended: 0,
        };
        let steps = slice(config).min(config.sessions.saturating_sub(copy.next_slot));
        env.search(steps, &mut sweep);
        order.ended = copy.ended.wrapping_add(sweep.ended);
        order.next_slot = copy.next_slot.wrapping_add(steps);
    }
    arm();
    xdp_action::XDP_PASS
}

fn slice(config: &Config) -> u32 {
    config.sessions.div_ceil(SLICES)
}

/// Starts the timer anew with this program's callback.
#[inline(always)]
fn arm() {
    let Some(value) = maps::SWEEP.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the timer is the first field of the map's value.
    let timer = unsafe { &raw mut (*value).timer };
    // SAFETY: the map is the one that the timer lies in; a timer that is there already stays (EBUSY).
    unsafe { bpf_timer_init(timer, (&raw const maps::SWEEP).cast_mut().cast(), CLOCK_MONOTONIC) };
    // SAFETY: the callback has the signature that the kernel calls.
    unsafe { bpf_timer_set_callback(timer, tick as *mut core::ffi::c_void) };
    // SAFETY: initialised above.
    unsafe { bpf_timer_start(timer, PERIOD_NS, 0) };
}

/// The timer's callback: sweeps a slice and starts the timer again.
#[expect(
    clippy::cast_possible_truncation,
    reason = "`next_slot` is written from 32 bits, below"
)]
unsafe extern "C" fn tick(_: *mut core::ffi::c_void, _: *mut u32, value: *mut SweepTimer) -> i32 {
    let env = KernelEnv::without_frame();
    // SAFETY: the kernel calls with the value that holds the timer; only this callback writes `next_slot`.
    let first = unsafe { (*value).next_slot } as u32;
    if let Some(config) = env.config() {
        let first = if first < config.sessions { first } else { 0 };
        let steps = slice(config).min(config.sessions.saturating_sub(first));
        env.search(
            steps,
            &mut Sweep {
                env: &env,
                config,
                order: None,
                first,
                now: env.now(),
                ended: 0,
            },
        );
        // SAFETY: as above.
        unsafe { (*value).next_slot = u64::from(first.wrapping_add(steps)) };
    }
    // SAFETY: the kernel calls with the value that holds the timer.
    let timer = unsafe { &raw mut (*value).timer };
    // SAFETY: the timer of this value, which has just run.
    unsafe { bpf_timer_start(timer, PERIOD_NS, 0) };
    0
}
