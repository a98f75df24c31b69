//! What the model is told: the gateway's numbers and its policy, each choice by the RFC that leaves it open.

use std::collections::BTreeSet;

/// A protocol whose identifiers are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// RFC 4787.
    Udp,
    /// RFC 5382.
    Tcp,
    /// RFC 5508; the identifier is the port.
    Icmp,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Icmp];
}

/// How new endpoints come by their external port (RFC 4787 §4.1, RFC 7857 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// One port, alone, for everything that the endpoint sends.
    EndpointIndependent,
    /// A port for each destination, shared with other endpoints that have other destinations.
    Overlapping,
}

/// Who may send to an endpoint-independent mapping without having been asked (RFC 4787 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// Everybody.
    EndpointIndependent,
    /// Hosts that the endpoint has sent to (RFC 7597 §10).
    AddressDependent,
    /// Ends that the endpoint has sent to: nobody without a session.
    AddressAndPortDependent,
}

/// Mapping and filtering of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// Mapping.
    pub mapping: Mapping,
    /// Filtering.
    pub filtering: Filtering,
}

/// Idle times, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP (RFC 4787 REQ-5).
    pub udp: u32,
    /// UDP towards query ports (REQ-5a).
    pub query: u32,
    /// ICMP echo (RFC 5508 REQ-2).
    pub icmp: u32,
    /// TCP opening (RFC 5382 REQ-5).
    pub opening: u32,
    /// TCP closed or reset.
    pub closing: u32,
    /// TCP established.
    pub established: u32,
}

impl Timeouts {
    /// What the RFCs recommend.
    pub const DEFAULT: Self = Self {
        udp: 300,
        query: 60,
        icmp: 60,
        opening: 240,
        closing: 240,
        established: 7_440,
    };
    /// While something is short.
    pub const PRESSED: Self = Self {
        query: 10,
        opening: 30,
        closing: 2,
        ..Self::DEFAULT
    };
}

/// What a LAN host may have; none = any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Ports alone, of each protocol.
    pub ports: Option<usize>,
    /// Sessions.
    pub sessions: Option<usize>,
}

/// A port set (RFC 7597 §5.1): offset bits that are not all zero, the PSID, any low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    /// a: bits before the PSID.
    pub offset: u32,
    /// k: bits of the PSID.
    pub length: u32,
    /// The PSID.
    pub psid: u16,
}

impl Set {
    fn contains(self, port: u16) -> bool {
        let bits = format!("{port:016b}");
        let (high, rest) = bits.split_at(usize::try_from(self.offset).expect("at most 16"));
        let psid = &rest[..usize::try_from(self.length).expect("at most 16")];
        let psid = if psid.is_empty() {
            0
        } else {
            u16::from_str_radix(psid, 2).expect("binary digits")
        };
        psid == self.psid && (self.offset == 0 || high.contains('1'))
    }

    /// Its ports, in order.
    pub fn ports(self) -> Vec<u16> {
        (0..=u16::MAX).filter(|port| self.contains(*port)).collect()
    }
}

/// All that the model is told.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Port set.
    pub set: Set,
    /// Its ports, in order.
    pub ports: Vec<u16>,
    /// Ports of the set that translation may not use.
    pub reserved: BTreeSet<u16>,
    /// Records that there is room for; a mapping is one, a session is one.
    pub slots: usize,
    /// UDP.
    pub udp: Behaviour,
    /// TCP.
    pub tcp: Behaviour,
    /// ICMP echo.
    pub icmp: Behaviour,
    /// Destination ports towards which new UDP endpoints overlap.
    pub client_server: BTreeSet<u16>,
    /// Idle times.
    pub timeouts: Timeouts,
    /// Idle times while something is short.
    pub pressed: Timeouts,
    /// Ports of a protocol with mappings, and records, from which on it counts as short.
    pub high: (usize, usize),
    /// Ports alone (of each protocol) and sessions that a LAN host may have (RFC 6888 REQ-4).
    pub quota: Quota,
    /// Hosts that a mapping permits at most.
    pub permissions: usize,
    /// Seconds that the port of a mapping that anybody could send to stays unused (RFC 6888 REQ-8).
    pub quarantine: u32,
    /// Largest packet in the tunnel, bytes.
    pub tunnel_mtu: usize,
    /// Largest packet on the LAN, bytes.
    pub lan_mtu: usize,
    /// Largest TCP MSS let through.
    pub mss: u16,
    /// Whether DSCP is copied to the outer header.
    pub copy_dscp: bool,
    /// Seconds after which an incomplete packet's fragments no longer follow its first.
    pub fragments: u32,
}

impl Policy {
    /// The project's defaults for a set and a number of records.
    pub fn new(set: Set, slots: usize) -> Self {
        let overlapping = Behaviour {
            mapping: Mapping::Overlapping,
            filtering: Filtering::AddressDependent,
        };
        let ports = set.ports();
        Self {
            set,
            reserved: BTreeSet::new(),
            slots,
            udp: Behaviour {
                mapping: Mapping::EndpointIndependent,
                filtering: Filtering::AddressDependent,
            },
            tcp: overlapping,
            icmp: Behaviour {
                mapping: Mapping::EndpointIndependent,
                filtering: Filtering::AddressDependent,
            },
            client_server: BTreeSet::from([53, 123, 443]),
            timeouts: Timeouts::DEFAULT,
            pressed: Timeouts::PRESSED,
            high: (ports.len() * 80 / 100, slots * 80 / 100),
            quota: Quota::default(),
            permissions: 1_024,
            quarantine: 120,
            tunnel_mtu: 1460,
            lan_mtu: 1500,
            mss: 1420,
            copy_dscp: true,
            fragments: 30,
            ports,
        }
    }

    /// How a protocol behaves.
    pub const fn of(&self, transport: Transport) -> Behaviour {
        match transport {
            Transport::Udp => self.udp,
            Transport::Tcp => self.tcp,
            Transport::Icmp => self.icmp,
        }
    }

    /// Whether new endpoints of a protocol get a mapping of their own.
    pub fn maps(&self, transport: Transport) -> bool {
        self.of(transport).mapping == Mapping::EndpointIndependent
    }

    /// Whether a port is in the set.
    pub fn has(&self, port: u16) -> bool {
        self.ports.binary_search(&port).is_ok()
    }

    /// Whether the port may be handed out to who did not ask for it by its number: system ports are kept back as long as
    /// the set has others (RFC 4787 REQ-3a).
    pub fn is_dynamic(&self, port: u16) -> bool {
        port >= 1024 || self.ports.iter().all(|p| *p < 1024)
    }
}
