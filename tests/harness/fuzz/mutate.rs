//! Inputs made from others by chance that can be repeated: what a fuzzer does, without looking where it leads.

/// A generator of numbers (xorshift), good enough for mutations.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self((seed ^ 0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        let edges = [0, 1, 2, 4, 0x7f, 0x80, 0xfe, 0xff];
        if self.below(3) == 0 {
            edges[self.below(edges.len())]
        } else {
            u8::try_from(self.below(256)).unwrap_or(0)
        }
    }

    /// One of some inputs, changed in a few places; parts of another may follow.
    pub fn mutation(&mut self, of: &[Vec<u8>], longest: usize) -> Vec<u8> {
        let mut input = of.get(self.below(of.len())).cloned().unwrap_or_default();
        for _ in 0..=self.below(6) {
            let at = self.below(input.len() + 1);
            match self.below(6) {
                0 | 1 => {
                    let byte = self.byte();
                    if let Some(place) = input.get_mut(at) {
                        *place = byte;
                    }
                }
                2 => {
                    let bit = 1 << self.below(8);
                    if let Some(place) = input.get_mut(at) {
                        *place ^= bit;
                    }
                }
                3 => input.insert(at, self.byte()),
                4 => {
                    let end = (at + 1 + self.below(8)).min(input.len());
                    input.drain(at.min(end)..end);
                }
                _ => {
                    let other = of.get(self.below(of.len())).map_or(&[][..], Vec::as_slice);
                    let from = self.below(other.len() + 1);
                    let len = self.below(other.len() - from + 1);
                    let at = if self.below(2) == 0 { input.len() } else { at };
                    input.splice(at..at, other[from..from + len].iter().copied());
                }
            }
        }
        input.truncate(longest);
        input
    }
}
