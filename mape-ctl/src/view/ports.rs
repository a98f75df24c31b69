//! The port set of one protocol as a picture: a cell for each port, a row for each block of the set.
//!
//! A set too large for that (a whole address) is drawn in cells of many ports each, shaded by how many are in use.

use std::{collections::BTreeMap, fmt::Write as _, net::Ipv4Addr};

use mape_common::{
    layout::Transport,
    map::psid::PortSet,
    nat::{
        port::PortState,
        session::{Hold, Phase},
    },
};
use serde_json::{Value, json};

use crate::{
    datapath::{mapped::MappedError, maps::Tables, ports::PortTable, sessions::SessionTable},
    host::state::now,
};

/// Ports that are drawn one by one; more are drawn in cells of several.
const ONE_BY_ONE: usize = 4_096;
/// Cells of a set that is larger.
const CELLS: usize = 1_024;
/// Columns before the cells of a row: a port number and a space.
const LABEL: usize = 6;
/// Cells in a row of a set without blocks.
const ROW: usize = 64;

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// Whether the reader understands colours.
    pub colours: bool,
}

/// What a cell shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Free,
    Shared,
    Exclusive,
    Forwarded,
    Reserved,
    /// Nobody's, for reasons that pass.
    Resting,
}

impl Kind {
    const fn of(state: PortState) -> Self {
        match state {
            PortState::Free => Self::Free,
            PortState::Shared(_) => Self::Shared,
            PortState::Exclusive => Self::Exclusive,
            PortState::Static => Self::Forwarded,
            PortState::Reserved => Self::Reserved,
            PortState::Quarantined(_) => Self::Resting,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
            Self::Forwarded => "forwarded",
            Self::Reserved => "reserved",
            Self::Resting => "quarantined",
        }
    }

    /// The letter, where it is not a number of sessions.
    const fn letter(self) -> char {
        match self {
            Self::Free => '.',
            Self::Shared => '+',
            Self::Exclusive => 'E',
            Self::Forwarded => 'F',
            Self::Reserved => 'R',
            Self::Resting => 'q',
        }
    }

    /// The number of the colour, as terminals count them.
    const fn colour(self) -> u8 {
        match self {
            Self::Free | Self::Resting => 90,
            Self::Shared => 32,
            Self::Exclusive => 33,
            Self::Forwarded => 36,
            Self::Reserved => 35,
        }
    }
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    number: u16,
    kind: Kind,
    sessions: u32,
    /// The LAN endpoint that holds it alone.
    owner: Option<(Ipv4Addr, u16)>,
}

/// The ports of one protocol.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The protocol.
    pub transport: Transport,
    set: PortSet,
    ports: Vec<Port>,
}

impl Picture {
    /// Reads the ports of a loaded gateway.
    ///
    /// # Errors
    /// [`MappedError`].
    pub fn read(tables: &Tables, transport: Transport) -> Result<Self, MappedError> {
        let set = tables.config()?.port_set;
        let mut sessions: BTreeMap<u16, u32> = BTreeMap::new();
        let mut owners = BTreeMap::new();
        for entry in SessionTable::open(tables)?.live() {
            let facts = &entry.facts;
            if facts.transport != transport {
                continue;
            }
            if facts.hold == Hold::Mapping {
                owners.insert(
                    facts.external_port.0,
                    (Ipv4Addr::from(facts.inside), facts.inside_port.0),
                );
            } else if entry.state.phase != Phase::Static {
                *sessions.entry(facts.external_port.0).or_default() += 1;
            }
        }
        let table = PortTable::open(tables)?;
        let ports = (0..)
            .zip(table.states(transport, now()))
            .filter_map(|(ordinal, state)| {
                let number = set.port(ordinal)?.0;
                Some(Port {
                    number,
                    kind: Kind::of(state),
                    sessions: match state {
                        PortState::Shared(count) => count,
                        PortState::Free
                        | PortState::Exclusive
                        | PortState::Static
                        | PortState::Reserved
                        | PortState::Quarantined(_) => sessions.get(&number).copied().unwrap_or(0),
                    },
                    owner: owners.get(&number).copied(),
                })
            })
            .collect();
        Ok(Self { transport, set, ports })
    }

    /// Every port.
    pub fn json(&self) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| {
                json!({
                    "port": port.number,
                    "state": port.kind.name(),
                    "sessions": port.sessions,
                    "owner": port.owner.map(|(address, port)| format!("{address}:{port}")),
                })
            })
            .collect();
        let counts: serde_json::Map<String, Value> = self
            .counts()
            .iter()
            .map(|(kind, count)| (kind.name().to_owned(), json!(count)))
            .collect();
        json!({ "ports": ports, "counts": counts })
    }

    fn counts(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::from(
            [
                Kind::Free,
                Kind::Exclusive,
                Kind::Shared,
                Kind::Forwarded,
                Kind::Reserved,
            ]
            .map(|kind| (kind, 0)),
        );
        for port in &self.ports {
            *counts.entry(port.kind).or_insert(0) += 1;
        }
        counts
    }

    /// Heading and rows.
    pub fn draw(&self, style: Style) -> String {
        let mut out = self.heading();
        let room = style.width.saturating_sub(LABEL).max(1);
        if self.ports.len() > ONE_BY_ONE {
            self.draw_many(&mut out, style, room);
            return out;
        }
        let block = self.block();
        for row in self.ports.chunks(block) {
            // A block wider than the terminal goes on in the next line.
            for part in row.chunks(room.min(if block == self.ports.len() { ROW } else { room })) {
                label(&mut out, part);
                for port in part {
                    let count = char::from_digit(port.sessions, 10).filter(|_| port.kind == Kind::Shared);
                    let letter = count.unwrap_or_else(|| port.kind.letter());
                    style.put(&mut out, port.kind, letter);
                }
                style.end(&mut out);
                out.push('\n');
            }
        }
        out
    }

    /// Ports of a block of the set.
    fn block(&self) -> usize {
        let first = self.set.ranges().next();
        first.map_or(1, |(first, last)| usize::from(last.0 - first.0) + 1)
    }

    fn draw_many(&self, out: &mut String, style: Style, room: usize) {
        let each = self.ports.len().div_ceil(CELLS).max(1);
        let _ = writeln!(out, "({each} ports a cell)");
        let cells: Vec<&[Port]> = self.ports.chunks(each).collect();
        for row in cells.chunks(ROW.min(room)) {
            label(out, row.first().copied().unwrap_or_default());
            for cell in row {
                let (kind, letter) = shade(cell);
                style.put(out, kind, letter);
            }
            style.end(out);
            out.push('\n');
        }
    }

    fn heading(&self) -> String {
        let sessions: u64 = self.ports.iter().map(|port| u64::from(port.sessions)).sum();
        let counts: Vec<String> = self
            .counts()
            .iter()
            .map(|(kind, count)| format!("{count} {}", kind.name()))
            .collect();
        format!(
            "{}: {} ports: {}; {sessions} sessions\n",
            self.transport.name(),
            self.ports.len(),
            counts.join(", ")
        )
    }
}

fn label(out: &mut String, ports: &[Port]) {
    if let Some(first) = ports.first() {
        let _ = write!(out, "{:>5} ", first.number);
    }
}

/// What a cell of many ports shows: forwarded where any is, else how many are in use, in tenths.
fn shade(cell: &[Port]) -> (Kind, char) {
    let count = |kind| cell.iter().filter(|port| port.kind == kind).count();
    if count(Kind::Forwarded) > 0 {
        return (Kind::Forwarded, Kind::Forwarded.letter());
    }
    if count(Kind::Reserved) == cell.len() {
        return (Kind::Reserved, Kind::Reserved.letter());
    }
    let (shared, exclusive) = (count(Kind::Shared), count(Kind::Exclusive));
    let used = shared + exclusive;
    if used == 0 {
        return (Kind::Free, Kind::Free.letter());
    }
    let kind = if exclusive > shared {
        Kind::Exclusive
    } else {
        Kind::Shared
    };
    let tenths = (used * 10 / cell.len().max(1)).clamp(1, 9);
    (
        kind,
        u32::try_from(tenths)
            .ok()
            .and_then(|tenths| char::from_digit(tenths, 10))
            .unwrap_or('9'),
    )
}

impl Style {
    fn put(self, out: &mut String, kind: Kind, letter: char) {
        if self.colours {
            let _ = write!(out, "\x1b[{}m{letter}", kind.colour());
        } else {
            out.push(letter);
        }
    }

    fn end(self, out: &mut String) {
        if self.colours {
            out.push_str("\x1b[0m");
        }
    }

    /// What the letters mean.
    pub fn legend(self) -> String {
        let mut out = String::new();
        for (kind, letters, meaning) in [
            (Kind::Free, ".", "free"),
            (Kind::Exclusive, "E", "held by one LAN endpoint"),
            (
                Kind::Shared,
                "1-9 +",
                "shared by so many sessions or more (many ports a cell: tenths in use)",
            ),
            (Kind::Forwarded, "F", "forwarded"),
            (Kind::Reserved, "R", "reserved"),
            (Kind::Resting, "q", "in quarantine"),
        ] {
            for letter in letters.chars() {
                self.put(&mut out, kind, letter);
            }
            self.end(&mut out);
            let _ = writeln!(out, " {meaning}");
        }
        out.truncate(out.trim_end().len());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style {
        width: 80,
        colours: false,
    };

    fn picture(set: PortSet) -> Picture {
        let ports = (0..set.len())
            .map(|ordinal| Port {
                number: set.port(ordinal).unwrap().0,
                kind: Kind::Free,
                sessions: 0,
                owner: None,
            })
            .collect();
        Picture {
            transport: Transport::Udp,
            set,
            ports,
        }
    }

    fn mark(picture: &mut Picture, place: usize, kind: Kind, sessions: u32) {
        picture.ports[place].kind = kind;
        picture.ports[place].sessions = sessions;
    }

    #[test]
    fn every_block_of_the_set_is_a_row() {
        let mut small = picture(PortSet::new(4, 8, 0x34).unwrap());
        mark(&mut small, 0, Kind::Exclusive, 1);
        mark(&mut small, 1, Kind::Shared, 9);
        mark(&mut small, 2, Kind::Shared, 10);
        mark(&mut small, 3, Kind::Forwarded, 2);
        mark(&mut small, 4, Kind::Reserved, 0);
        let drawn = small.draw(PLAIN);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(
            lines[0],
            "udp: 240 ports: 235 free, 2 shared, 1 exclusive, 1 forwarded, 1 reserved; 22 sessions"
        );
        assert_eq!(lines[1], " 4928 E9+FR...........");
        assert_eq!(lines[15], "62272 ................");
        assert_eq!(lines.len(), 16);
        assert_eq!(
            picture(PortSet::new(6, 6, 0x34).unwrap()).draw(PLAIN).lines().count(),
            64
        );
    }

    #[test]
    fn a_narrow_terminal_breaks_rows_and_none_is_wider() {
        let set = PortSet::new(4, 6, 0x34).unwrap();
        for width in [10, 22, 40, 80, 200] {
            let style = Style { width, ..PLAIN };
            let drawn = picture(set).draw(style);
            assert!(
                drawn.lines().skip(1).all(|line| line.len() <= width),
                "{width}: {drawn}"
            );
            let cells: usize = drawn.lines().skip(1).map(|line| line.len() - LABEL).sum();
            assert_eq!(cells, 960);
        }
    }

    #[test]
    fn a_whole_address_is_drawn_in_cells_of_many_ports() {
        let mut whole = picture(PortSet::ALL);
        for place in 64..128 {
            mark(&mut whole, place, Kind::Shared, 1);
        }
        mark(&mut whole, 128, Kind::Exclusive, 1);
        mark(&mut whole, 200, Kind::Forwarded, 1);
        let drawn = whole.draw(PLAIN);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines.len(), 18, "{drawn}");
        assert!(lines[2].starts_with("    0 .91F...."), "{}", lines[2]);
        assert!(lines[17].starts_with("61440 ...."), "{}", lines[17]);
    }

    #[test]
    fn colours_are_there_only_where_they_are_wanted() {
        let small = picture(PortSet::new(4, 8, 0x34).unwrap());
        assert!(!small.draw(PLAIN).contains('\x1b') && !PLAIN.legend().contains('\x1b'));
        let coloured = Style { colours: true, ..PLAIN };
        assert!(small.draw(coloured).contains("\x1b[90m.") && coloured.legend().contains("\x1b[36mF"));
    }

    #[test]
    fn every_port_is_in_the_json_with_its_owner() {
        let mut small = picture(PortSet::new(4, 8, 0x34).unwrap());
        mark(&mut small, 3, Kind::Forwarded, 2);
        small.ports[3].owner = Some((Ipv4Addr::new(192, 168, 10, 5), 80));
        let json = small.json();
        assert_eq!(json["ports"].as_array().unwrap().len(), 240);
        assert_eq!(
            json["ports"][3],
            json!({ "port": 4931, "state": "forwarded", "sessions": 2, "owner": "192.168.10.5:80" })
        );
        assert_eq!(
            (&json["ports"][0]["owner"], &json["counts"]["free"]),
            (&Value::Null, &json!(239))
        );
    }
}
