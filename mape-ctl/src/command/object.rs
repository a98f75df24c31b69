//! `mape-ctl object`: the BPF object out of this binary, for looking at it with other tools; or what this kernel says of it.

use std::{
    fs,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result, ensure};
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::{
    cli::ObjectArgs,
    datapath::verify::{Figures, Refusal, Trial, verify},
    kernel,
    object::object,
    view::text::table,
};

/// Some programs are refused; the report on standard output says why.
#[derive(Debug, thiserror::Error)]
#[error("Linux {release} refuses {} of the {of} programs: {}", .programs.len(), .programs.join(", "))]
struct Refused {
    release: String,
    of: usize,
    programs: Vec<String>,
}

/// Writes the object to a file, and tries it, as asked for.
///
/// # Errors
/// When there is none in this build, the file cannot be written, or the kernel refuses something.
pub fn run(args: &ObjectArgs) -> Result<()> {
    ensure!(
        !object().is_empty(),
        "this mape-ctl was built with MAPE_SKIP_EBPF=1 and carries no BPF object; build it without"
    );
    if let Some(file) = &args.output {
        fs::write(file, object()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.verify { try_it(args.json) } else { Ok(()) }
}

fn try_it(as_json: bool) -> Result<()> {
    kernel::check("object --verify")?;
    let release = kernel::release();
    let trials = verify(object())?;
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{}", report(&release, &trials))?;
    } else {
        write!(out, "{}", text(&trials))?;
    }
    out.flush()?;
    let refused = trials.iter().filter(|trial| trial.outcome.is_err());
    let programs: Vec<String> = refused.map(|trial| trial.program.clone()).collect();
    let of = trials.len();
    ensure!(programs.is_empty(), Refused { release, of, programs });
    Ok(())
}

/// Keys are stable; those of figures are null for a program that is refused, and `refused` for one that is not.
fn report(release: &str, trials: &[Trial]) -> Value {
    let program = |trial: &Trial| {
        let figures = trial.outcome.as_ref().ok();
        json!({
            "name": trial.program,
            "verified_instructions": figures.and_then(|figures| figures.verified),
            "translated_instructions": figures.and_then(|figures| figures.translated),
            "jit_bytes": figures.map(|figures| figures.jit_bytes),
            "load_milliseconds": figures.map(milliseconds),
            "refused": trial.outcome.as_ref().err().map(|Refusal { error, log }| json!({ "error": error, "log": log })),
        })
    };
    json!({ "kernel": release, "programs": trials.iter().map(program).collect::<Vec<_>>() })
}

fn milliseconds(figures: &Figures) -> u64 {
    u64::try_from(figures.load.as_millis()).unwrap_or(u64::MAX)
}

fn text(trials: &[Trial]) -> String {
    let mut rows = table(&["program", ">verified", ">translated", ">JIT bytes", ">load ms"]);
    let mut refusals = String::new();
    for Trial { program, outcome } in trials {
        let figures = match outcome {
            Ok(figures) => {
                let number = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
                [
                    number(figures.verified),
                    number(figures.translated),
                    figures.jit_bytes.to_string(),
                    milliseconds(figures).to_string(),
                ]
            }
            Err(Refusal { error, log }) => {
                refusals.extend(["\n", program, " is refused: ", error, "\n"]);
                refusals.extend(log.iter().flat_map(|line| ["    ", line, "\n"]));
                ["refused", "-", "-", "-"].map(str::to_owned)
            }
        };
        rows.add_row(std::iter::once(program).chain(&figures).map(Cell::new));
    }
    format!("{}\n{refusals}", rows.trim_fmt())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn trials() -> [Trial; 2] {
        let figures = Figures {
            verified: Some(279_000),
            translated: None,
            jit_bytes: 4_096,
            load: Duration::from_micros(1_900),
        };
        let refusal = Refusal {
            error: "Permission denied (os error 13)".to_owned(),
            log: vec!["7: (85) call 999".to_owned(), "invalid func".to_owned()],
        };
        [("good", Ok(figures)), ("bad", Err(refusal))].map(|(program, outcome)| Trial {
            program: program.to_owned(),
            outcome,
        })
    }

    #[test]
    fn json_has_the_same_keys_for_good_and_bad() {
        let report = report("6.1.0-56", &trials());
        assert_eq!(report["kernel"], "6.1.0-56");
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let [good, bad] = [&report["programs"][0], &report["programs"][1]];
        assert_eq!(keys(good), keys(bad));
        assert_eq!(good["verified_instructions"], 279_000);
        assert_eq!(good["load_milliseconds"], 1);
        assert!(good["translated_instructions"].is_null() && good["refused"].is_null());
        assert!(bad["verified_instructions"].is_null());
        assert_eq!(bad["refused"]["log"][1], "invalid func");
    }

    #[test]
    fn text_shows_the_log_below_the_table() {
        let text = text(&trials());
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["good", "279000", "-", "4096", "1"]);
        assert_eq!(lines[2], ["bad", "refused", "-", "-", "-"]);
        assert!(
            text.ends_with(
                "\nbad is refused: Permission denied (os error 13)\n    7: (85) call 999\n    invalid func\n"
            ),
            "{text}"
        );
    }
}
