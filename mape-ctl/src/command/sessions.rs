//! `mape-ctl sessions`: shows, counts or ends the sessions of the translation table.

use std::io::{self, Write as _};

use anyhow::Result;
use clap::{CommandFactory as _, error::ErrorKind};
use serde_json::json;

use crate::{
    cli::{Cli, SessionsArgs},
    datapath::{hosts::HostTable, maps::Tables, pin::PinFolder, sessions::SessionTable, sweep::Sweeper},
    instance::Instance,
    view::{
        self,
        entry::{Filter, Row},
        hosts::{Amount, Hosts, Quota},
        pressure::Pressure,
        snapshot::{is_border_relay, now},
        text,
    },
};

/// Does what the arguments ask for.
///
/// # Errors
/// When nothing is loaded, or the table cannot be read.
pub fn run(instance: &Instance, args: &SessionsArgs) -> Result<()> {
    let filter = Filter::new(args);
    if args.flush {
        refuse_unclear_flush(args, &filter)?;
    }
    let (pins, tables) = view::open("sessions", instance)?;
    if args.flush {
        flush(instance, &pins, &filter)
    } else {
        show(instance, args, &tables, &filter)
    }
}

/// What must be asked for in other words, because it would end more than was meant.
fn refuse_unclear_flush(args: &SessionsArgs, filter: &Filter) -> Result<(), clap::Error> {
    let wrong = |message: &str| Cli::command().error(ErrorKind::ArgumentConflict, message);
    if args.state.is_some() {
        return Err(wrong(
            "--flush cannot tell states apart; choose by --protocol, --inside, --remote or --external-port (to list by state: \
             without --flush)",
        ));
    }
    if filter.is_everything() && !args.yes {
        return Err(wrong(
            "--flush without a filter ends every session; if that is meant: --flush --yes",
        ));
    }
    Ok(())
}

fn flush(instance: &Instance, pins: &PinFolder, filter: &Filter) -> Result<()> {
    let _lock = instance.lock()?;
    let ended = Sweeper::open(pins)?.flush(filter.order())?;
    writeln!(
        io::stdout().lock(),
        "ended {ended} sessions and mappings, those included whose time was over"
    )?;
    Ok(())
}

fn show(instance: &Instance, args: &SessionsArgs, tables: &Tables, filter: &Filter) -> Result<()> {
    let config = tables.config()?;
    let now = now();
    let pressure = Pressure::new(&config, &tables.gauges()?, now);
    let table = SessionTable::open(tables)?;
    let entries = table.live().filter(|entry| filter.matches(entry)).filter_map(|entry| {
        let row = Row::new(&entry, pressure.timeouts(entry.facts.transport), now)?;
        Some((entry, row))
    });
    if args.by_host {
        // A quota is for all that a host has: of a filter's part of it, only how much it is can be said.
        let quota = if filter.is_everything() && args.state.is_none() {
            Quota::from(&config)
        } else {
            Quota::default()
        };
        let counts = HostTable::open(tables)?;
        let facts = entries.map(|(entry, _)| entry.facts);
        let hosts = Hosts::new(quota, facts, |place| counts.at(place).map(Amount::counted));
        return by_host(instance, args, &hosts);
    }
    let mut rows: Vec<Row> = entries.map(|(_, row)| row).collect();
    rows.sort();
    let mut out = io::stdout().lock();
    if args.count {
        writeln!(out, "{}", rows.len())?;
    } else if args.json {
        writeln!(
            out,
            "{}",
            json!({ "instance": instance.as_ref(), "count": rows.len(), "sessions": rows })
        )?;
    } else if rows.is_empty() {
        let why = if is_border_relay(&config) {
            "a border relay keeps no sessions"
        } else {
            "no session"
        };
        writeln!(out, "{why}")?;
    } else {
        write!(out, "{}", lines(&rows)?)?;
    }
    Ok(out.flush()?)
}

fn by_host(instance: &Instance, args: &SessionsArgs, hosts: &Hosts) -> Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(
            out,
            "{}",
            json!({ "instance": instance.as_ref(), "hosts": hosts.json(usize::MAX) })
        )?;
    } else {
        write!(out, "{}", hosts.text(usize::MAX, "")?)?;
    }
    Ok(out.flush()?)
}

fn lines(rows: &[Row]) -> Result<String> {
    let columns = [
        "PROTOCOL", "INSIDE", "REMOTE", "EXTERNAL", "PORT", "STATE", ">IDLE", ">ENDS IN",
    ];
    let mut table = text::table(&columns);
    for row in rows {
        table.add_row([
            row.protocol.to_owned(),
            format!("{}:{}", row.inside, row.inside_port),
            match (row.remote, row.remote_port) {
                (None, _) => "any".to_owned(),
                (Some(address), None) => address.to_string(),
                (Some(address), Some(port)) => format!("{address}:{port}"),
            },
            format!("{}:{}", row.external, row.external_port),
            row.hold.to_owned(),
            row.state.to_owned(),
            format!("{} s", row.idle_seconds),
            row.remaining_seconds
                .map_or_else(|| "never".to_owned(), |left| format!("{left} s")),
        ]);
    }
    let mut out = String::new();
    text::lines(&mut out, &table)?;
    Ok(out)
}
