//! An XDP frame: checked copies in and out of it, and the two helpers that move its ends.
#![expect(unsafe_code, reason = "the frame is memory between two pointers")]

use core::arch::asm;

use aya_ebpf::{
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use mape_common::{
    packet::Packet,
    verdict::{Broken, Reason, Truncated},
};

use super::words;

/// The frame of one program run.
pub(crate) struct XdpPacket<'a>(&'a XdpContext);

impl<'a> XdpPacket<'a> {
    /// The frame that a program was called with.
    #[inline(always)]
    pub(crate) const fn new(ctx: &'a XdpContext) -> Self {
        Self(ctx)
    }

    /// Address of the frame's first byte.
    ///
    /// Written as an instruction, because the compiler takes the kernel's 32-bit field at its word: where it passes the
    /// loaded value on to another function it cuts the pointer that really is there to 32 bits.
    #[inline(always)]
    fn start(&self) -> usize {
        let start;
        // SAFETY: reads the field `data`, at offset 0, of the context that the kernel called this program with.
        unsafe {
            asm!("{0} = *(u32 *)({1} + 0)", out(reg) start, in(reg) self.0.ctx, options(pure, readonly, nostack, preserves_flags));
        }
        start
    }

    /// Address after the frame's last byte.
    #[inline(always)]
    fn end(&self) -> usize {
        let end;
        // SAFETY: as in `start`; `data_end` is at offset 4.
        unsafe {
            asm!("{0} = *(u32 *)({1} + 4)", out(reg) end, in(reg) self.0.ctx, options(pure, readonly, nostack, preserves_flags));
        }
        end
    }

    /// A pointer to `N` bytes at `offset` that lie inside the frame until it is resized.
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Result<*mut [u8; N], Truncated> {
        let start = self.start() + offset;
        if start + N > self.end() {
            return Err(Truncated);
        }
        Ok(core::ptr::with_exposed_provenance_mut(start))
    }
}

impl Packet for XdpPacket<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.end() - self.start()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated> {
        let bytes = self.bytes::<N>(offset)?;
        // SAFETY: `bytes` has checked that N bytes lie inside the frame.
        Ok(unsafe { words::load(bytes.cast()) })
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated> {
        let target = self.bytes::<N>(offset)?;
        // SAFETY: as in `read`.
        unsafe { words::store(target.cast(), bytes) };
        Ok(())
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "N is the length of headers"
    )]
    fn grow_front<const N: usize>(&mut self) -> Result<(), Broken> {
        // SAFETY: the context is the one the kernel called this program with; no pointer into the frame is kept.
        match unsafe { bpf_xdp_adjust_head(self.0.ctx, -(N as i32)) } {
            0 => Ok(()),
            _ => Err(Broken(Reason::NoHeadroom)),
        }
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "N is the length of headers"
    )]
    fn shrink_front<const N: usize>(&mut self) -> Result<(), Broken> {
        // SAFETY: as in `grow_front`.
        match unsafe { bpf_xdp_adjust_head(self.0.ctx, N as i32) } {
            0 => Ok(()),
            _ => Err(Truncated.into()),
        }
    }

    #[inline(always)]
    fn trim_end(&mut self, excess: u16) -> Result<(), Broken> {
        // SAFETY: as in `grow_front`.
        match unsafe { bpf_xdp_adjust_tail(self.0.ctx, -i32::from(excess)) } {
            0 => Ok(()),
            _ => Err(Truncated.into()),
        }
    }
}
