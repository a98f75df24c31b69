//! Reads a BPF object: its functions, what each calls, and what must not be in it.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use object::{Object as _, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SectionIndex, SymbolKind};

/// Sections whose functions the kernel enters.
const ENTRY_SECTIONS: [&str; 4] = ["xdp", "classifier", "tc", "tcx"];
/// Size of an instruction.
const WIDTH: u64 = 8;
/// `call`; the source register says what is called.
const CALL: u8 = 0x85;
/// A function of the program itself, as opposed to the kernel's.
const CALL_OWN: u8 = 1;
/// The kernel's helper that makes a function a timer's: it will run by itself, on a stack of its own.
const TIMER_SET_CALLBACK: i32 = 170;
/// Relocation of a 64-bit immediate: a map, or a function given to a helper.
const R_BPF_64_64: u32 = 1;
/// Relocation of a call.
const R_BPF_64_32: u32 = 10;

/// One of the object's functions.
pub(super) type FunctionId = usize;

/// One instruction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instruction {
    pub(super) code: u8,
    pub(super) target: u8,
    pub(super) source: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

struct Function {
    name: String,
    section: SectionIndex,
    start: u64,
    code: Vec<Instruction>,
    calls: Vec<FunctionId>,
    /// Given to the kernel's timer.
    by_itself: Vec<FunctionId>,
    is_entry: bool,
}

/// The object's functions and symbols.
pub(super) struct Object {
    functions: Vec<Function>,
    panics: Vec<String>,
}

impl Object {
    /// Reads an ELF file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let file = object::File::parse(bytes).context("the object is no ELF file")?;
        let mut panics: Vec<String> = file
            .symbols()
            .filter_map(|symbol| symbol.name().ok())
            .filter(|name| is_panic(name))
            .map(demangle)
            .collect();
        let mut functions = Vec::new();
        for section in file.sections() {
            let name = section.name().context("a section has no name")?;
            if name.starts_with(".text.unlikely") && section.size() > 0 {
                panics.push(format!("section {name}"));
            }
        }
        for symbol in file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
        {
            let index = symbol.section_index().context("a function is in no section")?;
            let section = file
                .section_by_index(index)
                .context("a function's section is missing")?;
            let data = section.data().context("cannot read a section")?;
            let start = usize::try_from(symbol.address())?;
            let end = start + usize::try_from(symbol.size())?;
            let code = data.get(start..end).context("a function reaches beyond its section")?;
            let entry = section
                .name()
                .unwrap_or_default()
                .split(['/', '.'])
                .next()
                .unwrap_or_default()
                .to_owned();
            functions.push(Function {
                name: demangle(symbol.name().unwrap_or_default()),
                section: index,
                start: symbol.address(),
                code: code
                    .chunks_exact(8)
                    .filter_map(|bytes| Some(decode(*bytes.first_chunk()?)))
                    .collect(),
                calls: Vec::new(),
                by_itself: Vec::new(),
                is_entry: ENTRY_SECTIONS.contains(&entry.as_str()),
            });
        }
        let mut object = Self { functions, panics };
        for id in 0..object.functions.len() {
            object.find_calls(&file, id)?;
        }
        Ok(object)
    }

    /// What shows that some code can panic.
    pub(super) fn panic_symbols(&self) -> &[String] {
        &self.panics
    }

    /// The functions that the kernel enters.
    pub(super) fn programs(&self) -> Vec<FunctionId> {
        (0..self.functions.len())
            .filter(|id| self.functions[*id].is_entry)
            .collect()
    }

    pub(super) fn name(&self, id: FunctionId) -> String {
        self.functions[id].name.clone()
    }

    pub(super) fn code(&self, id: FunctionId) -> &[Instruction] {
        &self.functions[id].code
    }

    pub(super) fn instructions(&self, id: FunctionId) -> usize {
        self.functions[id].code.len()
    }

    /// What a function calls on its own stack, also through the kernel (`bpf_loop`).
    pub(super) fn calls(&self, id: FunctionId) -> &[FunctionId] {
        &self.functions[id].calls
    }

    /// What a function has the kernel's timer call.
    pub(super) fn by_itself(&self, id: FunctionId) -> &[FunctionId] {
        &self.functions[id].by_itself
    }

    /// A program and all it can get to: what the kernel loads for it.
    pub(super) fn reached_from(&self, program: FunctionId) -> BTreeSet<FunctionId> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![program]);
        while let Some(id) = open.pop() {
            if reached.insert(id) {
                open.extend(self.calls(id).iter().chain(self.by_itself(id)));
            }
        }
        reached
    }

    fn find_calls(&mut self, file: &object::File<'_>, id: FunctionId) -> Result<()> {
        let (index, start) = (self.functions[id].section, self.functions[id].start);
        let section = file
            .section_by_index(index)
            .context("a function's section is missing")?;
        let end = start + self.functions[id].code.len() as u64 * WIDTH;
        let mut targets = std::collections::BTreeMap::new();
        for (place, relocation) in section.relocations().filter(|(place, _)| (start..end).contains(place)) {
            let RelocationTarget::Symbol(symbol) = relocation.target() else {
                continue;
            };
            let symbol = file.symbol_by_index(symbol).context("a relocation names no symbol")?;
            let RelocationFlags::Elf { r_type } = relocation.flags() else {
                continue;
            };
            let immediate = self.functions[id].code[usize::try_from((place - start) / WIDTH)?].immediate;
            let is_section = symbol.kind() == SymbolKind::Section;
            let within = match r_type {
                R_BPF_64_32 => i64::from(immediate + 1) * 8,
                R_BPF_64_64 if is_section => i64::from(immediate),
                _ => 0,
            };
            let address = symbol
                .address()
                .checked_add_signed(within)
                .context("a relocation points nowhere")?;
            targets.insert(
                place,
                symbol.section_index().and_then(|section| self.at(section, address)),
            );
        }
        let (mut calls, mut by_itself, mut given) = (Vec::new(), Vec::new(), Vec::new());
        for (number, instruction) in self.functions[id].code.iter().enumerate() {
            let place = start + number as u64 * WIDTH;
            match (instruction.code, instruction.source, targets.get(&place)) {
                (CALL, CALL_OWN, Some(target)) => calls.extend(*target),
                (CALL, CALL_OWN, None) => {
                    let away = (i64::from(instruction.immediate) + 1) * 8;
                    calls.extend(
                        place
                            .checked_add_signed(away)
                            .and_then(|address| self.at(index, address)),
                    );
                }
                (CALL, _, _) => {
                    let list = if instruction.immediate == TIMER_SET_CALLBACK {
                        &mut by_itself
                    } else {
                        &mut calls
                    };
                    list.append(&mut given);
                }
                (_, _, Some(target)) => given.extend(*target),
                _ => {}
            }
        }
        calls.append(&mut given);
        self.functions[id].calls = calls;
        self.functions[id].by_itself = by_itself;
        Ok(())
    }

    fn at(&self, section: SectionIndex, address: u64) -> Option<FunctionId> {
        self.functions
            .iter()
            .position(|function| function.section == section && function.start == address)
    }
}

fn decode(bytes: [u8; 8]) -> Instruction {
    let [code, registers, o0, o1, i0, i1, i2, i3] = bytes;
    Instruction {
        code,
        target: registers & 0xf,
        source: registers >> 4,
        offset: i16::from_le_bytes([o0, o1]),
        immediate: i32::from_le_bytes([i0, i1, i2, i3]),
    }
}

/// By the module's name in a mangled symbol, old or new.
fn is_panic(symbol: &str) -> bool {
    symbol.contains("9panicking") || symbol.contains("panic_fmt") || symbol.contains("rust_begin_unwind")
}

/// The function's own name with its module, without crates and type parameters.
fn demangle(symbol: &str) -> String {
    let full = format!("{:#}", rustc_demangle::demangle(symbol));
    let plain = full.split('<').next().unwrap_or(&full).trim_end_matches("::");
    let mut parts: Vec<&str> = plain.rsplit("::").take(2).collect();
    parts.reverse();
    parts.join("::")
}
