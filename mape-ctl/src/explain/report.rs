//! An explanation in words, and with stable keys for programs.

use std::fmt::{self, Write as _};

use mape_common::{
    layout::Config,
    verdict::{Action, Failure, Reason, Verdict},
};
use serde_json::{Value, json};

use super::{Explanation, advice};
use crate::view::packet::{Outer, Seen, end};

/// The outcome's name: `forwarded` (native IPv6, too), `answered`, `delivered`, `passed`, `dropped`.
pub const fn outcome_name(outcome: &Result<Verdict, Failure>) -> &'static str {
    match outcome {
        Ok(Verdict::Forward { .. } | Verdict::Native { .. }) => "forwarded",
        Ok(Verdict::Answer(_)) => "answered",
        Ok(Verdict::Deliver) => "delivered",
        Err(Failure::Refused(reason)) if reason.action().passes() => "passed",
        Err(_) => "dropped",
    }
}

/// Why it was not forwarded.
pub const fn reason(outcome: &Result<Verdict, Failure>) -> Option<Reason> {
    match outcome {
        Ok(Verdict::Answer(reason)) => Some(*reason),
        Ok(Verdict::Forward { .. } | Verdict::Native { .. } | Verdict::Deliver) => None,
        Err(failure) => Some(failure.reason()),
    }
}

/// The words for a packet that is not forwarded.
pub const fn fate(reason: Reason, is_answered: bool) -> &'static str {
    if is_answered {
        return "answered";
    }
    match reason.action() {
        Action::PassNotOurs => "left to the kernel's stack, unchanged: not ours",
        Action::PassSlow => "left to the kernel's stack, unchanged: not for the fast path",
        Action::Drop => "dropped",
    }
}

/// In words. `name` gives an interface's name.
///
/// # Errors
/// Those of writing.
pub fn text(explanation: &Explanation, config: &Config, name: &dyn Fn(u32) -> String) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let before = Seen::frame(&explanation.before);
    writeln!(
        out,
        "{before}, {} bytes, comes by {} ({})",
        explanation.before.len(),
        explanation.port.name,
        explanation.direction.name()
    )?;
    if let Some(outer) = &before.outer {
        writeln!(out, "  in the tunnel {outer}")?;
    }
    for (number, chapter) in (1..).zip(&explanation.story.chapters) {
        writeln!(out, "{number}. {}: {}", chapter.program, chapter.meaning)?;
        for step in &chapter.steps {
            writeln!(out, "   - {step}")?;
        }
        if let Some((program, reason)) = &chapter.next {
            writeln!(out, "   - hands it on to {program} ({reason})")?;
        }
    }
    conclude(&mut out, explanation, &before, config, name)?;
    Ok(out)
}

fn conclude(
    out: &mut String,
    explanation: &Explanation,
    before: &Seen,
    config: &Config,
    name: &dyn Fn(u32) -> String,
) -> fmt::Result {
    let after = Seen::frame(&explanation.after);
    match &explanation.outcome {
        Ok(Verdict::Forward { ifindex }) => writeln!(out, "Result: forwarded, leaves by {}", name(*ifindex))?,
        Ok(Verdict::Native { ifindex }) => {
            writeln!(out, "Result: native IPv6, forwarded, leaves by {}", name(*ifindex))?;
        }
        Ok(Verdict::Deliver) => writeln!(
            out,
            "Result: out of the tunnel, and to the kernel's stack, which knows the rest"
        )?,
        Ok(Verdict::Answer(reason)) => writeln!(
            out,
            "Result: answered by {} ({}: {})",
            explanation.port.name,
            reason.label(),
            reason.meaning()
        )?,
        Err(failure) => {
            let reason = failure.reason();
            writeln!(
                out,
                "Result: {} ({}: {})",
                fate(reason, false),
                reason.label(),
                reason.meaning()
            )?;
        }
    }
    match explanation.outcome {
        Ok(Verdict::Forward { .. } | Verdict::Deliver) => changes(out, before, &after)?,
        // Another packet, not this one changed.
        Ok(Verdict::Answer(_)) => writeln!(out, "  answer: {after}")?,
        // One hop less, and nothing else that is to be seen.
        Ok(Verdict::Native { .. }) | Err(_) => {}
    }
    if let Some(advice) = reason(&explanation.outcome).and_then(advice::for_reason) {
        writeln!(out, "  what to do: {advice}")?;
    }
    if reason(&explanation.outcome) == Some(Reason::ForeignPort)
        && let Some(port) = before.inner.as_ref().and_then(|inner| inner.destination_port)
    {
        writeln!(
            out,
            "  port {port} is not one of the {} ports of this line",
            config.ports
        )?;
    }
    let made: Vec<&str> = explanation.story.made().collect();
    for what in &made {
        writeln!(out, "  would be made: {what}")?;
    }
    for what in &explanation.story.ended {
        writeln!(out, "  would end: {what}")?;
    }
    Ok(())
}

/// What is different.
fn changes(out: &mut String, before: &Seen, after: &Seen) -> fmt::Result {
    writeln!(out, "  packet: {after}")?;
    if let (Some(old), Some(new)) = (&before.inner, &after.inner) {
        let mut notes = Vec::new();
        if (old.source, old.source_port) != (new.source, new.source_port) {
            notes.push(format!(
                "source {} becomes {}",
                end(old.source, old.source_port),
                end(new.source, new.source_port)
            ));
        }
        if (old.destination, old.destination_port) != (new.destination, new.destination_port) {
            notes.push(format!(
                "destination {} becomes {}",
                end(old.destination, old.destination_port),
                end(new.destination, new.destination_port)
            ));
        }
        if old.ttl != new.ttl {
            notes.push(format!("TTL {} becomes {}", old.ttl, new.ttl));
        }
        if let (Some(old), Some(new)) = (old.mss, new.mss)
            && old != new
        {
            notes.push(format!("MSS {old} becomes {new}"));
        }
        for note in notes {
            writeln!(out, "  {note}")?;
        }
    }
    match (&before.outer, &after.outer) {
        (_, Some(outer)) => writeln!(out, "  outer header: {}", header(outer)),
        (Some(_), None) => writeln!(out, "  outer header: taken off"),
        (None, None) => Ok(()),
    }
}

fn header(outer: &Outer) -> String {
    format!(
        "{outer}, flow label 0x{:05x}, traffic class {}, hop limit {}",
        outer.flow_label, outer.traffic_class, outer.hop_limit
    )
}

/// With stable keys.
pub fn json(explanation: &Explanation, name: &dyn Fn(u32) -> String) -> Value {
    let leaves_by = match explanation.outcome {
        Ok(Verdict::Forward { ifindex } | Verdict::Native { ifindex }) => Some(name(ifindex)),
        Ok(Verdict::Answer(_)) => Some(explanation.port.name.clone()),
        Ok(Verdict::Deliver) | Err(_) => None,
    };
    let why = reason(&explanation.outcome);
    json!({
        "interface": explanation.port.name,
        "direction": explanation.direction.name(),
        "came": hex(&explanation.before),
        "before": Seen::frame(&explanation.before).json(),
        "story": explanation.story.json(),
        "outcome": outcome_name(&explanation.outcome),
        "reason": why.map(Reason::label),
        "meaning": why.map(Reason::meaning),
        "advice": why.and_then(advice::for_reason),
        "leaves_by": leaves_by,
        "after": explanation.outcome.is_ok().then(|| Seen::frame(&explanation.after).json()),
        "frame": explanation.outcome.is_ok().then(|| hex(&explanation.after)),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
