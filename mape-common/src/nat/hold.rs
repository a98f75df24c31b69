//! Fragments that come before the first of their packet: which are kept until it has come, and for how long.
//!
//! What is decided here is decided for user space, which has the frames; the programs only hand over what they cannot follow. The
//! arrays are the host's and say how much is kept. Nobody has more than a quarter of them, and where they are full what has waited
//! longest gives way: in a flood everything is kept for less time, and fragments out of order are seldom further than a moment apart.

use super::fragment::Fragment;

/// Most fragments of one packet: 65,515 bytes in pieces of 1,440.
const MOST: u32 = 48;
/// The share of the arrays that one sender may have: one part of so many.
const SHARE: u32 = 4;

/// A packet of which fragments are held.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet {
    /// One of its fragments; none = nobody's place.
    of: Option<Fragment>,
    /// When the oldest came, milliseconds.
    since: u64,
    /// Fragments held.
    pieces: u32,
}

/// A place for one fragment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Piece {
    /// The packet's place, and one more; zero = free.
    packet: u32,
    /// First byte in the packet.
    start: u16,
}

/// Why a fragment is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is held already, or another one of the same place.
    Twice,
    /// Its packet, or its sender, has as many as one may have.
    TooMany,
}

/// What happened to fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Given back to go on: their first has come.
    pub released: u32,
    /// Given up: their first has not come in time.
    pub expired: u32,
    /// Given up for others.
    pub displaced: u32,
}

/// What is held, in the host's arrays of [`Packet`] and [`Piece`].
#[derive(Debug)]
pub struct Hold<P, Q> {
    packets: P,
    pieces: Q,
    /// How long a fragment waits, milliseconds.
    patience: u64,
}

impl<P, Q> Hold<P, Q>
where
    P: AsRef<[Packet]> + AsMut<[Packet]>,
    Q: AsRef<[Piece]> + AsMut<[Piece]>,
{
    /// Nothing held yet. How many packets and how many fragments may be held is how long the arrays are.
    pub fn new(mut packets: P, mut pieces: Q, patience: u64) -> Self {
        packets.as_mut().fill(Packet::default());
        pieces.as_mut().fill(Piece::default());
        Self {
            packets,
            pieces,
            patience,
        }
    }

    /// Fragments held.
    pub fn len(&self) -> usize {
        self.pieces.as_ref().iter().filter(|piece| piece.packet != 0).count()
    }

    /// True where nothing is held.
    pub fn is_empty(&self) -> bool {
        self.packets.as_ref().iter().all(|packet| packet.of.is_none())
    }

    /// Packets and fragments held that are from the sender of this one.
    pub fn of_sender(&self, fragment: &Fragment) -> (usize, usize) {
        let own = self.packets.as_ref().iter().filter(|packet| is_from(packet, fragment));
        own.fold((0, 0), |(packets, pieces): (usize, usize), packet| {
            let more = usize::try_from(packet.pieces).unwrap_or(usize::MAX);
            (packets.saturating_add(1), pieces.saturating_add(more))
        })
    }

    /// Takes a fragment, at a time in milliseconds; gives the place where the host shall keep the frame.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn offer(&mut self, fragment: &Fragment, now: u64, tally: &mut Tally) -> Result<usize, Refusal> {
        let packet = match self.find(fragment) {
            Some(packet) => packet,
            None => self.begin(fragment, now, tally).ok_or(Refusal::TooMany)?,
        };
        let placed = self.place(packet, fragment, tally);
        if placed.is_err() {
            // A packet of which nothing is held is nobody's.
            self.free_if_empty(packet);
        }
        placed
    }

    fn find(&self, fragment: &Fragment) -> Option<usize> {
        self.packets
            .as_ref()
            .iter()
            .position(|packet| packet.of.is_some_and(|of| of.is_of_packet(fragment)))
    }

    /// Finds a place for one more packet.
    fn begin(&mut self, fragment: &Fragment, now: u64, tally: &mut Tally) -> Option<usize> {
        let (own, _) = self.of_sender(fragment);
        let is_share_used = own >= share(self.packets.as_ref().len());
        let free = self.packets.as_ref().iter().position(|packet| packet.of.is_none());
        let chosen = match free {
            Some(free) if !is_share_used => free,
            Some(_) | None => {
                let oldest = self.oldest(usize::MAX, |packet| !is_share_used || is_from(packet, fragment))?;
                tally.displaced = tally.displaced.saturating_add(self.drop_packet(oldest));
                oldest
            }
        };
        *self.packets.as_mut().get_mut(chosen)? = Packet {
            of: Some(*fragment),
            since: now,
            pieces: 0,
        };
        Some(chosen)
    }

    /// Finds a place for one more fragment of a packet.
    fn place(&mut self, packet: usize, fragment: &Fragment, tally: &mut Tally) -> Result<usize, Refusal> {
        let name = name(packet);
        let start = fragment.start();
        if self
            .pieces
            .as_ref()
            .iter()
            .any(|piece| piece.packet == name && piece.start == start)
        {
            return Err(Refusal::Twice);
        }
        let held = self.packets.as_ref().get(packet).map_or(MOST, |packet| packet.pieces);
        if held >= MOST {
            return Err(Refusal::TooMany);
        }
        let (_, own) = self.of_sender(fragment);
        let is_share_used = own >= share(self.pieces.as_ref().len());
        let mut free = self.pieces.as_ref().iter().position(|piece| piece.packet == 0);
        if is_share_used || free.is_none() {
            let oldest = self
                .oldest(packet, |packet| !is_share_used || is_from(packet, fragment))
                .ok_or(Refusal::TooMany)?;
            tally.displaced = tally.displaced.saturating_add(self.drop_packet(oldest));
            free = self.pieces.as_ref().iter().position(|piece| piece.packet == 0);
        }
        let place = free.ok_or(Refusal::TooMany)?;
        if let (Some(piece), Some(packet)) = (
            self.pieces.as_mut().get_mut(place),
            self.packets.as_mut().get_mut(packet),
        ) {
            *piece = Piece { packet: name, start };
            packet.pieces = packet.pieces.saturating_add(1);
        }
        Ok(place)
    }

    /// The packet that has waited longest of those that will do, but for one.
    fn oldest(&self, but: usize, will_do: impl Fn(&Packet) -> bool) -> Option<usize> {
        let all = self.packets.as_ref().iter().enumerate();
        let some = all.filter(|(index, packet)| *index != but && packet.of.is_some() && will_do(packet));
        some.min_by_key(|(_, packet)| packet.since).map(|(index, _)| index)
    }

    /// Lets go of a packet; gives how many fragments of it were held.
    fn drop_packet(&mut self, packet: usize) -> u32 {
        let name = name(packet);
        for piece in self.pieces.as_mut().iter_mut().filter(|piece| piece.packet == name) {
            piece.packet = 0;
        }
        match self.packets.as_mut().get_mut(packet) {
            Some(packet) => core::mem::take(packet).pieces,
            None => 0,
        }
    }

    fn free_if_empty(&mut self, packet: usize) {
        if let Some(packet) = self
            .packets
            .as_mut()
            .get_mut(packet)
            .filter(|packet| packet.pieces == 0)
        {
            *packet = Packet::default();
        }
    }

    /// Gives back the fragments of packets whose first has come, each packet's in order, and gives up those that have waited
    /// too long.
    pub fn sweep(
        &mut self,
        now: u64,
        mut has_first: impl FnMut(&Fragment) -> bool,
        mut give_back: impl FnMut(usize),
        tally: &mut Tally,
    ) {
        for packet in 0..self.packets.as_ref().len() {
            let Some((of, since)) = self
                .packets
                .as_ref()
                .get(packet)
                .and_then(|packet| packet.of.map(|of| (of, packet.since)))
            else {
                continue;
            };
            if has_first(&of) {
                while let Some(place) = self.next(packet) {
                    give_back(place);
                    tally.released = tally.released.saturating_add(1);
                }
                self.free_if_empty(packet);
            } else if now.saturating_sub(since) > self.patience {
                tally.expired = tally.expired.saturating_add(self.drop_packet(packet));
            }
        }
    }

    /// Lets go of the first held fragment of a packet.
    fn next(&mut self, packet: usize) -> Option<usize> {
        let name = name(packet);
        let own = self
            .pieces
            .as_ref()
            .iter()
            .enumerate()
            .filter(|(_, piece)| piece.packet == name);
        let (place, _) = own.min_by_key(|(_, piece)| piece.start)?;
        self.pieces.as_mut().get_mut(place)?.packet = 0;
        let packet = self.packets.as_mut().get_mut(packet)?;
        packet.pieces = packet.pieces.saturating_sub(1);
        Some(place)
    }
}

fn is_from(packet: &Packet, fragment: &Fragment) -> bool {
    packet.of.is_some_and(|of| of.is_of_sender(fragment))
}

/// A packet's place as it stands in a [`Piece`].
fn name(packet: usize) -> u32 {
    u32::try_from(packet).unwrap_or(u32::MAX).saturating_add(1)
}

/// How many of so many one sender may have, at least one.
fn share(of: usize) -> usize {
    let share = u32::try_from(of).unwrap_or(u32::MAX).div_ceil(SHARE).max(1);
    usize::try_from(share).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{verdict::Direction, wire::ipv4::Header};

    const PATIENCE: u64 = 1_000;

    /// The fragment of a packet that begins at that byte, 800 bytes long.
    fn fragment(sender: u8, id: u16, start: u16) -> Fragment {
        let mut bytes = [0; 20];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&820_u16.to_be_bytes());
        bytes[4..6].copy_from_slice(&id.to_be_bytes());
        bytes[6..8].copy_from_slice(&(0x2000 | (start / 8)).to_be_bytes());
        bytes[9] = 17;
        bytes[12..16].copy_from_slice(&[192, 168, 10, sender]);
        bytes[16..20].copy_from_slice(&[198, 51, 100, 7]);
        Fragment::new(Direction::Outbound, [0; 16], &Header::from_bytes(bytes))
    }

    type Bench = Hold<Vec<Packet>, Vec<Piece>>;

    fn bench(packets: usize, pieces: usize) -> Bench {
        Hold::new(
            vec![Packet::default(); packets],
            vec![Piece::default(); pieces],
            PATIENCE,
        )
    }

    fn offer(hold: &mut Bench, fragment: Fragment, now: u64) -> Result<usize, Refusal> {
        hold.offer(&fragment, now, &mut Tally::default())
    }

    fn sweep(hold: &mut Bench, now: u64, first: Option<Fragment>) -> (Vec<usize>, Tally) {
        let (mut places, mut tally) = (Vec::new(), Tally::default());
        let has_first = |of: &Fragment| first.is_some_and(|first| first.is_of_packet(of));
        hold.sweep(now, has_first, |place| places.push(place), &mut tally);
        (places, tally)
    }

    #[test]
    fn fragments_are_given_back_in_order_once_their_first_has_come() {
        let mut hold = bench(8, 32);
        let places: Vec<usize> = [2_400, 1_600, 800]
            .map(|start| offer(&mut hold, fragment(2, 7, start), 0).unwrap())
            .into();
        offer(&mut hold, fragment(2, 8, 800), 0).unwrap();
        assert_eq!(sweep(&mut hold, 1, None).0, []);
        let (given, tally) = sweep(&mut hold, 2, Some(fragment(2, 7, 0)));
        assert_eq!(given, [places[2], places[1], places[0]]);
        assert_eq!((tally.released, hold.len()), (3, 1), "the other packet waits on");
    }

    #[test]
    fn what_waits_too_long_is_given_up() {
        let mut hold = bench(8, 32);
        offer(&mut hold, fragment(2, 7, 800), 10).unwrap();
        assert_eq!(sweep(&mut hold, 10 + PATIENCE, None).1, Tally::default());
        let (given, tally) = sweep(&mut hold, 11 + PATIENCE, None);
        assert_eq!((given.len(), tally.expired), (0, 1));
        assert!(hold.is_empty());
    }

    #[test]
    fn the_same_place_of_a_packet_is_held_once() {
        let mut hold = bench(8, 32);
        offer(&mut hold, fragment(2, 7, 800), 0).unwrap();
        assert_eq!(offer(&mut hold, fragment(2, 7, 800), 1), Err(Refusal::Twice));
        assert_eq!(hold.len(), 1);
    }

    #[test]
    fn one_sender_displaces_only_its_own() {
        let mut hold = bench(16, 64);
        offer(&mut hold, fragment(3, 1, 800), 0).unwrap();
        let mut tally = Tally::default();
        for id in 0..1_000 {
            hold.offer(&fragment(2, id, 800), 1 + u64::from(id), &mut tally)
                .unwrap();
        }
        assert_eq!(tally.displaced, 996);
        assert_eq!(hold.len(), 5);
        let (given, _) = sweep(&mut hold, 1_000, Some(fragment(3, 1, 0)));
        assert_eq!(given.len(), 1, "the other sender's is still there");
    }

    #[test]
    fn one_packet_has_no_more_than_a_share_of_the_places() {
        let mut hold = bench(16, 64);
        let taken = (1..=100).filter(|number| offer(&mut hold, fragment(2, 7, number * 8), 0).is_ok());
        assert_eq!(taken.count(), 16);
        let mut hold = bench(16, 1_024);
        let taken = (1..=100).filter(|number| offer(&mut hold, fragment(2, 7, number * 8), 0).is_ok());
        assert_eq!(taken.count(), 48);
    }

    #[test]
    fn when_all_places_are_used_the_oldest_gives_way() {
        let mut hold = bench(16, 16);
        let mut tally = Tally::default();
        for sender in 0..20 {
            hold.offer(&fragment(sender, 1, 800), u64::from(sender), &mut tally)
                .unwrap();
        }
        assert_eq!((hold.len(), tally.displaced), (16, 4));
        let first = |sender| Some(fragment(sender, 1, 0));
        assert_eq!(sweep(&mut hold, 20, first(3)).0.len(), 0);
        assert_eq!(sweep(&mut hold, 20, first(4)).0.len(), 1);
    }

    #[test]
    fn arrays_of_no_length_hold_nothing() {
        let mut hold = bench(0, 0);
        assert_eq!(offer(&mut hold, fragment(2, 7, 800), 0), Err(Refusal::TooMany));
        let mut hold = bench(1, 0);
        assert_eq!(offer(&mut hold, fragment(2, 7, 800), 0), Err(Refusal::TooMany));
        assert!(hold.is_empty());
    }
}
