//! `mape-ctl stat`: what a gateway does, once or again and again.

use std::{
    io::{self, IsTerminal as _, Write as _},
    thread,
    time::Duration,
};

use anyhow::Result;

use crate::{
    cli::StatArgs,
    instance::Instance,
    view::{
        self,
        hosts::HEAVIEST,
        json,
        snapshot::{Snapshot, rates},
        text,
    },
};

/// Time between the two looks that rates are computed of.
const SPAN: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Reads the maps and prints what they say.
///
/// # Errors
/// When nothing is loaded, or the maps cannot be read.
pub fn run(instance: &Instance, args: &StatArgs) -> Result<()> {
    let (_, tables) = view::open("stat", instance)?;
    let first = Snapshot::take(instance, &tables)?;
    if args.no_rates {
        return print(instance, args, None, &first);
    }
    thread::sleep(SPAN);
    let mut earlier = first;
    loop {
        let later = Snapshot::take(instance, &tables)?;
        print(instance, args, Some(&earlier), &later)?;
        let Some(seconds) = args.watch else { return Ok(()) };
        thread::sleep(Duration::from_secs(seconds.into()));
        earlier = later;
    }
}

fn print(instance: &Instance, args: &StatArgs, earlier: Option<&Snapshot>, shot: &Snapshot) -> Result<()> {
    let rates = earlier.map(|earlier| rates(earlier, shot));
    let hosts = args
        .hosts
        .map_or(HEAVIEST, |count| usize::try_from(count).unwrap_or(usize::MAX));
    let mut out = io::stdout().lock();
    if args.json {
        // One line each, so that a reader of --watch can tell them apart.
        writeln!(out, "{}", json::stat(instance, shot, rates.as_ref(), hosts))?;
    } else {
        if args.watch.is_some() && out.is_terminal() {
            write!(out, "{CLEAR}")?;
        }
        write!(out, "{}", text::stat(instance, shot, rates.as_ref(), args.all, hosts)?)?;
    }
    Ok(out.flush()?)
}
