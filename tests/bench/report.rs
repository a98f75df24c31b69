//! Owns what a run prints: figures by name, and tables of them.

use serde_json::{Map, Value, json};

use crate::stats::Readings;

/// The report in the making.
#[derive(Default)]
pub(crate) struct Report(Map<String, Value>);

impl Report {
    /// A figure, with what it lies between.
    pub(crate) fn figure(&mut self, key: &str, readings: &Readings) {
        let summary = readings.summary();
        // Parts of one are told by hundredths.
        let digits = if summary.most.abs() < 1.0 { 2 } else { 1 };
        eprintln!(
            "{key:<28} {:>9.digits$}   ({:.digits$} to {:.digits$})",
            summary.median, summary.least, summary.most
        );
        self.put(key, json!(summary.median));
        self.put(&format!("{key}_spread"), json!([summary.least, summary.most]));
    }

    /// A figure that was read once, or comes of others.
    pub(crate) fn single(&mut self, key: &str, value: f64) {
        eprintln!("{key:<28} {value:>9.2}");
        self.put(key, json!(value));
    }

    /// Anything else.
    pub(crate) fn put(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    /// What a figure is.
    pub(crate) fn get(&self, key: &str) -> f64 {
        self.0.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }

    /// The whole.
    pub(crate) fn value(self) -> Value {
        Value::Object(self.0)
    }
}
