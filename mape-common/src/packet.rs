//! A frame as the steps see it: read and written by constant-size copies, grown and shrunk at its front, cut at its end.

use crate::{
    checksum::Change,
    verdict::{Broken, Truncated},
    wire::ipv4,
};

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

    /// The same where the offset is no constant, but told by the frame itself.
    ///
    /// The compiler may find out that such a place is as good as a constant one, and leave out what has been asked there; the kernel's
    /// verifier will not.
    ///
    /// # Errors
    /// [`Truncated`] where the frame ends before them.
    #[inline(always)]
    fn read_told<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated> {
        self.read(offset)
    }

    /// Overwrites `N` bytes at `offset`.
    ///
    /// # Errors
    /// [`Truncated`] where the frame ends before them.
    fn write<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated>;

    /// Brings the transport header's checksum at `offset` up to date.
    ///
    /// # Errors
    /// [`Truncated`] where the frame ends before it.
    #[inline(always)]
    fn change_checksum(&mut self, offset: usize, change: &Change) -> Result<(), Truncated> {
        self.write(offset, &change.new_value().to_be_bytes())
    }

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

/// An IPv4 packet without a frame, as a tunnel device has it, in the place where the steps look for one: behind `FRONT` bytes,
/// which are not there, and without IPv4 options, which are stepped over.
///
/// So the steps that translate frames translate it, too. What only a frame has (its headers, its ends) is not for the asking.
pub struct Bare<'a, P, const FRONT: usize> {
    packet: &'a mut P,
    options: usize,
}

impl<'a, P: Packet, const FRONT: usize> Bare<'a, P, FRONT> {
    /// The packet at the beginning of `packet`.
    #[inline(always)]
    pub fn new(packet: &'a mut P) -> Self {
        let options = match packet.read(0) {
            Ok(bytes) => ipv4::Header::from_bytes(bytes).options_len(),
            Err(Truncated) => 0,
        };
        Self { packet, options }
    }

    /// Where a byte of the frame that is not there stands in the packet.
    #[inline(always)]
    const fn place(&self, offset: usize) -> Result<usize, Truncated> {
        match offset.checked_sub(FRONT) {
            Some(at) if at < ipv4::LEN => Ok(at),
            Some(at) => Ok(at.wrapping_add(self.options)),
            None => Err(Truncated),
        }
    }
}

impl<P: Packet, const FRONT: usize> Packet for Bare<'_, P, FRONT> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.packet.len().saturating_sub(self.options).saturating_add(FRONT)
    }

    /// A header that is read from its beginning says that it has no options.
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated> {
        let mut bytes = self.packet.read(self.place(offset)?)?;
        if offset == FRONT
            && self.options != 0
            && let Some(start) = bytes.first_chunk_mut()
        {
            *start = ipv4::start_without_options(*start);
        }
        Ok(bytes)
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated> {
        self.packet.write(self.place(offset)?, bytes)
    }

    #[inline(always)]
    fn change_checksum(&mut self, offset: usize, change: &Change) -> Result<(), Truncated> {
        self.packet.change_checksum(self.place(offset)?, change)
    }

    #[inline(always)]
    fn grow_front<const N: usize>(&mut self) -> Result<(), Broken> {
        Err(Truncated.into())
    }

    #[inline(always)]
    fn shrink_front<const N: usize>(&mut self) -> Result<(), Broken> {
        Err(Truncated.into())
    }

    #[inline(always)]
    fn trim_end(&mut self, _: u16) -> Result<(), Broken> {
        Err(Truncated.into())
    }
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
