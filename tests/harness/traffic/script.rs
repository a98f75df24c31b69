//! A script of packets that are written by hand and numbered, so that each playing has the same bytes: a LAN host sends by a raw socket,
//! and the provider's router as if it were the border relay, so that it can also choose the outer header. Nobody answers.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddrV4, SocketAddrV6},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::{
    capture::Capture,
    frame::{Frame, Outer, Payload, echo, error, sum_of, syn},
    lab::Lab,
    plan,
};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 2);
const SERVER: Ipv4Addr = plan::SERVER;
const SHARED: Ipv4Addr = plan::CE_IPV4;
const ACK: u8 = 16;
const PSH_ACK: u8 = 24;
const SYN_ACK: u8 = 18;
/// How often the script has each kind of packet.
const ROUNDS: usize = 30;
/// Between two packets: a queue that has just been emptied has nothing to merge.
const PAUSE: Duration = Duration::from_micros(500);
/// Until the last packet is in the capture.
const REST: Duration = Duration::from_millis(300);

/// Numbers that look like chance, the same from one seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[3]
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.byte()).collect()
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the LAN host.
    Up,
    /// Out of the tunnel.
    Down,
}

/// A packet, from its outermost IP header on, and whether something of it leaves.
#[derive(Clone, Debug)]
struct Sent {
    way: Way,
    packet: Vec<u8>,
    leaves: bool,
}

/// The ports of one playing's flows: own ones that stay what they are, and forwarded ones, which another port is behind.
struct Ports {
    udp: u16,
    tcp: u16,
    echo: u16,
    forwarded: u16,
    unopened: u16,
}

/// Where the forwarded port leads on the LAN host.
const SERVICE: u16 = 8_080;

impl Ports {
    fn choose() -> Result<Self> {
        let own: Vec<u16> = (4_096..=u16::MAX).filter(|port| plan::is_own_port(*port)).collect();
        let port = |at: usize| own.get(at).copied().context("a port of the set");
        Ok(Self {
            udp: port(3)?,
            tcp: port(6)?,
            echo: port(40)?,
            forwarded: port(9)?,
            unopened: port(100)?,
        })
    }
}

/// The packets of a playing.
struct Script {
    chance: Chance,
    number: u16,
    sent: Vec<Sent>,
}

impl Script {
    fn new(seed: u64) -> Self {
        Self {
            chance: Chance(seed),
            number: 0x100,
            sent: Vec::new(),
        }
    }

    /// An ordinary frame with the next number, and what may differ chosen by chance.
    fn frame(&mut self, way: Way, payload: Payload) -> Frame {
        self.number += 1;
        let (from, to) = match way {
            Way::Up => (HOST, SERVER),
            Way::Down => (SERVER, SHARED),
        };
        Frame {
            id: self.number,
            // Not congestion: by the tunnel it may be marked.
            tos: self.chance.byte() & 0xfe,
            ttl: u8::try_from(2 + self.chance.below(250)).unwrap_or(64),
            fragment: if self.chance.below(2) == 0 { 0x4000 } else { 0 },
            outer: (way == Way::Down).then_some(Outer {
                from: plan::BR_IPV6,
                to: plan::CE_IPV6,
                class: 0,
                extension: None,
            }),
            ..Frame::new(from, to, payload)
        }
    }

    fn put(&mut self, frame: &Frame, leaves: bool) {
        let way = if frame.outer.is_some() { Way::Down } else { Way::Up };
        // Behind the Ethernet header, which sockets make themselves.
        let packet = frame.bytes().split_off(14);
        self.sent.push(Sent { way, packet, leaves });
    }

    fn both(&mut self, up: Payload, down: Payload) {
        for (way, payload) in [(Way::Up, up), (Way::Down, down)] {
            let frame = self.frame(way, payload);
            self.put(&frame, true);
        }
    }

    fn udp(&mut self, inside: u16, outside: u16, has_checksum: bool) {
        let [up, down] = [(inside, 4_000), (4_000, outside)].map(|(from, to)| Payload::Udp {
            from,
            to,
            data: self.chance.bytes(1_400),
            checksum: has_checksum,
        });
        self.both(up, down);
    }

    fn tcp(&mut self, inside: u16, outside: u16, flags: u8) {
        // Time stamps, or selective acknowledgements.
        let options = if self.chance.below(2) == 0 {
            [&[1, 1, 8, 10][..], &self.chance.next().to_be_bytes()].concat()
        } else {
            [&[1, 1, 5, 10][..], &self.chance.next().to_be_bytes()].concat()
        };
        let [up, down] = [(inside, 443), (443, outside)].map(|(from, to)| Payload::Tcp {
            from,
            to,
            flags,
            options: options.clone(),
            data: self.chance.bytes(1_300),
        });
        self.both(up, down);
    }

    /// A connection that begins, with a larger segment size than the tunnel takes.
    fn connect(&mut self, inside: u16, outside: u16, is_from_here: bool) {
        let mss = u16::try_from(1_300 + self.chance.below(161)).unwrap_or(1_460);
        let answer = |payload| match payload {
            Payload::Tcp {
                from,
                to,
                options,
                data,
                ..
            } => Payload::Tcp {
                from,
                to,
                flags: SYN_ACK,
                options,
                data,
            },
            other @ (Payload::Udp { .. } | Payload::Icmp { .. } | Payload::Raw { .. } | Payload::Other { .. }) => other,
        };
        let (up, down) = (syn(inside, 443, mss), syn(443, outside, mss));
        if is_from_here {
            self.both(up, answer(down));
        } else {
            let frame = self.frame(Way::Down, down);
            self.put(&frame, true);
            let frame = self.frame(Way::Up, answer(up));
            self.put(&frame, true);
        }
    }

    /// Errors about a datagram of each direction, from the host, and from a router on the way.
    fn errors(&mut self, port: u16) {
        let datagram = |from, to| Payload::Udp {
            from,
            to,
            data: vec![7; 40],
            checksum: true,
        };
        let came = Frame::new(SERVER, HOST, datagram(4_000, port)).packet();
        let went = Frame::new(SHARED, SERVER, datagram(port, 4_000)).packet();
        self.both(error(3, 3, &came), error(11, 0, &went));
    }

    /// A datagram in pieces, each way; with options, each way.
    fn pieces_and_options(&mut self, port: u16) {
        for (way, from, to) in [(Way::Up, port, 4_000), (Way::Down, 4_000, port)] {
            let data = (0..2_800 + self.chance.below(200))
                .map(|_| self.chance.byte())
                .collect();
            let whole = self.frame(
                way,
                Payload::Udp {
                    from,
                    to,
                    data,
                    checksum: true,
                },
            );
            for piece in whole.split(1_208) {
                self.put(&piece, true);
            }
            let plain = Payload::Udp {
                from,
                to,
                data: self.chance.bytes(900),
                checksum: true,
            };
            let frame = Frame {
                options: vec![1, 1, 1, 0],
                ..self.frame(way, plain)
            };
            self.put(&frame, true);
        }
    }

    /// Traffic classes of the tunnel packet, of any kind; what cannot react to congestion is dropped where it was met.
    fn classes(&mut self, port: u16) {
        for class in 0..4_u8 {
            for ecn in 0..4_u8 {
                let payload = Payload::Udp {
                    from: 4_000,
                    to: port,
                    data: self.chance.bytes(100),
                    checksum: true,
                };
                let dscp = self.chance.byte() & 0xfc;
                let frame = Frame {
                    tos: dscp | ecn,
                    outer: Some(Outer {
                        from: plan::BR_IPV6,
                        to: plan::CE_IPV6,
                        class: self.chance.byte() & 0xfc | class,
                        extension: None,
                    }),
                    ..self.frame(Way::Down, payload)
                };
                self.put(&frame, (ecn, class) != (0, 3));
            }
        }
    }

    /// What is refused, by either path.
    fn refused(&mut self, ports: &Ports) {
        let of = |from, to| Payload::Udp {
            from,
            to,
            data: vec![9; 9],
            checksum: true,
        };
        // A port that nobody has opened, one of another customer edge, and another sender than the host has sent to.
        for (from, payload) in [
            (SERVER, of(4_000, ports.unopened)),
            (SERVER, of(4_000, ports.unopened ^ 0x40)),
            (Ipv4Addr::new(198, 51, 100, 99), of(4_000, ports.udp)),
        ] {
            let frame = Frame {
                from,
                ..self.frame(Way::Down, payload)
            };
            self.put(&frame, false);
        }
        let frame = self.frame(
            Way::Up,
            Payload::Other {
                protocol: 47,
                bytes: vec![0; 16],
            },
        );
        self.put(&frame, false);
    }

    /// All of it.
    fn all(seed: u64, ports: &Ports) -> Vec<Sent> {
        let mut script = Self::new(seed);
        let round = |script: &mut Self| {
            for has_checksum in [true, false] {
                script.udp(ports.udp, ports.udp, has_checksum);
                script.udp(SERVICE, ports.forwarded, has_checksum);
            }
            script.connect(ports.tcp, ports.tcp, true);
            script.connect(SERVICE, ports.forwarded, false);
            for flags in [ACK, PSH_ACK] {
                script.tcp(ports.tcp, ports.tcp, flags);
                script.tcp(SERVICE, ports.forwarded, flags);
            }
            script.both(echo(8, ports.echo), echo(0, ports.echo));
            script.errors(ports.udp);
            script.pieces_and_options(ports.udp);
            script.classes(ports.udp);
            script.refused(ports);
        };
        for _ in 0..ROUNDS {
            round(&mut script);
        }
        script.sent
    }
}

/// Sends the script's packets, each from its place.
#[derive(Debug)]
struct Senders {
    host: OwnedFd,
    router: OwnedFd,
}

impl Senders {
    fn open(lab: &Lab) -> Result<Self> {
        let raw = |node: &str, family| {
            lab.node(node)?
                .enter(|| socket(family, SocketType::RAW, Some(ipproto::RAW)).context("no raw socket"))
        };
        Ok(Self {
            host: raw("host1", AddressFamily::INET)?,
            router: raw("transit", AddressFamily::INET6)?,
        })
    }

    fn play(&self, script: &[Sent]) -> Result<()> {
        for sent in script {
            let len = match sent.way {
                Way::Up => sendto(
                    &self.host,
                    &sent.packet,
                    SendFlags::empty(),
                    &SocketAddrV4::new(SERVER, 0),
                )?,
                Way::Down => sendto(
                    &self.router,
                    &sent.packet,
                    SendFlags::empty(),
                    &SocketAddrV6::new(plan::CE_IPV6, 0, 0, 0),
                )?,
            };
            ensure!(len == sent.packet.len(), "{len} bytes of {}", sent.packet.len());
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

/// What has left the customer edge, each with how often: tunnel packets without their flow label and frames on the LAN; of fragments
/// without their identification, which is the gateway's to choose.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wires {
    wan: BTreeMap<Vec<u8>, usize>,
    lan: BTreeMap<Vec<u8>, usize>,
}

impl Wires {
    fn of(wan: &[Vec<u8>], lan: &[Vec<u8>]) -> Result<Self> {
        let mut wires = Self::default();
        for frame in wan {
            if let Some(packet) = leaving(frame)? {
                *wires.wan.entry(packet).or_default() += 1;
            }
        }
        for frame in lan {
            if let Some(frame) = arriving(frame)? {
                *wires.lan.entry(frame).or_default() += 1;
            }
        }
        Ok(wires)
    }
}

/// The tunnel packet of a frame, if the customer edge has sent it.
fn leaving(frame: &[u8]) -> Result<Option<Vec<u8>>> {
    let is_tunnelled = frame.get(12..14) == Some(&[0x86, 0xdd])
        && frame.get(20) == Some(&4)
        && frame.get(22..38) == Some(&plan::CE_IPV6.octets());
    if !is_tunnelled {
        return Ok(None);
    }
    let mut frame = frame.to_vec();
    frame[15] &= 0xf0;
    frame[16..18].fill(0);
    without_identification(&mut frame, 54)?;
    Ok(Some(frame))
}

/// The frame, if it holds IPv4 for the LAN host.
fn arriving(frame: &[u8]) -> Result<Option<Vec<u8>>> {
    if frame.get(12..14) != Some(&[0x08, 0x00]) || frame.get(30..34) != Some(&HOST.octets()) {
        return Ok(None);
    }
    let mut frame = frame.to_vec();
    without_identification(&mut frame, 14)?;
    Ok(Some(frame))
}

/// Takes the identification out of the fragment at `at`, and the header's checksum, which has been looked at.
fn without_identification(frame: &mut [u8], at: usize) -> Result<()> {
    let packet = frame.get_mut(at..).context("no packet")?;
    let len = packet.first().map_or(0, |byte| usize::from(byte & 15) * 4);
    let header = packet.get(..len).context("no header")?;
    ensure!(
        len >= 20 && sum_of([header]) == 0,
        "a header with a wrong sum: {header:02x?}"
    );
    if header[6] & 0x20 != 0 || u16::from_be_bytes([header[6] & 0x1f, header[7]]) != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    Ok(())
}

/// A script with all it takes to play it.
#[derive(Debug)]
pub struct Play {
    senders: Senders,
    script: Vec<Sent>,
}

impl Play {
    /// Makes the lab's hosts silent and opens the script's sessions; `ready` ends whatever sessions the gateway has, which may hold the
    /// script's ports, and has a port of the gateway's forwarded to an address and port of the LAN host, for UDP and TCP.
    ///
    /// # Errors
    /// When a step fails.
    pub fn prepare(lab: &Lab, seed: u64, ready: impl FnOnce(u16, SocketAddrV4) -> Result<()>) -> Result<Self> {
        let ports = Ports::choose()?;
        hush(lab)?;
        ready(ports.forwarded, SocketAddrV4::new(HOST, SERVICE))?;
        let play = Self {
            senders: Senders::open(lab)?,
            script: Script::all(seed, &ports),
        };
        let round = play.script.len() / ROUNDS;
        play.senders.play(play.script.get(..round).unwrap_or(&[]))?;
        Ok(play)
    }

    /// How many packets it has.
    pub fn packets(&self) -> usize {
        self.script.len()
    }

    /// How many of them leave the gateway again, of those that go that way.
    pub fn expected(&self, way: Way) -> usize {
        self.script.iter().filter(|sent| sent.way == way && sent.leaves).count()
    }

    /// Plays it and gives what has left the gateway.
    ///
    /// # Errors
    /// When a packet cannot be sent or a capture misses one.
    pub fn run(&self, lab: &Lab) -> Result<Wires> {
        let (wan, lan) = (
            Capture::start(lab, "transit", "ce0")?,
            Capture::start(lab, "host1", "eth0")?,
        );
        self.senders.play(&self.script)?;
        thread::sleep(REST);
        Wires::of(&wan.frames()?, &lan.frames()?)
    }

    /// Says what is not the same in two playings, or not as many packets as there must be.
    ///
    /// # Errors
    /// That.
    pub fn compare(&self, one: &Wires, other: &Wires) -> Result<()> {
        for (wire, one, other, way) in [
            ("WAN", &one.wan, &other.wan, Way::Up),
            ("LAN", &one.lan, &other.lan, Way::Down),
        ] {
            let (first, second) = (only_in(one, other), only_in(other, one));
            ensure!(
                (first.0, second.0) == (0, 0),
                "{wire}: {} packets only in the first playing, {:#?}, and {} only in the second, {:#?}",
                first.0,
                first.1,
                second.0,
                second.1
            );
            let (seen, expected) = (one.values().sum::<usize>(), self.expected(way));
            ensure!(seen == expected, "{wire}: {seen} packets instead of {expected}");
        }
        Ok(())
    }

    /// Lets the lab's hosts speak again.
    ///
    /// # Errors
    /// When nft fails.
    pub fn end(self, lab: &Lab) -> Result<()> {
        for (node, family, _) in HUSHED {
            lab.node(node)?.tool(&format!("nft delete table {family} hush"))?;
        }
        Ok(())
    }
}

/// Where nobody answers, and by which hook that is so.
const HUSHED: [(&str, &str, &str); 2] = [("host1", "ip", "prerouting"), ("transit", "ip6", "forward")];

/// A few of the packets that one side has and the other has not.
fn only_in(one: &BTreeMap<Vec<u8>, usize>, other: &BTreeMap<Vec<u8>, usize>) -> (usize, Vec<String>) {
    let only = || one.iter().filter(|(packet, times)| other.get(*packet) != Some(times));
    let shown = only()
        .take(3)
        .map(|(packet, times)| format!("{times} × {:02x?}", &packet[..packet.len().min(110)]));
    (only().count(), shown.collect())
}

/// Nobody answers what is played: the host's stack hears nothing, and the router passes nothing on.
fn hush(lab: &Lab) -> Result<()> {
    for (node, family, hook) in HUSHED {
        let file = lab.folder().join(format!("{node}.nft"));
        let rules = format!(
            "table {family} hush {{
                chain quiet {{
                    type filter hook {hook} priority filter; policy drop;
                }}
            }}\n"
        );
        fs::write(&file, rules)?;
        lab.node(node)?.tool(&format!("nft -f {}", file.display()))?;
    }
    Ok(())
}
