//! What must hold between a frame that came in and the one that came out, whatever it was; read without the code under test.
//!
//! A gateway updates checksums. So a wrong one must come out exactly as wrong as it came in: that is asked for here, of every frame.

use super::cut::{Cut, class, word};
use crate::table::frame::Seen;

/// Checks a packet that was forwarded; gives it as it came and as it left.
///
/// # Panics
/// Where anything changed that may not, or a checksum has become more or less wrong.
pub fn forwarded<'a>(before: &'a [u8], after: &'a [u8]) -> (Cut<'a>, Cut<'a>) {
    let came = Cut::of(before).expect("what is forwarded was an IPv4 packet without options");
    let left = whole(after);
    assert_eq!(came.packet.len(), left.packet.len(), "length of the packet");
    header(&came, &left);
    body(&came, &left);
    (came, left)
}

/// Checks native IPv6 that was sent on: two MAC addresses and a hop, and neither address one that no router sends on.
///
/// # Panics
/// Where anything else has changed, or it should not have been sent on.
pub fn routed(before: &[u8], after: &[u8]) {
    assert_eq!(before[12..15].first_chunk(), Some(&[0x86, 0xdd]), "IPv6");
    assert!(before[21] > 1, "hop limit {}", before[21]);
    let mut expected = before.to_vec();
    expected[..12].copy_from_slice(&after[..12]);
    expected[21] -= 1;
    assert_eq!(after, expected, "bytes that no router changes");
    assert_ne!(before[..6], after[..6], "to a neighbour");
    assert!(
        word(before, 18).map(usize::from) <= Some(before.len() - 54),
        "payload length"
    );
    for address in [&before[22..38], &before[38..54]] {
        assert!(address[0] != 0xff && address[..2] != [0xfe, 0x80], "{address:02x?}");
        assert_ne!(address[..8], [0; 8], "{address:02x?}");
    }
    assert!(
        before[20] != 58 || !(133..=137).contains(&before[54]),
        "neighbour discovery"
    );
}

/// Checks the lengths of what leaves.
///
/// # Panics
/// Where they do not agree.
pub fn whole(after: &[u8]) -> Cut<'_> {
    let left = Cut::of(after).expect("what leaves is an IPv4 packet without options");
    assert!(left.rest.is_empty(), "padding leaves with the packet");
    assert_ne!(left.packet[8], 0, "TTL");
    if let Some(outer) = left.outer {
        assert_eq!(outer[0] >> 4, 6, "IPv6");
        assert_eq!(
            word(outer, 4).map(usize::from),
            Some(left.packet.len()),
            "IPv6 payload length"
        );
        assert_eq!(outer[7], 64, "hop limit");
    }
    left
}

fn header(came: &Cut<'_>, left: &Cut<'_>) {
    let (old, new) = (&came.packet[..20], &left.packet[..20]);
    for at in differing(old, new) {
        match at {
            1 => assert!(
                came.outer.is_some() && left.outer.is_none() && old[1] & !3 == new[1] & !3,
                "DSCP"
            ),
            4 | 5 => assert!(came.is_fragment(), "identification of a whole packet"),
            8 | 10..20 => {}
            _ => panic!("byte {at} of the IPv4 header"),
        }
    }
    assert_eq!(old[8].checked_sub(1), Some(new[8]), "TTL");
    assert_eq!(class(&[old]), class(&[new]), "IPv4 header checksum");
}

fn body(came: &Cut<'_>, left: &Cut<'_>) {
    let (old, new) = (came.body(), left.body());
    if came.is_later_fragment() {
        assert_eq!(old, new, "what a fragment carries");
        return;
    }
    let changed = differing(old, new);
    match came.protocol() {
        6 => {
            let mss = clamped(old, new);
            let free = |at: usize| matches!(at, 0..4 | 16 | 17) || mss.is_some_and(|mss| (mss..mss + 2).contains(&at));
            assert!(changed.into_iter().all(free), "bytes of a TCP segment");
            assert_eq!(came.transport_class(), left.transport_class(), "TCP checksum");
        }
        17 => {
            assert!(
                changed.into_iter().all(|at| matches!(at, 0..4 | 6 | 7)),
                "bytes of a UDP datagram"
            );
            let sums = (word(old, 6), word(new, 6));
            assert_eq!(sums.0 == Some(0), sums.1 == Some(0), "whether there is a UDP checksum");
            if sums.0 != Some(0) {
                assert_eq!(came.transport_class(), left.transport_class(), "UDP checksum");
            }
        }
        1 => {
            if matches!(old[0], 0 | 8) {
                assert!(changed.into_iter().all(|at| matches!(at, 2..6)), "bytes of an echo");
            } else {
                error(old, new, &changed);
            }
            assert_eq!(class(&[old]), class(&[new]), "ICMP checksum");
        }
        protocol => panic!("protocol {protocol} was forwarded"),
    }
}

/// An ICMP error: what may change is one end of the quoted packet, and checksums.
fn error(old: &[u8], new: &[u8], changed: &[usize]) {
    let (quoted, requoted) = (&old[8..], &new[8..]);
    let header_len = usize::from(quoted[0] & 15) * 4;
    let transport = 8 + header_len;
    let free = |at: usize| {
        matches!(at, 2 | 3 | 18 | 19 | 20..28)
            || (transport..transport + 8).contains(&at)
            || (transport + 16..transport + 18).contains(&at)
    };
    assert!(
        changed.iter().all(|at| free(*at)),
        "bytes of an ICMP error: {changed:?}"
    );
    let sums = (quoted.get(..header_len), requoted.get(..header_len));
    if let (Some(old), Some(new)) = sums {
        assert_eq!(class(&[old]), class(&[new]), "checksum of the quoted IPv4 header");
    }
}

/// Where a TCP segment's MSS was made smaller.
fn clamped(old: &[u8], new: &[u8]) -> Option<usize> {
    let header_len = usize::from(old[12] >> 4) * 4;
    let first = differing(old, new).into_iter().find(|at| *at >= 20)?;
    assert!(
        old[13] & 2 != 0 && first < header_len,
        "changed, but no option of a SYN"
    );
    let at = [first, first - 1]
        .into_iter()
        .find(|at| old.get(at - 2..*at) == Some(&[2, 4]));
    let at = at.expect("changed, but no MSS");
    assert!(word(new, at) < word(old, at), "an MSS is only made smaller");
    Some(at)
}

fn differing(old: &[u8], new: &[u8]) -> Vec<usize> {
    let pairs = old.iter().zip(new).enumerate();
    pairs.filter(|(_, (old, new))| old != new).map(|(at, _)| at).collect()
}

/// Checks an ICMP error that the gateway itself made of the packet in `before`, which it quotes word for word.
///
/// # Panics
/// Where a checksum or length is wrong, or it quotes something else.
pub fn told(before: &[u8], after: &[u8]) {
    let (came, left) = (Cut::of(before).expect("an IPv4 packet"), whole(after));
    let seen = Seen::of(after);
    assert!(seen.ttl > 1 && matches!(left.body()[0], 3 | 11), "an error");
    assert_eq!(left.body().get(8..), came.packet.get(..28), "what it quotes");
    assert_eq!(left.destination(), came.source(), "whom it tells");
}

/// Checks an echo request that was turned round.
///
/// # Panics
/// Where more has changed than that needs.
pub fn echoed(before: &[u8], after: &[u8]) {
    let (came, left) = (Cut::of(before).expect("a packet"), Cut::of(after).expect("a packet"));
    assert_eq!((came.source(), came.destination()), (left.destination(), left.source()));
    assert_eq!((came.body()[0], left.body()[0]), (8, 0), "request and reply");
    assert_eq!(
        class(&[&came.packet[..20]]),
        class(&[&left.packet[..20]]),
        "IPv4 header checksum"
    );
    assert_eq!(class(&[came.body()]), class(&[left.body()]), "ICMP checksum");
    assert_eq!(came.body()[4..], left.body()[4..], "what comes back");
}
