//! Computes how much stack a chain of calls needs, from the instructions alone.

use anyhow::{Result, bail};

use super::object::{FunctionId, Instruction, Object};

/// The register that points at the top of the frame.
const FRAME: u8 = 10;
/// Linux 6.1 counts every frame in steps of 32 bytes; newer ones in 16 where there is a JIT compiler, and are no stricter.
const STEP: u32 = 32;
/// More calls than any kernel allows: what is deeper calls itself.
const DEEPEST: usize = 64;

/// Instruction classes, and the whole codes that move addresses about.
const CLASS: u8 = 0x07;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const ALU32: u8 = 0x04;
const ALU64: u8 = 0x07;
const LOAD_IMMEDIATE: u8 = 0x18;
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
const CALL: u8 = 0x85;

/// The deepest chain of calls.
pub(super) struct Chain {
    /// Stack that all its frames need together.
    pub(super) bytes: u32,
    /// From the program down, each with its own frame.
    pub(super) functions: Vec<(FunctionId, u32)>,
}

/// The chain below a program that needs most stack; a timer's function begins one of its own.
pub(super) fn deepest(object: &Object, program: FunctionId) -> Result<Chain> {
    let mut worst = below(object, program, 0)?;
    for id in object.reached_from(program) {
        for own in object.by_itself(id) {
            let chain = below(object, *own, 0)?;
            if chain.bytes > worst.bytes {
                worst = chain;
            }
        }
    }
    Ok(worst)
}

fn below(object: &Object, id: FunctionId, depth: usize) -> Result<Chain> {
    if depth > DEEPEST {
        bail!("{} calls itself, which BPF does not allow", object.name(id));
    }
    let mut worst = Chain {
        bytes: 0,
        functions: Vec::new(),
    };
    let mut callees = object.calls(id).to_vec();
    callees.sort_unstable();
    callees.dedup();
    for callee in callees {
        let chain = below(object, callee, depth + 1)?;
        if chain.bytes > worst.bytes || worst.functions.is_empty() {
            worst = chain;
        }
    }
    let own = frame(object.code(id)).max(1).next_multiple_of(STEP);
    worst.bytes += own;
    worst.functions.insert(0, (id, own));
    Ok(worst)
}

/// The lowest byte of its frame that a function touches.
///
/// Follows addresses taken from the frame pointer in the order of the code, which is how the compiler writes them.
fn frame(code: &[Instruction]) -> u32 {
    let mut lowest = 0;
    let mut known: [Option<i32>; 16] = [None; 16];
    known[usize::from(FRAME)] = Some(0);
    for instruction in code {
        let (target, source) = (usize::from(instruction.target), usize::from(instruction.source));
        let offset = i32::from(instruction.offset);
        match instruction.code & CLASS {
            LDX => {
                lowest = lowest.min(known[source].map_or(0, |base| base + offset));
                known[target] = None;
            }
            ST | STX => lowest = lowest.min(known[target].map_or(0, |base| base + offset)),
            ALU64 | ALU32 => {
                known[target] = match instruction.code {
                    MOVE => known[source],
                    ADD => known[target].map(|base| base + instruction.immediate),
                    _ => None,
                };
                lowest = lowest.min(known[target].unwrap_or(0));
            }
            _ if instruction.code == LOAD_IMMEDIATE => known[target] = None,
            _ if instruction.code == CALL => known[..6].fill(None),
            _ => {}
        }
        known[usize::from(FRAME)] = Some(0);
    }
    lowest.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::{Instruction, frame};

    fn instruction(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction {
            code,
            target,
            source,
            offset,
            immediate,
        }
    }

    #[test]
    fn direct_stores_and_taken_addresses_count() {
        // *(u64 *)(r10 - 16) = r1; r2 = r10; r2 += -40; *(u32 *)(r2 - 8) = r1
        let code = [
            instruction(0x7b, 10, 1, -16, 0),
            instruction(0xbf, 2, 10, 0, 0),
            instruction(0x07, 2, 0, 0, -40),
            instruction(0x63, 2, 1, -8, 0),
        ];
        assert_eq!(frame(&code[..1]), 16);
        assert_eq!(frame(&code[..3]), 40);
        assert_eq!(frame(&code), 48);
    }

    #[test]
    fn an_address_that_was_overwritten_no_longer_counts() {
        // r2 = r10; r2 = *(u64 *)(r1 + 0); *(u64 *)(r2 - 400) = r1
        let code = [
            instruction(0xbf, 2, 10, 0, 0),
            instruction(0x79, 2, 1, 0, 0),
            instruction(0x7b, 2, 1, -400, 0),
        ];
        assert_eq!(frame(&code), 0);
    }
}
