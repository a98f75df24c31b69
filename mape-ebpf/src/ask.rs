//! Questions of user space that only a program can answer as the data path would.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use mape_common::{
    env::Env as _,
    inquiry::{self, QUESTION},
    packet::Packet as _,
};

use crate::{env::KernelEnv, packet::xdp::XdpPacket};

/// Puts what the routing table says of a packet in the place of the question.
#[inline(always)]
pub(crate) fn route(ctx: &XdpContext) -> u32 {
    let mut frame = XdpPacket::new(ctx);
    let Ok(question) = frame.read::<QUESTION>(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let (env, ifindex) = (KernelEnv::<()>::new(ctx), inquiry::interface(&question));
    // Each turned into bytes by itself: a route of either kind in one place would be one with bytes that were never set.
    let answer = if let Some((source, destination)) = inquiry::asked(&question) {
        inquiry::answer(&env.route(ifindex, source, destination))
    } else {
        let (source, destination) = inquiry::asked6(&question);
        inquiry::answer(&env.route6(ifindex, source, destination))
    };
    match frame.write(0, &answer) {
        Ok(()) => xdp_action::XDP_PASS,
        Err(_) => xdp_action::XDP_ABORTED,
    }
}
