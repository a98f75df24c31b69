//! NICs and next hops: where a frame comes from and where it goes, as the data path sees it.
//!
//! A next hop's record belongs to one address on one NIC; who uses an index checks that it still does. Records of the
//! tunnel's far ends are written by user space, those of LAN hosts by the programs when a session is made.

use crate::{time::Tick, word::Word};

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address in the low 48 bits, first byte highest.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The address from the low 48 bits.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = bits.to_be_bytes();
        Self([a, b, c, d, e, f])
    }

    /// True for a group address (multicast or broadcast) and for all zeros.
    pub const fn is_unusable(self) -> bool {
        self.0[0] & 1 != 0 || self.to_bits() == 0
    }
}

const MAC_BITS: u32 = 48;
const MAC_MASK: u64 = (1 << MAC_BITS) - 1;

/// One NIC, by interface index. Words: `MTU << 48 | MAC`, `IPv4 address << 32 | flags`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Link([Word; 2]);

impl Link {
    /// The NIC is one of ours: an XDP program of ours is attached.
    pub const ATTACHED: u64 = 1;
    /// The program has run on this NIC: set by the program, which is the proof.
    pub const ALIVE: u64 = 2;
    /// The NIC is one of ours, but in the slow path only. It has no MAC address then, so that no frame is for it.
    pub const DETACHED: u64 = 4;

    /// The NIC's MAC address.
    #[inline(always)]
    pub fn mac(&self) -> u64 {
        self.0[0].load() & MAC_MASK
    }

    /// The NIC's MTU: the largest IP packet that leaves by it, in bytes.
    #[inline(always)]
    pub fn mtu(&self) -> u16 {
        high_bits(self.0[0].load())
    }

    /// [`Self::ATTACHED`], [`Self::ALIVE`], [`Self::DETACHED`].
    #[inline(always)]
    pub fn flags(&self) -> u64 {
        self.0[1].load() & 0xffff_ffff
    }

    /// Notes that the program runs here.
    #[inline(always)]
    pub fn set_alive(&self) {
        self.0[1].store(self.0[1].load() | Self::ATTACHED | Self::ALIVE);
    }

    /// The NIC's own IPv4 address, from which errors are sent; that of RFC 7600 §4.8 where it has none.
    #[inline(always)]
    pub fn address(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0[1].load().to_be_bytes();
        if a == 0 { [192, 0, 0, 8] } else { [a, b, c, d] }
    }

    /// The second word with the NIC's address in it.
    pub const fn with_address(flags: u64, address: [u8; 4]) -> u64 {
        let [a, b, c, d] = address;
        (flags & 0xffff_ffff) | u64::from_be_bytes([a, b, c, d, 0, 0, 0, 0])
    }

    /// A record from the words that user space reads out of LINKS.
    pub fn from_words(words: [u64; 2]) -> Self {
        let [a, b] = words;
        Self([Word::new(a), Word::new(b)])
    }

    /// The two words as user space writes them, not yet alive.
    pub const fn words(mac: Mac, mtu: u16) -> [u64; 2] {
        [pack(mac, mtu), Self::ATTACHED]
    }
}

/// One next hop. Words: `address << 32 | ifindex`, `MTU << 48 | destination MAC`, `when the stack was asked << 48 | source MAC`,
/// `path MTU << 48 | when it was learned << 32 | last confirmed`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct NextHop([Word; 4]);

/// A next hop, copied out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Kernel interface index.
    pub ifindex: u32,
    /// Largest IP packet on that NIC, bytes.
    pub mtu: u16,
    /// The neighbour's MAC address.
    pub destination: Mac,
    /// The NIC's.
    pub source: Mac,
}

impl NextHop {
    /// Address of a record whose neighbour is a tunnel's far end: no LAN host has it.
    pub const FAR_END: [u8; 4] = [0; 4];
    /// Index of no next hop: of a session whose packets go to a host of the same LAN (hairpinning, RFC 4787 §6).
    pub const HAIRPIN: u16 = u16::MAX;
    /// Index of no next hop: of a session whose LAN host the fast path has not seen yet, or which is this machine.
    pub const UNKNOWN: u16 = Self::HAIRPIN - 1;
    /// Key of a record that somebody is writing.
    const BUSY: u64 = u64::MAX;

    const fn key(address: [u8; 4], ifindex: u32) -> u64 {
        let [a, b, c, d] = address;
        let [e, f, g, h] = ifindex.to_be_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    #[inline(always)]
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "the low half is the interface index"
    )]
    const fn ifindex_of(key: u64) -> u32 {
        key as u32
    }

    /// The hop, if the record still belongs to `address`.
    #[inline(always)]
    pub fn get(&self, address: [u8; 4]) -> Option<Hop> {
        let key = self.0[0].load();
        let ifindex = Self::ifindex_of(key);
        if key != Self::key(address, ifindex) || ifindex == 0 {
            return None;
        }
        let to = self.0[1].load();
        let from = self.0[2].load();
        // Read again: the record may have been given to another address between the first look and here.
        if self.0[0].load() != key {
            return None;
        }
        Some(Hop {
            ifindex,
            mtu: high_bits(to),
            destination: Mac::from_bits(to),
            source: Mac::from_bits(from),
        })
    }

    /// The destination MAC address, whoever's record this is.
    #[inline(always)]
    pub fn destination(&self) -> u64 {
        self.0[1].load() & MAC_MASK
    }

    /// When a frame last came from that neighbour.
    #[inline(always)]
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "a tick has 32 bits"
    )]
    pub fn confirmed(&self) -> Tick {
        Tick(self.0[3].load() as u32)
    }

    /// Notes that a frame came from the neighbour.
    #[inline(always)]
    pub fn confirm(&self, now: Tick) {
        let word = self.0[3].load();
        let [a, b, c, d] = now.0.to_be_bytes();
        // Where another processor was faster, it has noted as much, or the path's MTU; the next frame confirms.
        let _ = self.0[3].compare_exchange(
            word,
            (word & !0xffff_ffff) | u64::from_be_bytes([0, 0, 0, 0, a, b, c, d]),
        );
    }

    /// Whether the neighbour has been silent for so long that a packet shall be left to the stack, which finds out whether it is still
    /// there; one packet in that time, and the one that asks is that.
    #[inline(always)]
    pub fn asks(&self, now: Tick) -> bool {
        if now.since(self.confirmed()) < Self::SILENT {
            return false;
        }
        let word = self.0[2].load();
        let since = low_bits(now).wrapping_sub(high_bits(word));
        u32::from(since) >= Self::SILENT.0 && self.0[2].compare_exchange(word, Self::asked(word, low_bits(now)))
    }

    /// Lets the next packet ask, since the neighbour may have changed.
    #[inline(always)]
    pub fn doubt(&self, now: Tick) {
        let before = Tick(now.0.wrapping_sub(Self::SILENT.0));
        let word = self.0[2].load();
        // Where another processor is faster, it asks.
        let _ = self.0[2].compare_exchange(word, Self::asked(word, low_bits(before)));
        self.confirm(before);
    }

    #[inline(always)]
    const fn asked(word: u64, when: u16) -> u64 {
        let [a, b] = when.to_be_bytes();
        word & MAC_MASK | u64::from_be_bytes([a, b, 0, 0, 0, 0, 0, 0])
    }

    /// How long a router may be silent: frames come from it more often, wherever there is traffic both ways.
    const SILENT: Tick = Tick::at_least_seconds(2);

    /// The largest IPv6 packet of the path behind this neighbour, if somebody on it has told within ten minutes (RFC 8201 §4).
    #[inline(always)]
    pub fn path_mtu(&self, now: Tick) -> Option<u16> {
        let [a, b, c, d, ..] = self.0[3].load().to_be_bytes();
        let mtu = u16::from_be_bytes([a, b]);
        let age = Self::epoch(now).wrapping_sub(u16::from_be_bytes([c, d]));
        (mtu != 0 && age <= Self::PATH_MTU_AGE).then_some(mtu)
    }

    /// Notes the largest IPv6 packet of the path; a smaller one that was told within ten minutes stays. Less than the least MTU of
    /// an IPv6 link is nobody's path: it changes nothing (RFC 8201 §4).
    #[inline(always)]
    pub fn learn_path_mtu(&self, mtu: u16, now: Tick) {
        if mtu < Self::LEAST_MTU || self.path_mtu(now).is_some_and(|known| known < mtu) {
            return;
        }
        let word = self.0[3].load();
        let [a, b] = mtu.to_be_bytes();
        let [c, d] = Self::epoch(now).to_be_bytes();
        let learned = (word & 0xffff_ffff) | u64::from_be_bytes([a, b, c, d, 0, 0, 0, 0]);
        // Where another processor was faster, the next packet that is too big is told again.
        let _ = self.0[3].compare_exchange(word, learned);
    }

    /// The least MTU of an IPv6 link (RFC 8200 §5).
    pub const LEAST_MTU: u16 = 1280;
    /// Epochs that a learned MTU holds for: about ten minutes.
    const PATH_MTU_AGE: u16 = 9;

    /// Units of 69 s, so that 16 bits last for weeks.
    #[inline(always)]
    const fn epoch(now: Tick) -> u16 {
        let [_, a, b, _] = now.0.to_be_bytes();
        u16::from_be_bytes([a, b])
    }

    /// True where the record is free, or has not been confirmed for so long that it may be given away.
    #[inline(always)]
    pub fn is_free(&self, now: Tick) -> bool {
        self.is_free_with(self.0[0].load(), now)
    }

    #[inline(always)]
    fn is_free_with(&self, key: u64, now: Tick) -> bool {
        key == 0 || (key != Self::BUSY && now.since(self.confirmed()) > Self::ABANDONED)
    }

    /// A LAN host's record that no frame has confirmed for ten minutes may be given to another host.
    const ABANDONED: Tick = Tick::at_least_seconds(600);

    /// True where the record belongs to `address` on that NIC.
    #[inline(always)]
    pub fn is_for(&self, address: [u8; 4], ifindex: u32) -> bool {
        self.0[0].load() == Self::key(address, ifindex)
    }

    /// Makes the record, its own already or free, `address`'s; false where somebody else was faster.
    #[inline(always)]
    #[must_use]
    pub fn assign(&self, address: [u8; 4], hop: &Hop, now: Tick) -> bool {
        let old = self.0[0].load();
        let is_mine = old == Self::key(address, hop.ifindex);
        if !(is_mine || self.is_free_with(old, now)) || !self.0[0].compare_exchange(old, Self::BUSY) {
            return false;
        }
        self.0[1].store(pack(hop.destination, hop.mtu));
        self.0[2].store(hop.source.to_bits());
        self.confirm(now);
        self.0[0].store(Self::key(address, hop.ifindex));
        true
    }

    /// A record from the words that user space reads out of HOPS.
    pub fn from_words(words: [u64; 4]) -> Self {
        let [a, b, c, d] = words;
        Self([Word::new(a), Word::new(b), Word::new(c), Word::new(d)])
    }

    /// The interface that the neighbour is on; 0 while the record is free.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        Self::ifindex_of(self.0[0].load())
    }

    /// The address that the record belongs to, zeros for a far end; none while it is free or being written.
    pub fn address(&self) -> Option<[u8; 4]> {
        let key = self.0[0].load();
        let [a, b, c, d, ..] = key.to_be_bytes();
        (key != 0 && key != Self::BUSY).then_some([a, b, c, d])
    }

    /// The record as user space writes it.
    pub const fn words(address: [u8; 4], hop: &Hop, now: Tick) -> [u64; 4] {
        let [a, b, c, d] = now.0.to_be_bytes();
        [
            Self::key(address, hop.ifindex),
            pack(hop.destination, hop.mtu),
            hop.source.to_bits(),
            u64::from_be_bytes([0, 0, 0, 0, a, b, c, d]),
        ]
    }
}

#[inline(always)]
const fn pack(mac: Mac, mtu: u16) -> u64 {
    let [a, b] = mtu.to_be_bytes();
    mac.to_bits() | u64::from_be_bytes([a, b, 0, 0, 0, 0, 0, 0])
}

#[inline(always)]
#[expect(clippy::as_conversions, reason = "16 bits are left after the shift")]
const fn high_bits(word: u64) -> u16 {
    (word >> MAC_BITS) as u16
}

#[inline(always)]
const fn low_bits(now: Tick) -> u16 {
    let [_, _, a, b] = now.0.to_be_bytes();
    u16::from_be_bytes([a, b])
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: Hop = Hop {
        ifindex: 7,
        mtu: 1500,
        destination: Mac([2, 0, 0, 0, 0, 1]),
        source: Mac([2, 0, 0, 0, 0, 2]),
    };

    #[test]
    fn a_record_answers_only_for_its_own_address() {
        let record = NextHop::default();
        assert_eq!(record.get([192, 168, 1, 1]), None);
        assert!(record.assign([192, 168, 1, 1], &HOP, Tick(9)));
        assert_eq!(record.get([192, 168, 1, 1]), Some(HOP));
        assert_eq!(record.get([192, 168, 1, 2]), None);
        assert_eq!(record.confirmed(), Tick(9));
    }

    #[test]
    fn user_space_writes_what_the_programs_read() {
        let [a, b, c, d] = NextHop::words(NextHop::FAR_END, &HOP, Tick(3));
        let record = NextHop([Word::new(a), Word::new(b), Word::new(c), Word::new(d)]);
        assert_eq!(record.get(NextHop::FAR_END), Some(HOP));
        let [a, b] = Link::words(Mac([2, 0, 0, 0, 0, 2]), 9000);
        let link = Link([Word::new(a), Word::new(b)]);
        assert_eq!(
            (Mac::from_bits(link.mac()), link.mtu(), link.flags()),
            (Mac([2, 0, 0, 0, 0, 2]), 9000, Link::ATTACHED)
        );
    }

    #[test]
    fn a_path_mtu_is_remembered_for_ten_minutes_and_beside_the_confirmation() {
        let record = NextHop::default();
        assert!(record.assign(NextHop::FAR_END, &HOP, Tick(5_000)));
        assert_eq!(record.path_mtu(Tick(5_000)), None);
        record.learn_path_mtu(1400, Tick(5_000));
        record.confirm(Tick(5_100));
        assert_eq!(
            (record.path_mtu(Tick(5_100)), record.confirmed()),
            (Some(1400), Tick(5_100))
        );
        record.learn_path_mtu(1450, Tick(5_100));
        assert_eq!(record.path_mtu(Tick(5_100)), Some(1400), "the smallest counts");
        record.learn_path_mtu(1279, Tick(5_100));
        assert_eq!(record.path_mtu(Tick(5_100)), Some(1400), "no IPv6 link is smaller");
        record.learn_path_mtu(1280, Tick(5_100));
        let (nine, eleven) = (Tick::at_least_seconds(540), Tick::at_least_seconds(700));
        assert_eq!(record.path_mtu(Tick(5_100 + nine.0)), Some(1280));
        assert_eq!(record.path_mtu(Tick(5_100 + eleven.0)), None);
    }

    #[test]
    fn a_link_has_an_address_beside_its_flags() {
        let [first, flags] = Link::words(Mac([2, 0, 0, 0, 0, 2]), 1500);
        let link = Link::from_words([first, Link::with_address(flags, [192, 168, 10, 1])]);
        link.set_alive();
        assert_eq!(
            (link.address(), link.flags()),
            ([192, 168, 10, 1], Link::ATTACHED | Link::ALIVE)
        );
        assert_eq!(Link::from_words([first, flags]).address(), [192, 0, 0, 8]);
    }

    #[test]
    fn a_silent_hosts_record_is_given_away_after_ten_minutes() {
        let record = NextHop::default();
        assert!(record.is_free(Tick(0)));
        assert!(record.assign([192, 168, 1, 1], &HOP, Tick(0)));
        assert!(!record.is_free(Tick(2000)));
        assert!(record.is_free(Tick(2300)));
    }
}
