//! Where a flow's record is: two tables of buckets, one for each [`Side`], that tell a record's slot by the flow's key.
//!
//! They are the core's own because every packet asks one. The kernel's hash map is a call that hashes the key, follows a list
//! through memory and copies what it finds; here it is one bucket, which is one line of the cache, and the record, which the packet
//! needs anyhow and which has the key. An entry is 32 bits, a record's slot and eleven bits of the key's hash, two to a word; it
//! stays where it was put until whoever made it takes it away, so nobody who looks can miss it.
//!
//! No entry is made twice: who has put one in looks through the bucket once more, and takes it out again where another record
//! of the same flow is in it. Of two that do so at once at least one sees the other, since either has written before it looks. It may
//! be both; then the one with the higher slot goes, and the other one waits for that and stays.
//!
//! When all records are in use a bucket is a quarter full on average, and that a new flow's is full is a chance of 1 in 200,000; when
//! nine of ten are, it is 1 in 700,000. Such a flow is refused as if no record were left. The hash is keyed so that
//! nobody who chooses addresses and ports can choose buckets.

use crate::{
    env::{Env, InsertError, Side},
    layout::{Config, FlowKey, SessionRef},
    nat::session::{Facts, Session, State},
    word::Word,
};

/// Words of a bucket, a power of two. The model checker, which tries every order of all reads, has fewer.
#[cfg(not(loom))]
pub const WORDS: usize = 8;
/// See above.
#[cfg(loom)]
pub const WORDS: usize = 2;

/// Records of the table of sessions for each bucket, on average and at most.
const RECORDS: u32 = 4;
/// Bits of an entry that are the slot: a table of sessions has no more than 2^20 records.
const SLOT: u32 = 0xf_ffff;
/// The bit of an entry that says that it is one.
const USED: u32 = SLOT + 1;

/// Entries, two to a word, the first one in the low half; zero = none.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Bucket([Word; WORDS]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64);

/// Buckets of a table for so many records: a power of two, at least two.
pub const fn buckets(records: u32) -> u32 {
    match records.div_ceil(RECORDS).checked_next_power_of_two() {
        None | Some(0 | 1) => 2,
        Some(buckets) => buckets,
    }
}

/// Buckets of both tables, which are one map.
pub const fn buckets_of_both(records: u32) -> u32 {
    buckets(records).wrapping_mul(2)
}

/// The number of a table's bucket among those of both tables.
///
/// In the kernel both are one map: a look-up in one of two is a call, because the compiler makes one of both.
#[inline(always)]
pub const fn number(side: Side, bucket: u32) -> u32 {
    bucket << 1 | side.number()
}

/// By how much a hash is shifted to be the number of one of so many buckets; see [`Config::flow_shift`].
pub const fn shift(buckets: u32) -> u32 {
    u64::BITS.wrapping_sub(buckets.ilog2())
}

/// Where a flow's entry is looked for, and what tells it from others there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the bucket.
    pub bucket: u32,
    first: u32,
    tag: u32,
}

impl Place {
    /// Of a key.
    ///
    /// Each half of the key is made a product with a secret added to both factors (the function NH of RFC 4418 §5.2: two keys
    /// have the same sum by a chance of 2^-32, whatever they are), and the bucket is the highest bits of the sum's product with a
    /// secret odd number (multiply-shift hashing).
    #[inline(always)]
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "each part is what is left of the hash"
    )]
    pub const fn new(config: &Config, key: &FlowKey) -> Self {
        let [ends, rest, factor] = config.flow_keys;
        let ports = u16::from_ne_bytes(key.remote_port) as u32 | (u16::from_ne_bytes(key.local_port) as u32) << 16;
        let ends = product(u32::from_ne_bytes(key.local), u32::from_ne_bytes(key.remote), ends);
        let rest = product(ports, key.protocol, rest);
        let hash = ends.wrapping_add(rest).wrapping_mul(factor | 1);
        Self {
            bucket: (hash >> (config.flow_shift & 63)) as u32,
            first: (hash >> 32) as u32,
            tag: hash as u32 & !SLOT | USED,
        }
    }

    /// The slot of an entry that may be this flow's.
    #[inline(always)]
    const fn slot(&self, entry: u32) -> Option<u32> {
        if entry & !SLOT == self.tag {
            Some(entry & SLOT)
        } else {
            None
        }
    }

    /// The slot of an entry that may be this flow's, in the word that is looked at in that step.
    #[inline(always)]
    fn slot_in(&self, bucket: &Bucket, step: u32) -> Option<u32> {
        let [low, high] = halves(held(bucket.word(self.first.wrapping_add(step))));
        match self.slot(low) {
            None => self.slot(high),
            slot => slot,
        }
    }

    #[inline(always)]
    const fn entry(&self, slot: u32) -> u32 {
        self.tag | slot & SLOT
    }

    /// The entry of a slot as it stands in the low or the high half of a word.
    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "widening")]
    const fn mask(&self, slot: u32, half: u32) -> u64 {
        (self.entry(slot) as u64) << ((half & 1) << 5)
    }
}

#[inline(always)]
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "halves of a key, and widening"
)]
const fn product(a: u32, b: u32, key: u64) -> u64 {
    (a.wrapping_add(key as u32) as u64).wrapping_mul(b.wrapping_add((key >> 32) as u32) as u64)
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "2 or 8")]
const STEPS: u32 = WORDS as u32;

/// What a word of a bucket holds.
#[inline(always)]
fn held(word: &Word) -> u64 {
    #[cfg(not(loom))]
    let held = word.load();
    // The last value there has been. Entries are put in and taken out by instructions that are barriers; the checker, which could not
    // know that of a load, would go through every value before.
    #[cfg(loom)]
    let held = word.add(0);
    held
}

impl Bucket {
    /// A bucket from the words that user space reads.
    pub fn from_words(words: [u64; WORDS]) -> Self {
        Self(words.map(Word::new))
    }

    /// Entries in it.
    pub fn len(&self) -> usize {
        self.0
            .iter()
            .flat_map(|word| halves(held(word)))
            .filter(|entry| *entry != 0)
            .count()
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| held(word) == 0)
    }

    /// The word at a place, counted round and round.
    #[inline(always)]
    #[expect(
        clippy::as_conversions,
        clippy::indexing_slicing,
        reason = "widening; the mask keeps it within the bucket"
    )]
    pub const fn word(&self, at: u32) -> &Word {
        &self.0[at as usize & (WORDS - 1)]
    }

    /// Puts an entry into an empty half; false where there is none.
    #[inline(always)]
    fn claim(&self, place: Place, slot: u32) -> bool {
        for step in 0..STEPS {
            let word = self.word(place.first.wrapping_add(step));
            let seen = held(word);
            let [low, high] = halves(seen);
            let mask = match (low, high) {
                (0, _) => place.mask(slot, 0),
                (_, 0) => place.mask(slot, 1),
                _ => continue,
            };
            // Where somebody else has changed the word meanwhile, the next one will do.
            if word.compare_exchange(seen, seen | mask) {
                return true;
            }
        }
        false
    }

    /// Takes out the entry of a slot, which the caller has put in.
    #[inline(always)]
    fn release(&self, place: Place, slot: u32) {
        let entry = place.entry(slot);
        for step in 0..STEPS {
            let word = self.word(place.first.wrapping_add(step));
            let [low, high] = halves(held(word));
            // Nobody else changes a half that an entry is in.
            if low == entry {
                return word.xor(place.mask(slot, 0));
            }
            if high == entry {
                return word.xor(place.mask(slot, 1));
            }
        }
    }
}

#[inline(always)]
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "the two halves")]
const fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// Entries like the flow's that are looked at for its own. Others have the same tag by a chance of 1 in 2,048 each: four of them stand
/// before it in a full table for one flow in 10^12, which is then as if it were not there.
const ATTEMPTS: u32 = 4;
/// Looks for another record of the flow after an entry was made, entries that are only like it included: long enough for another
/// processor to see this entry and to take out its own.
#[cfg(not(loom))]
const LOOKS: u32 = 8;
/// See [`WORDS`].
#[cfg(loom)]
const LOOKS: u32 = 3;
/// No slot.
const NONE: u32 = u32::MAX;

/// Slots that are passed over.
#[derive(Clone, Copy)]
struct Seen([u32; 4]);

impl Seen {
    const NOTHING: Self = Self([NONE; 4]);

    #[inline(always)]
    const fn with(self, slot: u32) -> Self {
        let [a, b, c, _] = self.0;
        Self([slot, a, b, c])
    }

    /// By one branch, or the compiler unrolls the loop that asks.
    #[inline(always)]
    const fn has(self, slot: u32) -> bool {
        let [a, b, c, d] = self.0;
        same(slot, a) | same(slot, b) | same(slot, c) | same(slot, d) != 0
    }
}

/// One where two numbers are the same, else zero. No branch, each of which can double what the kernel's verifier goes through after it.
#[inline(always)]
#[expect(clippy::as_conversions, reason = "widening")]
pub(super) const fn same(a: u32, b: u32) -> u64 {
    ((a ^ b) as u64).wrapping_sub(1) >> 63
}

/// The slot of an entry that may be a flow's and has not been seen.
///
/// Apart from the look at a record, so that the kernel's verifier goes through that once and not for every word.
#[inline(always)]
fn like(bucket: &Bucket, place: Place, seen: Seen) -> Option<u32> {
    for word in &bucket.0 {
        let word = held(word);
        // Most are empty.
        if word == 0 {
            continue;
        }
        for entry in halves(word) {
            if let Some(slot) = place.slot(entry)
                && !seen.has(slot)
            {
                return Some(slot);
            }
        }
    }
    None
}

/// The live record of a flow.
///
/// Called through [`Env::find`], which in the kernel is a function of its own as the parts of opening are (see [`super::part`]).
#[inline(always)]
pub fn find<E: Env>(env: &E, side: Side, key: &FlowKey) -> Option<SessionRef> {
    let place = Place::new(env.config()?, key);
    let bucket = env.bucket(side, place.bucket)?;
    let mut seen = Seen::NOTHING;
    for _ in 0..ATTEMPTS {
        let slot = like(bucket, place, seen)?;
        if let Some(generation) = env.session(slot)?.life_of(side, key) {
            return Some(SessionRef { slot, generation });
        }
        seen = seen.with(slot);
    }
    None
}

/// The live record of a flow and what it says, where that is seen at a glance: in the first two words, which have all but one in three
/// hundred of a full table's entries.
///
/// For the way that nearly all packets go: in the kernel it is part of each program. What it does not see may be there for all that.
#[inline(always)]
pub fn glance<E: Env>(env: &E, config: &Config, side: Side, key: &FlowKey) -> Option<(SessionRef, State, Facts)> {
    let place = Place::new(config, key);
    let bucket = env.bucket(side, place.bucket)?;
    let slot = match place.slot_in(bucket, 0) {
        None => place.slot_in(bucket, 1)?,
        Some(slot) => slot,
    };
    env.session(slot)?.read_of(slot, side, key)
}

/// What the live record of a flow says, for user space, which reads maps: `bucket` the one of both tables with that number, `session`
/// the record in that slot.
///
/// # Errors
/// Those of the two.
pub fn look_up<E>(
    config: &Config,
    side: Side,
    key: &FlowKey,
    bucket: impl FnOnce(u32) -> Result<[u64; WORDS], E>,
    mut session: impl FnMut(u32) -> Result<[u64; 8], E>,
) -> Result<Option<Facts>, E> {
    let place = Place::new(config, key);
    for entry in bucket(number(side, place.bucket))?.into_iter().flat_map(halves) {
        if let Some(slot) = place.slot(entry)
            && let Some((_, _, facts)) = Session::from_words(session(slot)?).read_of(slot, side, key)
        {
            return Ok(Some(facts));
        }
    }
    Ok(None)
}

/// Makes the entry of a record, which says whose it is, if its flow has none.
///
/// # Errors
/// [`InsertError`]; nothing was changed.
#[inline(always)]
pub fn insert<E: Env>(env: &E, side: Side, slot: u32) -> Result<(), InsertError> {
    let (record, place, bucket) = entry_of(env, side, slot).ok_or(InsertError::Full)?;
    if !bucket.claim(place, slot) {
        return Err(InsertError::Full);
    }
    let mut seen = Seen::NOTHING.with(slot);
    for _ in 0..LOOKS {
        let Some(other) = like(bucket, place, seen) else {
            return Ok(());
        };
        // One that is not alive yet, or no longer quite, is one.
        let is_same = env.session(other).is_some_and(|other| other.is_like(side, record));
        if !is_same {
            seen = seen.with(other);
        } else if other < slot {
            break;
        }
        // Else it is on its way out, if it was put in at the same time.
    }
    bucket.release(place, slot);
    Err(InsertError::Exists)
}

/// Takes away the entry of a record, for who has made it.
#[inline(always)]
pub fn remove<E: Env>(env: &E, side: Side, slot: u32) {
    if let Some((_, place, bucket)) = entry_of(env, side, slot) {
        bucket.release(place, slot);
    }
}

/// A record, and where its entry belongs.
#[inline(always)]
fn entry_of<E: Env>(env: &E, side: Side, slot: u32) -> Option<(&Session, Place, &Bucket)> {
    let record = env.session(slot)?;
    let place = Place::new(env.config()?, &record.key(side));
    Some((record, place, env.bucket(side, place.bucket)?))
}

#[cfg(all(test, not(loom)))]
mod tests;
