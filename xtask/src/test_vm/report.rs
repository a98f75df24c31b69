//! Owns what a run says: a row for each kernel, machine and feature, as text, JSON, and a table for docs/kernels.md.

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// How a feature is on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Works,
    /// It works, but not as well as on other kernels or machines.
    Degraded,
    Failed,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Works => "ok",
            Self::Degraded => "degraded",
            Self::Failed => "FAILED",
        }
    }
}

/// What a scenario found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    verdict: Verdict,
    /// A word for the table where it is degraded.
    word: &'static str,
    said: String,
}

impl Found {
    /// It is as it should be.
    pub(crate) fn works(said: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Works,
            word: "",
            said: said.into(),
        }
    }

    /// The same, when it was not so at first.
    pub(crate) fn after(mut self, first: &str) -> Self {
        self.said = format!("{}; AT THE SECOND ATTEMPT, the first: {first}", self.said);
        self
    }

    /// It works otherwise than on other kernels: in a word, and at length.
    pub(crate) fn degraded(word: &'static str, said: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Degraded,
            word,
            said: said.into(),
        }
    }
}

/// A feature on a machine.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Debian's version.
    kernel: String,
    machine: String,
    feature: String,
    verdict: Verdict,
    word: String,
    said: String,
    seconds: f64,
}

/// All rows of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    /// Where the rows are kept as JSON, those of a run that does not come to its end, too.
    file: Option<PathBuf>,
}

impl Report {
    pub(crate) fn kept_in(file: Option<PathBuf>) -> Self {
        Self { rows: Vec::new(), file }
    }

    /// The same with the rows that are there already; those that are tried again are replaced.
    pub(crate) fn continued(file: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let rows: Vec<Value> =
            serde_json::from_str(&text).with_context(|| format!("{} holds no rows", file.display()))?;
        let rows: Option<Vec<Row>> = rows.iter().map(Row::read).collect();
        Ok(Self {
            rows: rows.with_context(|| format!("{} holds other rows than these", file.display()))?,
            file: Some(file),
        })
    }

    /// Notes a feature and says it at once.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn add(
        &mut self,
        kernel: &str,
        machine: &str,
        feature: &str,
        found: Result<Found>,
        time: Duration,
    ) -> Result<()> {
        let Found { verdict, word, said } = found.unwrap_or_else(|error| Found {
            verdict: Verdict::Failed,
            word: "",
            said: format!("{error:#}"),
        });
        let row = Row {
            kernel: kernel.to_owned(),
            machine: machine.to_owned(),
            feature: feature.to_owned(),
            verdict,
            word: word.to_owned(),
            said,
            seconds: time.as_secs_f64(),
        };
        println!("{}", row.text());
        // A kernel that could be fetched at last, or a newer one of the series, takes the place of what was known.
        self.rows.retain(|known| !known.is_outdone_by(&row));
        match self.rows.iter_mut().find(|known| known.is_of(&row)) {
            Some(known) => *known = row,
            None => self.rows.push(row),
        }
        let Some(file) = &self.file else { return Ok(()) };
        fs::write(file, format!("{:#}\n", self.json())).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Those that are not as they should be.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = self.rows.iter().filter(|row| row.verdict == Verdict::Failed);
        failed.map(Row::text).collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Every row with all that is known of it.
    fn json(&self) -> Value {
        self.rows
            .iter()
            .map(|row| {
                json!({
                    "kernel": row.kernel,
                    "machine": row.machine,
                    "feature": row.feature,
                    "verdict": row.verdict.word().to_lowercase(),
                    "word": row.word,
                    "said": row.said,
                    "seconds": row.seconds,
                })
            })
            .collect()
    }

    /// Features down, machines across.
    pub(crate) fn markdown(&self) -> String {
        let (mut machines, mut features) = (Vec::new(), Vec::new());
        for row in &self.rows {
            let machine = (row.kernel.as_str(), row.machine.as_str());
            if !machines.contains(&machine) {
                machines.push(machine);
            }
            if !features.contains(&row.feature.as_str()) {
                features.push(&row.feature);
            }
        }
        let mut table = String::from("| |");
        for (kernel, machine) in &machines {
            // Writing to a string cannot fail.
            let _ = write!(table, " {kernel}<br>{machine} |");
        }
        let _ = writeln!(table, "\n|---|{}", "---|".repeat(machines.len()));
        for feature in features {
            let _ = write!(table, "| {feature} |");
            for machine in &machines {
                let here =
                    |row: &&Row| row.feature == feature && (row.kernel.as_str(), row.machine.as_str()) == *machine;
                let cell = match self.rows.iter().find(here) {
                    None => "–".to_owned(),
                    Some(row) if row.verdict == Verdict::Degraded => row.word.clone(),
                    Some(row) => row.verdict.word().to_owned(),
                };
                let _ = write!(table, " {cell} |");
            }
            table.push('\n');
        }
        table
    }
}

impl Row {
    /// Whether both are of the same feature on the same machine.
    fn is_of(&self, other: &Self) -> bool {
        (&self.kernel, &self.machine, &self.feature) == (&other.kernel, &other.machine, &other.feature)
    }

    /// Whether it is of another version of the same series, or of none that could be tried.
    fn is_outdone_by(&self, newer: &Self) -> bool {
        // As 6.12.118-1 is of 6.12; of what could not be fetched only the series is known.
        let series = |kernel: &str| kernel.splitn(3, ['.', '-']).take(2).collect::<Vec<_>>().join(".");
        let is_same =
            newer.kernel.starts_with(&format!("{}.", self.kernel)) || series(&self.kernel) == series(&newer.kernel);
        self.kernel != newer.kernel && newer.machine != "-" && is_same
    }

    /// A row as JSON has it.
    fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let verdicts = [Verdict::Works, Verdict::Degraded, Verdict::Failed];
        Some(Self {
            kernel: text("kernel")?,
            machine: text("machine")?,
            feature: text("feature")?,
            verdict: *verdicts
                .iter()
                .find(|verdict| Some(verdict.word().to_lowercase()) == text("verdict"))?,
            word: text("word")?,
            said: text("said")?,
            seconds: value["seconds"].as_f64()?,
        })
    }

    fn text(&self) -> String {
        let word = match self.verdict {
            Verdict::Degraded => format!("degraded ({})", self.word),
            Verdict::Works | Verdict::Failed => self.verdict.word().to_owned(),
        };
        format!(
            "{} | {} | {} | {word} | {} ({:.1} s)",
            self.kernel, self.machine, self.feature, self.said, self.seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        let second = Duration::from_secs(1);
        report
            .add("6.1.1-1", "pc", "load", Ok(Found::works("")), second)
            .unwrap();
        report
            .add(
                "6.1.1-1",
                "pc",
                "tunnel",
                Ok(Found::degraded("user space", "none")),
                second,
            )
            .unwrap();
        report
            .add("6.12.1-1", "pc", "load", Err(anyhow!("no room")), second)
            .unwrap();
        report
    }

    #[test]
    fn a_table_has_a_cell_for_each_machine_and_feature() {
        assert_eq!(
            report().markdown(),
            "| | 6.1.1-1<br>pc | 6.12.1-1<br>pc |\n|---|---|---|\n| load | ok | FAILED |\n| tunnel | user space | – |\n"
        );
    }

    #[test]
    fn only_what_failed_is_a_failure() {
        assert_eq!(report().failures(), ["6.12.1-1 | pc | load | FAILED | no room (1.0 s)"]);
    }

    #[test]
    fn rows_are_read_back_and_those_that_are_tried_again_are_replaced() {
        let rows = report().json();
        let mut read = Report {
            rows: rows
                .as_array()
                .unwrap()
                .iter()
                .map(|row| Row::read(row).unwrap())
                .collect(),
            file: None,
        };
        assert_eq!(read.json(), rows);
        let found = Ok(Found::works("there was room"));
        read.add("6.12.1-1", "pc", "load", found, Duration::from_secs(2))
            .unwrap();
        assert_eq!((read.len(), read.failures().len()), (3, 0));
        let found = || Ok(Found::works(""));
        read.add("6.12.2-1", "pc", "load", found(), Duration::ZERO).unwrap();
        assert_eq!(read.len(), 3, "of a newer version");
        read.add("7", "-", "load", Err(anyhow!("no network")), Duration::ZERO)
            .unwrap();
        read.add("7.3.4-1~bpo13+1", "pc", "load", found(), Duration::ZERO)
            .unwrap();
        assert_eq!((read.len(), read.failures().len()), (4, 0), "fetched at last");
        read.add("6.1.1-1", "q35", "load", found(), Duration::ZERO).unwrap();
        assert_eq!(read.len(), 5, "on another machine");
    }
}
