//! One record of the session table: its state word, what it translates to what, and how its life begins and ends.
//!
//! A record is 64 bytes, one cache line, all [`Word`]s. The state word holds generation, phase and time of last use
//! together, so that every transition (use, TCP state, expiry, death) is one compare-and-swap: a record that was used a
//! moment ago cannot be ended by somebody who read it before. Whoever wins the step from live to dead deletes the table
//! entries; to everybody else a dead record, or one of another generation, is absent.

mod state;

pub use self::state::{Phase, State};
use crate::{
    env::Side,
    layout::{FlowKey, SessionRef, Transport},
    time::Tick,
    wire::port::Port,
    word::Word,
};

/// How a record came by its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hold {
    /// An endpoint-independent mapping: it holds its port for one LAN endpoint alone.
    Mapping = 1,
    /// A session of a mapping, which holds the port.
    Member = 2,
    /// A session on a shared port: it alone has this remote address and port there.
    Overlap = 3,
}

impl Hold {
    #[inline(always)]
    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Mapping,
            2 => Self::Member,
            _ => Self::Overlap,
        }
    }

    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "the discriminant of a repr(u8) enum")]
    const fn number(self) -> u8 {
        self as u8
    }
}

/// What a record says, apart from its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Protocol.
    pub transport: Transport,
    /// How the port is held.
    pub hold: Hold,
    /// LAN host.
    pub inside: [u8; 4],
    /// LAN host's port or query identifier.
    pub inside_port: Port,
    /// The shared address.
    pub external: [u8; 4],
    /// Port of the set.
    pub external_port: Port,
    /// Its position in the set.
    pub ordinal: u16,
    /// The phase it starts its life in.
    pub first: Phase,
    /// Remote host; zeros for a mapping.
    pub remote: [u8; 4],
    /// Remote port; zero for a mapping and for ICMP.
    pub remote_port: Port,
    /// The outer address of the tunnel's far end for this remote: the border relay or another customer edge.
    pub far_end: [u8; 16],
    /// Next hop towards that far end, index into HOPS.
    pub wan_hop: u16,
    /// Next hop towards the LAN host, index into HOPS.
    pub lan_hop: u16,
    /// When the record was made.
    pub created: Tick,
    /// For [`Hold::Member`]: the mapping.
    pub mapping: SessionRef,
}

impl Facts {
    /// Nothing known yet: a session on a port that is still to be chosen.
    pub const EMPTY: Self = Self {
        transport: Transport::Udp,
        hold: Hold::Overlap,
        inside: [0; 4],
        inside_port: Port(0),
        external: [0; 4],
        external_port: Port(0),
        ordinal: 0,
        first: Phase::Udp,
        remote: [0; 4],
        remote_port: Port(0),
        far_end: [0; 16],
        wan_hop: 0,
        lan_hop: 0,
        created: Tick(0),
        mapping: SessionRef { slot: 0, generation: 0 },
    };

    /// Key in INSIDE.
    #[inline(always)]
    pub const fn inside_key(&self) -> FlowKey {
        FlowKey::new(
            self.transport,
            self.inside,
            self.inside_port,
            self.remote,
            self.remote_port,
        )
    }

    /// Key in OUTSIDE.
    #[inline(always)]
    pub const fn outside_key(&self) -> FlowKey {
        FlowKey::new(
            self.transport,
            self.external,
            self.external_port,
            self.remote,
            self.remote_port,
        )
    }
}

/// The record. Words: state; inside | its port | external port; remote | its port | protocol | hold; external | ordinal |
/// first phase, these three in the order of memory; far end (two); created | WAN hop | LAN hop; mapping's generation and slot.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Session([Word; 8]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Session>() == 64);

impl Session {
    /// Bytes of a record.
    pub const SIZE: usize = 64;

    /// The state, as it is now.
    #[inline(always)]
    pub fn state(&self) -> State {
        State::from_word(self.0[0].load())
    }

    /// Goes from one state to the next, unless somebody was faster.
    #[inline(always)]
    #[must_use]
    pub fn advance(&self, from: State, to: State) -> bool {
        self.0[0].compare_exchange(from.to_word(), to.to_word())
    }

    /// Notes a packet's use, which takes the record from the phase `before` to `after`, in the state that was just read. False
    /// where another packet has taken it to a phase of its own meanwhile.
    #[inline(always)]
    #[must_use]
    pub fn note_use(&self, seen: State, before: Phase, after: Phase, now: Tick) -> bool {
        let next = State {
            phase: after,
            used: now,
            ..seen
        };
        if seen.phase == before && self.advance(seen, next) {
            return true;
        }
        // Another's use at this moment is as good as ours, and so is its change of phase where it led to the same.
        let state = self.state();
        state.generation == seen.generation && state.phase == after
    }

    /// The facts, if the record is still of that generation and alive after they were read.
    #[inline(always)]
    pub fn read(&self, generation: u32) -> Option<(State, Facts)> {
        let state = self.state();
        if state.generation != generation || !state.phase.is_live() {
            return None;
        }
        let facts = self.facts();
        // A processor that was held up here for milliseconds may have read the next life's facts.
        self.is_alive(generation).then_some((state, facts))
    }

    /// The generation of the record, if it is alive and that flow's: whose it is is read between two looks at its state, since the
    /// slot may go on to another life at any moment.
    #[inline(always)]
    pub fn life_of(&self, side: Side, key: &FlowKey) -> Option<u32> {
        let state = self.state();
        (self.is_of(side, key) && state.phase.is_live() && self.is_alive(state.generation)).then_some(state.generation)
    }

    /// Which life of the record in that slot it is and what it says, if it is alive and that flow's.
    #[inline(always)]
    pub fn read_of(&self, slot: u32, side: Side, key: &FlowKey) -> Option<(SessionRef, State, Facts)> {
        let word = self.0[0].load();
        if !State::is_live(word) || !self.is_of(side, key) {
            return None;
        }
        let state = State::from_word(word);
        let (generation, facts) = (state.generation, self.facts());
        // As above, and for the facts as well.
        self.is_alive(generation)
            .then_some((SessionRef { slot, generation }, state, facts))
    }

    /// Whether the record is of that generation and alive.
    #[inline(always)]
    pub fn is_alive(&self, generation: u32) -> bool {
        let word = self.0[0].load();
        State::from_word(word).generation == generation && State::is_live(word)
    }

    /// Whether the record's flow has this key in that table.
    #[inline(always)]
    pub fn is_of(&self, side: Side, key: &FlowKey) -> bool {
        // Bytes in the order of memory, the first one lowest.
        let endpoint =
            |address, port| u64::from(u32::from_le_bytes(address)) | u64::from(u16::from_le_bytes(port)) << 32;
        let local = endpoint(key.local, key.local_port);
        let remote = endpoint(key.remote, key.remote_port) | u64::from(key.protocol) << 48;
        match side {
            Side::Inside => self.has_words(side, local, remote, 0),
            Side::Outside => self.has_words(side, local << 16, remote, local),
        }
    }

    /// Whether the flows of both records have the same key in that table.
    #[inline(always)]
    pub fn is_like(&self, side: Side, other: &Self) -> bool {
        let [_, ends, remote, external, ..] = &other.0;
        self.has_words(
            side,
            ends.load().to_le(),
            remote.load().to_le(),
            external.load().to_le(),
        )
    }

    /// Whether those parts of three words that make the key are these. One comparison, because the kernel's verifier goes through what
    /// follows once for every way that leads to it.
    #[inline(always)]
    fn has_words(&self, side: Side, ends: u64, remote: u64, external: u64) -> bool {
        let ends = ends ^ self.0[1].load().to_le();
        let local = match side {
            // All but the external port.
            Side::Inside => ends << 16,
            Side::Outside => (external ^ self.0[3].load().to_le()) << 32 | ends >> 48,
        };
        // All but the hold.
        local | (remote ^ self.0[2].load().to_le()) << 8 == 0
    }

    /// The facts, whatever the state: for who holds the record in Building or Dead, and for reports that check the state after.
    #[inline(always)]
    pub fn facts(&self) -> Facts {
        let [i0, i1, i2, i3, ip0, ip1, ep0, ep1] = self.0[1].load().to_ne_bytes();
        let [r0, r1, r2, r3, rp0, rp1, protocol, hold] = self.0[2].load().to_ne_bytes();
        let [e0, e1, e2, e3, o0, o1, first, _] = self.0[3].load().to_ne_bytes();
        let [f0, f1, f2, f3, f4, f5, f6, f7] = self.0[4].load().to_ne_bytes();
        let [g0, g1, g2, g3, g4, g5, g6, g7] = self.0[5].load().to_ne_bytes();
        let [c0, c1, c2, c3, w0, w1, l0, l1] = self.0[6].load().to_be_bytes();
        let [m0, m1, m2, m3, s0, s1, s2, s3] = self.0[7].load().to_be_bytes();
        Facts {
            transport: match Transport::from_protocol(protocol) {
                Some(transport) => transport,
                None => Transport::Udp,
            },
            hold: Hold::from_number(hold),
            inside: [i0, i1, i2, i3],
            inside_port: Port::from_bytes([ip0, ip1]),
            external: [e0, e1, e2, e3],
            external_port: Port::from_bytes([ep0, ep1]),
            ordinal: u16::from_ne_bytes([o0, o1]),
            first: Phase::from_number(first),
            remote: [r0, r1, r2, r3],
            remote_port: Port::from_bytes([rp0, rp1]),
            far_end: [f0, f1, f2, f3, f4, f5, f6, f7, g0, g1, g2, g3, g4, g5, g6, g7],
            wan_hop: u16::from_be_bytes([w0, w1]),
            lan_hop: u16::from_be_bytes([l0, l1]),
            created: Tick(u32::from_be_bytes([c0, c1, c2, c3])),
            mapping: SessionRef {
                generation: u32::from_be_bytes([m0, m1, m2, m3]),
                slot: u32::from_be_bytes([s0, s1, s2, s3]),
            },
        }
    }

    /// The flow's key in that table, whatever the state.
    #[inline(always)]
    pub fn key(&self, side: Side) -> FlowKey {
        let facts = self.facts();
        match side {
            Side::Inside => facts.inside_key(),
            Side::Outside => facts.outside_key(),
        }
    }

    /// The protocol, whatever the state.
    #[inline(always)]
    pub fn transport(&self) -> Transport {
        let [.., protocol, _] = self.0[2].load().to_ne_bytes();
        match Transport::from_protocol(protocol) {
            Some(transport) => transport,
            None => Transport::Udp,
        }
    }

    /// Takes a free record into Building; gives the state it is in now, or nothing if the record is not free.
    #[inline(always)]
    pub fn begin(&self, now: Tick) -> Option<State> {
        let old = self.state();
        let new = State {
            generation: old.generation.wrapping_add(1) & State::GENERATION_MASK,
            phase: Phase::Building,
            used: now,
        };
        (matches!(old.phase, Phase::Free) && self.advance(old, new)).then_some(new)
    }

    /// Writes the facts; only for who holds the record in Building.
    #[inline(always)]
    pub fn write(&self, facts: &Facts) {
        self.write_ends(facts);
        self.write_ways(facts);
    }

    /// Writes who talks to whom, and by which port.
    #[inline(always)]
    pub fn write_ends(&self, facts: &Facts) {
        let [i0, i1, i2, i3] = facts.inside;
        let [ip0, ip1] = facts.inside_port.to_bytes();
        let [ep0, ep1] = facts.external_port.to_bytes();
        self.0[1].store(u64::from_ne_bytes([i0, i1, i2, i3, ip0, ip1, ep0, ep1]));
        let [r0, r1, r2, r3] = facts.remote;
        let [rp0, rp1] = facts.remote_port.to_bytes();
        self.0[2].store(u64::from_ne_bytes([
            r0,
            r1,
            r2,
            r3,
            rp0,
            rp1,
            facts.transport.protocol(),
            facts.hold.number(),
        ]));
        let [e0, e1, e2, e3] = facts.external;
        let [o0, o1] = facts.ordinal.to_ne_bytes();
        self.0[3].store(u64::from_ne_bytes([e0, e1, e2, e3, o0, o1, facts.first.number(), 0]));
        self.set_mapping(facts.mapping);
    }

    /// Writes where packets go.
    #[inline(always)]
    pub fn write_ways(&self, facts: &Facts) {
        let [f0, f1, f2, f3, f4, f5, f6, f7, g0, g1, g2, g3, g4, g5, g6, g7] = facts.far_end;
        self.0[4].store(u64::from_ne_bytes([f0, f1, f2, f3, f4, f5, f6, f7]));
        self.0[5].store(u64::from_ne_bytes([g0, g1, g2, g3, g4, g5, g6, g7]));
        self.0[6].store(hops_word(facts.created, facts.wan_hop, facts.lan_hop));
    }

    /// Puts another port into a record in Building.
    #[inline(always)]
    pub fn set_port(&self, external_port: Port, ordinal: u16) {
        let [i0, i1, i2, i3, ip0, ip1, _, _] = self.0[1].load().to_ne_bytes();
        let [ep0, ep1] = external_port.to_bytes();
        self.0[1].store(u64::from_ne_bytes([i0, i1, i2, i3, ip0, ip1, ep0, ep1]));
        let [e0, e1, e2, e3, _, _, first, _] = self.0[3].load().to_ne_bytes();
        let [o0, o1] = ordinal.to_ne_bytes();
        self.0[3].store(u64::from_ne_bytes([e0, e1, e2, e3, o0, o1, first, 0]));
    }

    /// Makes a record in Building a member of a mapping, whose port it gets.
    #[inline(always)]
    pub fn set_member(&self, mapping: SessionRef, external_port: Port, ordinal: u16) {
        self.set_port(external_port, ordinal);
        let [r0, r1, r2, r3, rp0, rp1, protocol, _] = self.0[2].load().to_ne_bytes();
        self.0[2].store(u64::from_ne_bytes([
            r0,
            r1,
            r2,
            r3,
            rp0,
            rp1,
            protocol,
            Hold::Member.number(),
        ]));
        self.set_mapping(mapping);
    }

    /// What a mapping's record has in the place of a mapping of its own: its generation, marked, and no permission yet.
    #[inline(always)]
    pub const fn no_permissions(generation: u32) -> SessionRef {
        SessionRef {
            generation: generation | Self::COUNTS_PERMISSIONS,
            slot: 0,
        }
    }

    /// Counts one permission more (1) or less (-1, as it wraps) of the mapping of that generation; false where there are `limit`, or
    /// where the record is another one's by now.
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "the word is a mark and a count, 32 bits each"
    )]
    pub fn count_permission(&self, generation: u32, one: u64, limit: u32) -> bool {
        // As in `port::take_share`: each failure is another processor's success.
        for _ in 0..4 {
            let word = self.0[7].load();
            let (mark, count) = ((word >> 32) as u32, word as u32);
            if mark != generation | Self::COUNTS_PERMISSIONS || (one == 1 && count >= limit) {
                return false;
            }
            if self.0[7].compare_exchange(word, word.wrapping_add(one)) {
                return true;
            }
        }
        false
    }

    const COUNTS_PERMISSIONS: u32 = 1 << 31;

    #[inline(always)]
    fn set_mapping(&self, mapping: SessionRef) {
        let [m0, m1, m2, m3] = mapping.generation.to_be_bytes();
        let [s0, s1, s2, s3] = mapping.slot.to_be_bytes();
        self.0[7].store(u64::from_be_bytes([m0, m1, m2, m3, s0, s1, s2, s3]));
    }

    /// Points the record, of which `facts` were read, at other next hops; nothing happens where it has changed since: the slot
    /// may have gone on to another life.
    #[inline(always)]
    pub fn set_hops(&self, facts: &Facts, wan_hop: u16, lan_hop: u16) {
        let old = hops_word(facts.created, facts.wan_hop, facts.lan_hop);
        // Where another packet was faster, its route is as new as ours.
        let _ = self.0[6].compare_exchange(old, hops_word(facts.created, wan_hop, lan_hop));
    }

    /// A record from the eight words that user space reads out of SESSIONS.
    pub fn from_words(words: [u64; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = words;
        Self([
            Word::new(a),
            Word::new(b),
            Word::new(c),
            Word::new(d),
            Word::new(e),
            Word::new(f),
            Word::new(g),
            Word::new(h),
        ])
    }
}

#[inline(always)]
const fn hops_word(created: Tick, wan_hop: u16, lan_hop: u16) -> u64 {
    let [c0, c1, c2, c3] = created.0.to_be_bytes();
    let [w0, w1] = wan_hop.to_be_bytes();
    let [l0, l1] = lan_hop.to_be_bytes();
    u64::from_be_bytes([c0, c1, c2, c3, w0, w1, l0, l1])
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn facts() -> Facts {
        Facts {
            transport: Transport::Tcp,
            hold: Hold::Member,
            inside: [192, 168, 1, 10],
            inside_port: Port(40_000),
            external: [192, 0, 2, 18],
            external_port: Port(1232),
            ordinal: 511,
            first: Phase::TcpOpening,
            remote: [198, 51, 100, 7],
            remote_port: Port(443),
            far_end: core::array::from_fn(|i| u8::try_from(i).unwrap_or(0)),
            wan_hop: 3,
            lan_hop: 77,
            created: Tick(123),
            mapping: SessionRef {
                slot: 60_000,
                generation: 0x12_3456,
            },
        }
    }

    #[test]
    fn facts_come_back_as_they_were_written() {
        let record = Session::default();
        let state = record.begin(Tick(5)).unwrap();
        record.write(&facts());
        assert_eq!(record.facts(), facts());
        assert_eq!(record.read(state.generation), None, "building is not live");
        assert!(record.advance(
            state,
            State {
                phase: Phase::TcpOpening,
                ..state
            }
        ));
        assert_eq!(record.read(state.generation).map(|(_, f)| f), Some(facts()));
        assert_eq!(record.read(state.generation + 1), None, "another generation is absent");
    }

    #[test]
    fn setting_port_and_mapping_changes_nothing_else() {
        let record = Session::default();
        record.write(&Facts {
            hold: Hold::Overlap,
            external_port: Port(9),
            ordinal: 9,
            mapping: SessionRef::default(),
            ..facts()
        });
        record.set_member(facts().mapping, facts().external_port, facts().ordinal);
        assert_eq!(record.facts(), facts());
    }

    #[test]
    fn a_record_used_since_cannot_be_ended_by_who_read_it_before() {
        let record = Session::default();
        let building = record.begin(Tick(0)).unwrap();
        let live = State {
            phase: Phase::Udp,
            ..building
        };
        assert!(record.advance(building, live));
        let seen = record.state();
        assert!(record.advance(seen, State { used: Tick(9), ..seen }));
        assert!(!record.advance(
            seen,
            State {
                phase: Phase::Dead,
                ..seen
            }
        ));
    }

    #[test]
    fn every_state_survives_the_word_which_says_whether_it_is_live() {
        for phase in Phase::ALL {
            let state = State {
                generation: 0xab_cdef,
                phase,
                used: Tick(0x1234_5678),
            };
            assert_eq!(State::from_word(state.to_word()), state);
            assert_eq!(State::is_live(state.to_word()), phase.is_live());
        }
    }
}
