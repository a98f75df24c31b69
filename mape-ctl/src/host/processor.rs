//! Owns processors as the kernel numbers them: lists of them, and which are there.

use std::{collections::BTreeSet, fmt, io, num::ParseIntError, str::FromStr};

use aya::util::online_cpus;

/// More than any kernel takes.
const MOST: u32 = 65_535;

/// Some processors, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processors(BTreeSet<u32>);

/// Why a list is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Not a number, nor two with a dash between them.
    #[error("{0:?} is no processor's number and no range of them")]
    Word(String),
    /// A range that ends before it begins, or beyond any machine.
    #[error("{first}-{last} is no range of processors")]
    Range {
        /// Where it begins.
        first: u32,
        /// Where it ends.
        last: u32,
    },
}

impl Processors {
    /// Those that are online.
    ///
    /// # Errors
    /// When the kernel does not say so.
    pub fn online() -> io::Result<Self> {
        Ok(online_cpus().map_err(|(_, error)| error)?.into_iter().collect())
    }

    /// In increasing order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that are not among the others.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        Self(self.0.difference(&others.0).copied().collect())
    }
}

impl FromIterator<u32> for Processors {
    fn from_iter<T: IntoIterator<Item = u32>>(numbers: T) -> Self {
        Self(numbers.into_iter().collect())
    }
}

/// As the kernel writes and reads lists: `0-3,7`.
impl FromStr for Processors {
    type Err = ListError;

    fn from_str(text: &str) -> Result<Self, ListError> {
        let mut found = BTreeSet::new();
        for word in text.trim().split(',') {
            let wrong = |_: ParseIntError| ListError::Word(word.to_owned());
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let (first, last) = (first.parse().map_err(wrong)?, last.parse().map_err(wrong)?);
            if first > last || last > MOST {
                return Err(ListError::Range { first, last });
            }
            found.extend(first..=last);
        }
        Ok(Self(found))
    }
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last.saturating_add(1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        for (text, again) in [
            ("0", "0"),
            ("0-3", "0-3"),
            ("3,1,2,7\n", "1-3,7"),
            ("0,2-2,2-4", "0,2-4"),
        ] {
            let list: Processors = text.parse().unwrap();
            assert_eq!(list.to_string(), again);
        }
        let list: Processors = "0-2,5".parse().unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
        assert_eq!(list.without(&"1,5-9".parse().unwrap()).to_string(), "0,2");
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "a", "1-", "-1", "1,,2", "3-1", "0-70000", "1 2", "0x1"] {
            assert!(text.parse::<Processors>().is_err(), "{text}");
        }
    }

    #[test]
    fn this_machine_has_some() {
        assert!(!Processors::online().unwrap().is_empty());
    }
}
