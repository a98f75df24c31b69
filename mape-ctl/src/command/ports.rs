//! `mape-ctl ports`: the port set as a picture.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::{Result, bail};
use mape_common::layout::Transport;
use serde_json::{Value, json};

use crate::{
    cli::PortsArgs,
    instance::Instance,
    view::{
        self,
        ports::{Picture, Style},
        snapshot::is_border_relay,
    },
};

/// Columns where nobody says how many there are.
const WIDTH: usize = 80;

/// Prints the picture, or JSON.
///
/// # Errors
/// When nothing is loaded, or the tables cannot be read.
pub fn run(instance: &Instance, args: &PortsArgs) -> Result<()> {
    let (_, tables) = view::open("ports", instance)?;
    if is_border_relay(&tables.config()?) {
        bail!("instance {instance} is a border relay: it translates nothing, so it has no ports");
    }
    let wanted = args.protocol.map_or_else(
        || vec![Transport::Tcp, Transport::Udp, Transport::Icmp],
        |protocol| vec![protocol.into()],
    );
    let pictures = wanted
        .into_iter()
        .map(|transport| Picture::read(&tables, transport))
        .collect::<Result<Vec<_>, _>>()?;
    let mut out = io::stdout().lock();
    if args.json {
        let protocols: serde_json::Map<String, Value> = pictures
            .iter()
            .map(|picture| (picture.transport.name().to_owned(), picture.json()))
            .collect();
        let all = json!({ "instance": instance.as_ref(), "protocols": protocols });
        writeln!(out, "{all}")?;
        return Ok(out.flush()?);
    }
    let style = Style {
        width: width(),
        colours: io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    };
    for picture in &pictures {
        writeln!(out, "{}", picture.draw(style))?;
    }
    writeln!(out, "{}", style.legend())?;
    Ok(out.flush()?)
}

/// Columns of the terminal.
fn width() -> usize {
    let asked = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col);
    let said = || env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    asked
        .filter(|columns| *columns != 0)
        .or_else(said)
        .map_or(WIDTH, usize::from)
}
