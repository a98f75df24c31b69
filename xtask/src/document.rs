//! Owns putting what a task has found out into a document, between marks.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

/// Puts a text between the marks of a task in a document.
pub(crate) fn write_between_marks(file: &Path, task: &str, text: &str) -> Result<()> {
    let read = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let [begin, end] = marks(task);
    let Some(written) = replaced(&read, [&begin, &end], text) else {
        bail!("{} has no place for it: lines {begin:?} and {end:?}", file.display());
    };
    fs::write(file, written).with_context(|| format!("cannot write {}", file.display()))
}

/// Where a task's text begins and ends.
fn marks(task: &str) -> [String; 2] {
    ["begin", "end"].map(|which| format!("<!-- {which} of `cargo xtask {task}` -->\n"))
}

fn replaced(whole: &str, [begin, end]: [&str; 2], text: &str) -> Option<String> {
    let (before, rest) = whole.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}{text}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::{marks, replaced};

    #[test]
    fn a_text_goes_between_its_marks_and_nowhere_else() {
        let [begin, end] = marks("try");
        let whole = format!("before\n{begin}old\n{end}after\n");
        assert_eq!(
            replaced(&whole, [&begin, &end], "new\n"),
            Some(format!("before\n{begin}new\n{end}after\n"))
        );
        assert_eq!(replaced("nothing", [&begin, &end], "new\n"), None);
        let other = marks("other");
        assert_eq!(replaced(&whole, [&other[0], &other[1]], "new\n"), None);
    }
}
