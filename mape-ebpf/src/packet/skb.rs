//! A packet of the stack's, as tc programs see it: copies in and out by helpers, which know about packets in pieces, shared ones and
//! sums that a NIC is still to complete.
#![expect(unsafe_code, reason = "helpers take pointers")]
#![expect(clippy::cast_possible_truncation, reason = "no packet is as long")]

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use mape_common::{
    checksum::{Change, Delta},
    packet::Packet,
    verdict::{Broken, Truncated},
};

/// The packet of one program run, from its IPv4 header on.
pub(crate) struct SkbPacket(*mut __sk_buff);

impl SkbPacket {
    /// The packet that a program was called with.
    #[inline(always)]
    pub(crate) const fn new(ctx: &TcContext) -> Self {
        Self(ctx.skb.skb)
    }

    #[inline(always)]
    fn change(&mut self, offset: usize, delta: Delta, flags: u32) -> Result<(), Truncated> {
        // Size zero, the low bits of the flags: the difference is given, in the order of the sums in memory.
        let difference = u64::from(delta.folded().to_be());
        // SAFETY: the context is the one the kernel called this program with; no pointer into the packet is kept.
        match unsafe { bpf_l4_csum_replace(self.0, offset as u32, 0, difference, u64::from(flags)) } {
            0 => Ok(()),
            _ => Err(Truncated),
        }
    }
}

impl Packet for SkbPacket {
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the context the kernel called the program with.
        unsafe { (*self.0).len as usize }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes N bytes, of zeros where it fails.
        match unsafe { bpf_skb_load_bytes(self.0.cast(), offset as u32, bytes.as_mut_ptr().cast(), N as u32) } {
            // SAFETY: it has written them.
            0 => Ok(unsafe { bytes.assume_init() }),
            _ => Err(Truncated),
        }
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated> {
        // SAFETY: as in `change`; the helper reads N bytes.
        match unsafe { bpf_skb_store_bytes(self.0, offset as u32, bytes.as_ptr().cast(), N as u32, 0) } {
            0 => Ok(()),
            _ => Err(Truncated),
        }
    }

    /// The helper leaves alone what a NIC is still to sum, but for the pseudo-header.
    #[inline(always)]
    fn change_checksum(&mut self, offset: usize, change: &Change) -> Result<(), Truncated> {
        let udp = if change.is_udp { BPF_F_MARK_MANGLED_0 } else { 0 };
        if change.pseudo != Delta::ZERO {
            self.change(offset, change.pseudo, udp | BPF_F_PSEUDO_HDR)?;
        }
        if change.own != Delta::ZERO {
            self.change(offset, change.own, udp)?;
        }
        Ok(())
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
