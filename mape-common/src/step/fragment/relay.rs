//! Fragments through a border relay, which has no sessions: later ones get the ports of the first, and go from then on the way
//! of any packet, its checks included.

use crate::{
    env::Env,
    layout::Transport,
    nat::fragment::{self as table, Fragment, Note},
    packet::Packet,
    step::inner::{self, Inner},
    verdict::{Direction, Reason},
    wire::{ipv4::Header, tcp::Flags},
};

/// Fills in the ports of the fragment at `L3`: a first one's own, a later one's from the first. Its outer source is at `OUTER`, if it
/// has one.
///
/// # Errors
/// As [`super::read`], [`inner::read_part`] and [`table::follow`].
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn look<P: Packet, E: Env, const L3: usize, const OUTER: usize>(
    frame: &P,
    env: &E,
    direction: Direction,
    room: usize,
    note: &mut Note,
) -> Result<(), Reason> {
    let config = env.config().ok_or(Reason::NotConfigured)?;
    if super::is_first::<P, L3>(frame) {
        let inner = inner::read_part::<P, L3, true>(frame, room)?;
        *note = Note::of_ports(inner.source_port, inner.destination_port);
        return Ok(());
    }
    let header = super::read::<P, L3>(frame, room)?.header;
    let fragment = Fragment::new(direction, super::outer_source::<P, L3, OUTER>(frame)?, &header);
    table::follow::<E, false>(env, config, &fragment, note, env.now())
}

/// The fragment at `L3` as if it were a packet with these ports.
///
/// # Errors
/// As [`super::read`]; [`Reason::UnsupportedProtocol`].
#[inline(always)]
pub fn with_ports<P: Packet, const L3: usize>(frame: &P, room: usize, note: &Note) -> Result<Inner, Reason> {
    let super::Piece { header, excess } = super::read::<P, L3>(frame, room)?;
    let (source_port, destination_port) = note.ports();
    Ok(Inner {
        header,
        transport: transport(&header)?,
        source_port,
        destination_port,
        checksum: 0,
        flags: Flags(0),
        header_len: 0,
        excess,
    })
}

#[inline(always)]
fn transport(header: &Header) -> Result<Transport, Reason> {
    Transport::from_protocol(header.protocol().0).ok_or(Reason::UnsupportedProtocol)
}
