//! The tunnel alone: for who carries a customer edge's packets in user space, where they are translated before and behind it.
//!
//! Here are the decisions; the outer header is the kernel's to write and to read. TTLs are left alone, since the kernel forwards
//! such packets before and after. Nothing gets out that is not from this customer edge's address and ports, whoever was to
//! translate it: what should have been translated and was not must not reach the provider.

use crate::{
    checksum::Delta,
    env::Rules,
    hop::Mac,
    layout::{Config, Transport},
    nat::open::{Flow, Path},
    packet::Packet,
    time::Tick,
    verdict::Reason,
    wire::{
        icmp,
        ipv4::{self, Protocol},
        ipv6,
        port::Port,
    },
};

use super::{
    answer, error, inbound, path,
    quoted::{self, Quoted},
    tunnel,
};

/// Who speaks for the tunnel itself towards the LAN: of the addresses that RFC 7335 keeps for its two ends, the far one. The near
/// one is this machine's, from which nothing may come in.
pub const FAR_END: [u8; 4] = [192, 0, 0, 1];
/// Where the packet that an error quotes begins.
const QUOTED: usize = ipv4::LEN + icmp::LEN;
/// Packets in fragments that are remembered.
const REMEMBERED: usize = 256;

/// Why a packet is not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// No IPv4.
    NotIpv4,
    /// Not from this customer edge's address and ports.
    Untranslated,
    /// What the data path would say.
    Reason(Reason),
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

impl Refusal {
    /// The stable name in reports.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotIpv4 => "not-ipv4",
            Self::Untranslated => "untranslated",
            Self::Reason(reason) => reason.label(),
        }
    }
}

/// How a packet goes into the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// The outer destination.
    pub far_end: [u8; 16],
    /// The outer traffic class.
    pub traffic_class: u8,
    /// The outer flow label: the one that the data path gives the same session.
    pub label: u32,
    /// Bytes of the packet.
    pub len: u16,
    /// Routers may not fragment it.
    pub dont_fragment: bool,
    /// It is an error itself, about which no error is sent (RFC 1122 §3.2.2).
    pub is_error: bool,
}

/// What changes in a packet that comes out of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The inner type of service.
    pub tos: u8,
    /// The inner header's checksum.
    pub checksum: u16,
    /// Bytes of the packet.
    pub len: u16,
}

/// What a packet says of the flow that it belongs to.
enum Ends {
    /// Its ports, or its identifier twice.
    Ports(Quoted),
    /// A later fragment says nothing.
    Later,
    /// An error, and what it quotes.
    Error(Quoted),
}

/// Where the fragments of a packet go, or where they come from: a later one says nothing by itself.
///
/// A packet takes the place of another with the same hash; what is lost of that one then is a fragmented packet.
pub struct Fragments([Option<Remembered>; REMEMBERED]);

#[derive(Clone, Copy)]
struct Remembered {
    key: Key,
    far_end: [u8; 16],
    label: u32,
    since: Tick,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    /// The outer source, zeros for what goes out.
    outer: [u8; 16],
    source: [u8; 4],
    destination: [u8; 4],
    identification: u16,
    protocol: Protocol,
}

impl Key {
    const fn new(outer: [u8; 16], header: &ipv4::Header) -> Self {
        Self {
            outer,
            source: header.source(),
            destination: header.destination(),
            identification: header.identification(),
            protocol: header.protocol(),
        }
    }

    fn place(&self) -> usize {
        let mixed = u32::from(self.identification)
            ^ u32::from_be_bytes(self.destination)
            ^ u32::from_be_bytes(self.source).rotate_left(16);
        usize::try_from(mixed.wrapping_mul(0x9e37_79b1) >> 24).unwrap_or(0)
    }
}

impl Default for Fragments {
    fn default() -> Self {
        Self([None; REMEMBERED])
    }
}

impl Fragments {
    fn note(&mut self, remembered: Remembered) {
        if let Some(place) = self.0.get_mut(remembered.key.place()) {
            *place = Some(remembered);
        }
    }

    fn find(&self, config: &Config, key: &Key, now: Tick) -> Result<Remembered, Reason> {
        self.0
            .get(key.place())
            .copied()
            .flatten()
            .filter(|found| found.key == *key && now.since(found.since) <= config.fragment_timeout)
            .ok_or(Reason::FragmentFirstMissing)
    }
}

/// Reads the packet at the start of a frame that holds nothing else.
fn read<P: Packet>(frame: &P) -> Result<(ipv4::Header, Ends), Refusal> {
    let header = ipv4::Header::from_bytes(frame.read(0).map_err(|_| Refusal::NotIpv4)?);
    if !header.is_ipv4() {
        return Err(Refusal::NotIpv4);
    }
    let total = usize::from(header.total_len());
    let header_len = header.header_len();
    if header.is_short() || usize::from(header_len) > total || total > frame.len() {
        return Err(Reason::BadLength.into());
    }
    if header.is_later_fragment() {
        return Ok((header, Ends::Later));
    }
    if header.protocol() == Protocol::ICMP {
        let bytes = frame
            .read_told(quoted::place::<0>(header_len, 0))
            .map_err(|_| Reason::BadLength)?;
        let message = icmp::Header::from_bytes(bytes);
        if message.is_error() {
            if header.has_options() {
                return Err(Reason::IpOptions.into());
            }
            let quoted = quoted::read::<P, QUOTED>(frame, total.saturating_sub(QUOTED))?;
            return Ok((header, Ends::Error(quoted)));
        }
        if !message.is_echo_request() && !message.is_echo_reply() {
            return Err(Reason::ErrorElsewhere.into());
        }
    }
    // A packet begins as one that an error quotes: with options or without, whole or the first fragment.
    match quoted::read::<P, 0>(frame, total) {
        Ok(ports) => Ok((header, Ends::Ports(ports))),
        Err(Reason::ErrorElsewhere) => Err(Reason::UnsupportedProtocol.into()),
        Err(_) if header.is_fragment() => Err(Reason::FragmentTiny.into()),
        Err(_) => Err(Reason::BadLength.into()),
    }
}

/// Decides how a packet goes into the tunnel.
///
/// # Errors
/// [`Refusal`].
pub fn outbound<P: Packet, R: Rules>(
    frame: &P,
    rules: &R,
    config: &Config,
    fragments: &mut Fragments,
    now: Tick,
) -> Result<Outbound, Refusal> {
    let (header, ends) = read(frame)?;
    if !config.owns(header.source()) {
        return Err(Refusal::Untranslated);
    }
    let is_error = matches!(ends, Ends::Error(_));
    let flow = match ends {
        Ends::Later => {
            let found = fragments.find(config, &Key::new([0; 16], &header), now)?;
            return Ok(out(config, &header, found.far_end, found.label, false));
        }
        Ends::Ports(ports) => flow(
            ports.transport,
            (header.source(), ports.source_port),
            (header.destination(), ports.destination_port),
        ),
        // The packet that it is about went the other way.
        Ends::Error(quoted) => {
            if quoted.header.source() != header.destination() || !config.owns(quoted.header.destination()) {
                return Err(Reason::ErrorUnusable.into());
            }
            flow(
                quoted.transport,
                (quoted.header.destination(), quoted.destination_port),
                (quoted.header.source(), quoted.source_port),
            )
        }
    };
    if !config.port_set.contains(flow.local_port) {
        return Err(Refusal::Untranslated);
    }
    let mut path = Path {
        far_end: [0; 16],
        wan_hop: 0,
        lan_hop: 0,
    };
    path::towards(rules, config, &flow, &mut path);
    let label = tunnel::flow_label(
        flow.local_port,
        flow.remote,
        flow.remote_port,
        flow.transport.protocol(),
    );
    if header.is_fragment() {
        fragments.note(Remembered {
            key: Key::new([0; 16], &header),
            far_end: path.far_end,
            label,
            since: now,
        });
    }
    Ok(out(config, &header, path.far_end, label, is_error))
}

const fn out(config: &Config, header: &ipv4::Header, far_end: [u8; 16], label: u32, is_error: bool) -> Outbound {
    Outbound {
        far_end,
        traffic_class: tunnel::traffic_class(config, header),
        label,
        len: header.total_len(),
        dont_fragment: header.dont_fragment(),
        is_error,
    }
}

const fn flow(transport: Transport, local: ([u8; 4], Port), remote: ([u8; 4], Port)) -> Flow {
    Flow {
        transport,
        local: local.0,
        local_port: local.1,
        remote: remote.0,
        remote_port: match transport {
            Transport::Icmp => Port(0),
            Transport::Udp | Transport::Tcp => remote.1,
        },
    }
}

/// The error for a packet that does not fit (RFC 1191); none where the packet is too short to be told of.
pub fn too_big<P: Packet>(frame: &P, mtu: u16) -> Option<answer::Error> {
    let quoted = ipv4::Header::from_bytes(frame.read(0).ok()?);
    Some(answer::Error {
        macs: (Mac([0; 6]), Mac([0; 6])),
        from: FAR_END,
        to: quoted.source(),
        kind: icmp::UNREACHABLE,
        code: icmp::TOO_BIG,
        mtu,
        quoted,
        payload: frame.read(ipv4::LEN).ok()?,
    })
}

/// Decides whether a packet that the tunnel brought from an outer source may come in, and what changes in it.
///
/// # Errors
/// [`Refusal`].
pub fn inbound<P: Packet, R: Rules>(
    frame: &P,
    rules: &R,
    config: &Config,
    fragments: &mut Fragments,
    (outer, traffic_class): (&[u8; 16], u8),
    now: Tick,
) -> Result<Inbound, Refusal> {
    let (header, ends) = read(frame)?;
    match ends {
        Ends::Later => {
            if !config.owns(header.destination()) {
                return Err(Reason::NotMyAddress.into());
            }
            // What comes from the relay needs no check.
            if *outer != config.relay_address {
                fragments.find(config, &Key::new(*outer, &header), now)?;
            }
        }
        Ends::Ports(ports) => {
            let flow = flow(
                ports.transport,
                (header.destination(), ports.destination_port),
                (header.source(), ports.source_port),
            );
            inbound::is_ours(config, &flow)?;
            inbound::may_send(
                rules,
                config,
                ipv6::Address::from_bytes(*outer),
                header.source(),
                ports.source_port,
            )?;
            if header.is_fragment() && *outer != config.relay_address {
                fragments.note(Remembered {
                    key: Key::new(*outer, &header),
                    far_end: *outer,
                    label: 0,
                    since: now,
                });
            }
        }
        Ends::Error(quoted) => {
            error::is_ours(config, &header, &quoted)?;
            error::may_send(rules, config, ipv6::Address::from_bytes(*outer), &header, &quoted)?;
        }
    }
    let tos = tunnel::merged_tos(&header, traffic_class)?;
    Ok(Inbound {
        tos,
        checksum: tunnel::tos_change(&header, tos, Delta::ZERO).apply(header.checksum()),
        len: header.total_len(),
    })
}

#[cfg(test)]
mod tests;
