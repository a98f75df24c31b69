//! Bytes of a frame in words: the verifier lets a program read and write a frame's words wherever they begin, but the compiler does
//! not know that, and would move each byte by itself.
#![expect(unsafe_code, reason = "a frame is memory between two pointers")]

use core::arch::asm;

/// Longest array that is moved; the headers of a frame, or a template for measurements, are shorter.
const LONGEST: usize = 64;

/// Loads a word at a constant distance from `$from` into the array, if it ends within `N`.
macro_rules! load {
    ($bytes:ident, $from:ident, $type:literal, $word:ty, $at:expr) => {{
        let word: u64;
        // SAFETY: the caller's: all N bytes lie inside the frame.
        unsafe {
            asm!(
                concat!("{0} = *(", $type, " *)({1} + {2})"),
                out(reg) word, in(reg) $from, const $at,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        let word = word as $word;
        // SAFETY: within the array's N bytes.
        unsafe { $bytes.as_mut_ptr().add($at).cast::<[u8; size_of::<$word>()]>().write(word.to_ne_bytes()) };
    }};
}

/// Stores a word of the array at a constant distance from `$to`, if it ends within `N`.
macro_rules! store {
    ($bytes:ident, $to:ident, $type:literal, $word:ty, $at:expr) => {{
        // SAFETY: within the array's N bytes.
        let word = <$word>::from_ne_bytes(unsafe { $bytes.as_ptr().add($at).cast::<[u8; size_of::<$word>()]>().read() });
        // SAFETY: the caller's: all N bytes lie inside the frame.
        unsafe {
            asm!(
                concat!("*(", $type, " *)({0} + {2}) = {1}"),
                in(reg) $to, in(reg) u64::from(word), const $at,
                options(nostack, preserves_flags)
            );
        }
    }};
}

/// Moves eight bytes at a time as far as they go, and then four, two, one.
macro_rules! each {
    ($move:ident, $bytes:ident, $frame:ident) => {
        const { assert!(N <= LONGEST, "more bytes than are moved") };
        if N >= 8 {
            $move!($bytes, $frame, "u64", u64, 0);
        }
        if N >= 16 {
            $move!($bytes, $frame, "u64", u64, 8);
        }
        if N >= 24 {
            $move!($bytes, $frame, "u64", u64, 16);
        }
        if N >= 32 {
            $move!($bytes, $frame, "u64", u64, 24);
        }
        if N >= 40 {
            $move!($bytes, $frame, "u64", u64, 32);
        }
        if N >= 48 {
            $move!($bytes, $frame, "u64", u64, 40);
        }
        if N >= 56 {
            $move!($bytes, $frame, "u64", u64, 48);
        }
        if N >= 64 {
            $move!($bytes, $frame, "u64", u64, 56);
        }
        if N & 4 != 0 {
            $move!($bytes, $frame, "u32", u32, N & !7);
        }
        if N & 2 != 0 {
            $move!($bytes, $frame, "u16", u16, N & !3);
        }
        if N & 1 != 0 {
            $move!($bytes, $frame, "u8", u8, N & !1);
        }
    };
}

/// Reads `N` bytes.
///
/// # Safety
/// They lie inside the frame.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a load fills no more of the register than it reads"
)]
pub(super) unsafe fn load<const N: usize>(from: *const u8) -> [u8; N] {
    let mut bytes = [0; N];
    each!(load, bytes, from);
    bytes
}

/// Writes `N` bytes.
///
/// # Safety
/// They lie inside the frame.
#[inline(always)]
pub(super) unsafe fn store<const N: usize>(to: *mut u8, bytes: &[u8; N]) {
    each!(store, bytes, to);
}
