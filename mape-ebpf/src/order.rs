//! The call by which user space has a static forward or a reservation made or ended.
#![expect(unsafe_code, reason = "an order is written where it was read")]

use aya_ebpf::bindings::xdp_action;
use mape_common::{env::Env as _, nat::forward};

use crate::{env::KernelEnv, maps};

/// Carries out PORT_ORDER and writes the outcome into it.
#[inline(always)]
pub(crate) fn run() -> u32 {
    let env = KernelEnv::without_frame();
    if let Some(config) = env.config()
        && let Some(order) = maps::PORT_ORDER.get_ptr_mut(0)
    {
        // SAFETY: user space waits for this call before it touches the order again.
        let order = unsafe { &mut *order };
        order.outcome = forward::carry_out(&env, config, order);
    }
    xdp_action::XDP_PASS
}
