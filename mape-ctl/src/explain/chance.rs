//! Owns chance in an explanation: not the kernel's, so what chance decides there it only illustrates here.

use std::cell::Cell;

/// A source of random numbers.
pub struct Chance(Cell<u64>);

impl Chance {
    /// From numbers that nobody knows.
    pub fn new(seed: [u64; 2]) -> Self {
        let [a, b] = seed;
        // Zero would stay zero for ever.
        Self(Cell::new((a ^ b.rotate_left(32)) | 1))
    }

    /// The next one.
    pub fn next(&self) -> u32 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        u32::try_from(x >> 32).unwrap_or(0)
    }
}
