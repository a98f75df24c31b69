//! Native IPv6, which is none of the tunnel's: forwarded between the NICs as the stack would do it, where that is switched on.
//!
//! While our programs are on the NICs, the kernel merges no segments of what it forwards, so forwarding by the stack costs more than
//! it did without us. What asks for more than two MAC addresses and a hop is left to the stack, and so is one packet to each neighbour
//! every few seconds: the stack asks a neighbour that it has not heard of only when it has something to send there (RFC 4861 §7.3).

use crate::{
    env::{Env, Route},
    hop::{Hop, Mac},
    layout::Config,
    packet::Packet,
    time::Tick,
    verdict::{Broken, Reason, Verdict},
    wire::{
        eth::{self, EtherType},
        ipv4::Protocol,
        ipv6,
    },
    word::Word,
};

use super::admit::{Arrival, is_proven};

/// Places for neighbours, a power of two.
pub const PLACES: u32 = 1_024;
/// Places that one neighbour may have.
const PROBES: u32 = 4;
/// Between two packets to one neighbour that are left to the stack.
pub const PERIOD: Tick = Tick::at_least_seconds(4);
/// Where no place is free, one packet of so many is left to the stack; a power of two.
const CROWDED: u32 = 256;
/// Neighbour discovery: router solicitation to redirect (RFC 4861 §4). The stack answers some of them for others.
const DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;

/// The first word of NATIVE: until when native IPv6 is forwarded. Who grants it has to renew it, so that it ends with him.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease(pub u64);

impl Lease {
    /// Its place in NATIVE.
    pub const INDEX: u32 = 0;
    /// Not at all.
    pub const NONE: Self = Self(0);
    /// Whatever happens.
    pub const FOR_EVER: Self = Self(u64::MAX);

    /// Before that tick.
    pub const fn until(end: Tick) -> Self {
        let [a, b, c, d] = end.0.to_be_bytes();
        Self(u64::from_be_bytes([0, 0, 0, 0, a, b, c, d]))
    }

    /// Whether native IPv6 is forwarded.
    #[inline(always)]
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "a tick has 32 bits"
    )]
    pub const fn is_on(self, now: Tick) -> bool {
        if self.0 == Self::NONE.0 || self.0 == Self::FOR_EVER.0 {
            return self.0 != Self::NONE.0;
        }
        let left = (self.0 as u32).wrapping_sub(now.0);
        left != 0 && left <= u32::MAX / 2
    }
}

/// Everything decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    hop: Hop,
    hop_limit: u8,
}

/// Decides what becomes of an IPv6 frame that is none of the tunnel's. `off` is what it is where this is switched off.
///
/// # Errors
/// Why the stack gets it: `off`, [`Reason::NativeNotPlain`], [`Reason::NativeElsewhere`], [`Reason::NativeTooBig`],
/// [`Reason::NativeAsks`].
#[inline(always)]
pub fn plan<P: Packet, E: Env>(frame: &P, env: &E, arrival: &Arrival<'_>, off: Reason) -> Result<Plan, Reason> {
    let lease = env.native(Lease::INDEX).map_or(0, Word::load);
    if !Lease(lease).is_on(arrival.now) {
        return Err(off);
    }
    let header = ipv6::Header::read(frame, eth::LEN).map_err(|_| Reason::NativeNotPlain)?;
    if !is_plain(frame, arrival.config, &header) {
        return Err(Reason::NativeNotPlain);
    }
    let Route::Resolved(hop) = env.route6(
        arrival.ifindex,
        &header.source().to_bytes(),
        &header.destination().to_bytes(),
    ) else {
        return Err(Reason::NativeElsewhere);
    };
    // Back by the same NIC: the stack tells the sender of the shorter way.
    if hop.ifindex == arrival.ifindex || !is_proven(env, hop.ifindex) {
        return Err(Reason::NativeElsewhere);
    }
    if frame.len().wrapping_sub(eth::LEN) > usize::from(hop.mtu) {
        return Err(Reason::NativeTooBig);
    }
    if asks(env, hop.destination, arrival.now) {
        return Err(Reason::NativeAsks);
    }
    Ok(Plan {
        hop,
        hop_limit: header.hop_limit().wrapping_sub(1),
    })
}

/// Carries the plan out.
///
/// # Errors
/// [`Broken`]: the frame is neither old nor new.
#[inline(always)]
pub fn apply<P: Packet>(frame: &mut P, plan: &Plan) -> Result<Verdict, Broken> {
    let header = eth::Header::new(plan.hop.destination, plan.hop.source, EtherType::IPV6);
    frame.write(0, &header.to_bytes())?;
    frame.write(eth::LEN.wrapping_add(ipv6::HOP_LIMIT), &[plan.hop_limit])?;
    Ok(Verdict::Native {
        ifindex: plan.hop.ifindex,
    })
}

/// Whether a packet is one that any router would send on, and that is not for routers, too.
#[inline(always)]
fn is_plain<P: Packet>(frame: &P, config: &Config, header: &ipv6::Header) -> bool {
    /// Hop-by-hop options are for every router.
    const HOP_BY_HOP: Protocol = Protocol(0);
    let body = eth::LEN.wrapping_add(ipv6::LEN);
    if !header.is_ipv6()
        || header.hop_limit() <= 1
        || header.next_header() == HOP_BY_HOP
        || frame.len() < body.wrapping_add(usize::from(header.payload_len()))
    {
        return false;
    }
    let (source, destination) = (header.source().to_bytes(), header.destination().to_bytes());
    // What leaves in the tunnel's name is looked at where the stack sends it; see `guard`.
    if is_special(&source) || is_special(&destination) || header.source().is(config.tunnel_address) {
        return false;
    }
    header.next_header() != Protocol::ICMPV6 || matches!(frame.read(body), Ok([kind]) if !DISCOVERY.contains(&kind))
}

/// Multicast, link-local, and what begins with 64 zeros: unspecified, loopback, and those that hold an IPv4 address (RFC 4291 §2.5).
#[inline(always)]
const fn is_special(address: &[u8; 16]) -> bool {
    let prefix = match address.first_chunk() {
        Some(first) => u64::from_be_bytes(*first),
        None => 0,
    };
    prefix >> 56 == 0xff || prefix >> 54 == 0xfe80 >> 6 || prefix == 0
}

/// Whether the packet to that neighbour is the one of its time that is left to the stack; it is noted then.
#[inline(always)]
fn asks<E: Env>(env: &E, neighbour: Mac, now: Tick) -> bool {
    for probe in 0..PROBES {
        let Some(word) = env.native(place(neighbour, probe)) else {
            continue;
        };
        let old = word.load();
        let is_over = old == 0 || age(old, now) >= PERIOD.0;
        if is_over || old >> 16 == neighbour.to_bits() {
            // Where another processor was faster, it asks.
            return is_over && word.compare_exchange(old, stamp(neighbour, now));
        }
    }
    // More neighbours than places: now and then one of their packets, whosever it is.
    env.random() & CROWDED.wrapping_sub(1) == 0
}

/// Where a neighbour's word may be.
#[inline(always)]
#[expect(clippy::as_conversions, reason = "the upper half of a product")]
const fn place(neighbour: Mac, probe: u32) -> u32 {
    let hash = (neighbour.to_bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
    (hash.wrapping_add(probe) & PLACES.wrapping_sub(1)).wrapping_add(1)
}

/// `MAC << 16 | tick`, as much of that as there is room for: five hours.
#[inline(always)]
const fn stamp(neighbour: Mac, now: Tick) -> u64 {
    let [_, _, a, b] = now.0.to_be_bytes();
    neighbour.to_bits() << 16 | u64::from_be_bytes([0, 0, 0, 0, 0, 0, a, b])
}

/// Ticks since a stamp, at most as many as it can tell apart.
#[inline(always)]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "the lowest 16 bits of both"
)]
const fn age(stamp: u64, now: Tick) -> u32 {
    (now.0 as u16).wrapping_sub(stamp as u16) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::HostEnv,
        map::psid::PortSet,
        packet::VecPacket,
        step::edge,
        verdict::{Direction, Failure},
    };

    const LAN_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
    const WAN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
    const HOST_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
    const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 2, 2]);
    const TUNNEL: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    const HOST: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const SERVER: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0x0f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    const LAN: u32 = 1;
    const WAN: u32 = 2;

    fn hop(ifindex: u32, destination: Mac, source: Mac) -> Hop {
        Hop {
            ifindex,
            mtu: 1500,
            destination,
            source,
        }
    }

    fn env() -> HostEnv {
        let set = PortSet::new(6, 8, 0x34).unwrap();
        let config = HostEnv::customer_edge(TUNNEL, [0x20; 16], [192, 0, 2, 18], set, 16);
        let mut env = HostEnv::new(config);
        assert_eq!((env.add_link(LAN_MAC, 1500), env.add_link(WAN_MAC, 1500)), (LAN, WAN));
        env.routes6.borrow_mut().extend([
            ([0; 16], 0, Route::Resolved(hop(WAN, ROUTER_MAC, WAN_MAC))),
            (HOST, 64, Route::Resolved(hop(LAN, HOST_MAC, LAN_MAC))),
            (TUNNEL, 128, Route::Other),
        ]);
        env.native(Lease::INDEX).unwrap().store(Lease::FOR_EVER.0);
        env
    }

    fn frame(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut frame = [LAN_MAC.0, HOST_MAC.0].concat();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
        frame.extend(HOST);
        frame.extend(SERVER);
        frame.extend([0, 53, 0, 54, 0, 8, 0xab, 0xcd]);
        change(&mut frame);
        frame
    }

    fn give(env: &HostEnv, frame: &[u8]) -> (Result<Verdict, Failure>, Vec<u8>) {
        let mut packet = VecPacket(frame.to_vec());
        let outcome = edge::all(&mut packet, env, LAN, Direction::Outbound);
        (outcome, packet.0)
    }

    fn refused(env: &HostEnv, frame: &[u8]) -> Reason {
        let (outcome, after) = give(env, frame);
        assert_eq!(after, frame, "what is passed is as it came");
        match outcome {
            Err(Failure::Refused(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// The neighbour has just been asked after.
    fn asked(env: &HostEnv) {
        assert_eq!(refused(env, &frame(|_| {})), Reason::NativeAsks);
    }

    #[test]
    fn two_addresses_and_a_hop_change_and_nothing_else() {
        let env = env();
        asked(&env);
        let before = frame(|frame| frame.extend([7; 9]));
        let (outcome, after) = give(&env, &before);
        assert_eq!(outcome, Ok(Verdict::Native { ifindex: WAN }));
        let mut expected = before;
        expected[..6].copy_from_slice(&ROUTER_MAC.0);
        expected[6..12].copy_from_slice(&WAN_MAC.0);
        expected[21] = 63;
        assert_eq!(after, expected);
    }

    #[test]
    fn without_a_lease_a_packet_is_what_it_was() {
        let env = env();
        asked(&env);
        let now = env.now();
        let word = env.native(Lease::INDEX).unwrap();
        for (lease, is_on) in [
            (Lease::NONE, false),
            (Lease::until(Tick(now.0 + 1)), true),
            (Lease::until(now), false),
            (Lease::until(Tick(now.0 - 1)), false),
            (Lease::FOR_EVER, true),
        ] {
            word.store(lease.0);
            let (outcome, _) = give(&env, &frame(|_| {}));
            let expected = if is_on {
                Ok(Verdict::Native { ifindex: WAN })
            } else {
                Err(Failure::Refused(Reason::OtherEtherType))
            };
            assert_eq!(outcome, expected, "{lease:?}");
        }
        assert!(Lease::until(Tick(1)).is_on(Tick(u32::MAX)), "across the clock's end");
    }

    #[test]
    fn what_is_the_stacks_alone_is_left_to_it() {
        let env = env();
        asked(&env);
        let source = |address: [u8; 16]| move |frame: &mut Vec<u8>| frame[22..38].copy_from_slice(&address);
        let destination = |address: [u8; 16]| move |frame: &mut Vec<u8>| frame[38..54].copy_from_slice(&address);
        let mut link_local = HOST;
        link_local[..2].copy_from_slice(&[0xfe, 0x80]);
        let mut multicast = HOST;
        multicast[0] = 0xff;
        let mut loopback = [0; 16];
        loopback[15] = 1;
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
        for special in [link_local, multicast, loopback, mapped, [0; 16]] {
            assert_eq!(refused(&env, &frame(source(special))), Reason::NativeNotPlain);
            assert_eq!(refused(&env, &frame(destination(special))), Reason::NativeNotPlain);
        }
        assert_eq!(refused(&env, &frame(source(TUNNEL))), Reason::NativeNotPlain);
        let rows: [fn(&mut Vec<u8>); 6] = [
            |frame| frame[21] = 1,
            |frame| frame[21] = 0,
            |frame| frame[20] = 0,
            |frame| frame[19] = 9,
            |frame| frame[14] = 0x40,
            |frame| frame.truncate(53),
        ];
        for row in rows {
            assert_eq!(refused(&env, &frame(row)), Reason::NativeNotPlain);
        }
        for (kind, is_discovery) in [
            (128, false),
            (132, false),
            (133, true),
            (135, true),
            (137, true),
            (138, false),
        ] {
            let (outcome, _) = give(
                &env,
                &frame(|frame| {
                    frame[20] = 58;
                    frame[54] = kind;
                }),
            );
            assert_eq!(outcome.is_err(), is_discovery, "{kind}");
        }
    }

    #[test]
    fn only_a_neighbour_on_another_nic_that_runs_is_sent_to() {
        let env = env();
        asked(&env);
        let mut own = HOST;
        own[15] = 77;
        let to = |address: [u8; 16]| frame(|frame| frame[38..54].copy_from_slice(&address));
        assert_eq!(refused(&env, &to(own)), Reason::NativeElsewhere, "the NIC it came by");
        assert_eq!(refused(&env, &to(TUNNEL)), Reason::NativeElsewhere, "this machine");
        for route in [
            Route::Unresolved { ifindex: WAN },
            Route::Resolved(hop(77, ROUTER_MAC, WAN_MAC)),
        ] {
            env.routes6.borrow_mut()[0].2 = route;
            assert_eq!(refused(&env, &to(SERVER)), Reason::NativeElsewhere, "{route:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_stack() {
        let env = env();
        asked(&env);
        let of = |len: usize| {
            frame(|frame| {
                let payload = u16::try_from(len - 40).unwrap().to_be_bytes();
                frame[18..20].copy_from_slice(&payload);
                frame.resize(14 + len, 0);
            })
        };
        assert_eq!(give(&env, &of(1500)).0, Ok(Verdict::Native { ifindex: WAN }));
        assert_eq!(refused(&env, &of(1501)), Reason::NativeTooBig);
    }

    #[test]
    fn one_packet_to_each_neighbour_in_four_seconds_is_the_stacks() {
        let env = env();
        let forwarded = |env: &HostEnv| give(env, &frame(|_| {})).0.is_ok();
        for _ in 0..3 {
            asked(&env);
            assert!((0..100).all(|_| forwarded(&env)));
            env.now.set(Tick(env.now.get().0 + PERIOD.0 - 1));
            assert!(forwarded(&env));
            env.now.set(Tick(env.now.get().0 + 1));
        }
        // Another neighbour has a time of its own.
        asked(&env);
        env.routes6.borrow_mut()[0].2 = Route::Resolved(hop(WAN, Mac([2, 0, 0, 0, 2, 3]), WAN_MAC));
        asked(&env);
        assert!(forwarded(&env));
    }

    #[test]
    fn more_neighbours_than_places_are_asked_after_all_the_same() {
        let env = env();
        let now = env.now();
        let one = |number: u32| {
            let [a, b, c, d] = number.to_be_bytes();
            Mac([2, 9, a, b, c, d])
        };
        let first = (0..4 * PLACES).filter(|number| asks(&env, one(*number), now)).count();
        assert!(first >= usize::try_from(PLACES).unwrap() / 2, "{first}");
        let late = one(9 * PLACES);
        let again = (0..20_000).filter(|_| asks(&env, late, now)).count();
        assert!((1..20_000 / 64).contains(&again), "{again}");
    }
}
