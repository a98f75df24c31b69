//! Owns the table kernel × program: readable in a terminal, and markdown.

use std::collections::BTreeSet;

use super::{Column, Found};

/// Where the verifier gives up.
const VERIFIER_LIMIT: u64 = 1_000_000;

/// The instructions that the verifier went through: a row a program, a column a kernel; below, what else there is to say.
pub(super) fn markdown(columns: &[Column]) -> String {
    let asked: Vec<_> = columns
        .iter()
        .filter_map(|column| match &column.found {
            Found::Asked(programs) => Some((&column.version, programs)),
            Found::TooOld(_) => None,
        })
        .collect();
    let names: BTreeSet<&str> = asked
        .iter()
        .flat_map(|(_, programs)| programs.iter().map(|program| program.name.as_str()))
        .collect();
    let mut rows = vec![
        std::iter::once("program".to_owned())
            .chain(asked.iter().map(|(version, _)| format!("Linux {version}")))
            .collect(),
    ];
    for name in &names {
        let cells = asked.iter().map(|(_, programs)| {
            let program = programs.iter().find(|program| program.name == *name);
            match program.map(|program| &program.outcome) {
                Some(Ok(verified)) => grouped(*verified),
                Some(Err(_)) => "refused".to_owned(),
                None => "-".to_owned(),
            }
        });
        rows.push(std::iter::once(format!("`{name}`")).chain(cells).collect());
    }
    let mut parts = Vec::new();
    if !names.is_empty() {
        parts.push(laid_out(&rows));
    }
    let largest = asked
        .iter()
        .flat_map(|(version, programs)| programs.iter().map(move |program| (version, program)))
        .filter_map(|(version, program)| Some((*program.outcome.as_ref().ok()?, &program.name, version)))
        .max();
    if let Some((verified, name, version)) = largest {
        parts.push(format!(
            "The largest, `{name}` on Linux {version}, takes {} % of the {} instructions that the verifier allows.\n",
            verified.saturating_mul(100) / VERIFIER_LIMIT,
            grouped(VERIFIER_LIMIT)
        ));
    }
    parts.extend(columns.iter().filter_map(|column| match &column.found {
        Found::TooOld(message) => Some(format!("Linux {}: `{message}`\n", column.version)),
        Found::Asked(_) => None,
    }));
    parts.join("\n")
}

/// The first row is the head; the first column is aligned to the left, the others, numbers, to the right.
fn laid_out(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| {
            if at == 0 {
                format!("| {cell:<width$} ")
            } else {
                format!("| {cell:>width$} ")
            }
        });
        cells.collect::<Vec<_>>().concat() + "|\n"
    };
    let rule: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(at, width)| {
            let dashes = "-".repeat(width - 1);
            if at == 0 {
                format!("{dashes}-")
            } else {
                format!("{dashes}:")
            }
        })
        .collect();
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        text += &line(row);
        if at == 0 {
            text += &line(&rule);
        }
    }
    text
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::Program, *};

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (45_419, "45,419"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn a_row_is_a_program_and_a_column_a_kernel() {
        let column = |version: &str, found| Column {
            version: version.to_owned(),
            found,
        };
        let program = |name: &str, outcome: Result<u64, &str>| Program {
            name: name.to_owned(),
            outcome: outcome.map_err(str::to_owned),
        };
        let columns = [
            column("5.10.262-1", Found::TooOld("too old".to_owned())),
            column(
                "6.1.192-2",
                Found::Asked(vec![program("a", Ok(455_419)), program("b", Err("EACCES"))]),
            ),
            column("7.3.4-1", Found::Asked(vec![program("a", Ok(12)), program("b", Ok(7))])),
        ];
        assert_eq!(
            markdown(&columns),
            "| program | Linux 6.1.192-2 | Linux 7.3.4-1 |\n\
             | ------- | --------------: | ------------: |\n\
             | `a`     |         455,419 |            12 |\n\
             | `b`     |         refused |             7 |\n\
             \n\
             The largest, `a` on Linux 6.1.192-2, takes 45 % of the 1,000,000 instructions that the verifier allows.\n\
             \n\
             Linux 5.10.262-1: `too old`\n"
        );
    }

    #[test]
    fn without_a_kernel_there_is_no_table() {
        assert_eq!(markdown(&[]), "");
    }
}
