//! The BPF object, built by `build.rs` and carried in this binary.

/// Bytes at an address that an ELF reader may use in place.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("MAPE_OBJECT")));

/// The object: all programs and maps.
pub fn object() -> &'static [u8] {
    &OBJECT.0
}
