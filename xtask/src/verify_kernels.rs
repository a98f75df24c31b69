//! Owns `cargo xtask verify-kernels`: whether Debian's kernels take the programs, and how far the verifier goes in each.

mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use mape_tests::process::interrupted;
use serde_json::Value;

use crate::{
    build::build,
    setup::progress,
    vm::{
        self,
        boot::Machine,
        guest::{self, Answer, Step},
        kernel::{Kernel, Kernels, debian_version},
        qemu::Qemu,
    },
};

/// The oldest kernel that mape-ctl accepts; older ones it must refuse by number.
const OLDEST: [u32; 2] = [6, 1];
/// The maps of 65,536 sessions, and the archive twice.
const MEMORY_MIB: u32 = 1_024;
/// A machine with two cores needs 20 s.
const LIMIT: Duration = Duration::from_mins(5);

/// What to try on.
#[derive(Args)]
pub(crate) struct VerifyKernels {
    /// Series of Debian cloud kernels: the newest of each is tried. 7 is any 7.x. One before 6.1 must be refused by mape-ctl.
    #[arg(value_name = "KERNEL", default_values_t = ["5.10", "6.1", "6.12", "6.18", "7"].map(str::to_owned))]
    kernels: Vec<String>,
    /// Also write the table to this file, as markdown, when every kernel could be tried.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Look for newer kernels than those fetched earlier.
    #[arg(long)]
    refresh: bool,
    /// Try this program instead of building one.
    #[arg(long, value_name = "FILE")]
    mape_ctl: Option<PathBuf>,
}

/// What a kernel did with the programs.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It was asked about each.
    Asked(Vec<Program>),
    /// mape-ctl does not even ask: its message.
    TooOld(String),
}

/// A program on one kernel.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    name: String,
    /// Instructions that the verifier went through, or the error and the end of its log.
    outcome: Result<u64, String>,
}

/// One kernel's column.
struct Column {
    /// Debian's version, which tells more than the release: 6.1.192-2 is the release 6.1.0-56.
    version: String,
    found: Found,
}

/// Tries all kernels, one after the other, and fails at the end if one was not as it should be.
pub(crate) fn verify_kernels(arguments: VerifyKernels) -> Result<()> {
    let program = match arguments.mape_ctl {
        Some(file) => file,
        None => build()?,
    };
    let qemu = Qemu::provide()?;
    let file_system = file_system(&program)?;
    let mut kernels = Kernels::new(arguments.refresh);
    let mut columns = Vec::new();
    let mut faults = Vec::new();
    for series in &arguments.kernels {
        match try_kernel(&qemu, &mut kernels, &file_system, series) {
            Ok(column) => {
                faults.extend(refusals(&column));
                columns.push(column);
            }
            Err(error) => {
                // Told at once: the next kernel takes its time.
                progress(&format!("Linux {series}: {error:#}"));
                faults.push(format!("Linux {series} was not tried to the end"));
            }
        }
        if interrupted() {
            bail!("interrupted");
        }
    }
    let table = table::markdown(&columns);
    println!("\n{table}");
    // A table that lacks a kernel is no record.
    if let Some(file) = &arguments.markdown
        && columns.len() == arguments.kernels.len()
    {
        fs::write(file, &table).with_context(|| format!("cannot write {}", file.display()))?;
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The same for all kernels: none needs a module.
fn file_system(mape_ctl: &Path) -> Result<PathBuf> {
    let step = |name, script: &str| Step {
        name,
        script: script.to_owned(),
    };
    let steps = [
        step("version", "uname -v"),
        step("verify", "mape-ctl object --verify --json"),
    ];
    let mut files = guest::file_system(&steps)?;
    files.program("bin/mape-ctl", mape_ctl)?;
    let archive = vm::folder().join("verify-kernels.cpio");
    files.write(&archive)?;
    Ok(archive)
}

fn try_kernel(qemu: &Qemu, kernels: &mut Kernels, file_system: &Path, series: &str) -> Result<Column> {
    let kernel = kernels.newest(series)?;
    let begin = Instant::now();
    let machine = Machine {
        qemu,
        kernel: &kernel,
        file_system,
        memory_mib: MEMORY_MIB,
        limit: LIMIT,
    };
    let answers = machine.run()?;
    let version = answer(&answers, "version")?;
    let column = Column {
        version: debian_version(&version.stdout).unwrap_or(&kernel.release).to_owned(),
        found: found(&kernel, answer(&answers, "verify")?)?,
    };
    println!(
        "Linux {} ({}): {}, {} s",
        column.version,
        kernel.release,
        column.found.summary(),
        begin.elapsed().as_secs()
    );
    Ok(column)
}

fn answer<'a>(answers: &'a [Answer], name: &str) -> Result<&'a Answer> {
    let found = answers.iter().find(|answer| answer.name == name);
    found.with_context(|| format!("the machine gave no answer to {name}"))
}

fn found(kernel: &Kernel, answer: &Answer) -> Result<Found> {
    let said = || format!("exit code {}: {}{}", answer.exit_code, answer.stdout, answer.stderr);
    let message = answer.stderr.trim();
    let is_refused = message.contains(" is too old: ") && answer.exit_code == 1 && answer.stdout.is_empty();
    if kernel.version() < OLDEST {
        ensure!(is_refused, "mape-ctl should refuse this kernel, but: {}", said());
        return Ok(Found::TooOld(message.to_owned()));
    }
    let report: Value =
        serde_json::from_str(&answer.stdout).with_context(|| format!("mape-ctl gives no report, but {}", said()))?;
    let programs = report["programs"].as_array().map_or(&[][..], Vec::as_slice);
    let programs: Vec<Program> = programs.iter().map(program).collect::<Result<_>>()?;
    ensure!(!programs.is_empty(), "mape-ctl reports no program: {}", said());
    let is_any_refused = programs.iter().any(|program| program.outcome.is_err());
    ensure!(
        (answer.exit_code == 0) != is_any_refused,
        "exit code and report contradict each other: {}",
        said()
    );
    Ok(Found::Asked(programs))
}

fn program(row: &Value) -> Result<Program> {
    let name = row["name"].as_str().context("a program in the report has no name")?;
    let outcome = match row["verified_instructions"].as_u64() {
        Some(verified) => Ok(verified),
        None => Err(refusal(&row["refused"]).with_context(|| format!("{name} is neither taken nor refused"))?),
    };
    Ok(Program {
        name: name.to_owned(),
        outcome,
    })
}

fn refusal(refused: &Value) -> Option<String> {
    let log = refused["log"].as_array()?.iter().filter_map(Value::as_str);
    Some(log.fold(refused["error"].as_str()?.to_owned(), |text, line| {
        text + "\n    " + line
    }))
}

fn refusals(column: &Column) -> Vec<String> {
    let Found::Asked(programs) = &column.found else {
        return Vec::new();
    };
    let refused = programs
        .iter()
        .filter_map(|program| Some((&program.name, program.outcome.as_ref().err()?)));
    refused
        .map(|(name, why)| format!("Linux {} refuses {name}: {why}", column.version))
        .collect()
}

impl Found {
    fn summary(&self) -> String {
        match self {
            Self::TooOld(_) => "refused by mape-ctl, as it should be".to_owned(),
            Self::Asked(programs) => {
                let taken = programs.iter().filter(|program| program.outcome.is_ok()).count();
                format!("{taken} of {} programs taken", programs.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found_on(release: &str, exit_code: i32, stdout: &str, stderr: &str) -> Result<Found> {
        let kernel = Kernel {
            release: release.to_owned(),
            image: PathBuf::new(),
            package: PathBuf::new(),
        };
        let answer = Answer {
            name: "verify".to_owned(),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            exit_code,
        };
        found(&kernel, &answer)
    }

    const TAKEN: &str = r#"{"name": "a", "verified_instructions": 12, "refused": null}"#;
    const REFUSED: &str =
        r#"{"name": "b", "verified_instructions": null, "refused": {"error": "EACCES", "log": ["7: exit", "no"]}}"#;
    const TOO_OLD: &str = "mape-ctl: error: Linux 5.10.0-46 is too old: 6.1 or newer is needed\n";

    #[test]
    fn what_a_kernel_did_is_read_from_the_report() {
        let report = format!(r#"{{"programs": [{TAKEN}, {REFUSED}]}}"#);
        let found = found_on("6.1.0-56-cloud-amd64", 1, &report, "mape-ctl: error: refuses").unwrap();
        assert_eq!(found.summary(), "1 of 2 programs taken");
        let column = Column {
            version: "6.1.192-2".to_owned(),
            found,
        };
        assert_eq!(
            refusals(&column),
            ["Linux 6.1.192-2 refuses b: EACCES\n    7: exit\n    no"]
        );
    }

    #[test]
    fn an_old_kernel_must_be_refused_and_a_new_one_must_not() {
        let report = format!(r#"{{"programs": [{TAKEN}]}}"#);
        assert!(matches!(
            found_on("5.10.0-46-cloud-amd64", 1, "", TOO_OLD),
            Ok(Found::TooOld(message)) if message == TOO_OLD.trim()
        ));
        assert!(found_on("5.10.0-46-cloud-amd64", 0, &report, "").is_err());
        assert!(found_on("5.10.0-46-cloud-amd64", 1, "", "mape-ctl: error: no BTF\n").is_err());
        assert!(found_on("6.1.0-56-cloud-amd64", 1, "", TOO_OLD).is_err());
        assert!(found_on("10.0.1-cloud-amd64", 0, &report, "").is_ok());
    }

    #[test]
    fn a_report_that_contradicts_itself_is_none() {
        for (exit_code, report) in [
            (1, format!(r#"{{"programs": [{TAKEN}]}}"#)),
            (0, format!(r#"{{"programs": [{REFUSED}]}}"#)),
            (0, r#"{"programs": []}"#.to_owned()),
            (0, r#"{"programs": [{"name": "a"}]}"#.to_owned()),
            (0, String::new()),
        ] {
            assert!(
                found_on("6.18.15-cloud-amd64", exit_code, &report, "").is_err(),
                "{report}"
            );
        }
    }
}
