//! Answers: a packet is turned into an ICMP message to its sender (RFC 792, 1812 §4.3, 6888 REQ-11; RFC 2473 §8 for tunnel errors).
//!
//! An error quotes the packet's header and eight bytes, the least that RFC 792 asks for: a constant number, which is what the
//! kernel's verifier can follow. The quoted bytes stay where they are; what is before them is written, what is behind cut off.

use crate::{
    checksum::{Delta, Sum},
    env::Env,
    hop::{Hop, Link, Mac},
    layout::Gauge,
    nat::open,
    packet::Packet,
    time::Tick,
    verdict::{Broken, Reason, Truncated, Verdict},
    wire::{
        eth::{self, EtherType},
        icmp,
        ipv4::{self, Protocol},
    },
};

use super::{admit::Arrival, inner, outbound, path};

/// Bytes of a packet that an error quotes: its header and eight.
const QUOTED: usize = ipv4::LEN + 8;
/// Bytes that an error has before them, the Ethernet header not counted.
pub const BEFORE: usize = ipv4::LEN + icmp::LEN;
/// Bytes of an error's frame.
pub const LEN: usize = eth::LEN + BEFORE + QUOTED;
/// Traffic class of errors: internetwork control (RFC 1812 §4.3.2.5).
const TOS: u8 = 0xc0;
const TTL: u8 = 64;
/// Answers in one tick (0.27 s) for all hosts together (RFC 1812 §4.3.2.8).
const PER_TICK: u64 = 64;

/// An ICMP error to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Ethernet destination and source.
    pub macs: (Mac, Mac),
    /// Who says it.
    pub from: [u8; 4],
    /// Whom it is for.
    pub to: [u8; 4],
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// Next-hop MTU (RFC 1191); zero in an error that has none.
    pub mtu: u16,
    /// The quoted packet's header, as its sender wrote it.
    pub quoted: ipv4::Header,
    /// The eight bytes after it, as its sender wrote them.
    pub payload: [u8; 8],
}

/// Writes an error over the beginning of a frame whose quoted bytes begin at [`eth::LEN`] + 28, and cuts what is behind them.
///
/// # Errors
/// [`Broken`].
#[inline(always)]
pub fn write<P: Packet>(frame: &mut P, error: &Error) -> Result<(), Broken> {
    let Some(excess) = frame.len().checked_sub(LEN) else {
        return Err(Truncated.into());
    };
    let Ok(excess) = u16::try_from(excess) else {
        return Err(Truncated.into());
    };
    if excess != 0 {
        frame.trim_end(excess)?;
    }
    let (to, from) = error.macs;
    frame.write(0, &eth::Header::new(to, from, EtherType::IPV4).to_bytes())?;
    let header = header(error.from, error.to);
    frame.write(eth::LEN, &header)?;
    let [mtu_high, mtu_low] = error.mtu.to_be_bytes();
    let start = [error.kind, error.code, 0, 0, 0, 0, mtu_high, mtu_low];
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t] = error.quoted.to_bytes();
    let checksum = Sum::ZERO
        .eight(start)
        .eight([a, b, c, d, e, f, g, h])
        .eight([i, j, k, l, m, n, o, p])
        .four([q, r, s, t])
        .eight(error.payload)
        .checksum()
        .to_be_bytes();
    frame.write(
        eth::LEN.wrapping_add(ipv4::LEN),
        &[
            error.kind,
            error.code,
            checksum[0],
            checksum[1],
            0,
            0,
            mtu_high,
            mtu_low,
        ],
    )?;
    Ok(())
}

/// The IPv4 header of an error.
#[inline(always)]
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "56 bytes")]
pub const fn header(from: [u8; 4], to: [u8; 4]) -> [u8; ipv4::LEN] {
    // Never fragmented, so its identification says nothing (RFC 6864 §4).
    let start = [0x45, TOS, 0, (BEFORE + QUOTED) as u8, 0, 0, 0x40, 0];
    let checksum = Sum::ZERO
        .eight(start)
        .four([TTL, Protocol::ICMP.0, 0, 0])
        .four(from)
        .four(to)
        .checksum()
        .to_be_bytes();
    let [s0, s1, s2, s3, s4, s5, s6, s7] = start;
    let [c0, c1] = checksum;
    let [f0, f1, f2, f3] = from;
    let [t0, t1, t2, t3] = to;
    [
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        s6,
        s7,
        TTL,
        Protocol::ICMP.0,
        c0,
        c1,
        f0,
        f1,
        f2,
        f3,
        t0,
        t1,
        t2,
        t3,
    ]
}

/// Takes one of the answers that may be sent in this tick; false where none is left.
#[inline(always)]
pub fn may_send<E: Env>(env: &E, now: Tick) -> bool {
    let Some(word) = env.gauge(Gauge::AnswersThisTick) else {
        return false;
    };
    let tick = u64::from(now.0) << 32;
    // A failure means that another processor took one; four in a row do not happen by chance.
    for _ in 0..4 {
        let old = word.load();
        let sent = if old >> 32 == tick >> 32 { old & 0xffff_ffff } else { 0 };
        if sent >= PER_TICK {
            break;
        }
        if word.compare_exchange(old, tick | sent.wrapping_add(1)) {
            env.raise(Gauge::Answers);
            return true;
        }
    }
    env.raise(Gauge::AnswersSuppressed);
    false
}

/// The answer to a LAN host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An error about the packet.
    Error(Error),
    /// The echo that was asked for.
    Echo(Echo),
}

/// An echo request, turned round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    macs: (Mac, Mac),
    source: [u8; 4],
    destination: [u8; 4],
    checksum: u16,
}

/// Decides how a LAN host's packet is answered that was refused for `reason`.
///
/// # Errors
/// The reason, where it is not answered.
#[inline(always)]
pub fn plan<P: Packet, E: Env>(frame: &P, env: &E, arrival: &Arrival<'_>, reason: Reason) -> Result<Answer, Reason> {
    let link = env.link(arrival.ifindex).ok_or(reason)?;
    let macs = (arrival.source, Mac::from_bits(link.mac()));
    let room = frame.len().saturating_sub(eth::LEN);
    let packet = inner::whole::<P, { eth::LEN }>(frame, room).map_err(|other| {
        // A first fragment is not answered; it is counted by what befell it.
        if matches!(other, Reason::Fragment) {
            reason
        } else {
            other
        }
    })?;
    let header = packet.header;
    if !ipv4::is_routable(header.source()) {
        return Err(Reason::NotUnicast);
    }
    let Ok(payload) = frame.read::<8>(eth::LEN.wrapping_add(ipv4::LEN)) else {
        return Err(reason);
    };
    if matches!(reason, Reason::Hairpin) {
        let icmp = icmp::Header::from_bytes(payload);
        if header.protocol() != Protocol::ICMP || !icmp.is_echo_request() {
            return Err(reason);
        }
        let [kind, code, ..] = payload;
        return Ok(Answer::Echo(Echo {
            macs,
            source: header.source(),
            destination: header.destination(),
            checksum: Delta::ZERO
                .word(u16::from_be_bytes([kind, code]), u16::from_be_bytes([0, code]))
                .apply(icmp.checksum()),
        }));
    }
    let (code, mtu) = if matches!(reason, Reason::TooBig) {
        if !header.dont_fragment() {
            // The stack fragments it.
            return Err(reason);
        }
        (icmp::TOO_BIG, inner_mtu(env, arrival, &header)?)
    } else {
        // A soft error (RFC 6888 REQ-11 b). But whoever opens a TCP connection takes it for the end, so it is said to a host that
        // has tried again in vain: mostly something has become free before that.
        let (_, flow) = outbound::read(frame)?;
        let is_lasting =
            matches!(reason, Reason::SessionsExhausted) || open::is_refused_again(env, arrival.config, &flow);
        if !is_lasting {
            return Err(reason);
        }
        (icmp::HOST, 0)
    };
    if !may_send(env, arrival.now) {
        return Err(reason);
    }
    Ok(Answer::Error(Error {
        macs,
        from: link.address(),
        to: header.source(),
        kind: icmp::UNREACHABLE,
        code,
        mtu,
        quoted: header,
        payload,
    }))
}

/// The largest IPv4 packet that the tunnel takes towards a destination.
#[inline(always)]
fn inner_mtu<E: Env>(env: &E, arrival: &Arrival<'_>, header: &ipv4::Header) -> Result<u16, Reason> {
    let hop = outbound::way(env, path::hop_towards(env, header.destination()), arrival.now)?;
    Ok(largest(arrival.config.tunnel_mtu, &hop))
}

/// The largest inner packet: what is configured, and what the way to the far end takes with the outer header.
#[inline(always)]
pub const fn largest(tunnel_mtu: u16, hop: &Hop) -> u16 {
    let path = hop.mtu.saturating_sub(40);
    if path < tunnel_mtu { path } else { tunnel_mtu }
}

/// Carries the plan out; `reason` is what the packet is counted by.
///
/// # Errors
/// [`Broken`].
#[inline(always)]
pub fn apply<P: Packet>(frame: &mut P, answer: &Answer, reason: Reason) -> Result<Verdict, Broken> {
    match answer {
        Answer::Error(error) => {
            frame.grow_front::<BEFORE>()?;
            write(frame, error)?;
        }
        Answer::Echo(echo) => {
            let (to, from) = echo.macs;
            frame.write(0, &eth::Header::new(to, from, EtherType::IPV4).to_bytes())?;
            frame.write(eth::LEN.wrapping_add(ipv4::SOURCE), &echo.destination)?;
            frame.write(eth::LEN.wrapping_add(ipv4::DESTINATION), &echo.source)?;
            let l4 = eth::LEN.wrapping_add(ipv4::LEN);
            frame.write(l4, &[0])?;
            frame.write(l4.wrapping_add(icmp::CHECKSUM), &echo.checksum.to_be_bytes())?;
        }
    }
    Ok(Verdict::Answer(reason))
}

/// The NIC's own address, from which an error about a packet of a host behind it is sent.
#[inline(always)]
pub fn own_address<E: Env>(env: &E, ifindex: u32) -> [u8; 4] {
    env.link(ifindex).map_or([192, 0, 0, 8], Link::address)
}
