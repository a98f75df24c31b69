//! Owns the budgets: how many instructions a program may have, and how many a packet's way may take, as they were when somebody last
//! said that this is right.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::cargo::root;

const FILE: &str = "mape-ebpf/budget.json";
/// What of a kernel's figures has a budget: not the kernel's own.
const PATHS: [&str; 3] = ["up_added", "down_added", "gateway_new_session"];
/// So many hundredths more are not yet over it: a count in a machine repeats to about one, and compilers of programs differ by as much.
const TOLERANCE: u64 = 4;

fn file() -> PathBuf {
    root().join(FILE)
}

fn read() -> Result<Value> {
    let text = fs::read_to_string(file()).with_context(|| format!("cannot read {FILE}"))?;
    serde_json::from_str(&text).with_context(|| format!("{FILE} holds no budgets"))
}

fn write(budgets: &Value) -> Result<()> {
    fs::write(file(), format!("{budgets:#}\n")).with_context(|| format!("cannot write {FILE}"))
}

/// What is over the budget of a kernel series, in words.
pub(super) fn over(series: &str, figures: &Value) -> Result<Vec<String>> {
    let budgets = read()?;
    let Some(budget) = budgets["paths"][series].as_object() else {
        return Ok(vec![format!(
            "Linux {series} has no budget yet: `cargo xtask bench-vm {series} --keep`"
        )]);
    };
    let rows = PATHS.iter().map(|path| (*path, figures[*path].as_f64().map(whole)));
    Ok(compare(&format!("Linux {series}, "), budget, rows))
}

/// Makes a kernel series' figures its budget.
pub(super) fn keep(series: &str, figures: &Value) -> Result<()> {
    let mut budgets = read()?;
    for path in PATHS {
        let figure = figures[path].as_f64().with_context(|| format!("no figure {path}"))?;
        budgets["paths"][series][path] = json!(whole(figure));
    }
    write(&budgets)
}

/// The programs that are over their budgets, in words.
pub(crate) fn programs_over(counts: &BTreeMap<String, usize>) -> Result<Vec<String>> {
    let budgets = read()?;
    let empty = Map::new();
    let budget = budgets["programs"].as_object().unwrap_or(&empty);
    let rows = counts
        .iter()
        .map(|(name, count)| (name.as_str(), u64::try_from(*count).ok()));
    Ok(compare("", budget, rows))
}

/// Makes the programs' counts their budgets.
pub(crate) fn keep_programs(counts: &BTreeMap<String, usize>) -> Result<()> {
    let mut budgets = read()?;
    budgets["programs"] = json!(counts);
    write(&budgets)
}

fn compare<'a>(
    of: &str,
    budget: &Map<String, Value>,
    rows: impl Iterator<Item = (&'a str, Option<u64>)>,
) -> Vec<String> {
    let mut over = Vec::new();
    for (name, found) in rows {
        match (found, budget.get(name).and_then(Value::as_u64)) {
            (Some(found), Some(budget)) if found * 100 > budget * (100 + TOLERANCE) => {
                over.push(format!(
                    "{of}{name}: {found} instructions, {budget} budgeted: {} more",
                    found - budget
                ));
            }
            (Some(_), Some(_)) => {}
            (Some(found), None) => over.push(format!("{of}{name}: {found} instructions, and no budget")),
            (None, _) => over.push(format!("{of}{name}: not counted")),
        }
    }
    over
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of instructions, some thousands; less than none is none"
)]
fn whole(figure: f64) -> u64 {
    figure.round().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_is_told_with_both_figures() {
        let budget = json!({"a": 1_000, "b": 1_000});
        let budget = budget.as_object().unwrap();
        let over = compare(
            "x, ",
            budget,
            [("a", Some(1_040)), ("b", Some(1_041)), ("c", Some(7)), ("a", None)].into_iter(),
        );
        assert_eq!(
            over,
            [
                "x, b: 1041 instructions, 1000 budgeted: 41 more",
                "x, c: 7 instructions, and no budget",
                "x, a: not counted",
            ]
        );
    }
}
