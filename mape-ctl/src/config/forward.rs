//! The `[[forward]]` sections, and that the ports named anywhere are the line's.

use std::str::FromStr;

use mape_common::{map::domain::Domain, wire::port::Port};

use super::{
    check::word,
    low::{Given, Low, LowForward, Origin, Ports},
    problem::{Mistake, Problem},
};
use crate::{
    forward::{self, Forward, ForwardError, Inside, PortRange, Protocols},
    gateway::Nat,
};

/// Checks them, each by itself and each beside the others; and the reserved ports.
pub(super) fn forwards(low: &Low, domain: Option<&Domain>, nat: &Nat) -> Result<Vec<Forward>, Mistake> {
    let given = low.forward.as_deref().unwrap_or_default();
    let Some(domain) = domain else {
        let Some(one) = given.first() else {
            return Ok(Vec::new());
        };
        let problem = Problem::Contradiction {
            key: "forward",
            with: "role br",
            hint: "leave it out: a border relay translates nothing",
        };
        return Err(Mistake::at(one.origin, problem));
    };
    let set = domain.port_set();
    for port in low.nat.reserved_ports.iter().flatten() {
        if let Some(number) = u16::try_from(port.value)
            .ok()
            .filter(|number| !set.contains(Port(*number)))
        {
            let problem = Problem::ForeignPort {
                key: "reserved-ports",
                port: number,
                allowed: forward::allowed(&set),
            };
            return Err(Mistake::at(port.origin, problem));
        }
    }
    let mut forwards: Vec<Forward> = Vec::new();
    for one in given {
        let wrong = |error: ForwardError| Mistake::at(one.origin, Problem::Forward(error));
        let new = read(one)?;
        let is_shared = domain.ipv4().contains(new.inside);
        new.check(&set, &nat.reserved_ports, is_shared).map_err(wrong)?;
        for old in &forwards {
            new.check_beside(old).map_err(wrong)?;
        }
        forwards.push(new);
    }
    Ok(forwards)
}

fn read(given: &Given<LowForward>) -> Result<Forward, Mistake> {
    let Given { value: low, origin } = given;
    if let Some(typed) = &low.typed {
        return from_word(typed, *origin);
    }
    let missing = |key| {
        let hint = "a forward has protocol, external and inside";
        Mistake::at(*origin, Problem::Missing { key, hint })
    };
    let said = low.protocol.as_ref().ok_or_else(|| missing("protocol"))?;
    let protocol = word(Some(said), "protocol", Protocols::WORDS)?
        .and_then(Protocols::from_word)
        .ok_or_else(|| missing("protocol"))?;
    let external = low.external.as_ref().ok_or_else(|| missing("external"))?;
    let text = match &external.value {
        Ports::One(number) => number.to_string(),
        Ports::Text(text) => text.clone(),
    };
    let external: PortRange = value("external", &text, external.origin)?;
    let inside = low.inside.as_ref().ok_or_else(|| missing("inside"))?;
    let inside: Inside = value("inside", &inside.value, inside.origin)?;
    Ok(Forward::new(protocol, external, inside))
}

fn value<T: FromStr<Err: std::fmt::Display>>(key: &'static str, text: &str, origin: Origin) -> Result<T, Mistake> {
    text.parse().map_err(|error: T::Err| {
        let problem = Problem::Value {
            key,
            value: text.to_owned(),
            hint: error.to_string(),
        };
        Mistake::at(origin, problem)
    })
}

/// `PROTOCOL,PORT[-PORT],ADDRESS[:PORT]`.
fn from_word(typed: &str, origin: Origin) -> Result<Forward, Mistake> {
    let wrong = || {
        let value = typed.to_owned();
        Mistake::at(origin, Problem::ForwardWord { value })
    };
    let fields: Vec<&str> = typed.split(',').map(str::trim).collect();
    let &[protocol, external, inside] = fields.as_slice() else {
        return Err(wrong());
    };
    Ok(Forward::new(
        Protocols::from_word(protocol).ok_or_else(wrong)?,
        value("the forward's port", external, origin)?,
        value("the forward's LAN host", inside, origin)?,
    ))
}
