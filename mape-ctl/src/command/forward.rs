//! `mape-ctl forward`: adds, removes and lists static forwards of a loaded gateway.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    rc::Rc,
};

use anyhow::{Result, bail};
use mape_common::layout::Config;
use serde_json::{Value, json};

use super::load::report;
use crate::{
    cli::{ForwardAddArgs, ForwardCommand, ForwardDelArgs},
    datapath::{
        forwards::{self, ForwardsError, Wanted},
        maps::Tables,
        order::Ports,
        pin::PinFolder,
    },
    forward::{Forward, allowed},
    host::{
        neighbour,
        state::{ForwardRecord, ForwardedBy, State},
    },
    instance::Instance,
    netlink::{Netlink, neighbour::Knowledge},
    undo::Undo,
    view::{self, snapshot::is_border_relay, text},
};

/// Does what was asked for.
///
/// # Errors
/// When nothing is loaded, the forward is impossible, or the kernel refuses.
pub fn run(instance: &Instance, command: &ForwardCommand) -> Result<()> {
    let (pins, tables) = view::open("forward", instance)?;
    let config = tables.config()?;
    if is_border_relay(&config) {
        bail!("instance {instance} is a border relay: it translates nothing, so it forwards no ports");
    }
    match command {
        ForwardCommand::Add(args) => add(instance, args, &pins, &tables, &config),
        ForwardCommand::Del(args) => del(instance, args, &pins),
        ForwardCommand::List(args) => list(instance, args.json, &tables),
    }
}

/// Indices of the interfaces that the data path forwards to.
fn lan(netlink: &Netlink, tables: &Tables) -> Result<BTreeSet<u32>> {
    let mut attached = BTreeSet::new();
    for interface in netlink.interfaces()? {
        if tables.link(interface.index).is_ok_and(|link| link.attached) {
            attached.insert(interface.index);
        }
    }
    Ok(attached)
}

fn add(instance: &Instance, args: &ForwardAddArgs, pins: &PinFolder, tables: &Tables, config: &Config) -> Result<()> {
    let _lock = instance.lock()?;
    let forward = Forward::new(args.protocol, args.external, args.inside);
    let mut state = State::read(instance).unwrap_or_default();
    let reserved: Vec<u16> = Wanted::in_kernel(tables)?.reserved.into_iter().collect();
    let impossible = |source| ForwardsError::Impossible { forward, source };
    forward
        .check(&config.port_set, &reserved, forwards::is_shared(config, forward.inside))
        .map_err(impossible)?;
    if let Some(known) = state.forwards.iter().find(|record| record.forward == forward) {
        let by = origin(known.by);
        return report(&[format!("{forward}: it is forwarded already (by {by})")], &[]);
    }
    for known in &state.forwards {
        forward.check_beside(&known.forward).map_err(impossible)?;
    }
    let netlink = Rc::new(Netlink::open()?);
    forwards::refuse_own_addresses(&netlink, [&forward])?;

    let mut undo = Undo::default();
    let mut ended = 0;
    let ports = Rc::new(Ports::open(pins)?);
    for single in forward.singles() {
        ended += ports.forward(&single)?;
        let again = Rc::clone(&ports);
        undo.push(format!("end the forward of port {}", single.external), move || {
            again.unforward(&single)?;
            Ok(())
        });
    }
    let lan = lan(&netlink, tables)?;
    let before = state.neighbours.clone();
    let kept = neighbour::keep(&netlink, &mut undo, &lan, [forward.inside], &before, |making| {
        let anew = making.iter().filter(|made| !before.contains(made)).cloned();
        state.neighbours.extend(anew);
        state.write(instance).map_err(anyhow::Error::from)
    })?;
    state.forwards.push(ForwardRecord {
        forward,
        by: ForwardedBy::Command,
    });
    state.write(instance)?;
    undo.keep();
    let mut messages = vec![format!("forwarding {forward}")];
    if ended > 0 {
        messages.push(format!("{ended} sessions and mappings that were in its way were ended"));
    }
    report(&messages, &kept.warnings)
}

fn del(instance: &Instance, args: &ForwardDelArgs, pins: &PinFolder) -> Result<()> {
    let _lock = instance.lock()?;
    let mut state = State::read(instance).unwrap_or_default();
    let wanted =
        |record: &ForwardRecord| record.forward.protocol == args.protocol && record.forward.external == args.external;
    let Some(place) = state.forwards.iter().position(wanted) else {
        let (word, external) = (args.protocol.word(), args.external);
        let all: Vec<String> = state.forwards.iter().map(|record| record.forward.to_string()).collect();
        if all.is_empty() {
            bail!("there is no forward {word} {external}, nor any other");
        }
        bail!(
            "there is no forward {word} {external}; there are: {} (name protocol and ports as there)",
            all.join(", ")
        );
    };
    let record = state.forwards.remove(place);
    if record.by == ForwardedBy::Configuration {
        bail!(
            "the forward {} stands in the configuration; take it out there, then `mape-ctl load` again",
            record.forward
        );
    }
    let ports = Ports::open(pins)?;
    let mut ended = 0;
    for single in record.forward.singles() {
        ended += ports.unforward(&single)?;
    }
    forget_neighbours(&mut state, &record.forward)?;
    state.write(instance)?;
    let message = format!(
        "not forwarding {} any longer; {ended} sessions were ended",
        record.forward
    );
    report(&[message], &[])
}

/// Lets go of the neighbour of a host that no other forward leads to.
fn forget_neighbours(state: &mut State, gone: &Forward) -> Result<()> {
    if state.forwards.iter().any(|record| record.forward.inside == gone.inside) {
        return Ok(());
    }
    // A neighbour with another address is a router, which other hosts may be behind.
    let own = |made: &crate::host::state::MadeNeighbour| made.address == gone.inside;
    let (of_host, others): (Vec<_>, Vec<_>) = std::mem::take(&mut state.neighbours).into_iter().partition(own);
    state.neighbours = others;
    Ok(neighbour::forget(&Netlink::open()?, &of_host)?)
}

const fn origin(by: ForwardedBy) -> &'static str {
    match by {
        ForwardedBy::Configuration => "configuration",
        ForwardedBy::Command => "command",
    }
}

/// A forward as it is shown.
struct Shown {
    record: ForwardRecord,
    /// All its ports are forwarded in the kernel.
    active: bool,
    sessions: u32,
    host: &'static str,
}

fn list(instance: &Instance, as_json: bool, tables: &Tables) -> Result<()> {
    let state = State::read(instance).unwrap_or_default();
    let (in_kernel, sessions) = (forwards::singles(tables)?, forwards::sessions_by_port(tables)?);
    let netlink = Netlink::open()?;
    let (interfaces, lan) = (netlink.interfaces()?, lan(&netlink, tables)?);
    let mut shown = Vec::new();
    for record in state.forwards {
        let host = match neighbour::towards(&netlink, &interfaces, &lan, record.forward.inside)? {
            None => "no route",
            Some((interface, address)) => match netlink.ipv4_neighbour(interface.index, address)? {
                Knowledge::Silent => "silent",
                Knowledge::Answered | Knowledge::Permanent => "known",
            },
        };
        let singles = || record.forward.singles();
        shown.push(Shown {
            record,
            active: singles().all(|single| in_kernel.contains(&single)),
            sessions: singles()
                .filter_map(|single| sessions.get(&(single.protocol, single.external)))
                .sum(),
            host,
        });
    }
    shown.sort_by_key(|one| one.record.forward);
    let mut out = io::stdout().lock();
    if as_json {
        let rows: Vec<Value> = shown.iter().map(json).collect();
        writeln!(out, "{}", json!({ "instance": instance.as_ref(), "forwards": rows }))?;
    } else if shown.is_empty() {
        let ports = allowed(&tables.config()?.port_set);
        writeln!(out, "no forwards; ports that there could be one of: {ports}")?;
    } else {
        write!(out, "{}", table(&shown)?)?;
    }
    Ok(out.flush()?)
}

fn json(one: &Shown) -> Value {
    let forward = one.record.forward;
    json!({
        "protocol": forward.protocol.word(),
        "external_first": forward.external.first,
        "external_last": forward.external.last,
        "inside": forward.inside,
        "inside_port": forward.inside_port,
        "origin": origin(one.record.by),
        "active": one.active,
        "sessions": one.sessions,
        "host": one.host,
    })
}

fn table(shown: &[Shown]) -> Result<String> {
    let mut table = text::table(&["PROTOCOL", "PORTS", "TO", "FROM", ">SESSIONS", "HOST"]);
    for one in shown {
        let forward = one.record.forward;
        let missing = if one.active {
            ""
        } else {
            " (not in the kernel: load again)"
        };
        table.add_row([
            forward.protocol.word().to_owned(),
            format!("{}{missing}", forward.external),
            format!("{}:{}", forward.inside, forward.inside_range()),
            origin(one.record.by).to_owned(),
            one.sessions.to_string(),
            one.host.to_owned(),
        ]);
    }
    let mut out = String::new();
    text::lines(&mut out, &table)?;
    Ok(out)
}
