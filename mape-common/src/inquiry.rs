//! What user space asks a program that runs for it alone: a question in a frame's first bytes, the answer in the same place.
//!
//! The routing table is asked by the program that is asked nothing else, because no other way of asking it gives what a packet
//! in XDP would get: a route request over netlink also validates the source.

use crate::{
    env::Route,
    hop::{Hop, Mac},
};

/// Bytes of a question: interface it came by, source, destination, and which protocol's those are.
pub const QUESTION: usize = 40;
/// Bytes of an answer: what it is, interface, MTU, the neighbour's MAC address and the NIC's.
pub const ANSWER: usize = 22;

const OTHER: u32 = 0;
const RESOLVED: u32 = 1;
const UNRESOLVED: u32 = 2;

/// Source and destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ends {
    /// Of IPv4.
    V4([u8; 4], [u8; 4]),
    /// Of IPv6.
    V6([u8; 16], [u8; 16]),
}

/// Where a packet would go that came by that interface.
#[inline(always)]
pub fn question(ifindex: u32, ends: &Ends) -> [u8; QUESTION] {
    let mut question = [0; QUESTION];
    let (head, rest) = question.split_at_mut(8);
    let (source, destination) = rest.split_at_mut(16);
    let [i, j, k, l] = ifindex.to_be_bytes();
    match ends {
        Ends::V4(from, to) => {
            head.copy_from_slice(&[4, 0, 0, 0, i, j, k, l]);
            source.iter_mut().zip(from).for_each(|(place, byte)| *place = *byte);
            destination.iter_mut().zip(to).for_each(|(place, byte)| *place = *byte);
        }
        Ends::V6(from, to) => {
            head.copy_from_slice(&[6, 0, 0, 0, i, j, k, l]);
            source.copy_from_slice(from);
            destination.copy_from_slice(to);
        }
    }
    question
}

/// The interface that a question is about.
#[inline(always)]
pub const fn interface(question: &[u8; QUESTION]) -> u32 {
    let [_, _, _, _, i, j, k, l, ..] = *question;
    u32::from_be_bytes([i, j, k, l])
}

/// Source and destination of a question about IPv4; none where it is about IPv6.
#[inline(always)]
pub const fn asked(question: &[u8; QUESTION]) -> Option<([u8; 4], [u8; 4])> {
    let [version, _, _, _, _, _, _, _, a, b, c, d, ..] = *question;
    let [.., e, f, g, h, _, _, _, _, _, _, _, _, _, _, _, _] = *question;
    if version == 4 {
        Some(([a, b, c, d], [e, f, g, h]))
    } else {
        None
    }
}

/// Source and destination of a question about IPv6.
#[inline(always)]
pub const fn asked6(question: &[u8; QUESTION]) -> (&[u8; 16], &[u8; 16]) {
    let (_, ends) = question.split_at(8);
    match (ends.first_chunk(), ends.last_chunk()) {
        (Some(source), Some(destination)) => (source, destination),
        // There are 32.
        _ => (&[0; 16], &[0; 16]),
    }
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
        let v4 = ([192, 168, 1, 2], [198, 51, 100, 9]);
        let question4 = question(7, &Ends::V4(v4.0, v4.1));
        assert_eq!((interface(&question4), asked(&question4)), (7, Some(v4)));
        let ends = |first| core::array::from_fn(|index| first + u8::try_from(index).unwrap());
        let v6: ([u8; 16], [u8; 16]) = (ends(32), ends(64));
        let question6 = question(70_000, &Ends::V6(v6.0, v6.1));
        assert_eq!((interface(&question6), asked(&question6)), (70_000, None));
        assert_eq!(asked6(&question6), (&v6.0, &v6.1));
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
