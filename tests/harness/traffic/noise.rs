//! Owns bytes without a pattern: a lost, swapped or doubled segment of them is noticed.

/// The same bytes each time (xorshift).
#[derive(Debug)]
pub(super) struct Noise(u64);

impl Default for Noise {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Noise {
    /// The next so many bytes, a multiple of eight.
    pub(super) fn block(&mut self, length: usize) -> Vec<u8> {
        let mut block = Vec::with_capacity(length);
        while block.len() < length {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            block.extend(self.0.to_le_bytes());
        }
        block
    }
}
