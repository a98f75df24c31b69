//! A frame as the steps see it: read and written by constant-size copies, grown and shrunk at its front, cut at its end.

use crate::verdict::{Broken, Truncated};

/// A frame. Offsets are bytes from its first byte; every access copies a constant number of bytes, which is what the
/// kernel's verifier can follow. No reference into the frame ever leaves an implementation, so resizing cannot leave one dangling.
pub trait Packet {
    /// Bytes from the first to the last.
    fn len(&self) -> usize;

    /// True for a frame of no bytes.
    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `N` bytes at `offset`.
    ///
    /// # Errors
    /// [`Truncated`] where the frame ends before them.
    fn read<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated>;

    /// Overwrites `N` bytes at `offset`.
    ///
    /// # Errors
    /// [`Truncated`] where the frame ends before them.
    fn write<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated>;

    /// Puts `N` bytes of no particular content before the first.
    ///
    /// # Errors
    /// [`Broken`] where there is no room.
    fn grow_front<const N: usize>(&mut self) -> Result<(), Broken>;

    /// Takes the first `N` bytes away.
    ///
    /// # Errors
    /// [`Broken`] where there are no `N` bytes.
    fn shrink_front<const N: usize>(&mut self) -> Result<(), Broken>;

    /// Cuts `excess` bytes off the end.
    ///
    /// # Errors
    /// [`Broken`] where the frame is shorter.
    fn trim_end(&mut self, excess: u16) -> Result<(), Broken>;
}

/// A frame in host memory: for tests, fuzzing and explanations.
#[cfg(any(test, feature = "host"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VecPacket(pub Vec<u8>);

#[cfg(any(test, feature = "host"))]
impl Packet for VecPacket {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated> {
        self.0
            .get(offset..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .ok_or(Truncated)
    }

    fn write<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated> {
        *self
            .0
            .get_mut(offset..)
            .and_then(|rest| rest.first_chunk_mut())
            .ok_or(Truncated)? = *bytes;
        Ok(())
    }

    fn grow_front<const N: usize>(&mut self) -> Result<(), Broken> {
        // A pattern that no header has, so that a byte the steps forget to write is seen.
        self.0.splice(0..0, [0xEE; N]);
        Ok(())
    }

    fn shrink_front<const N: usize>(&mut self) -> Result<(), Broken> {
        if self.0.len() < N {
            return Err(Truncated.into());
        }
        self.0.drain(..N);
        Ok(())
    }

    fn trim_end(&mut self, excess: u16) -> Result<(), Broken> {
        let len = self.0.len().checked_sub(usize::from(excess)).ok_or(Truncated)?;
        self.0.truncate(len);
        Ok(())
    }
}
