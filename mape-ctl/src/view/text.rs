//! `stat` for people.

use std::{
    fmt::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr},
};

use comfy_table::{CellAlignment, Table, presets};
use mape_common::{hop::Mac, layout::Counter, verdict::Direction};

use super::snapshot::{Rate, Snapshot, is_border_relay};
use crate::instance::Instance;

/// A table without lines; columns named with a leading `>` are aligned to the right.
pub fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(columns.iter().map(|name| name.trim_start_matches('>')));
    for (column, name) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        if name.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The whole snapshot; `all` shows counters that are zero, too; of LAN hosts the heaviest `hosts` are shown one by one.
///
/// # Errors
/// None that a string can have.
pub fn stat(
    instance: &Instance,
    shot: &Snapshot,
    rates: Option<&[(Direction, Rate); 2]>,
    all: bool,
    hosts: usize,
) -> Result<String, fmt::Error> {
    let mut out = String::new();
    head(&mut out, instance, shot)?;
    links(&mut out, shot)?;
    hops(&mut out, shot)?;
    traffic(&mut out, shot, rates)?;
    handed(&mut out, shot)?;
    if !is_border_relay(&shot.config) {
        sessions(&mut out, shot, all)?;
        lan_hosts(&mut out, shot, hosts)?;
    }
    fragmented(&mut out, shot, all)?;
    reasons(&mut out, shot, all)?;
    match shot.answers {
        (0, 0) => {}
        (sent, suppressed) => writeln!(
            out,
            "\n{sent} ICMP errors of our own sent; {suppressed} not sent because there were too many"
        )?,
    }
    Ok(out)
}

fn head(out: &mut String, instance: &Instance, shot: &Snapshot) -> fmt::Result {
    let config = &shot.config;
    let is_br = is_border_relay(config);
    let (role, gate) = (
        if is_br { "border relay" } else { "customer edge" },
        if shot.is_gate_open {
            "forwarding"
        } else {
            "not forwarding: the gate is closed"
        },
    );
    let since = shot
        .loaded_for
        .map_or_else(String::new, |seconds| format!(", loaded {} ago", duration(seconds)));
    writeln!(out, "Instance {instance}: {role}, {gate}{since}")?;
    writeln!(out, "  tunnel address  {}", Ipv6Addr::from(config.tunnel_address))?;
    if !is_br {
        writeln!(out, "  border relay    {}", Ipv6Addr::from(config.relay_address))?;
        let address = Ipv4Addr::from(config.external_address);
        let prefix = config.external_mask.count_ones();
        let of = if prefix < 32 {
            format!(" of a /{prefix}")
        } else {
            String::new()
        };
        writeln!(
            out,
            "  IPv4 address    {address}{of}, {} ports{}",
            config.ports,
            psid(shot)
        )?;
    }
    let mss = if config.mss == 0 {
        "not clamped".to_owned()
    } else {
        format!("at most {}", config.mss)
    };
    writeln!(out, "  tunnel MTU      {}, TCP MSS {mss}", config.tunnel_mtu)?;
    if is_br {
        return Ok(());
    }
    let native = if shot.is_native_on {
        "forwarded in XDP"
    } else {
        "left to the kernel"
    };
    writeln!(out, "  native IPv6     {native}")
}

/// Days, hours, minutes and seconds, the two largest of them.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

fn psid(shot: &Snapshot) -> String {
    let set = shot.config.port_set;
    if set.psid_len() == 0 {
        return String::new();
    }
    format!(
        " (PSID {}, {} bits after {})",
        set.psid().0,
        set.psid_len(),
        set.offset()
    )
}

fn links(out: &mut String, shot: &Snapshot) -> fmt::Result {
    let columns = [
        "INTERFACE",
        "MAC",
        ">MTU",
        "MODE",
        "PROGRAM",
        ">RX DROPPED",
        ">RX ERRORS",
        ">TX DROPPED",
        ">TX ERRORS",
    ];
    let mut table = table(&columns);
    for link in &shot.links {
        table.add_row([
            link.name.clone().unwrap_or_else(|| {
                let place = if link.is_gone { "gone" } else { "elsewhere" };
                format!("number {} ({place})", link.ifindex)
            }),
            if link.is_detached {
                "-".to_owned()
            } else {
                mac(link.mac)
            },
            if link.is_detached {
                "-".to_owned()
            } else {
                link.mtu.to_string()
            },
            link.mode.unwrap_or("none").to_owned(),
            match (link.is_detached, link.is_alive) {
                (true, _) => "detached",
                (false, true) => "running",
                (false, false) if link.is_gone => "gone",
                (false, false) => "not seen running",
            }
            .to_owned(),
            link.losses.rx_dropped.to_string(),
            link.losses.rx_errors.to_string(),
            link.losses.tx_dropped.to_string(),
            link.losses.tx_errors.to_string(),
        ]);
    }
    section(out, &table)
}

fn hops(out: &mut String, shot: &Snapshot) -> fmt::Result {
    if shot.hops.is_empty() {
        return writeln!(out, "\nNo next hop is known yet.");
    }
    let is_br = is_border_relay(&shot.config);
    let mut table = table(&["NEXT HOP", "ROUTER", "INTERFACE", "MAC", ">PATH MTU", ">SILENT FOR"]);
    for view in &shot.hops {
        table.add_row([
            view.address.map_or_else(
                || far_end(is_br, view.index),
                |address| Ipv4Addr::from(address).to_string(),
            ),
            view.router.map_or_else(|| "-".to_owned(), |router| router.to_string()),
            view.interface
                .clone()
                .unwrap_or_else(|| format!("number {}", view.hop.ifindex)),
            mac(view.hop.destination),
            view.path_mtu.map_or_else(|| "-".to_owned(), |mtu| mtu.to_string()),
            view.silent
                .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s")),
        ]);
    }
    section(out, &table)
}

/// What a next hop into the tunnel leads to; a border relay's all lead to customer edges.
fn far_end(is_br: bool, index: u32) -> String {
    if index == 0 && !is_br {
        "tunnel: border relay".to_owned()
    } else {
        format!("tunnel: customer edges {index}")
    }
}

/// What each processor has handed on to others, and taken over from them.
fn handed(out: &mut String, shot: &Snapshot) -> fmt::Result {
    if shot.handed.is_empty() {
        return Ok(());
    }
    let mut table = table(&["FROM THE TUNNEL", ">HANDED ON", ">TAKEN OVER"]);
    for one in &shot.handed {
        table.add_row([
            format!("processor {}", one.processor),
            one.handed_on.to_string(),
            one.taken_over.to_string(),
        ]);
    }
    section(out, &table)?;
    match shot.not_taken_over() {
        0 => Ok(()),
        packets => writeln!(
            out,
            "{packets} packets wait for another processor, or were lost because its queue was full"
        ),
    }
}

fn traffic(out: &mut String, shot: &Snapshot, rates: Option<&[(Direction, Rate); 2]>) -> fmt::Result {
    let mut columns = vec!["TRAFFIC", ">FORWARDED", ">BYTES", ">BY THE STACK", ">BYTES"];
    let is_br = is_border_relay(&shot.config);
    if !is_br {
        columns.extend([">NATIVE IPV6", ">BYTES"]);
    }
    if rates.is_some() {
        columns.extend([">PACKETS/S", ">BITS/S"]);
    }
    let mut table = table(&columns);
    for direction in Direction::ALL {
        let (forwarded, delivered) = (shot.counters.forwarded(direction), shot.counters.delivered(direction));
        let mut row = vec![direction.name().to_owned()];
        let native = (!is_br).then(|| shot.counters.native(direction));
        row.extend(
            [forwarded, delivered]
                .into_iter()
                .chain(native)
                .flat_map(|sum| [sum.packets.to_string(), sum.bytes.to_string()]),
        );
        if let Some((_, rate)) = rates.and_then(|rates| rates.iter().find(|(of, _)| *of == direction)) {
            row.extend([scaled(rate.packets_per_second), scaled(rate.bits_per_second)]);
        }
        table.add_row(row);
    }
    section(out, &table)
}

fn sessions(out: &mut String, shot: &Snapshot, all: bool) -> fmt::Result {
    let columns = [
        "PROTOCOL",
        ">SESSIONS",
        ">MAPPINGS",
        ">PORTS EXCLUSIVE",
        ">PORTS SHARED",
        ">FORWARDED",
        ">OF",
        ">CREATED",
        ">HAD TO SHARE",
        "IDLE TIMES",
    ];
    let mut table = table(&columns);
    for (transport, used) in &shot.use_of {
        let mut row = vec![transport.name().to_owned()];
        let numbers = [
            used.sessions,
            used.mappings,
            used.exclusive,
            used.shared,
            used.forwarded,
            shot.config.ports.into(),
            used.created,
            used.degraded,
        ];
        row.extend(numbers.map(|number| number.to_string()));
        let idle = if shot.pressure.is_on(*transport) {
            "pressed"
        } else {
            "ordinary"
        };
        row.push(idle.to_owned());
        table.add_row(row);
    }
    section(out, &table)?;
    writeln!(
        out,
        "{} sessions, mappings and forwards of at most {}",
        shot.records(),
        shot.config.sessions
    )?;
    out.push_str(&shot.pressure.text(all)?);
    match shot.permissions {
        (_, 0) => Ok(()),
        (_, lost) => writeln!(
            out,
            "{lost} permissions could not be noted because their table was full"
        ),
    }
}

fn lan_hosts(out: &mut String, shot: &Snapshot, hosts: usize) -> fmt::Result {
    writeln!(out)?;
    out.push_str(&shot.hosts.text(hosts, "; stat --hosts shows all")?);
    match shot.refused_by_quota() {
        0 => Ok(()),
        packets => writeln!(
            out,
            "{packets} packets were refused because their host had as many sessions as one may have"
        ),
    }
}

fn fragmented(out: &mut String, shot: &Snapshot, all: bool) -> fmt::Result {
    let early = shot.held;
    if early.held + early.displaced + early.lost > 0 || all {
        writeln!(
            out,
            "{} fragments came before the first of their packet and were held: {} sent on after it, {} given up after two seconds, \
             {} for others; {} could not be held",
            early.held, early.released, early.expired, early.displaced, early.lost
        )?;
    }
    match shot.fragmented {
        (0, _) if !all => Ok(()),
        (noted, displaced) => writeln!(
            out,
            "{noted} packets came in fragments; {displaced} of them were forgotten before they were complete, for want of room"
        ),
    }
}

fn reasons(out: &mut String, shot: &Snapshot, all: bool) -> fmt::Result {
    let mut table = table(&["NOT FORWARDED", "REASON", "ACTION", ">PACKETS", ">BYTES", "MEANING"]);
    let mut is_empty = true;
    for direction in Direction::ALL {
        for (reason, Counter { packets, bytes }) in shot.counters.reasons(direction) {
            if packets > 0 || all {
                is_empty = false;
                let words = [direction.name(), reason.label(), reason.action().name()];
                let mut row: Vec<String> = words.map(ToOwned::to_owned).into();
                row.extend([packets.to_string(), bytes.to_string(), reason.meaning().to_owned()]);
                table.add_row(row);
            }
        }
    }
    if is_empty {
        writeln!(out, "\nEvery packet was forwarded.")
    } else {
        section(out, &table)
    }
}

fn section(out: &mut String, table: &Table) -> fmt::Result {
    writeln!(out)?;
    lines(out, table)
}

/// The table's lines, without the blanks that columns end with.
///
/// # Errors
/// None that a string can have.
pub fn lines(out: &mut String, table: &Table) -> fmt::Result {
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
}

/// A number with one digit behind the point and a unit: 12.3 M.
fn scaled(number: f64) -> String {
    let (factor, unit) = match number {
        n if n >= 1e9 => (1e9, " G"),
        n if n >= 1e6 => (1e6, " M"),
        n if n >= 1e3 => (1e3, " k"),
        _ => (1.0, ""),
    };
    if unit.is_empty() {
        format!("{number:.0}")
    } else {
        format!("{:.1}{unit}", number / factor)
    }
}

/// A MAC address as it is written everywhere.
pub fn mac(address: Mac) -> String {
    address.0.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_scaled() {
        let found = [0.0, 999.0, 1_000.0, 12_345_678.0, 9.87e9].map(scaled);
        assert_eq!(found, ["0", "999", "1.0 k", "12.3 M", "9.9 G"]);
    }

    #[test]
    fn a_duration_has_its_two_largest_units() {
        let found = [59, 61, 3_660, 90_000].map(duration);
        assert_eq!(found, ["59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn mac_addresses_have_leading_zeros() {
        assert_eq!(mac(Mac([2, 0, 0, 0, 0x0a, 0xff])), "02:00:00:00:0a:ff");
    }

    #[test]
    fn numbers_stand_below_each_other_and_lines_end_with_text() {
        let mut table = table(&["NAME", ">COUNT"]);
        table.add_row(["a", "7"]).add_row(["b", "12345678"]);
        let mut out = String::new();
        lines(&mut out, &table).unwrap();
        assert_eq!(out, "NAME     COUNT\na            7\nb     12345678\n");
    }
}
