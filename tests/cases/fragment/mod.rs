//! Packets in fragments, both ways.

mod inbound;
mod outbound;

use mape_tests::table::{
    frame::{Frame, Payload, Seen},
    world::Program,
};

use super::{Case, down, down_from, refused, up, up_to};

/// More fragments follow.
const MORE: u16 = 0x2000;

/// Forty bytes of data: two fragments of 24 bytes each.
fn datagram(from: u16, to: u16) -> Payload {
    Payload::Udp {
        from,
        to,
        data: (0..40).collect(),
        checksum: true,
    }
}

/// A SYN with an MSS option and data, 20 and 8 and 20 bytes.
fn segment(from: u16, to: u16) -> Payload {
    let [high, low] = 1460_u16.to_be_bytes();
    Payload::Tcp {
        from,
        to,
        flags: 2,
        options: vec![2, 4, high, low, 1, 3, 3, 7],
        data: (0..20).collect(),
    }
}

/// The first fragment, of that many bytes.
fn first(frame: &Frame, size: usize) -> Frame {
    frame.split(size).remove(0)
}

/// The last one.
fn last(frame: &Frame, size: usize) -> Frame {
    frame.split(size).pop().expect("at least one")
}

/// A later fragment with these bits in the place of flags and offset.
fn placed(frame: &Frame, fragment: u16) -> Frame {
    Frame {
        fragment,
        ..last(frame, 24)
    }
}

fn after(before: Vec<(Program, Frame)>, case: Case) -> Case {
    Case { before, ..case }
}

fn forwarded(
    name: &'static str,
    before: Vec<(Program, Frame)>,
    (program, frame): (Program, &Frame),
    check: fn(&Seen),
) -> Case {
    Case {
        name,
        before,
        program,
        given: frame.bytes(),
        counted: "forwarded",
        check,
    }
}

/// The last 24 bytes of the datagram.
fn is_last_part(seen: &Seen) {
    assert_eq!(seen.fragment.1, 3, "24 bytes in, and no more");
    assert_eq!(seen.rest, (16..40).collect::<Vec<u8>>(), "nothing is changed in it");
}

pub(super) fn cases() -> Vec<Case> {
    outbound::cases().into_iter().chain(inbound::cases()).collect()
}
