//! First and later fragments on two processors at once.

use mape_common::{
    env::Env as _,
    layout::SessionRef,
    nat::fragment::{self, Fragment, Note},
    time::Tick,
    verdict::{Direction, Reason},
    wire::ipv4::Header,
};

use super::{MORE_SWITCHES, both, bounded};
use crate::world::{Gateway, HOST, Processor, SERVER, START};

/// Bytes of a first fragment.
const LEN: u16 = 24;
/// When an identification that comes again is another packet's.
const LATER: Tick = Tick(START.0 + Tick::STALE.0);

/// A fragment of the packet with that identification: the first, or one behind it.
fn fragment(identification: u16, is_first: bool) -> Fragment {
    let [a, b] = identification.to_be_bytes();
    let [c, d] = (20 + LEN).to_be_bytes();
    let (more, offset) = if is_first { (0x20, 0) } else { (0x20, 3) };
    let mut bytes = [0x45, 0, c, d, a, b, more, offset, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes[12..16].copy_from_slice(&HOST);
    bytes[16..].copy_from_slice(&SERVER);
    Fragment::new(Direction::Outbound, [0; 16], &Header::from_bytes(bytes))
}

fn note_of(slot: u32, identification: u16) -> Note {
    Note::of_session(SessionRef { slot, generation: slot }, identification)
}

fn note(here: &Processor, packet: u16, mut note: Note) -> Result<Note, Reason> {
    let config = here.config().unwrap();
    fragment::note(here, config, &fragment(packet, true), &mut note, here.now).map(|()| note)
}

fn follow(here: &Processor, packet: u16) -> Result<Note, Reason> {
    let mut note = Note::EMPTY;
    let config = here.config().unwrap();
    fragment::follow::<_, false>(here, config, &fragment(packet, false), &mut note, here.now).map(|()| note)
}

#[test]
fn a_later_fragment_follows_one_packet_and_no_half_of_another() {
    bounded(MORE_SWITCHES, || {
        let gateway = Gateway::new(2, 2);
        let mut here = Processor::new(&gateway);
        let (old, new) = (note_of(1, 10), note_of(2, 20));
        assert_eq!(note(&here, 7, old), Ok(old));
        here.now = LATER;
        let other = here.clone();
        let (followed, noted) = both(move || follow(&here, 7), move || note(&other, 7, new));
        assert_eq!(noted, Ok(new), "nobody else wants the record");
        match followed {
            Ok(note) => assert!([old, new].contains(&note), "{note:?}"),
            Err(reason) => assert_eq!(reason, Reason::FragmentFirstMissing),
        }
        let mut here = Processor::new(&gateway);
        here.now = LATER;
        assert_eq!(follow(&here, 7), Ok(new));
    });
}

#[test]
fn two_packets_noted_at_once_are_followed_apart() {
    bounded(MORE_SWITCHES, || {
        let gateway = Gateway::new(2, 2);
        let (a, b) = (Processor::new(&gateway), Processor::new(&gateway));
        let (one, other) = (note_of(1, 10), note_of(2, 20));
        let (first, second) = both(move || note(&a, 7, one), move || note(&b, 8, other));
        let here = Processor::new(&gateway);
        for (packet, wanted, noted) in [(7, one, first), (8, other, second)] {
            match noted {
                Ok(_) => assert_eq!(follow(&here, packet), Ok(wanted)),
                Err(reason) => {
                    assert_eq!(reason, Reason::Contended, "both wanted the same record");
                    assert_eq!(follow(&here, packet), Err(Reason::FragmentFirstMissing));
                }
            }
        }
        assert!(first.is_ok() || second.is_ok());
    });
}

#[test]
fn a_first_fragment_that_comes_twice_at_once_is_followed_as_it_left() {
    bounded(MORE_SWITCHES, || {
        let gateway = Gateway::new(2, 2);
        let (a, b) = (Processor::new(&gateway), Processor::new(&gateway));
        let (first, second) = both(move || note(&a, 7, note_of(1, 10)), move || note(&b, 7, note_of(1, 20)));
        let left: Vec<Note> = [first, second].into_iter().flatten().collect();
        let followed = follow(&Processor::new(&gateway), 7).unwrap();
        assert!(left.contains(&followed), "{left:?} {followed:?}");
    });
}
