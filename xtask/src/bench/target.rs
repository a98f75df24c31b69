//! Owns the targets: which figure must lie on which side of what.

use std::fmt::Write as _;

use serde_json::Value;

/// On which side of the limit a figure belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    AtMost,
    AtLeast,
    /// There is no limit: it is told.
    Told,
}

/// A figure's name in the JSON, what it is, its unit, and its limit.
const FIGURES: [(&str, &str, &str, Side, f64); 34] = [
    ("generator_ns", "generator alone", "ns", Side::Told, 0.0),
    ("redirect_ns", "bare redirect, the ceiling", "ns", Side::Told, 0.0),
    ("up_ns", "gateway, LAN to WAN", "ns", Side::Told, 0.0),
    ("down_ns", "gateway, WAN to LAN", "ns", Side::Told, 0.0),
    (
        "up_added_ns",
        "added over the bare redirect, LAN to WAN",
        "ns",
        Side::AtMost,
        60.0,
    ),
    (
        "down_added_ns",
        "added over the bare redirect, WAN to LAN",
        "ns",
        Side::AtMost,
        60.0,
    ),
    (
        "encapsulate_added_ns",
        "of that, reading, writing and making room alone",
        "ns",
        Side::Told,
        0.0,
    ),
    (
        "least_added_ns",
        "the same with the look-ups: the least it can take",
        "ns",
        Side::Told,
        0.0,
    ),
    ("kernel_forward_ns", "kernel forwarding", "ns", Side::Told, 0.0),
    (
        "kernel_snat_ns",
        "kernel forwarding with source NAT, no tunnel",
        "ns",
        Side::Told,
        0.0,
    ),
    (
        "ratio_up_to_kernel_snat",
        "times faster than that, generator subtracted",
        "×",
        Side::AtLeast,
        5.0,
    ),
    (
        "slow_up_ns",
        "slow path with the tunnel in user space",
        "ns",
        Side::Told,
        0.0,
    ),
    (
        "scale_60k_random_added_ns",
        "more at 60,000 sessions than at 100, by chance",
        "ns",
        Side::AtMost,
        100.0,
    ),
    (
        "least_60k_random_added_ns",
        "the same, by the least it can take",
        "ns",
        Side::Told,
        0.0,
    ),
    (
        "scale_60k_zipf",
        "rate at 60,000 by Zipf's law, of that at 100",
        "×",
        Side::AtLeast,
        0.9,
    ),
    (
        "least_60k_zipf",
        "the same, by the least it can take",
        "×",
        Side::Told,
        0.0,
    ),
    ("new_sessions_per_s", "new sessions", "/s", Side::Told, 0.0),
    ("kernel_new_sessions_per_s", "the kernel's", "/s", Side::Told, 0.0),
    ("ratio_new_sessions", "times as many", "×", Side::AtLeast, 3.0),
    (
        "two_core_scaling",
        "two processors, both ways of the same sessions",
        "×",
        Side::AtLeast,
        1.7,
    ),
    (
        "redirect_two_core_scaling",
        "two processors, both ways, by a bare redirect",
        "×",
        Side::Told,
        0.0,
    ),
    (
        "spread_to_other_times",
        "one queue, WAN to LAN, shared with another processor: times as many",
        "×",
        Side::Told,
        0.0,
    ),
    ("spread_to_both_times", "the same, shared by both", "×", Side::Told, 0.0),
    (
        "ipv6_loss",
        "native IPv6 loses by our being attached",
        "",
        Side::AtMost,
        0.1,
    ),
    (
        "ipv6_forwarding_loss",
        "of that what is forwarded, by XDP",
        "",
        Side::Told,
        0.0,
    ),
    (
        "ipv6_loss_by_stack",
        "the same, forwarded by the kernel behind our programs",
        "",
        Side::Told,
        0.0,
    ),
    (
        "ipv6_loss_by_pass",
        "the same, behind a program that passes everything",
        "",
        Side::Told,
        0.0,
    ),
    ("ipv6_own_loss", "of that the box's own", "", Side::Told, 0.0),
    (
        "ipv6_own_loss_by_pass",
        "the same, behind a program that passes everything",
        "",
        Side::Told,
        0.0,
    ),
    (
        "down_1400_mbps",
        "frames of 1,400 bytes, WAN to LAN",
        "Mbit/s",
        Side::Told,
        0.0,
    ),
    (
        "baseline_multiple_85mbps",
        "times the 85 Mbit/s of before",
        "×",
        Side::Told,
        0.0,
    ),
    ("map_mib", "memory of the maps", "MiB", Side::AtMost, 32.0),
    ("load_ms", "load", "ms", Side::AtMost, 1_000.0),
    ("stat_ms", "stat with 60,000 sessions", "ms", Side::AtMost, 50.0),
];

/// A figure and what is to be said of it.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) what: &'static str,
    pub(crate) figure: String,
    pub(crate) limit: String,
    /// None where there is no limit.
    pub(crate) is_met: Option<bool>,
}

/// A figure; some come of others.
fn figure(figures: &Value, key: &str) -> Option<f64> {
    let of = |key: &str| figures.get(key).and_then(Value::as_f64);
    match key {
        "ratio_new_sessions" => Some(of("new_sessions_per_s")? / of("kernel_new_sessions_per_s")?),
        "map_mib" => Some(of("map_bytes")? / f64::from(1_u32 << 20)),
        key => of(key),
    }
}

/// Holds all figures that were measured to their targets.
pub(crate) fn judge(figures: &Value) -> Vec<Judged> {
    FIGURES
        .iter()
        .filter_map(|(key, what, unit, side, limit)| {
            let value = figure(figures, key)?;
            let spread = figures.get(format!("{key}_spread")).and_then(Value::as_array);
            let spread = spread.and_then(|ends| Some((ends.first()?.as_f64()?, ends.get(1)?.as_f64()?)));
            let spread = spread.map_or_else(String::new, |(least, most)| {
                format!(" ({} to {})", short(least), short(most))
            });
            let (limit, is_met) = match side {
                Side::AtMost => (format!("at most {}", short(*limit)), Some(value <= *limit)),
                Side::AtLeast => (format!("at least {}", short(*limit)), Some(value >= *limit)),
                Side::Told => (String::new(), None),
            };
            Some(Judged {
                what,
                figure: format!("{}{spread} {unit}", short(value)).trim_end().to_owned(),
                limit,
                is_met,
            })
        })
        .collect()
}

/// A figure with three digits that tell, or as many as it has before the point.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        ..1.0 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

const fn word(is_met: Option<bool>) -> &'static str {
    match is_met {
        None => "",
        Some(true) => "met",
        Some(false) => "MISSED",
    }
}

/// For a terminal.
pub(crate) fn text(judged: &[Judged]) -> String {
    let mut text = String::new();
    for Judged {
        what,
        figure,
        limit,
        is_met,
    } in judged
    {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{what:<50} {figure:>34}  {limit:<14} {}", word(*is_met));
    }
    text
}

/// For a document.
pub(crate) fn markdown(judged: &[Judged]) -> String {
    let mut text = String::from("| | median (least to most) | target | |\n|---|---:|---|---|\n");
    for Judged {
        what,
        figure,
        limit,
        is_met,
    } in judged
    {
        let _ = writeln!(text, "| {what} | {figure} | {limit} | {} |", word(*is_met));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_figure_is_held_to_its_side_of_the_limit() {
        let judged = judge(&json!({
            "up_added_ns": 60.0, "up_added_ns_spread": [55.0, 71.25],
            "down_added_ns": 61.0,
            "new_sessions_per_s": 300.0, "kernel_new_sessions_per_s": 101.0,
            "map_bytes": 32 << 20,
        }));
        let seen: Vec<_> = judged
            .iter()
            .map(|judged| (judged.figure.as_str(), judged.is_met))
            .collect();
        assert_eq!(
            seen,
            [
                ("60.0 (55.0 to 71.2) ns", Some(true)),
                ("61.0 ns", Some(false)),
                ("300 /s", None),
                ("101 /s", None),
                ("2.97 ×", Some(false)),
                ("32.0 MiB", Some(true)),
            ]
        );
        assert!(markdown(&judged).contains("| 61.0 ns | at most 60.0 | MISSED |"));
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert!(judge(&json!({})).is_empty());
    }
}
