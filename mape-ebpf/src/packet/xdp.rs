//! An XDP frame: checked copies in and out of it, and the two helpers that move its ends.
#![expect(unsafe_code, reason = "the frame is memory between two pointers")]

use core::{arch::asm, marker::PhantomData};

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use mape_common::{
    packet::Packet,
    verdict::{Broken, Reason, Truncated},
};

use super::words;

/// The frame of one program run.
pub(crate) struct XdpPacket<'a> {
    /// Address of the context that the kernel called this program with; after each move of the frame's ends another value to the
    /// compiler.
    ctx: usize,
    run: PhantomData<&'a XdpContext>,
}

impl<'a> XdpPacket<'a> {
    /// The frame that a program was called with.
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self {
            ctx: ctx.ctx.expose_provenance(),
            run: PhantomData,
        }
    }

    /// After a call that moves an end of the frame: where it begins and ends has to be looked up again, and no sooner.
    #[inline(always)]
    fn moved(&mut self) {
        self.ctx = another(self.ctx);
    }

    #[inline(always)]
    const fn context(&self) -> *mut xdp_md {
        core::ptr::with_exposed_provenance_mut(self.ctx)
    }

    /// Address of the frame's first byte.
    ///
    /// Written as an instruction, because the compiler takes the kernel's 32-bit field at its word: where it passes the
    /// loaded value on to another function it cuts the pointer that really is there to 32 bits. That it reads no memory is
    /// as good as true: what it reads changes with [`Self::moved`] alone, and the context's value with it.
    #[inline(always)]
    fn start(&self) -> usize {
        let start;
        // SAFETY: reads the field `data`, at offset 0, of the context that the kernel called this program with.
        unsafe {
            asm!("{0} = *(u32 *)({1} + 0)", out(reg) start, in(reg) self.ctx, options(pure, nomem, nostack, preserves_flags));
        }
        start
    }

    /// Address after the frame's last byte.
    #[inline(always)]
    fn end(&self) -> usize {
        let end;
        // SAFETY: as in `start`; `data_end` is at offset 4.
        unsafe {
            asm!("{0} = *(u32 *)({1} + 4)", out(reg) end, in(reg) self.ctx, options(pure, nomem, nostack, preserves_flags));
        }
        end
    }

    /// A pointer to `N` bytes at `offset` that lie inside the frame until it is resized.
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Result<*mut [u8; N], Truncated> {
        // That no sum goes round is said, so that the compiler asks nothing of a frame that it has asked more of before.
        // SAFETY: nothing is added to a frame's address that the verifier does not know to be less than 64 KiB, and no frame lies
        // that near to the end of all addresses.
        let start = unsafe { self.start().unchecked_add(offset) };
        // SAFETY: as above.
        let end = unsafe { start.unchecked_add(N) };
        if end > self.end() {
            return Err(Truncated);
        }
        Ok(core::ptr::with_exposed_provenance_mut(start))
    }
}

/// The same number, of which the compiler knows nothing.
#[inline(always)]
fn another(number: usize) -> usize {
    let same;
    // SAFETY: copies a register.
    unsafe { asm!("{0} = {1}", out(reg) same, in(reg) number, options(nomem, nostack, preserves_flags)) };
    same
}

impl Packet for XdpPacket<'_> {
    /// Written as an instruction: what the compiler could conclude of a length, and leave unasked, the verifier would not know.
    #[inline(always)]
    fn len(&self) -> usize {
        let mut len = self.end();
        // SAFETY: subtracts one register from another.
        unsafe {
            asm!("{0} -= {1}", inout(reg) len, in(reg) self.start(), options(pure, nomem, nostack, preserves_flags));
        }
        len
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated> {
        let bytes = self.bytes::<N>(offset)?;
        // SAFETY: `bytes` has checked that N bytes lie inside the frame.
        Ok(unsafe { words::load(bytes.cast()) })
    }

    #[inline(always)]
    fn read_told<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated> {
        self.read(another(offset))
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
        let moved = unsafe { bpf_xdp_adjust_head(self.context(), -(N as i32)) };
        self.moved();
        match moved {
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
        let moved = unsafe { bpf_xdp_adjust_head(self.context(), N as i32) };
        self.moved();
        match moved {
            0 => Ok(()),
            _ => Err(Truncated.into()),
        }
    }

    #[inline(always)]
    fn trim_end(&mut self, excess: u16) -> Result<(), Broken> {
        // SAFETY: as in `grow_front`.
        let moved = unsafe { bpf_xdp_adjust_tail(self.context(), -i32::from(excess)) };
        self.moved();
        match moved {
            0 => Ok(()),
            _ => Err(Truncated.into()),
        }
    }
}
