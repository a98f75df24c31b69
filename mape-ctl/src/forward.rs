//! A static forward as an operator writes it: protocol, ports of the set, and the LAN host's address and ports.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use mape_common::{layout::Transport, map::psid::PortSet, wire::port::Port};
use serde::{Deserialize, Serialize};

/// Which protocols are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocols {
    /// Transmission control
    Tcp,
    /// User datagrams
    Udp,
    /// TCP and UDP
    Both,
}

impl Protocols {
    /// The words that stand for them.
    pub const WORDS: &'static [&'static str] = &["tcp", "udp", "both"];

    /// The protocols that a word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            "both" => Some(Self::Both),
            _ => None,
        }
    }

    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Both => "both",
        }
    }

    /// Each of them.
    pub const fn transports(self) -> &'static [Transport] {
        match self {
            Self::Tcp => &[Transport::Tcp],
            Self::Udp => &[Transport::Udp],
            Self::Both => &[Transport::Tcp, Transport::Udp],
        }
    }

    fn meets(self, other: Self) -> bool {
        self == other || self == Self::Both || other == Self::Both
    }
}

/// A port, or several in a row: `1232` or `1232-1235`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not before the first.
    pub last: u16,
}

/// The text is no range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a port from 1 to 65535, or the first and the last of several: 1232 or 1232-1235")]
pub struct BadRange;

impl FromStr for PortRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or(BadRange);
        let (first, last) = (port(first)?, port(last)?);
        if first <= last {
            Ok(Self { first, last })
        } else {
            Err(BadRange)
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl PortRange {
    fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Where a forward leads: an address, or an address and the first port; without, the ports stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The LAN host.
    pub address: Ipv4Addr,
    /// Its first port.
    pub port: Option<u16>,
}

/// The text is no LAN endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write the LAN host's IPv4 address, with or without its first port: 192.168.10.5:80 or 192.168.10.5")]
pub struct BadInside;

impl FromStr for Inside {
    type Err = BadInside;

    fn from_str(text: &str) -> Result<Self, BadInside> {
        let (address, port) = match text.split_once(':') {
            None => (text, None),
            Some((address, port)) => {
                let port: u16 = port.parse().map_err(|_| BadInside)?;
                (address, Some(port).filter(|port| *port != 0))
            }
        };
        let address = address.parse().map_err(|_| BadInside)?;
        if text.contains(':') && port.is_none() {
            return Err(BadInside);
        }
        Ok(Self { address, port })
    }
}

/// A forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Forward {
    /// Protocols.
    pub protocol: Protocols,
    /// Ports of the set.
    pub external: PortRange,
    /// The LAN host.
    pub inside: Ipv4Addr,
    /// Its port for the first of `external`; the others follow.
    pub inside_port: u16,
}

/// One port of a forward, as the data path has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Single {
    /// IP protocol number.
    pub protocol: u8,
    /// Port of the set.
    pub external: u16,
    /// The LAN host.
    pub inside: Ipv4Addr,
    /// Its port.
    pub inside_port: u16,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, external, inside) = (self.protocol.word(), self.external, self.inside);
        write!(f, "{word} {external} to {inside}:{}", self.inside_range())
    }
}

/// Why a forward cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Its ports are not the line's.
    #[error("port {port} is not of this line; it has {allowed}")]
    Foreign {
        /// The first that is not.
        port: u16,
        /// Those that are.
        allowed: String,
    },
    /// The box keeps one of its ports.
    #[error("port {0} is kept from translation by nat.reserved-ports; take it out there, or forward another one")]
    Reserved(u16),
    /// The inside ports would go beyond 65535.
    #[error("{count} ports from {first} on go beyond 65535; begin with a lower inside port")]
    TooHigh {
        /// Ports of the range.
        count: u32,
        /// First inside port.
        first: u16,
    },
    /// No host has the address.
    #[error("{0} is no address of a LAN host")]
    NoHost(Ipv4Addr),
    /// The address is the line's own.
    #[error("{0} is the address that the line shares, not a LAN host's; name the host behind it")]
    Shared(Ipv4Addr),
    /// Another forward has the port.
    #[error("the forwards {new} and {old} have a port in common; take one of them away or change its ports")]
    SamePort {
        /// The one asked for.
        new: Box<Forward>,
        /// The one that is there.
        old: Box<Forward>,
    },
    /// Another forward leads to the same endpoint.
    #[error(
        "the forwards {new} and {old} lead to the same port of the host: what it sends could leave by one of them only; \
         let it listen on a second port, or take one away"
    )]
    SameInside {
        /// The one asked for.
        new: Box<Forward>,
        /// The one that is there.
        old: Box<Forward>,
    },
}

impl Forward {
    /// A forward of those ports to an endpoint.
    pub fn new(protocol: Protocols, external: PortRange, inside: Inside) -> Self {
        Self {
            protocol,
            external,
            inside: inside.address,
            inside_port: inside.port.unwrap_or(external.first),
        }
    }

    /// Ports of the LAN host.
    pub fn inside_range(&self) -> PortRange {
        let more = self.external.last - self.external.first;
        PortRange {
            first: self.inside_port,
            last: self.inside_port.saturating_add(more),
        }
    }

    /// Each of its ports, for each protocol.
    pub fn singles(&self) -> impl Iterator<Item = Single> + use<> {
        let Self {
            protocol,
            external,
            inside,
            inside_port,
        } = *self;
        protocol.transports().iter().flat_map(move |transport| {
            (external.first..=external.last).map(move |port| Single {
                protocol: transport.protocol(),
                external: port,
                inside,
                inside_port: inside_port.saturating_add(port - external.first),
            })
        })
    }

    /// Whether the line and its reservations allow it.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub fn check(&self, set: &PortSet, reserved: &[u16], is_shared: bool) -> Result<(), ForwardError> {
        let ports = self.external.first..=self.external.last;
        if let Some(port) = ports.clone().find(|port| !set.contains(Port(*port))) {
            return Err(ForwardError::Foreign {
                port,
                allowed: allowed(set),
            });
        }
        if let Some(port) = ports.clone().find(|port| reserved.contains(port)) {
            return Err(ForwardError::Reserved(port));
        }
        let more = self.external.last - self.external.first;
        if self.inside_port.checked_add(more).is_none() {
            return Err(ForwardError::TooHigh {
                count: u32::from(more) + 1,
                first: self.inside_port,
            });
        }
        let inside = self.inside;
        let [first, ..] = inside.octets();
        if inside.is_loopback() || inside.is_broadcast() || inside.is_multicast() || first == 0 || first >= 240 {
            return Err(ForwardError::NoHost(inside));
        }
        if is_shared {
            return Err(ForwardError::Shared(inside));
        }
        Ok(())
    }

    /// Whether it can stand beside another one.
    ///
    /// # Errors
    /// [`ForwardError::SamePort`], [`ForwardError::SameInside`].
    pub fn check_beside(&self, other: &Self) -> Result<(), ForwardError> {
        if !self.protocol.meets(other.protocol) {
            return Ok(());
        }
        let (new, old) = (Box::new(*self), Box::new(*other));
        if self.external.meets(other.external) {
            return Err(ForwardError::SamePort { new, old });
        }
        if self.inside == other.inside && self.inside_range().meets(other.inside_range()) {
            return Err(ForwardError::SameInside { new, old });
        }
        Ok(())
    }
}

/// Ranges named before the rest is left to `calc`.
const RANGES: usize = 16;

/// The ports of a line, in a few words.
pub fn allowed(set: &PortSet) -> String {
    let mut ranges: Vec<String> = set
        .ranges()
        .map(|(first, last)| {
            PortRange {
                first: first.0,
                last: last.0,
            }
            .to_string()
        })
        .collect();
    let count = ranges.len();
    if count > RANGES {
        let last = ranges.last().cloned().unwrap_or_default();
        ranges.truncate(3);
        return format!(
            "{}, ..., {last} ({count} ranges of {}; mape-ctl calc lists them)",
            ranges.join(", "),
            u64::from(set.len()) / u64::try_from(count).unwrap_or(1)
        );
    }
    ranges.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4928-4943, 9024-9039, … 62272-62287.
    fn set() -> PortSet {
        PortSet::new(4, 8, 0x34).unwrap()
    }

    fn forward(protocol: Protocols, external: &str, inside: &str) -> Forward {
        Forward::new(protocol, external.parse().unwrap(), inside.parse().unwrap())
    }

    #[test]
    fn ranges_and_endpoints_are_read_or_refused_with_an_example() {
        assert_eq!(
            "1232".parse(),
            Ok(PortRange {
                first: 1232,
                last: 1232
            })
        );
        assert_eq!(
            "1232-1235".parse(),
            Ok(PortRange {
                first: 1232,
                last: 1235
            })
        );
        for bad in ["", "0", "65536", "5-4", "1-2-3", "a", "-1"] {
            assert_eq!(bad.parse::<PortRange>(), Err(BadRange), "{bad}");
        }
        let address = Ipv4Addr::new(192, 168, 10, 5);
        assert_eq!("192.168.10.5".parse(), Ok(Inside { address, port: None }));
        assert_eq!(
            "192.168.10.5:80".parse(),
            Ok(Inside {
                address,
                port: Some(80)
            })
        );
        for bad in [
            "",
            "192.168.10",
            "192.168.10.5:",
            "192.168.10.5:0",
            "[::1]:80",
            "192.168.10.5:99999",
        ] {
            assert_eq!(bad.parse::<Inside>(), Err(BadInside), "{bad}");
        }
    }

    #[test]
    fn a_range_leads_to_a_range_of_equal_length() {
        let singles: Vec<_> = forward(Protocols::Both, "4928-4929", "192.168.10.5:80")
            .singles()
            .collect();
        let ends: Vec<_> = singles
            .iter()
            .map(|one| (one.protocol, one.external, one.inside_port))
            .collect();
        assert_eq!(ends, [(6, 4928, 80), (6, 4929, 81), (17, 4928, 80), (17, 4929, 81)]);
        let same: Vec<_> = forward(Protocols::Udp, "4928-4929", "192.168.10.5")
            .singles()
            .map(|one| one.inside_port)
            .collect();
        assert_eq!(same, [4928, 4929]);
    }

    #[test]
    fn what_the_line_does_not_have_is_refused_with_what_it_has() {
        let check = |external, inside| forward(Protocols::Tcp, external, inside).check(&set(), &[4930], false);
        assert_eq!(check("4928-4929", "192.168.10.5:80"), Ok(()));
        let message = check("4943-4944", "192.168.10.5").unwrap_err().to_string();
        assert!(
            message.starts_with("port 4944 is not of this line; it has 4928-4943, 9024-9039,")
                && message.ends_with(", 62272-62287"),
            "{message}"
        );
        assert_eq!(check("4929-4931", "192.168.10.5"), Err(ForwardError::Reserved(4930)));
        assert!(matches!(
            check("4928-4929", "192.168.10.5:65535"),
            Err(ForwardError::TooHigh {
                count: 2,
                first: 65_535
            })
        ));
        for host in ["127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.1"] {
            assert!(matches!(check("4928", host), Err(ForwardError::NoHost(_))), "{host}");
        }
        let shared = forward(Protocols::Tcp, "4928", "192.0.2.18").check(&set(), &[], true);
        assert!(matches!(shared, Err(ForwardError::Shared(_))));
    }

    #[test]
    fn many_ranges_are_told_in_short() {
        let text = allowed(&PortSet::new(6, 8, 0x34).unwrap());
        assert!(
            text.starts_with("1232-1235, 2256-2259, 3280-3283, ..., ") && text.contains("(63 ranges of 4;"),
            "{text}"
        );
        assert_eq!(allowed(&PortSet::ALL), "0-65535");
    }

    #[test]
    fn two_forwards_may_share_neither_a_port_nor_an_endpoint() {
        let one = forward(Protocols::Tcp, "4928-4930", "192.168.10.5:80");
        let message = forward(Protocols::Both, "4930", "192.168.10.6:80")
            .check_beside(&one)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("both 4930 to 192.168.10.6:80") && message.contains("tcp 4928-4930 to 192.168.10.5:80-82"),
            "{message}"
        );
        assert!(matches!(
            forward(Protocols::Tcp, "4931", "192.168.10.5:82").check_beside(&one),
            Err(ForwardError::SameInside { .. })
        ));
        for other in [
            forward(Protocols::Udp, "4928", "192.168.10.5:80"),
            forward(Protocols::Tcp, "4931", "192.168.10.5:83"),
            forward(Protocols::Tcp, "4931", "192.168.10.6:80"),
        ] {
            assert_eq!(other.check_beside(&one), Ok(()), "{other}");
        }
    }
}
