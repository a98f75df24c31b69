//! What measurements need beside the gateway: a source of frames, a sink, and the bare redirect that is the ceiling.
#![expect(
    unsafe_code,
    reason = "a processor's own copy of a map's value is behind a pointer; helpers"
)]

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_loop},
    programs::XdpContext,
};
use mape_common::{
    packet::Packet as _,
    verdict::{Broken, Direction, FORWARDED, Reason},
    wire::{
        eth,
        ipv4::{self, Protocol},
        ipv6::{self, Address},
        udp,
    },
};

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

/// How a paced source goes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Nanoseconds from a frame to the next.
    interval: u64,
    /// Where the time is written in a frame by the source.
    sent_at: u64,
    /// Where it stands when the sink sees the frame.
    seen_at: u64,
}

/// More looks at the clock than any interval needs.
const LOOKS: u32 = 1 << 14;
/// Bytes of the longest frame's headers: a time stands behind them.
const LAST_STAMP: u64 = 128;
/// Places of the histogram, and nanoseconds of each; the last has all that took longer.
pub(crate) const PLACES: u32 = 4_096;
const PLACE: u64 = 25;

/// Whether a time has come.
unsafe extern "C" fn is_due(_: u64, due: *mut u64) -> i64 {
    // SAFETY: the variable that `paced` lent to `bpf_loop`.
    let due = unsafe { *due };
    // SAFETY: the helper takes nothing.
    i64::from(unsafe { bpf_ktime_get_ns() } >= due)
}

/// As [`generate`], a frame each interval, with the time in it.
#[inline(always)]
pub(crate) fn paced(ctx: &XdpContext) -> u32 {
    let (Some(pace), Some(next)) = (maps::PACE.get(0), maps::DUE.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: this processor's own copy.
    let mut due = unsafe { *next };
    let callback: unsafe extern "C" fn(u64, *mut u64) -> i64 = is_due;
    // SAFETY: the callback is called with a reference to `due`, as long as the helper runs.
    unsafe { bpf_loop(LOOKS, callback as *mut _, (&raw mut due).cast(), 0) };
    // SAFETY: the helper takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    // A source that was kept from sending does not catch up.
    // SAFETY: this processor's own copy.
    unsafe { *next = due.max(now - pace.interval.min(now)) + pace.interval };
    let action = generate(ctx);
    let (Ok(at), true) = (usize::try_from(pace.sent_at), pace.sent_at <= LAST_STAMP) else {
        return xdp_action::XDP_ABORTED;
    };
    if XdpPacket::new(ctx).write(at, &now.to_ne_bytes()).is_err() {
        return xdp_action::XDP_ABORTED;
    }
    action
}

/// As [`sink`], and notes how old each frame is.
#[inline(always)]
pub(crate) fn clocked(ctx: &XdpContext) -> u32 {
    let action = sink(ctx);
    if action != xdp_action::XDP_DROP {
        return action;
    }
    let Some(pace) = maps::PACE.get(0).filter(|pace| pace.seen_at <= LAST_STAMP) else {
        return action;
    };
    if let Ok(at) = usize::try_from(pace.seen_at)
        && let Ok(bytes) = XdpPacket::new(ctx).read(at)
    {
        // SAFETY: the helper takes nothing.
        let age = unsafe { bpf_ktime_get_ns() }.wrapping_sub(u64::from_ne_bytes(bytes));
        let column = (age / PLACE).min(u64::from(PLACES - 1));
        if let Some(count) = maps::AGES.get_ptr_mut(u32::try_from(column).unwrap_or(PLACES - 1)) {
            // SAFETY: this processor's own copy.
            unsafe { *count += 1 };
        }
    }
    action
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

/// What a frame from a LAN host has to say, read in parts of eight bytes: both addresses, and its ports and what follows them.
struct Said {
    addresses: u64,
    ports: u64,
}

/// Where the transport header of a frame from a LAN host begins.
const L4: usize = eth::LEN + ipv4::LEN;

/// Reads of every header, puts a MAC header and an outer header in front, and changes in place what a translation changes. What is
/// written makes no sense: `look` gives some of it.
#[inline(always)]
fn wrap(ctx: &XdpContext, look: impl FnOnce(&Said) -> Option<u64>) -> Result<(), Broken> {
    let mut frame = XdpPacket::new(ctx);
    let first = u64::from_ne_bytes(frame.read(0)?);
    let mac = u64::from_ne_bytes(frame.read(eth::LEN - 8)?);
    let rows = u64::from_ne_bytes(frame.read(eth::LEN)?);
    let said = Said {
        addresses: u64::from_ne_bytes(frame.read(eth::LEN + ipv4::SOURCE)?),
        ports: u64::from_ne_bytes(frame.read(L4)?),
    };
    let found = look(&said).ok_or(Broken(Reason::NotConfigured))?;
    #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
    let (low, port) = (found as u32, found as u16);
    frame.write(eth::LEN + ipv4::SOURCE, &low.to_ne_bytes())?;
    frame.write(L4, &port.to_ne_bytes())?;
    frame.write(L4 + udp::CHECKSUM, &port.to_ne_bytes())?;
    frame.grow_front::<{ ipv6::LEN }>()?;
    let [a, b, c, d, e, f, g, h] = first.to_ne_bytes();
    let [i, j, k, l, m, n, ..] = mac.to_ne_bytes();
    frame.write(0, &[a, b, c, d, e, f, g, h, i, j, k, l, m, n])?;
    let address = |a, b| Address::from_bytes((u128::from(a) | u128::from(b) << 64).to_ne_bytes());
    let ends = (address(first, mac), address(said.addresses, said.ports));
    #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
    let outer = ipv6::Header::new(ends, 0, low, rows as u16, Protocol::IPV4, 64);
    frame.write(eth::LEN, &outer.to_bytes())?;
    frame
        .write(eth::LEN + ipv6::LEN + ipv4::TTL, &low.to_ne_bytes())
        .map_err(Broken::from)
}

#[inline(always)]
fn redirected(wrapped: Result<(), Broken>) -> u32 {
    match wrapped {
        Ok(()) => bare_redirect(),
        Err(_) => xdp_action::XDP_ABORTED,
    }
}

/// Encapsulates everything, somehow, and redirects it: what reading, writing and making room take by themselves.
#[inline(always)]
pub(crate) fn encapsulate(ctx: &XdpContext) -> u32 {
    redirected(wrap(ctx, |said| Some(said.addresses ^ said.ports)))
}

/// The same, and what has to be known and counted of each packet: configuration, NIC, gate, the bucket and the record of its flow, next
/// hop, the time, a counter. Nothing is asked of what is found: the least that a gateway with these tables can take.
#[inline(always)]
pub(crate) fn least(ctx: &XdpContext) -> u32 {
    redirected(wrap(ctx, |said| {
        let config = maps::CONFIG.get(0)?;
        let link = maps::LINKS.get(0)?;
        let gate = maps::GATE.get(0)?;
        let hash = said
            .addresses
            .wrapping_mul(said.ports | 1)
            .wrapping_mul(config.hash_key[0] | 0x9e37_79b9_7f4a_7c15);
        let bucket = maps::FLOWS.get(u32::try_from(hash >> 49).ok()?)?;
        let held = bucket.word(u32::try_from(hash >> 60).ok()?).load();
        let record = maps::SESSIONS.get(u32::try_from((hash ^ held) >> 48).ok()?)?;
        let hop = maps::HOPS.get(0)?;
        // SAFETY: the helper takes nothing.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        maps::count(Direction::Outbound, FORWARDED, eth::LEN);
        Some(gate.load() ^ link.mac() ^ record.state().to_word() ^ hop.destination() ^ now)
    }))
}
