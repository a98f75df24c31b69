//! Owns what happens inside: the first process, and how it tells on the second serial port what came of each step.
//!
//! The first port is the kernel's, so nothing that it says gets between the lines of an answer.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};

use super::{
    folder,
    initramfs::Initramfs,
    modules::Module,
    packages::{HostApt, whole},
};
use crate::setup::{debian::find, progress};

/// What the answers begin and end with: without the end something is missing.
const DONE: &str = "done";

/// Something to do inside.
pub(crate) struct Step {
    /// What its answer is found by.
    pub(crate) name: &'static str,
    /// A script for the shell.
    pub(crate) script: String,
}

/// What came of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) name: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit_code: i32,
}

/// A file system that does the steps one after the other, whether they succeed or not, and switches the machine off.
/// The caller adds the programs that the steps run.
pub(crate) fn file_system(steps: &[Step]) -> Result<Initramfs> {
    let mut files = Initramfs::default();
    for empty in ["dev", "proc", "run", "sys", "tmp"] {
        files.folder(empty);
    }
    files.program("bin/busybox", &busybox()?)?;
    files.file("init", include_bytes!("guest-init.sh").to_vec());
    for (number, step) in steps.iter().enumerate() {
        files.file(
            &format!("steps/{number:03}-{}", step.name),
            step.script.clone().into_bytes(),
        );
    }
    Ok(files)
}

/// A file system that loads modules and then does what an agent is told ([`super::live`]); it switches itself off after the
/// limit. The programs are this machine's.
pub(crate) fn agent_file_system(modules: &[Module], programs: &[&str], limit: Duration) -> Result<Initramfs> {
    let mut files = Initramfs::default();
    for empty in ["applets", "dev", "etc", "proc", "run", "sys", "tmp", "var"] {
        files.folder(empty);
    }
    files.program("bin/busybox", &busybox()?)?;
    // busybox's own shell runs its own tools instead of those that are in PATH.
    files.program("bin/sh", Path::new("/bin/dash"))?;
    for program in programs {
        let found = find(program).with_context(|| format!("{program} is missing: run `cargo xtask setup`"))?;
        files.program(&format!("bin/{program}"), &found)?;
    }
    files.file("init", include_bytes!("agent-init.sh").to_vec());
    files.file("limit", format!("{}\n", limit.as_secs()).into_bytes());
    let order: Vec<&str> = modules.iter().flat_map(|module| [&module.name, "\n"]).collect();
    files.file("modules/order", order.concat().into_bytes());
    for module in modules {
        files.file(&format!("modules/{}.ko", module.name), module.bytes.clone());
    }
    Ok(files)
}

/// The shell and its tools in one program without libraries.
fn busybox() -> Result<std::path::PathBuf> {
    let root = folder().join("busybox");
    if !root.exists() {
        progress("fetching busybox-static (apt-get)");
        let apt = HostApt::new()?;
        whole(&root, |folder| apt.unpack("busybox-static", folder))?;
    }
    // Since Debian 13 there is no /bin beside /usr/bin.
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| root.join(place));
    let found = places.into_iter().find(|place| place.is_file());
    found.with_context(|| format!("{} has no busybox", root.display()))
}

/// What stands in the file that the second serial port was written to.
pub(crate) fn read(file: &Path) -> Result<Vec<Answer>> {
    // Not all bytes need be text where the machine was ended in the middle.
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(text: &str) -> Result<Vec<Answer>> {
    let mut answers: Vec<Answer> = Vec::new();
    let mut open: Option<Answer> = None;
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (word, &mut open) {
            (DONE, None) => return Ok(answers),
            ("begin", None) => {
                // The number in front only keeps the steps in order.
                let name = rest.split_once('-').map_or(rest, |(_, name)| name).to_owned();
                open = Some(Answer {
                    name,
                    ..Answer::default()
                });
            }
            ("out", Some(answer)) => answer.stdout.extend([rest, "\n"]),
            ("err", Some(answer)) => answer.stderr.extend([rest, "\n"]),
            ("end", Some(answer)) => {
                answer.exit_code = rest.parse().with_context(|| format!("no exit code: {rest:?}"))?;
                answers.extend(open.take());
            }
            _ => bail!("the machine says something unexpected: {line:?}"),
        }
    }
    let during = open.map_or_else(String::new, |answer| format!(", during {}", answer.name));
    bail!("the machine stopped before it was done{during}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        let text = "begin 000-load\nout {\"a\": 1}\nout \nerr end 7\nend 1\nbegin 001-look\nend 0\ndone\n";
        let answers = parse(text).unwrap();
        assert_eq!(
            answers,
            [
                Answer {
                    name: "load".to_owned(),
                    stdout: "{\"a\": 1}\n\n".to_owned(),
                    stderr: "end 7\n".to_owned(),
                    exit_code: 1,
                },
                Answer {
                    name: "look".to_owned(),
                    ..Answer::default()
                }
            ]
        );
    }

    #[test]
    fn a_machine_that_stops_early_is_no_answer() {
        for (text, fault) in [
            ("", "before it was done"),
            ("begin 000-load\nend 0\n", "before it was done"),
            ("begin 000-load\nout half", "during load"),
            ("begin 000-load\nend none\ndone\n", "no exit code"),
            ("begin 000-load\ndone\n", "unexpected"),
            ("Kernel panic\n", "unexpected"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(fault), "{text:?}: {error}");
        }
    }
}
