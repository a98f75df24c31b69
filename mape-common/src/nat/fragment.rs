//! Packets that come in fragments: what their later fragments, which have no ports, must know of the first (RFC 7597 §8.3.2).
//!
//! A table of records in sets of [`WAYS`]; a keyed hash of who sends which packet says in which set. A record begins its life
//! with a first fragment that was let through, and ends it when as many bytes as the packet has have followed, or a time after
//! the first. So the table's size is how many packets can be incomplete at once, not how many come. It allocates nothing, and
//! a sender has at most half of a set: more displace its own. What is incomplete gives way to others only where its set is
//! full and it is [`YOUNG`] no longer.
//!
//! A record's first word is its state, hash and age together: a writer takes it by compare-and-swap, a reader reads it again
//! after the rest, so nobody follows half a record.

use super::overlap::Fingerprint;
use crate::{
    env::{Env, Search, Tally},
    layout::{Config, FRAGMENTS, Gauge, SessionRef},
    time::Tick,
    verdict::{Direction, Reason},
    wire::{ipv4::Header, port::Port},
    word::Word,
};

/// Records of a set.
const WAYS: u32 = 8;
/// Most records of a set that one sender has.
const SHARE: u32 = WAYS / 2;
/// How long an incomplete packet is safe from others: its fragments follow each other closely.
const YOUNG: Tick = Tick::at_least_seconds(2);
/// Most bytes after the header that a packet can have, and that are let through for one.
const LONGEST: u64 = 65_535 - 20;

/// Nobody's, or a packet's that is complete or forgotten.
const FREE: u64 = 0;
/// Somebody is writing the record.
const BUSY: u64 = 1 << 56;
/// A packet's whose fragments are coming.
const OPEN: u64 = 2 << 56;
/// A packet's whose bytes have all come; fragments that come twice still follow.
const COMPLETE: u64 = 3 << 56;
const KIND: u64 = 0xff << 56;
const TAG: u64 = 0xff_ffff << 32;
const AGE: u64 = 0xffff_ffff;

/// The record. Words: kind | tag | when the first fragment came; source | destination; identification | the translated one |
/// bytes of the first fragment | protocol | direction; outer source (two); what the packet follows; end, once the last
/// fragment is seen | bytes seen. The last word is not the packet's: it counts identifications, see [`identification`].
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Record([Word; 8]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Record>() == 64);

impl Record {
    /// A record from the words that user space reads out of FRAGMENTS.
    pub fn from_words(words: [u64; 8]) -> Self {
        Self(words.map(Word::new))
    }

    /// Whether the record is that packet's.
    #[inline(always)]
    fn is_of(&self, fragment: &Fragment) -> bool {
        let [addresses, packet, outer_high, outer_low] = fragment.key;
        self.0[1].load() == addresses
            && self.0[2].load() & Fragment::PACKET == packet
            && self.0[3].load() == outer_high
            && self.0[4].load() == outer_low
    }

    /// Whether the record, whose first word is `state`, is that packet's, and the packet not forgotten yet.
    #[inline(always)]
    fn is_current(&self, state: u64, hash: u64, config: &Config, fragment: &Fragment, now: Tick) -> bool {
        matches!(state & KIND, OPEN | COMPLETE)
            && state & TAG == tag(hash)
            && age(state, now) <= config.fragment_timeout
            && self.is_of(fragment)
    }

    /// Counts a fragment's bytes; the packet is complete when there are as many as its last fragment ends with.
    #[inline(always)]
    fn count(&self, state: u64, fragment: &Fragment) -> Result<(), Reason> {
        let seen = self.0[6].load();
        let len = u64::from(fragment.len());
        if (seen & AGE).saturating_add(len) > LONGEST {
            return Err(Reason::FragmentTooLong);
        }
        let end = if fragment.is_last() && seen >> 32 == 0 {
            u64::from(fragment.start()).saturating_add(len) << 32
        } else {
            0
        };
        let seen = self.0[6].add(end | len).wrapping_add(end | len);
        if seen >> 32 != 0 && seen & AGE >= seen >> 32 {
            // Where somebody else was faster, that is as good.
            let _ = self.0[0].compare_exchange(state, state & !KIND | COMPLETE);
        }
        Ok(())
    }
}

/// One fragment: whose it is, and which bytes of the packet it holds. As numbers, which a BPF program writes whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// As in a record: addresses; identification, protocol and direction; outer source.
    key: [u64; 4],
    /// First byte, bytes, and whether it is the last.
    place: u64,
}

impl Fragment {
    /// The bits of the second word of a key.
    const PACKET: u64 = 0xffff_0000_0000_ffff;

    /// The fragment with this header, whose length was checked. `outer` is who sent it through the tunnel, zeros for nobody:
    /// only what came from there follows (RFC 7597 §8.1).
    #[inline(always)]
    pub const fn new(direction: Direction, outer: [u8; 16], header: &Header) -> Self {
        let [a, b, c, d] = header.source();
        let [e, f, g, h] = header.destination();
        let [i, j] = header.identification().to_be_bytes();
        let way = match direction {
            Direction::Outbound => 1,
            Direction::Inbound => 2,
        };
        let [o0, o1, o2, o3, o4, o5, o6, o7, p0, p1, p2, p3, p4, p5, p6, p7] = outer;
        let [k, l] = header.offset().to_be_bytes();
        let [m, n] = header.payload_len().to_be_bytes();
        let last = if header.has_more() { 0 } else { 1 };
        Self {
            key: [
                u64::from_be_bytes([a, b, c, d, e, f, g, h]),
                u64::from_be_bytes([i, j, 0, 0, 0, 0, header.protocol().0, way]),
                u64::from_ne_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
                u64::from_ne_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
            ],
            place: u64::from_be_bytes([0, 0, 0, last, k, l, m, n]),
        }
    }

    /// Whether another fragment is of the same packet.
    #[inline(always)]
    pub fn is_of_packet(&self, other: &Self) -> bool {
        self.key == other.key
    }

    /// Whether another fragment is from the same sender, as far as its addresses say.
    #[inline(always)]
    pub const fn is_of_sender(&self, other: &Self) -> bool {
        let ([a, _, b, c], [d, _, e, f]) = (self.key, other.key);
        a >> 32 == d >> 32 && b == e && c == f
    }

    /// First byte of the packet that it holds.
    #[inline(always)]
    pub const fn start(&self) -> u16 {
        let [.., a, b, _, _] = self.place.to_be_bytes();
        u16::from_be_bytes([a, b])
    }

    #[inline(always)]
    const fn len(&self) -> u16 {
        let [.., a, b] = self.place.to_be_bytes();
        u16::from_be_bytes([a, b])
    }

    #[inline(always)]
    const fn is_last(&self) -> bool {
        self.place >> 32 != 0
    }

    /// Hashed with the gateway's secret: nobody can choose who shares a set with him.
    #[inline(always)]
    fn hash(&self, config: &Config) -> u64 {
        let [a, b, c, d] = self.key;
        let hash = Fingerprint(config.hash_key[1]).with(config, a).with(config, b);
        hash.with(config, c).with(config, d).0
    }
}

/// What a first fragment leaves for those after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// The session on a customer edge, the ports on a border relay; with [`Note::BY_STACK`] where the packet takes the slow path.
    follows: u64,
    /// The identification that the packet's fragments leave with. As wide as a register, as all that is written here.
    identification: u64,
}

impl Note {
    /// Nothing yet.
    pub const EMPTY: Self = Self {
        follows: 0,
        identification: 0,
    };

    /// The packet takes the slow path, and so do its later fragments, small as they may be: they would overtake the first.
    const BY_STACK: u64 = 1 << 63;

    /// The first fragment has been left to the stack, where the tunnel device will find out what it follows.
    pub const LEFT_TO_STACK: Self = Self {
        follows: u64::MAX,
        identification: 0,
    };

    /// The same, for a packet that takes the slow path.
    #[inline(always)]
    #[must_use]
    pub const fn by_stack(self) -> Self {
        Self {
            follows: self.follows | Self::BY_STACK,
            ..self
        }
    }

    /// The packet is a session's; its fragments leave with that identification.
    #[inline(always)]
    pub const fn of_session(session: SessionRef, identification: u16) -> Self {
        let [a, b, c, d] = session.slot.to_be_bytes();
        let [e, f, g, h] = session.generation.to_be_bytes();
        let [i, j] = identification.to_be_bytes();
        Self {
            follows: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            identification: u64::from_be_bytes([0, 0, 0, 0, 0, 0, i, j]),
        }
    }

    /// The packet has these ports.
    #[inline(always)]
    pub const fn of_ports(source: Port, destination: Port) -> Self {
        let [a, b] = source.to_bytes();
        let [c, d] = destination.to_bytes();
        Self {
            follows: u64::from_be_bytes([0, 0, 0, 0, a, b, c, d]),
            identification: 0,
        }
    }

    /// The session.
    #[inline(always)]
    pub const fn session(&self) -> SessionRef {
        let [a, b, c, d, e, f, g, h] = (self.follows & !Self::BY_STACK).to_be_bytes();
        SessionRef {
            slot: u32::from_be_bytes([a, b, c, d]),
            generation: u32::from_be_bytes([e, f, g, h]),
        }
    }

    /// Source and destination port.
    #[inline(always)]
    pub const fn ports(&self) -> (Port, Port) {
        let [.., a, b, c, d] = self.follows.to_be_bytes();
        (Port::from_bytes([a, b]), Port::from_bytes([c, d]))
    }

    /// The identification, as it stands in a header.
    #[inline(always)]
    pub const fn identification(&self) -> u16 {
        let [.., a, b] = self.identification.to_be_bytes();
        u16::from_be_bytes([a, b])
    }
}

/// The record in that place of the set.
#[inline(always)]
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "masked")]
const fn index(hash: u64, way: u32) -> u32 {
    (hash as u32 & FRAGMENTS.wrapping_sub(WAYS)) | way
}

#[inline(always)]
const fn tag(hash: u64) -> u64 {
    (hash >> 8) & TAG
}

/// How long ago the first fragment came.
#[inline(always)]
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "the low half")]
const fn age(state: u64, now: Tick) -> Tick {
    now.since(Tick(state as u32))
}

#[inline(always)]
const fn state(kind: u64, tag: u64, now: Tick) -> u64 {
    let [a, b, c, d] = now.0.to_be_bytes();
    kind | tag | u64::from_be_bytes([0, 0, 0, 0, a, b, c, d])
}

/// A record that a new packet may have, and how gladly. Of several that are as good the first that is looked at: ages that are
/// compared with each other would lead the kernel's verifier through the search once for every order they can have. So would what it
/// knows of a choice that is none yet: ranks begin at a number that it does not know, the time, and the rest at any such number, each at
/// another one, for it knows of two copies that they are the same.
#[derive(Clone, Copy)]
struct Choice {
    rank: u32,
    way: u32,
    state: u64,
}

impl Choice {
    #[expect(clippy::as_conversions, reason = "half of it")]
    const fn none(begin: Tick, any: u64) -> Self {
        Self {
            rank: begin.0,
            way: (any >> 32) as u32,
            state: any,
        }
    }

    /// An incomplete packet's.
    const INCOMPLETE: u32 = 1;
    /// Nobody's.
    const UNUSED: u32 = 2;
    /// An older packet's with the same identification.
    const RENEWED: u32 = 3;

    #[inline(always)]
    const fn prefer(&mut self, begin: Tick, rank: u32, state: u64, way: u32) {
        if rank > self.rank(begin) {
            *self = Self {
                rank: begin.0.wrapping_add(rank),
                way,
                state,
            };
        }
    }

    /// Zero where nothing was found.
    #[inline(always)]
    const fn rank(self, begin: Tick) -> u32 {
        self.rank.wrapping_sub(begin.0)
    }
}

/// The search for the record of a new packet, a place of the set a step.
struct Choosing<'a, E> {
    env: &'a E,
    config: &'a Config,
    fragment: &'a Fragment,
    hash: u64,
    now: Tick,
    /// The place that is looked at first, by chance.
    begin: u32,
    /// The packet's own record, if its first fragment has come a moment ago.
    twice: Choice,
    best: Choice,
    /// One of the same sender's.
    own: Choice,
    /// How many those are, from the time on.
    owned: Tally,
}

impl<E: Env> Search for Choosing<'_, E> {
    #[inline(always)]
    fn step(&mut self, step: u32) -> bool {
        let way = self.begin.wrapping_add(step) & WAYS.wrapping_sub(1);
        let Some(record) = self.env.fragment(index(self.hash, way)) else {
            return false;
        };
        let state = record.0[0].load();
        let kind = state & KIND;
        let age = age(state, self.now);
        let is_gone = kind == FREE || age > self.config.fragment_timeout;
        if kind == BUSY {
            return true;
        }
        if !is_gone && state & TAG == tag(self.hash) && record.is_of(self.fragment) {
            if kind == OPEN && age < Tick::STALE {
                self.twice.prefer(self.now, Choice::RENEWED, state, way);
                return false;
            }
            // A sender that is fast enough uses its 65,536 identifications again (RFC 4963).
            self.best.prefer(self.now, Choice::RENEWED, state, way);
        } else if is_gone || kind == COMPLETE {
            self.best.prefer(self.now, Choice::UNUSED, state, way);
        } else {
            let [addresses, ..] = self.fragment.key;
            if record.0[1].load() >> 32 == addresses >> 32 {
                self.own.prefer(self.now, Choice::INCOMPLETE, state, way);
                self.owned.count(1);
            }
            if age >= YOUNG {
                self.best.prefer(self.now, Choice::INCOMPLETE, state, way);
            }
        }
        true
    }
}

/// Notes a packet by its first fragment, which is to be let through; `note` becomes what was noted before where this fragment
/// has come twice.
///
/// # Errors
/// [`Reason::FragmentOverlap`] for another first fragment of the same packet, [`Reason::FragmentTooLong`],
/// [`Reason::FragmentsExhausted`], [`Reason::Contended`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn note<E: Env>(env: &E, config: &Config, fragment: &Fragment, note: &mut Note, now: Tick) -> Result<(), Reason> {
    let hash = fragment.hash(config);
    let mut choosing = Choosing {
        env,
        config,
        fragment,
        hash,
        now,
        begin: env.random(),
        twice: Choice::none(now, hash >> 1),
        best: Choice::none(now, hash >> 2),
        own: Choice::none(now, hash >> 3),
        owned: Tally::from(now.0),
    };
    env.search(WAYS, &mut choosing);
    let Choosing {
        twice,
        best,
        own,
        owned,
        ..
    } = choosing;
    if twice.rank(now) != 0 {
        let record = env.fragment(index(hash, twice.way)).ok_or(Reason::Contended)?;
        if record.0[5].load() != Note::LEFT_TO_STACK.follows || *note == Note::LEFT_TO_STACK {
            return come_twice(record, twice.state, fragment, note);
        }
    }
    // What was left to the stack has come there.
    let chosen = if twice.rank(now) != 0 {
        twice
    } else if !owned.is_at_most(now.0, SHARE.wrapping_sub(1)) && best.rank(now) < Choice::RENEWED {
        own
    } else {
        best
    };
    if chosen.rank(now) == 0 {
        return Err(Reason::FragmentsExhausted);
    }
    let record = env.fragment(index(hash, chosen.way)).ok_or(Reason::Contended)?;
    if !record.0[0].compare_exchange(chosen.state, BUSY) {
        return Err(Reason::Contended);
    }
    write(record, fragment, note);
    // Nobody else writes here; an exchange, since on some processors a store may be seen before those above.
    if !record.0[0].compare_exchange(BUSY, state(OPEN, tag(hash), now)) {
        return Err(Reason::Contended);
    }
    if twice.rank(now) == 0 {
        env.raise(Gauge::Fragmented);
    }
    if chosen.rank(now) < Choice::UNUSED {
        env.raise(Gauge::FragmentsDisplaced);
    }
    Ok(())
}

/// Fills in a record that nobody else can follow.
#[inline(always)]
fn write(record: &Record, fragment: &Fragment, note: &Note) {
    let [addresses, packet, outer_high, outer_low] = fragment.key;
    record.0[1].store(addresses);
    record.0[2].store(packet | note.identification << 32 | u64::from(fragment.len()) << 16);
    record.0[3].store(outer_high);
    record.0[4].store(outer_low);
    record.0[5].store(note.follows);
    record.0[6].store(fragment.len().into());
}

/// The first fragment of a packet that was noted a moment ago: the same one again, or one that shall take its place at the
/// receiver.
#[inline(always)]
fn come_twice(record: &Record, state: u64, fragment: &Fragment, note: &mut Note) -> Result<(), Reason> {
    let packet = record.0[2].load();
    let known = record.0[5].load();
    if *note == Note::LEFT_TO_STACK && known & Note::BY_STACK != 0 {
        return Ok(());
    }
    // By whichever path it came before: those after it go on as they have begun.
    if (known ^ note.follows) & !Note::BY_STACK != 0 || (packet >> 16) & 0xffff != u64::from(fragment.len()) {
        return Err(Reason::FragmentOverlap);
    }
    note.identification = (packet >> 32) & 0xffff;
    record.count(state, fragment)
}

/// Finds what a later fragment follows: in the fast path, unless `STACK`.
///
/// # Errors
/// [`Reason::FragmentFirstMissing`], [`Reason::FragmentOverlap`] where it would replace bytes of the first fragment,
/// [`Reason::FragmentTooLong`], and [`Reason::FragmentByStack`] where the packet takes the slow path and this one shall too.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn follow<E: Env, const STACK: bool>(
    env: &E,
    config: &Config,
    fragment: &Fragment,
    note: &mut Note,
    now: Tick,
) -> Result<(), Reason> {
    let hash = fragment.hash(config);
    for way in 0..WAYS {
        let Some(record) = env.fragment(index(hash, way)) else {
            continue;
        };
        let state = record.0[0].load();
        if !record.is_current(state, hash, config, fragment, now) {
            continue;
        }
        let packet = record.0[2].load();
        note.identification = (packet >> 32) & 0xffff;
        note.follows = record.0[5].load();
        // Another packet's since the first look, unless it has only become complete.
        if (record.0[0].load() ^ state) & !KIND != 0 {
            continue;
        }
        if !STACK && note.follows & Note::BY_STACK != 0 {
            return Err(Reason::FragmentByStack);
        }
        if STACK && note.follows == Note::LEFT_TO_STACK.follows {
            continue;
        }
        if u64::from(fragment.start()) < (packet >> 16) & 0xffff {
            return Err(Reason::FragmentOverlap);
        }
        return record.count(state, fragment);
    }
    Err(Reason::FragmentFirstMissing)
}

/// Whether the first fragment of a packet has been let through, so that a later one would follow it. For who holds such ones; the
/// records are those of FRAGMENTS, by index.
pub fn is_noted<'a>(
    record: impl Fn(u32) -> Option<&'a Record>,
    config: &Config,
    fragment: &Fragment,
    now: Tick,
) -> bool {
    let hash = fragment.hash(config);
    (0..WAYS).filter_map(|way| record(index(hash, way))).any(|record| {
        let state = record.0[0].load();
        record.is_current(state, hash, config, fragment, now)
    })
}

/// The identification for a LAN host's packet that leaves in fragments: one of the port set's numbers, which no other customer
/// edge with the same address uses (RFC 7597 §8.3.3), each in its turn.
///
/// Two hosts behind the address may choose the same one towards the same remote host, which would put their fragments together
/// (RFC 7857 §10). A turn is counted for each remote host and protocol, begins at a number nobody else knows, and goes through the
/// whole set before one comes again: chance would repeat one of 240 within twenty packets.
#[inline(always)]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "halves of a hash and of a count"
)]
pub fn identification<E: Env>(env: &E, config: &Config, header: &Header) -> Option<u16> {
    let [a, b, c, d] = header.destination();
    let remote = u64::from_be_bytes([a, b, c, d, 0, 0, 0, header.protocol().0]);
    let hash = Fingerprint(config.hash_key[0]).with(config, remote).0;
    let turn = env.fragment(hash as u32 & FRAGMENTS.wrapping_sub(1))?.0[7].add(1) as u32;
    let ordinal = turn.wrapping_add((hash >> 32) as u32).checked_rem(config.ports)?;
    Some(config.port_set.port(ordinal)?.0)
}
