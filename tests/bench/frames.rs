//! Owns the frames that are sent: flows, what a LAN host sends of them and what comes back by the tunnel.

use std::net::Ipv4Addr;

use mape_tests::{
    frame::{Frame, Outer, Payload},
    plan,
};

use crate::bed::{HOST_MAC, LAN_MAC, ROUTER_MAC, WAN_MAC};

/// Bytes that the source writes of each frame: all headers.
pub(crate) const TEMPLATE: usize = 96;
/// A frame's begin.
pub(crate) type Template = [u8; TEMPLATE];
/// The server's port of every flow: one that flows share ports towards, and so thousands of them have room in 240 ports.
const SERVER_PORT: u16 = 443;
/// Remote hosts; so many flows go to each that its shared ports are never short.
const REMOTES: u32 = 500;
/// Ethernet's check sequence, which no frame here has, and which its length on a wire counts.
pub(crate) const CHECK_SEQUENCE: usize = 4;
/// Ethernet and IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;
/// What the tunnel puts around.
pub(crate) const OUTER: usize = 40;

/// A flow: one UDP socket of a LAN host's, and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub host: Ipv4Addr,
    pub port: u16,
    pub remote: Ipv4Addr,
}

impl Flow {
    /// The flow of that number.
    pub(crate) fn number(number: u32) -> Self {
        let remote = number % REMOTES;
        let [.., network, last] = (remote / 250 * 256 + remote % 250 + 1).to_be_bytes();
        let remote = if network == 0 {
            Ipv4Addr::new(198, 51, 100, last)
        } else {
            Ipv4Addr::new(203, 0, 113, last)
        };
        let [.., high, low] = (number / REMOTES).to_be_bytes();
        Self {
            // Sixteen hosts.
            host: Ipv4Addr::new(192, 168, 10, 16 + (low & 15)),
            port: u16::from_be_bytes([0x40 | high, low]) ^ (u16::from(last) << 2),
            remote,
        }
    }

    /// What the LAN host sends, in a frame of `size` bytes on a wire.
    pub(crate) fn up(self, size: usize) -> Template {
        template(&Frame {
            to_mac: LAN_MAC,
            from_mac: HOST_MAC,
            ..Frame::new(self.host, self.remote, datagram(self.port, SERVER_PORT, size))
        })
    }

    /// What the server sends, by the tunnel; `size` is that of the frame that the LAN host gets.
    pub(crate) fn down(self, external_port: u16, size: usize) -> Template {
        template(&Frame {
            to_mac: WAN_MAC,
            from_mac: ROUTER_MAC,
            outer: Some(Outer {
                from: plan::BR_IPV6,
                to: plan::CE_IPV6,
                class: 0,
                extension: None,
            }),
            ..Frame::new(self.remote, plan::CE_IPV4, datagram(SERVER_PORT, external_port, size))
        })
    }
}

fn datagram(from: u16, to: u16, size: usize) -> Payload {
    Payload::Udp {
        from,
        to,
        data: vec![0; size - CHECK_SEQUENCE - HEADERS],
        checksum: true,
    }
}

fn template(frame: &Frame) -> Template {
    let bytes = frame.bytes();
    std::array::from_fn(|at| bytes.get(at).copied().unwrap_or(0))
}

/// A flow's number in each place of a run: in order, each once in an order of chance, or as often as Zipf's law has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Sequential,
    Random,
    Zipf,
}

impl Order {
    /// So many flows' numbers; with Zipf's law more than there are flows.
    pub(crate) fn of(self, flows: u32) -> Vec<u32> {
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
        let mut numbers: Vec<u32> = (0..flows).collect();
        match self {
            Self::Sequential => {}
            Self::Random => {
                for last in (1..numbers.len()).rev() {
                    numbers.swap(last, chance.below(last + 1));
                }
            }
            Self::Zipf => {
                // The flow of rank r is drawn in proportion to 1/r; which number has which rank is chance, too.
                let ranked = Self::Random.of(flows);
                let mut sums: Vec<f64> = Vec::with_capacity(ranked.len());
                let mut sum = 0.0;
                for rank in 1..=flows {
                    sum += 1.0 / f64::from(rank);
                    sums.push(sum);
                }
                numbers = (0..1_u32 << 16)
                    .map(|_| {
                        let drawn = chance.fraction() * sum;
                        ranked[sums.partition_point(|upto| *upto < drawn).min(ranked.len() - 1)]
                    })
                    .collect();
            }
        }
        numbers
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Random => "random",
            Self::Zipf => "zipf",
        }
    }
}

/// The same numbers each time (xorshift64*).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % end
    }

    fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}
