//! Owns guessing what a misspelt word was meant to be.

/// The nearest of some words, if it is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1) + 1;
    let rated = known.into_iter().map(|known| (distance(word, known), known));
    rated
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// `, did you mean X?` or nothing, for the end of a sentence.
pub fn did_you_mean<T: AsRef<str>>(word: &str, known: &[T]) -> String {
    nearest(word, known.iter().map(AsRef::as_ref)).map_or_else(String::new, |known| format!(", did you mean {known}?"))
}

/// Letters to insert, delete, replace or swap with their neighbour to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, letter) in one.iter().enumerate() {
        let mut line = vec![row + 1];
        for (column, theirs) in other.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != theirs);
            let mut best = replaced.min(last[column + 1] + 1).min(line[column] + 1);
            if row > 0 && column > 0 && *letter == other[column - 1] && one[row - 1] == *theirs {
                best = best.min(before[column - 1] + 1);
            }
            line.push(best);
        }
        before = last;
        last = line;
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_slips_find_their_word_and_other_words_do_not() {
        let known = ["ea-len", "psid-offset", "ipv6", "ipv4", "fmr"];
        assert_eq!(nearest("ealen", known), Some("ea-len"));
        assert_eq!(nearest("ea_len", known), Some("ea-len"));
        assert_eq!(nearest("psidoffset", known), Some("psid-offset"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(distance("eht0", "eth0"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
