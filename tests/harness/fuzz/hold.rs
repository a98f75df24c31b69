//! Any bytes as fragments that come too early, first ones that come later or never, and time that passes.

use std::collections::{BTreeMap, BTreeSet};

use mape_common::{
    nat::{
        fragment::Fragment,
        hold::{Hold, Packet, Piece, Tally},
    },
    packet::VecPacket,
    step::fragment::late,
    verdict::Direction,
    wire::ipv4::Header,
};

/// Small, so that they are full soon.
const PACKETS: usize = 8;
const PIECES: usize = 24;
/// What one sender may have.
const OWN_PACKETS: usize = 2;
const OWN_PIECES: usize = 6;
const PATIENCE: u64 = 50;

/// Which packet a fragment is of, and where in it.
type Id = (u8, u8, u16);

/// Reads the bytes as a frame, and as what happens one after the other.
///
/// # Panics
/// Where more is held than may be, or what is given back is not what was held.
pub fn run(data: &[u8]) {
    // A reader of frames: whatever they are, it says something.
    let _ = late(&VecPacket(data.to_vec()));
    let mut world = World {
        hold: Hold::new([Packet::default(); PACKETS], [Piece::default(); PIECES], PATIENCE),
        now: 0,
        places: BTreeMap::new(),
        firsts: BTreeSet::new(),
        offered: 0,
        tally: Tally::default(),
    };
    for step in data.chunks_exact(4) {
        world.step([step[0], step[1], step[2], step[3]]);
    }
}

/// One of each kind of course that things take, as [`run`] reads them.
pub fn examples() -> Vec<Vec<u8>> {
    let offer = |sender, id, start| [0, sender, id, start];
    let first = |sender, id| [5, sender, id, 0];
    let (pass, sweep) = (|time| [6, 0, 0, time], [7, 0, 0, 0]);
    let backwards = vec![offer(1, 1, 9), offer(1, 1, 5), offer(1, 1, 1), first(1, 1), sweep];
    let late = vec![offer(1, 1, 9), pass(60), offer(1, 2, 9), sweep, first(1, 1), sweep];
    let twice = vec![offer(1, 1, 9), offer(1, 1, 9), offer(1, 1, 8), first(1, 1), sweep];
    let strangers = vec![offer(1, 1, 9), first(1, 2), first(2, 1), sweep];
    let greedy = |piece: fn(u8) -> [u8; 4]| (0..40).map(piece).chain([first(1, 1), sweep]).collect::<Vec<_>>();
    let mut all = vec![backwards, late, twice, strangers];
    all.push(greedy(|number| [0, 1, 1, number]));
    all.push(greedy(|number| [0, 1, number, number]));
    all.push(greedy(|number| [0, number, 1, number]));
    all.push(greedy(|number| [0, number, number / 8, number]));
    all.push(greedy(|number| {
        [if number % 5 == 4 { 6 } else { 0 }, number, number / 8, number]
    }));
    all.push(greedy(|number| {
        [if number % 7 == 6 { 5 } else { 0 }, number % 3, 1, number]
    }));
    all.into_iter().map(Vec::into_flattened).collect()
}

struct World {
    hold: Hold<[Packet; PACKETS], [Piece; PIECES]>,
    now: u64,
    /// What was put where last.
    places: BTreeMap<usize, Id>,
    /// Packets whose first fragment has come.
    firsts: BTreeSet<(u8, u8)>,
    offered: u32,
    tally: Tally,
}

fn fragment((sender, id, start): Id) -> Fragment {
    let mut bytes = [0; 20];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&28_u16.to_be_bytes());
    bytes[5] = id;
    bytes[6..8].copy_from_slice(&(0x2000 | (start / 8)).to_be_bytes());
    bytes[9] = 17;
    bytes[12..16].copy_from_slice(&[192, 168, 10, sender]);
    bytes[16..20].copy_from_slice(&[198, 51, 100, 7]);
    Fragment::new(Direction::Outbound, [0; 16], &Header::from_bytes(bytes))
}

impl World {
    fn step(&mut self, [what, a, b, c]: [u8; 4]) {
        let packet = (a % 8, b % 4);
        match what % 8 {
            0..=4 => self.offer((packet.0, packet.1, 8 + u16::from(c % 64) * 8)),
            5 => {
                self.firsts.insert(packet);
            }
            6 => self.now += u64::from(c % 64),
            _ => self.sweep(),
        }
        self.check();
    }

    fn offer(&mut self, id: Id) {
        let before = self.hold.len();
        let displaced = self.tally.displaced;
        let placed = self.hold.offer(&fragment(id), self.now, &mut self.tally);
        let gone = usize::try_from(self.tally.displaced - displaced).expect("a small count");
        if let Ok(place) = placed {
            assert!(place < PIECES);
            self.places.insert(place, id);
            self.offered += 1;
        }
        assert_eq!(self.hold.len(), before - gone + usize::from(placed.is_ok()));
    }

    fn sweep(&mut self) {
        let (firsts, places) = (&self.firsts, &self.places);
        let mut given: Vec<Id> = Vec::new();
        let has_first = |of: &Fragment| {
            firsts
                .iter()
                .any(|(sender, id)| fragment((*sender, *id, 8)).is_of_packet(of))
        };
        self.hold
            .sweep(self.now, has_first, |place| given.push(places[&place]), &mut self.tally);
        let mut done = BTreeSet::new();
        for pieces in given.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (sender, id, _) = pieces[0];
            assert!(firsts.contains(&(sender, id)), "its first has not come");
            assert!(done.insert((sender, id)), "not together");
            assert!(pieces.is_sorted_by(|a, b| a.2 < b.2), "not in order: {pieces:?}");
        }
        // What was sent on is complete, or begins anew.
        self.firsts.clear();
        let mut rest = Tally::default();
        self.hold.sweep(
            self.now + PATIENCE + 1,
            |_| false,
            |_| panic!("given back without a first"),
            &mut rest,
        );
        self.tally.expired += rest.expired;
        assert!(self.hold.is_empty(), "something outlives its time");
    }

    fn check(&self) {
        let Tally {
            released,
            expired,
            displaced,
        } = self.tally;
        let held = self.offered - released - expired - displaced;
        assert_eq!(
            u32::try_from(self.hold.len()).expect("a small count"),
            held,
            "fragments are lost or doubled"
        );
        assert!(self.hold.len() <= PIECES);
        for sender in 0..8 {
            let (packets, pieces) = self.hold.of_sender(&fragment((sender, 0, 8)));
            assert!(packets <= OWN_PACKETS && pieces <= OWN_PIECES, "{packets}, {pieces}");
        }
    }
}
