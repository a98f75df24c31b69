//! One 64-bit word that several processors read and change: the only shared mutable memory of the core.
//!
//! Every record that lives in a map and changes while packets flow is made of [`Word`]s, so that no access can be torn
//! and no reference to such a record promises more than the kernel does. The BPF target has no
//! `AtomicU64::compare_exchange`; there the compiler's own intrinsics give the same instructions. Under `--cfg loom` a word
//! is the model checker's, which tries the orders that the processors could do things in (`tests/interleavings.rs`).
#![cfg_attr(
    not(loom),
    expect(
        unsafe_code,
        reason = "atomic access to memory that user space and other processors share"
    )
)]

#[cfg(loom)]
pub use checked::Word;

#[cfg(not(loom))]
use core::cell::UnsafeCell;

/// A shared 64-bit word, read and written whole.
#[cfg(not(loom))]
#[repr(transparent)]
#[derive(Default)]
pub struct Word(UnsafeCell<u64>);

#[cfg(not(loom))]
// SAFETY: every access below is one atomic (or one aligned volatile 8-byte) instruction.
unsafe impl Sync for Word {}

#[cfg(not(loom))]
impl core::fmt::Debug for Word {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#018x}", self.load())
    }
}

#[cfg(not(loom))]
impl Word {
    /// A word that holds `value`.
    pub const fn new(value: u64) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Reads the word. Loads are not moved across one another by the compiler.
    #[inline(always)]
    pub fn load(&self) -> u64 {
        #[cfg(target_arch = "bpf")]
        // SAFETY: the pointer comes from a reference; an aligned 8-byte load is one instruction on every 64-bit machine.
        unsafe {
            self.0.get().read_volatile()
        }
        #[cfg(not(target_arch = "bpf"))]
        self.atomic().load(core::sync::atomic::Ordering::SeqCst)
    }

    /// Overwrites the word; for records that nobody else can reach yet, and for hints.
    #[inline(always)]
    pub fn store(&self, value: u64) {
        #[cfg(target_arch = "bpf")]
        // SAFETY: as in `load`.
        unsafe {
            self.0.get().write_volatile(value);
        }
        #[cfg(not(target_arch = "bpf"))]
        self.atomic().store(value, core::sync::atomic::Ordering::SeqCst);
    }

    /// Replaces `expected` by `value`; false, and nothing done, where the word holds anything else.
    #[inline(always)]
    #[must_use]
    pub fn compare_exchange(&self, expected: u64, value: u64) -> bool {
        #[cfg(target_arch = "bpf")]
        {
            use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
            // SAFETY: the pointer comes from a reference to a `Sync` word.
            unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(self.0.get(), expected, value).1 }
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            use core::sync::atomic::Ordering::SeqCst;
            self.atomic().compare_exchange(expected, value, SeqCst, SeqCst).is_ok()
        }
    }

    /// Adds `value`, wrapping; gives what was there before.
    #[inline(always)]
    pub fn add(&self, value: u64) -> u64 {
        #[cfg(target_arch = "bpf")]
        // SAFETY: the pointer comes from a reference to a `Sync` word.
        unsafe {
            core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(self.0.get(), value)
        }
        #[cfg(not(target_arch = "bpf"))]
        self.atomic().fetch_add(value, core::sync::atomic::Ordering::SeqCst)
    }

    /// Flips the bits of `mask`.
    #[inline(always)]
    pub fn xor(&self, mask: u64) {
        #[cfg(target_arch = "bpf")]
        // SAFETY: the pointer comes from a reference to a `Sync` word.
        unsafe {
            core::intrinsics::atomic_xor::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(self.0.get(), mask);
        }
        #[cfg(not(target_arch = "bpf"))]
        self.atomic().fetch_xor(mask, core::sync::atomic::Ordering::SeqCst);
    }

    #[cfg(not(target_arch = "bpf"))]
    fn atomic(&self) -> &core::sync::atomic::AtomicU64 {
        // SAFETY: `Word` is `repr(transparent)` over an `UnsafeCell<u64>`, aligned to 8 like `AtomicU64`, and lives as long.
        unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0.get()) }
    }
}

/// The same operations on a word that the model checker watches.
///
/// A load acquires and a store releases, as on x86; a store is written as an exchange because the checker would otherwise let
/// two processors' writes to one word be seen in either order for ever after.
#[cfg(loom)]
mod checked {
    use loom::sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire},
    };

    /// A shared 64-bit word, read and written whole.
    #[derive(Debug, Default)]
    pub struct Word(AtomicU64);

    impl Word {
        /// A word that holds `value`.
        pub fn new(value: u64) -> Self {
            Self(AtomicU64::new(value))
        }

        /// Reads the word.
        pub fn load(&self) -> u64 {
            self.0.load(Acquire)
        }

        /// Overwrites the word.
        pub fn store(&self, value: u64) {
            self.0.swap(value, AcqRel);
        }

        /// Replaces `expected` by `value`; false, and nothing done, where the word holds anything else.
        #[must_use]
        pub fn compare_exchange(&self, expected: u64, value: u64) -> bool {
            self.0.compare_exchange(expected, value, AcqRel, Acquire).is_ok()
        }

        /// Adds `value`, wrapping; gives what was there before.
        pub fn add(&self, value: u64) -> u64 {
            self.0.fetch_add(value, AcqRel)
        }

        /// Flips the bits of `mask`.
        pub fn xor(&self, mask: u64) {
            self.0.fetch_xor(mask, AcqRel);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Word;

    #[test]
    fn only_the_expected_value_is_exchanged() {
        let word = Word::new(7);
        assert!(!word.compare_exchange(6, 1));
        assert!(word.compare_exchange(7, 1));
        assert_eq!(word.load(), 1);
    }

    #[test]
    fn additions_of_two_threads_are_all_there() {
        let word = Word::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        word.add(1);
                    }
                });
            }
        });
        assert_eq!(word.load(), 20_000);
    }
}
