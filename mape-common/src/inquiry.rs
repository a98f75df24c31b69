//! What user space asks a program that runs for it alone: a question in a frame's first bytes, the answer in the same place.
//!
//! The routing table is asked by the program that is asked nothing else, because no other way of asking it gives what a packet
//! in XDP would get: a route request over netlink also validates the source.

use crate::{
    env::Route,
    hop::{Hop, Mac},
};

/// Bytes of a question: interface it came by, source, destination.
pub const QUESTION: usize = 12;
/// Bytes of an answer: what it is, interface, MTU, the neighbour's MAC address and the NIC's.
pub const ANSWER: usize = 22;

const OTHER: u32 = 0;
const RESOLVED: u32 = 1;
const UNRESOLVED: u32 = 2;

/// Where a packet would go.
#[inline(always)]
pub const fn question(ifindex: u32, source: [u8; 4], destination: [u8; 4]) -> [u8; QUESTION] {
    let [i, j, k, l] = ifindex.to_be_bytes();
    let [a, b, c, d] = source;
    let [e, f, g, h] = destination;
    [i, j, k, l, a, b, c, d, e, f, g, h]
}

/// Takes a question apart: interface, source, destination.
#[inline(always)]
pub const fn asked(question: [u8; QUESTION]) -> (u32, [u8; 4], [u8; 4]) {
    let [i, j, k, l, a, b, c, d, e, f, g, h] = question;
    (u32::from_be_bytes([i, j, k, l]), [a, b, c, d], [e, f, g, h])
}

/// An answer's bytes.
#[inline(always)]
pub fn answer(route: &Route) -> [u8; ANSWER] {
    let (kind, ifindex, mtu, destination, source) = match route {
        Route::Resolved(hop) => (RESOLVED, hop.ifindex, hop.mtu, hop.destination, hop.source),
        Route::Unresolved { ifindex } => (UNRESOLVED, *ifindex, 0, Mac([0; 6]), Mac([0; 6])),
        Route::Other => (OTHER, 0, 0, Mac([0; 6]), Mac([0; 6])),
    };
    let [.., kind] = kind.to_be_bytes();
    let [i, j, k, l] = ifindex.to_be_bytes();
    let [m, n] = mtu.to_be_bytes();
    let [a, b, c, d, e, f] = destination.0;
    let [g, h, o, p, q, r] = source.0;
    [kind, 0, 0, 0, i, j, k, l, m, n, a, b, c, d, e, f, g, h, o, p, q, r]
}

/// What an answer says.
#[inline(always)]
pub const fn answered(answer: [u8; ANSWER]) -> Route {
    let [kind, _, _, _, i, j, k, l, m, n, a, b, c, d, e, f, g, h, o, p, q, r] = answer;
    let ifindex = u32::from_be_bytes([i, j, k, l]);
    match u32::from_be_bytes([0, 0, 0, kind]) {
        RESOLVED => Route::Resolved(Hop {
            ifindex,
            mtu: u16::from_be_bytes([m, n]),
            destination: Mac([a, b, c, d, e, f]),
            source: Mac([g, h, o, p, q, r]),
        }),
        UNRESOLVED => Route::Unresolved { ifindex },
        _ => Route::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_arrive_as_they_were_sent() {
        let asks = (7, [192, 168, 1, 2], [198, 51, 100, 9]);
        assert_eq!(asked(question(asks.0, asks.1, asks.2)), asks);
        let hop = Hop {
            ifindex: 70_000,
            mtu: 9_000,
            destination: Mac([2, 0, 0, 0, 0, 1]),
            source: Mac([2, 0, 0, 0, 0, 2]),
        };
        for route in [Route::Resolved(hop), Route::Unresolved { ifindex: 3 }, Route::Other] {
            assert_eq!(answered(answer(&route)), route);
        }
    }
}
