//! Owns frames that somebody else has seen: captures (pcap, pcapng) and bytes in hexadecimal.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use mape_common::wire::eth;
use pcap_file::{
    DataLink, PcapError,
    pcap::PcapReader,
    pcapng::{Block, PcapNgReader},
};

/// Frames explained at once.
pub const MOST: usize = 100;
/// What a pcapng file begins with.
const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file.
    #[error("cannot read {file}")]
    Read {
        /// Its name.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its contents.
    #[error("{file} is no capture that can be read (pcap or pcapng)")]
    Format {
        /// Its name.
        file: PathBuf,
        /// Why.
        source: PcapError,
    },
    /// Another kind of link.
    #[error(
        "frame {number} is of a link of the type {link:?}; what can be explained are Ethernet and plain IP (capture on the NIC \
         itself: tcpdump -i lan0, not -i any)"
    )]
    Link {
        /// Its number.
        number: usize,
        /// The type.
        link: DataLink,
    },
    /// No such frame.
    #[error("there is no frame {wanted}: the capture has {there}")]
    Absent {
        /// What was asked for.
        wanted: usize,
        /// How many there are.
        there: usize,
    },
    /// Only a part of it was captured.
    #[error("frame {number} was cut off when it was captured ({captured} of {len} bytes): capture with tcpdump -s 0")]
    Cut {
        /// Its number.
        number: usize,
        /// Bytes that are there.
        captured: usize,
        /// Bytes that it had.
        len: u32,
    },
    /// No hexadecimal digits.
    #[error("--hex wants two hexadecimal digits a byte, with or without spaces and colons between them")]
    Hex,
}

/// A frame and its number in the capture, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its number.
    pub number: usize,
    /// Its bytes; without an Ethernet header where the link had none.
    pub bytes: Vec<u8>,
    /// It is an IP packet alone.
    pub is_bare: bool,
}

/// Reads one frame, or the first [`MOST`].
///
/// # Errors
/// [`CaptureError`].
pub fn read(file: &Path, wanted: Option<usize>) -> Result<Vec<Frame>, CaptureError> {
    let failed = |source| CaptureError::Read {
        file: file.to_owned(),
        source,
    };
    frames(BufReader::new(File::open(file).map_err(failed)?), file, wanted)
}

/// The same from an open capture, `file` being its name.
///
/// # Errors
/// [`CaptureError`].
pub fn frames<R: Read + Seek>(mut input: R, file: &Path, wanted: Option<usize>) -> Result<Vec<Frame>, CaptureError> {
    let failed = |source| CaptureError::Read {
        file: file.to_owned(),
        source,
    };
    let bad = |source| CaptureError::Format {
        file: file.to_owned(),
        source,
    };
    let mut magic = [0; 4];
    input.read_exact(&mut magic).map_err(failed)?;
    input.rewind().map_err(failed)?;
    let mut sieve = Sieve {
        wanted,
        there: 0,
        frames: Vec::new(),
    };
    if magic == SECTION {
        let mut reader = PcapNgReader::new(input).map_err(bad)?;
        while let Some(block) = reader.next_block() {
            let (link, len, bytes) = match block.map_err(bad)?.into_owned() {
                Block::EnhancedPacket(packet) => (
                    reader.packet_interface(&packet).map(|interface| interface.linktype),
                    packet.original_len,
                    packet.data.into_owned(),
                ),
                Block::SimplePacket(packet) => (
                    reader.interfaces().first().map(|interface| interface.linktype),
                    packet.original_len,
                    packet.data.into_owned(),
                ),
                // Names, statistics, and the obsolete form of a packet, which nobody has written for many years.
                Block::SectionHeader(_)
                | Block::InterfaceDescription(_)
                | Block::Packet(_)
                | Block::NameResolution(_)
                | Block::InterfaceStatistics(_)
                | Block::SystemdJournalExport(_)
                | Block::Unknown(_) => continue,
            };
            if sieve.take(link.unwrap_or(DataLink::ETHERNET), len, bytes)? {
                break;
            }
        }
    } else {
        let mut reader = PcapReader::new(input).map_err(bad)?;
        let link = reader.header().datalink;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(bad)?;
            if sieve.take(link, packet.orig_len, packet.data.into_owned())? {
                break;
            }
        }
    }
    match wanted {
        Some(wanted) if sieve.frames.is_empty() => Err(CaptureError::Absent {
            wanted,
            there: sieve.there,
        }),
        None if sieve.frames.is_empty() => Err(CaptureError::Absent { wanted: 1, there: 0 }),
        _ => Ok(sieve.frames),
    }
}

struct Sieve {
    wanted: Option<usize>,
    there: usize,
    frames: Vec<Frame>,
}

impl Sieve {
    /// Keeps a frame that is wanted; true when no more are.
    fn take(&mut self, link: DataLink, len: u32, bytes: Vec<u8>) -> Result<bool, CaptureError> {
        self.there += 1;
        let number = self.there;
        if self.wanted.is_some_and(|wanted| wanted != number) {
            return Ok(false);
        }
        let is_bare = matches!(link, DataLink::RAW | DataLink::IPV4 | DataLink::IPV6);
        if !is_bare && link != DataLink::ETHERNET {
            return Err(CaptureError::Link { number, link });
        }
        if usize::try_from(len).is_ok_and(|len| len > bytes.len()) {
            return Err(CaptureError::Cut {
                number,
                captured: bytes.len(),
                len,
            });
        }
        self.frames.push(Frame { number, bytes, is_bare });
        Ok(self.wanted.is_some() || self.frames.len() == MOST)
    }
}

/// A frame in hexadecimal; one that begins like an IP packet and not like an Ethernet frame is one without its header.
///
/// # Errors
/// [`CaptureError::Hex`].
pub fn hex(text: &str) -> Result<Frame, CaptureError> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|letter| !letter.is_whitespace() && *letter != ':')
        .map(|letter| letter.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| !digits.is_empty() && digits.len() % 2 == 0);
    let bytes: Vec<u8> = digits
        .ok_or(CaptureError::Hex)?
        .chunks_exact(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect();
    let ethernet = matches!(
        bytes.get(eth::LEN - 2..eth::LEN),
        Some([0x08, 0x00 | 0x06] | [0x86, 0xdd] | [0x81, 0x00] | [0x88, 0xa8])
    );
    let is_bare = !ethernet && bytes.first().is_some_and(|first| matches!(first >> 4, 4 | 6));
    Ok(Frame {
        number: 1,
        bytes,
        is_bare,
    })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use pcap_file::{
        pcap::{PcapHeader, PcapPacket, PcapWriter},
        pcapng::blocks::interface_description::InterfaceDescriptionBlock,
        pcapng::{PcapNgWriter, blocks::enhanced_packet::EnhancedPacketBlock},
    };

    use super::*;

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("mape-capture-{name}-{}", std::process::id()))
    }

    fn pcap(name: &str, datalink: DataLink, frames: &[(&[u8], u32)]) -> PathBuf {
        let path = file(name);
        let header = PcapHeader {
            datalink,
            ..PcapHeader::default()
        };
        let mut writer = PcapWriter::with_header(File::create(&path).unwrap(), header).unwrap();
        for (bytes, len) in frames {
            writer
                .write_packet(&PcapPacket::new(std::time::Duration::ZERO, *len, bytes))
                .unwrap();
        }
        path
    }

    #[test]
    fn one_frame_or_all_are_read_from_either_format() {
        let path = pcap("plain", DataLink::ETHERNET, &[(&[1; 60], 60), (&[2; 61], 61)]);
        assert_eq!(read(&path, None).unwrap().len(), 2);
        let second = read(&path, Some(2)).unwrap();
        assert_eq!(
            (second[0].number, second[0].bytes.len(), second[0].is_bare),
            (2, 61, false)
        );
        let error = read(&path, Some(3)).unwrap_err().to_string();
        assert_eq!(error, "there is no frame 3: the capture has 2");
        std::fs::remove_file(&path).unwrap();

        let path = file("next");
        let mut writer = PcapNgWriter::new(File::create(&path).unwrap()).unwrap();
        writer
            .write_pcapng_block(InterfaceDescriptionBlock {
                linktype: DataLink::RAW,
                snaplen: 0,
                options: Vec::new(),
            })
            .unwrap();
        writer
            .write_pcapng_block(EnhancedPacketBlock {
                interface_id: 0,
                timestamp: std::time::Duration::ZERO,
                original_len: 20,
                data: Cow::Borrowed(&[0x45; 20]),
                options: Vec::new(),
            })
            .unwrap();
        drop(writer);
        let frames = read(&path, None).unwrap();
        assert_eq!((frames.len(), frames[0].is_bare, frames[0].bytes.len()), (1, true, 20));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_cannot_be_explained_says_how_to_capture_it() {
        let path = pcap("cooked", DataLink::LINUX_SLL, &[(&[0; 60], 60)]);
        assert!(read(&path, None).unwrap_err().to_string().contains("not -i any"));
        let path = pcap("cut", DataLink::ETHERNET, &[(&[0; 60], 1_500)]);
        assert!(read(&path, None).unwrap_err().to_string().contains("60 of 1500 bytes"));
        for name in ["cooked", "cut"] {
            std::fs::remove_file(file(name)).unwrap();
        }
        assert!(matches!(
            read(Path::new("/no/such/file"), None),
            Err(CaptureError::Read { .. })
        ));
    }

    #[test]
    fn hexadecimal_with_or_without_its_header() {
        assert_eq!(hex("45 00:00\n14").unwrap().bytes, [0x45, 0, 0, 0x14]);
        assert!(hex("4500").unwrap().is_bare);
        let frame = format!("{}0800 45", "42".repeat(12));
        assert!(!hex(&frame).unwrap().is_bare, "a MAC address may begin with 4");
        for bad in ["", "4", "xy", "45 0"] {
            assert!(matches!(hex(bad), Err(CaptureError::Hex)), "{bad}");
        }
    }
}
