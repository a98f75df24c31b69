//! What measurements need beside the gateway: a source of frames, a sink, and the bare redirect that is the ceiling.
#![expect(
    unsafe_code,
    reason = "a frame's first bytes are written from a map's value in one piece"
)]

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use mape_common::packet::Packet as _;

use crate::{maps, packet::xdp::XdpPacket};

/// Bytes of a template's two parts: a short frame is the first, a longer one begins with both.
pub(crate) const PARTS: (usize, usize) = (60, 36);

/// The beginning of a frame: Ethernet, IPv6, IPv4 and UDP headers and then some.
#[repr(C)]
pub(crate) struct Template([u8; PARTS.0], [u8; PARTS.1]);

/// What to generate.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Generate {
    /// Interface to send by.
    ifindex: u32,
    /// Templates to go through, in turn.
    templates: u32,
}

/// Writes the next template over the frame and sends it. The kernel gives frames back as their last reader left them, so all
/// that matters is written each time.
#[inline(always)]
pub(crate) fn generate(ctx: &XdpContext) -> u32 {
    let (Some(generate), Some(next)) = (maps::GENERATE.get(0), maps::GENERATED.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: this processor's own copy.
    let turn = unsafe { *next };
    // SAFETY: as above.
    unsafe { *next = if turn + 1 < generate.templates { turn + 1 } else { 0 } };
    let Some(template) = maps::TEMPLATES.get(turn) else {
        return xdp_action::XDP_ABORTED;
    };
    let mut frame = XdpPacket::new(ctx);
    if frame.write(0, &template.0).is_err() {
        return xdp_action::XDP_ABORTED;
    }
    // A frame that ends before the second part has none.
    let _ = frame.write(PARTS.0, &template.1);
    maps::redirect(generate.ifindex)
}

/// EtherTypes, and the place of IPv6's next header.
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
const NEXT_HEADER: usize = 20;
const ICMPV6: [u8; 1] = [58];

/// Counts and drops; questions for neighbours go on to the stack, which answers them.
#[inline(always)]
pub(crate) fn sink(ctx: &XdpContext) -> u32 {
    let frame = XdpPacket::new(ctx);
    match frame.read(12) {
        Ok(ARP) => return xdp_action::XDP_PASS,
        Ok(IPV6) if frame.read(NEXT_HEADER) == Ok(ICMPV6) => return xdp_action::XDP_PASS,
        Ok(_) | Err(_) => {}
    }
    if let Some(seen) = maps::SUNK.get_ptr_mut(0) {
        // SAFETY: this processor's own copy.
        unsafe { *seen += 1 };
    }
    xdp_action::XDP_DROP
}

/// Redirects everything to the interface in REDIRECT_TO.
#[inline(always)]
pub(crate) fn bare_redirect() -> u32 {
    maps::redirect(maps::REDIRECT_TO.get(0).copied().unwrap_or(0))
}
