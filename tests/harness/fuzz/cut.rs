//! A frame cut into its parts without the code under test, and the class of a checksum.

use std::fmt::Write as _;

use mape_common::checksum;

/// Parts of a frame that carries an IPv4 packet without options.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// The tunnel's header.
    pub outer: Option<&'a [u8]>,
    /// The packet, to where it says that it ends.
    pub packet: &'a [u8],
    /// What follows it.
    pub rest: &'a [u8],
}

impl<'a> Cut<'a> {
    /// Cuts a frame; none where there is no such packet in it.
    pub fn of(frame: &'a [u8]) -> Option<Self> {
        let (outer, packet) = match frame.get(12..14)? {
            [0x08, 0x00] => (None, frame.get(14..)?),
            [0x86, 0xdd] if frame.get(20) == Some(&4) => (Some(frame.get(14..54)?), frame.get(54..)?),
            _ => return None,
        };
        let total = usize::from(word(packet, 2)?);
        if packet.first() != Some(&0x45) || total < 20 || total > packet.len() {
            return None;
        }
        let (packet, rest) = packet.split_at(total);
        Some(Self { outer, packet, rest })
    }

    /// What follows the IPv4 header.
    pub fn body(&self) -> &'a [u8] {
        &self.packet[20..]
    }

    /// Protocol number.
    pub fn protocol(&self) -> u8 {
        self.packet[9]
    }

    /// Source.
    pub fn source(&self) -> [u8; 4] {
        four(self.packet, 12)
    }

    /// Destination.
    pub fn destination(&self) -> [u8; 4] {
        four(self.packet, 16)
    }

    /// Source and destination port; for ICMP what stands in their place.
    pub fn ports(&self) -> Option<(u16, u16)> {
        Some((word(self.body(), 0)?, word(self.body(), 2)?))
    }

    /// Whether it is a part of a packet.
    pub fn is_fragment(&self) -> bool {
        word(self.packet, 6).is_some_and(|word| word & 0x3fff != 0)
    }

    /// Whether it is a part, and not the first one.
    pub fn is_later_fragment(&self) -> bool {
        word(self.packet, 6).is_some_and(|word| word & 0x1fff != 0)
    }

    /// The class of the sum that a TCP or UDP checksum is of, the checksum included.
    pub fn transport_class(&self) -> u16 {
        let length = u16::try_from(self.body().len()).unwrap_or(0).to_be_bytes();
        class(&[&self.packet[12..20], &[0, self.protocol()], &length, self.body()])
    }
}

/// Two bytes in network order.
pub fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

fn four(bytes: &[u8], at: usize) -> [u8; 4] {
    bytes[at..].first_chunk().copied().unwrap_or_default()
}

/// The sum of all words modulo 65,535. Zero where a checksum among them is right; otherwise it says how wrong that is, and who
/// updates a checksum with what it covers leaves the class as it was.
pub fn class(parts: &[&[u8]]) -> u16 {
    match !checksum::of(parts.iter().copied()) {
        0xffff => 0,
        sum => sum,
    }
}

/// Bytes in hexadecimal.
pub fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
