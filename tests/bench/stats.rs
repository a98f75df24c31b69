//! Owns what is made of repeated readings.

/// The readings of one case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readings(Vec<f64>);

/// Their middle, and how far they lie apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Readings {
    /// Adds one.
    pub(crate) fn add(&mut self, reading: f64) {
        self.0.push(reading);
    }

    /// What they come to; zeros where there are none.
    pub(crate) fn summary(&self) -> Summary {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
        Summary {
            median: f64::midpoint(at(sorted.len().saturating_sub(1) / 2), at(sorted.len() / 2)),
            least: at(0),
            most: at(sorted.len().saturating_sub(1)),
        }
    }

    /// The differences of readings that were made one after the other.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one - other).collect())
    }
}
