//! Owns the bytes of one packet on its way through: the core decides on them, here they are changed.

use mape_common::{
    checksum::Sum,
    packet::Packet,
    step::{
        answer::{self, Error},
        carry::Inbound,
    },
    verdict::{Broken, Reason, Truncated},
    wire::{
        eth,
        ipv4::{self, Protocol},
    },
};

/// A packet in a buffer, which can be neither grown nor shrunk there.
pub struct Bytes<'a>(pub &'a mut [u8]);

impl Packet for Bytes<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated> {
        let rest = self.0.get(offset..).ok_or(Truncated)?;
        rest.first_chunk().copied().ok_or(Truncated)
    }

    fn write<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated> {
        let rest = self.0.get_mut(offset..).ok_or(Truncated)?;
        *rest.first_chunk_mut().ok_or(Truncated)? = *bytes;
        Ok(())
    }

    fn grow_front<const N: usize>(&mut self) -> Result<(), Broken> {
        Err(Broken(Reason::NoHeadroom))
    }

    fn shrink_front<const N: usize>(&mut self) -> Result<(), Broken> {
        Err(Truncated.into())
    }

    fn trim_end(&mut self, excess: u16) -> Result<(), Broken> {
        if excess == 0 { Ok(()) } else { Err(Truncated.into()) }
    }
}

/// Writes what changes in a packet out of the tunnel, and cuts what is behind its end.
///
/// # Errors
/// [`Truncated`] where the packet is shorter than was planned for.
pub fn finish<'a>(packet: &'a mut [u8], plan: &Inbound) -> Result<&'a [u8], Truncated> {
    let mut bytes = Bytes(packet);
    bytes.write(ipv4::TOS, &[plan.tos])?;
    bytes.write(ipv4::CHECKSUM, &plan.checksum.to_be_bytes())?;
    bytes.0.get(..usize::from(plan.len)).ok_or(Truncated)
}

/// Bytes before each packet of the device: `struct virtio_net_hdr`.
pub const OFFLOAD: usize = 10;
/// Its flag: the checksum is that of the pseudo-header alone, the kernel has to do the rest.
const NEEDS_CHECKSUM: u8 = 1;
/// Its kind: several TCP segments in one packet.
const TCP_SEGMENTS: u8 = 1;
/// Some of them with CWR, which belongs to the first alone.
const WITH_CWR: u8 = 0x80;

/// What the kernel must be told of a packet that it is given. `mtu` is the largest that may go on as it is.
///
/// Packets of one TCP connection that arrive together are merged by the kernel (GRO), also inside the tunnel, and the merged one's
/// checksum is left to whoever sends it on; so is that of a sender on this machine. A raw socket shows such packets as they are. Where
/// a checksum is right by chance although it looks like one of these, the kernel computes the same again.
pub fn offload(packet: &[u8], mtu: u16) -> [u8; OFFLOAD] {
    planned_offload(packet, mtu).unwrap_or([0; OFFLOAD])
}

fn planned_offload(packet: &[u8], mtu: u16) -> Option<[u8; OFFLOAD]> {
    let header = ipv4::Header::from_bytes(*packet.first_chunk()?);
    let start = header.header_len();
    let segment = packet.get(usize::from(start)..)?;
    let at = match header.protocol() {
        Protocol::TCP => 16_u16,
        Protocol::UDP => 6,
        _ => return None,
    };
    let checksum = u16::from_be_bytes(*segment.get(usize::from(at)..)?.first_chunk()?);
    let len = u16::try_from(segment.len()).ok()?.to_be_bytes();
    let pseudo = Sum::ZERO
        .four(header.source())
        .four(header.destination())
        .four([0, header.protocol().0, len[0], len[1]])
        .checksum();
    if header.is_fragment() || checksum != !pseudo {
        return None;
    }
    let mut kind = 0;
    let mut size = 0;
    let mut headers = u16::from(start) + at + 2;
    if header.protocol() == Protocol::TCP && packet.len() > usize::from(mtu) {
        headers = u16::from(start) + u16::from(segment.get(12)? >> 4) * 4;
        size = mtu.checked_sub(headers).filter(|size| *size > 0)?;
        kind = TCP_SEGMENTS | if segment.get(13)? & 0x80 == 0 { 0 } else { WITH_CWR };
    }
    let [a, b] = headers.to_ne_bytes();
    let [c, d] = size.to_ne_bytes();
    let [e, f] = u16::from(start).to_ne_bytes();
    let [g, h] = at.to_ne_bytes();
    Some([NEEDS_CHECKSUM, kind, a, b, c, d, e, f, g, h])
}

/// Bytes of an ICMP error.
pub const ERROR: usize = answer::LEN - eth::LEN;

/// An ICMP error as a packet.
///
/// # Errors
/// None that can be: its length is a constant.
pub fn error(error: &Error) -> Result<[u8; ERROR], Broken> {
    let mut frame = [0; answer::LEN];
    let mut bytes = Bytes(&mut frame);
    let quoted = eth::LEN + answer::BEFORE;
    bytes.write(quoted, &error.quoted.to_bytes())?;
    bytes.write(quoted + ipv4::LEN, &error.payload)?;
    answer::write(&mut bytes, error)?;
    Ok(bytes.read(eth::LEN)?)
}

#[cfg(test)]
mod tests {
    use etherparse::{
        IcmpEchoHeader, Icmpv4Type, PacketBuilder, SlicedPacket, TransportSlice, icmpv4::DestUnreachableHeader,
    };
    use mape_common::step::carry;

    use super::*;

    #[test]
    fn the_error_about_a_packet_that_does_not_fit_quotes_it_and_says_what_would() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 18], [198, 51, 100, 7], 64)
            .icmpv4(Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 0x1340, seq: 1 }))
            .write(&mut packet, &[7; 1_400])
            .unwrap();
        let planned = carry::too_big(&Bytes(&mut packet), 1_360).unwrap();
        let bytes = error(&planned).unwrap();
        // Checks the header's checksum and lengths, too.
        let parsed = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = parsed.transport else {
            panic!("no ICMP")
        };
        assert_eq!(
            icmp.icmp_type(),
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1_360 })
        );
        assert_eq!(icmp.payload(), &packet[..28]);
        let mut sum: u32 = bytes[20..]
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
            .sum();
        sum = (sum & 0xffff) + (sum >> 16);
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "ICMP's checksum");
        assert_eq!(
            (&bytes[12..16], &bytes[16..20]),
            (&[192, 0, 0, 1][..], &[192, 0, 2, 18][..])
        );
    }

    #[test]
    fn what_was_merged_is_to_be_segmented_again_and_its_checksum_completed() {
        let sample = |len: usize| {
            let mut packet = Vec::new();
            PacketBuilder::ipv4([198, 51, 100, 7], [192, 0, 2, 18], 64)
                .tcp(80, 0x1340, 1, 1024)
                .write(&mut packet, &vec![7; len])
                .unwrap();
            packet
        };
        let mut whole = sample(2_840);
        assert_eq!(offload(&whole, 1_460), [0; OFFLOAD], "a checksum that is complete");
        let len = u32::try_from(whole.len() - 20).unwrap();
        let words = [0xc633, 0x6407, 0xc000, 0x0212, 6, len];
        let sum: u32 = words.iter().sum();
        let partial = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        whole[36..38].copy_from_slice(&partial.to_be_bytes());
        let words = |a: [u16; 4]| a.map(u16::to_ne_bytes).concat();
        assert_eq!(
            offload(&whole, 1_460),
            [&[1, 1][..], &words([40, 1_420, 20, 16])].concat()[..]
        );
        assert_eq!(
            offload(&whole, 2_880),
            [&[1, 0][..], &words([38, 0, 20, 16])].concat()[..]
        );
        whole[33] |= 0x80;
        assert_eq!(offload(&whole, 1_460)[1], 0x81);
    }

    #[test]
    fn what_changes_is_written_and_what_is_behind_the_packet_is_cut() {
        let mut packet = vec![
            0x45, 0, 0, 22, 0, 0, 0, 0, 64, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
        ];
        let plan = Inbound {
            tos: 3,
            checksum: 0x1234,
            len: 22,
        };
        let finished = finish(&mut packet, &plan).unwrap();
        assert_eq!(
            (finished.len(), finished[1], &finished[10..12]),
            (22, 3, &[0x12, 0x34][..])
        );
        assert!(finish(&mut [0; 21], &plan).is_err());
    }
}
