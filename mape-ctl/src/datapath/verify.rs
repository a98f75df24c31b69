//! Owns trying the object's programs on the running kernel: all maps, every program, nothing pinned or attached.

use std::time::{Duration, Instant};

use aya::{
    Ebpf,
    programs::{Program, ProgramError, ProgramInfo},
};
use mape_common::layout::DEFAULT_SESSIONS;

use super::programs::{self, LoadError, Sizes};

/// Lines of the verifier's log that are kept: the last ones name the instruction and the fault.
const LOG_LINES: usize = 30;
/// Bytes of an instruction as the kernel keeps it.
const INSTRUCTION_BYTES: u32 = 8;

/// The sizes of a gateway that nobody has configured, with more ports and rules than any known line has.
const SIZES: Sizes = Sizes {
    sessions: DEFAULT_SESSIONS,
    ports: 65_536,
    max_ifindex: 0,
    rules: 1_024,
    processors: 1,
};

/// What the kernel says of a program that it has taken. What it does not say is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Instructions that the verifier went through, on all paths; the limit is a million.
    pub verified: Option<u32>,
    /// Instructions after the verifier's rewriting.
    pub translated: Option<u32>,
    /// Bytes of machine code; zero where the just-in-time compiler is off.
    pub jit_bytes: u32,
    /// How long the system call took: verification and compilation.
    pub load: Duration,
}

/// Why a program is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error of the system call.
    pub error: String,
    /// The last lines of the verifier's log; none where it has not got that far.
    pub log: Vec<String>,
}

/// A program of the object and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Its name in the object.
    pub program: String,
    /// What became of it.
    pub outcome: Result<Figures, Refusal>,
}

/// Tries every program of the object, in the order of their names. All are gone from the kernel when this returns.
///
/// # Errors
/// [`LoadError`] where not even the maps are taken. A program that is refused is no error here.
pub fn verify(object: &[u8]) -> Result<Vec<Trial>, LoadError> {
    let mut ebpf: Ebpf = programs::unpinned(object, &SIZES)?;
    let mut trials: Vec<Trial> = ebpf
        .programs_mut()
        .map(|(name, program)| Trial {
            program: name.to_owned(),
            outcome: load(program),
        })
        .collect();
    trials.sort_unstable_by(|one, other| one.program.cmp(&other.program));
    Ok(trials)
}

fn load(program: &mut Program) -> Result<Figures, Refusal> {
    let begin = Instant::now();
    let loaded = programs::bring(program);
    let took = begin.elapsed();
    let info = loaded.and_then(|()| program.info()).map_err(|error| refusal(&error))?;
    Ok(figures(&info, took))
}

fn figures(info: &ProgramInfo, load: Duration) -> Figures {
    Figures {
        verified: info.verified_instruction_count(),
        translated: info.size_translated().map(|bytes| bytes / INSTRUCTION_BYTES),
        jit_bytes: info.size_jitted(),
        load,
    }
}

fn refusal(error: &ProgramError) -> Refusal {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        return Refusal {
            error: io_error.to_string(),
            log: last_lines(&verifier_log.to_string()),
        };
    }
    Refusal {
        error: error.to_string(),
        log: Vec::new(),
    }
}

fn last_lines(log: &str) -> Vec<String> {
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.len().saturating_sub(LOG_LINES);
    lines.into_iter().skip(first).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn of_a_long_log_the_end_is_kept() {
        let lines: Vec<String> = (0..100).map(|line| format!("line {line}")).collect();
        let kept = last_lines(&lines.join("\n\n"));
        assert_eq!(kept.len(), LOG_LINES);
        assert_eq!(kept.last().map(String::as_str), Some("line 99"));
        assert_eq!(last_lines("only one"), ["only one"]);
    }

    #[test]
    fn a_refusal_gives_the_error_and_the_log_apart() {
        let refused = refusal(&ProgramError::LoadError {
            io_error: io::Error::from_raw_os_error(libc::EACCES),
            verifier_log: aya_obj::VerifierLog::new("0: (b7) r0 = 0\ninvalid access\n".to_owned()),
        });
        assert!(refused.error.contains("Permission denied"), "{}", refused.error);
        assert_eq!(refused.log, ["0: (b7) r0 = 0", "invalid access"]);
        let other = refusal(&ProgramError::UnexpectedProgramType);
        assert_eq!(other.log, Vec::<String>::new());
    }

    /// Some helpers, the timer's among them, are only for programs under a free licence.
    #[test]
    fn a_program_that_the_verifier_refuses_is_told_with_its_log_and_the_others_are_tried() {
        const LICENCE: &[u8] = b"Dual MIT/GPL\0";
        let mut bytes = crate::object::object().to_vec();
        if bytes.is_empty() || !rustix::process::geteuid().is_root() {
            println!("SKIPPED: loading BPF programs needs root, and the BPF object");
            return;
        }
        let at = bytes.windows(LICENCE.len()).position(|part| part == LICENCE).unwrap();
        bytes[at..at + LICENCE.len()].copy_from_slice(b"Not free....\0");
        let trials = verify(&bytes).unwrap();
        let refused = |trial: &&Trial| trial.outcome.is_err();
        let refusals: Vec<&Trial> = trials.iter().filter(refused).collect();
        assert!(!refusals.is_empty() && refusals.len() < trials.len(), "{trials:?}");
        for trial in refusals {
            let refusal = trial.outcome.as_ref().unwrap_err();
            assert!(
                refusal.log.iter().any(|line| line.contains("GPL")),
                "{}: {refusal:?}",
                trial.program
            );
        }
    }
}
