//! Owns the smallest XDP program, which passes every frame: what a veth's far end needs when frames are sent back by XDP_TX.
//!
//! For a redirect GRO on the far end is enough; for XDP_TX the kernel wakes the far end only if it has a program. The file is
//! put together here, so that the lab can be made without the BPF toolchain and by iproute2 alone.

/// `r0 = …; exit`, where the four bytes in the middle are what is returned.
const CODE: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
/// XDP_PASS.
const PASS: i32 = 2;
/// TC_ACT_UNSPEC: the next program decides.
const NEXT: i32 = -1;
const LICENSE: &[u8] = b"GPL\0";
/// All names of sections and symbols; the offsets of each stand in `elf`.
const NAMES: &[u8] = b"\0xdp\0license\0.strtab\0.symtab\0pass\0classifier\0";
/// Where the names of the two sections begin that the program may stand in.
const XDP: u32 = 1;
const CLASSIFIER: u32 = 34;

const HEADER: u64 = 64;
const MACHINE_BPF: u16 = 247;
const SECTION_HEADER: u16 = 64;
const SYMBOL: u64 = 24;

/// Kind of section.
const PROGBITS: u32 = 1;
const SYMTAB: u32 = 2;
const STRTAB: u32 = 3;
/// Flags of section: occupies memory, holds code.
const ALLOC: u64 = 2;
const EXEC: u64 = 4;
/// A global function.
const GLOBAL_FUNCTION: u8 = 0x12;

/// An ELF object with this one program in section `xdp`.
pub fn elf() -> Vec<u8> {
    object(XDP, PASS)
}

/// A tc program that leaves every packet to the next one, in section `classifier`.
pub fn classifier() -> Vec<u8> {
    object(CLASSIFIER, NEXT)
}

fn object(section_name: u32, result: i32) -> Vec<u8> {
    let code = HEADER;
    let license = code + CODE.len() as u64;
    let names = license + LICENSE.len() as u64;
    let symbols = (names + NAMES.len() as u64).next_multiple_of(8);
    let sections = symbols + 2 * SYMBOL;

    let mut file = Vec::new();
    // 64 bits, little-endian, version 1.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([1_u16, MACHINE_BPF].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([0, 0, sections].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    // Sizes: this header, no program headers, five section headers; the third section holds the names.
    file.extend([64_u16, 0, 0, SECTION_HEADER, 5, 3].map(u16::to_le_bytes).concat());

    let mut instructions = CODE;
    instructions[4..8].copy_from_slice(&result.to_le_bytes());
    file.extend(instructions);
    file.extend(LICENSE);
    file.extend(NAMES);
    file.resize(usize::try_from(symbols).unwrap_or(0), 0);

    file.extend([0; 24]);
    file.extend(29_u32.to_le_bytes());
    file.extend([GLOBAL_FUNCTION, 0]);
    file.extend(1_u16.to_le_bytes());
    file.extend([0, CODE.len() as u64].map(u64::to_le_bytes).concat());

    file.extend([0; 64]);
    section(
        &mut file,
        [section_name, PROGBITS],
        [ALLOC | EXEC, 0, code, CODE.len() as u64],
        [0, 0],
        [8, 0],
    );
    section(
        &mut file,
        [5, PROGBITS],
        [ALLOC, 0, license, LICENSE.len() as u64],
        [0, 0],
        [1, 0],
    );
    section(
        &mut file,
        [13, STRTAB],
        [0, 0, names, NAMES.len() as u64],
        [0, 0],
        [1, 0],
    );
    // Its names are in section 3; its first global symbol is number 1.
    section(
        &mut file,
        [21, SYMTAB],
        [0, 0, symbols, 2 * SYMBOL],
        [3, 1],
        [8, SYMBOL],
    );
    file
}

/// Name and kind; flags, address, offset and size; link and info; alignment and entry size.
fn section(file: &mut Vec<u8>, kind: [u32; 2], place: [u64; 4], link: [u32; 2], entry: [u64; 2]) {
    file.extend(kind.map(u32::to_le_bytes).concat());
    file.extend(place.map(u64::to_le_bytes).concat());
    file.extend(link.map(u32::to_le_bytes).concat());
    file.extend(entry.map(u64::to_le_bytes).concat());
}

#[cfg(test)]
mod tests {
    use super::{NAMES, elf};

    #[test]
    fn names_are_where_the_headers_say() {
        for (offset, name) in [
            (1, "xdp"),
            (5, "license"),
            (13, ".strtab"),
            (21, ".symtab"),
            (29, "pass"),
            (34, "classifier"),
        ] {
            assert!(NAMES[offset..].starts_with(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn the_file_ends_with_its_last_section_header() {
        let file = elf();
        let sections = u64::from_le_bytes(*file[40..].first_chunk().unwrap());
        assert_eq!(file.len() as u64, sections + 5 * 64);
    }
}
