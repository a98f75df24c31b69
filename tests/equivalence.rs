//! Owns the test that the wire cannot tell the two paths apart: one script of packets is played through a customer edge by XDP, and
//! once more, by the same sessions, without XDP; what leaves it is compared packet by packet.
//!
//! The packets are written by hand and numbered, so that both playings have the same bytes: a LAN host sends by a raw socket, and the
//! provider's router as if it were the border relay, so that it can also choose the outer header. Nobody answers.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddrV4, SocketAddrV6},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mape_common::checksum;
use mape_tests::{
    capture::Capture,
    gateway::{self, Role},
    lab::{Lab, LabOptions, alone, is_root},
    plan::{self, Shape},
    process::watch_signals,
    table::frame::{Frame, Outer, Payload, echo, error, syn},
};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

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
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the LAN host.
    Up,
    /// Out of the tunnel.
    Down,
}

/// A packet, from its outermost IP header on, and whether something of it leaves.
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
#[derive(Default, PartialEq, Eq)]
struct Wires {
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
        len >= 20 && checksum::of([header]) == 0,
        "a header with a wrong sum: {header:02x?}"
    );
    if header[6] & 0x20 != 0 || u16::from_be_bytes([header[6] & 0x1f, header[7]]) != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    Ok(())
}

/// Plays the script and gives what has left.
fn play(lab: &Lab, senders: &Senders, script: &[Sent]) -> Result<Wires> {
    let (wan, lan) = (
        Capture::start(lab, "transit", "ce0")?,
        Capture::start(lab, "host1", "eth0")?,
    );
    senders.play(script)?;
    thread::sleep(REST);
    Wires::of(&wan.frames()?, &lan.frames()?)
}

/// A few of the packets that one side has and the other has not.
fn only_in(these: &BTreeMap<Vec<u8>, usize>, those: &BTreeMap<Vec<u8>, usize>) -> (usize, Vec<String>) {
    let only = || these.iter().filter(|(packet, times)| those.get(*packet) != Some(times));
    let shown = only()
        .take(3)
        .map(|(packet, times)| format!("{times} × {:02x?}", &packet[..packet.len().min(110)]));
    (only().count(), shown.collect())
}

/// Nobody answers what is played: the host's stack hears nothing, and the router passes nothing on.
fn hush(lab: &Lab) -> Result<()> {
    for (node, family, hook) in [("host1", "ip", "prerouting"), ("transit", "ip6", "forward")] {
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

#[test]
fn the_wire_cannot_tell_which_path_a_packet_took() {
    let _alone = alone();
    if !is_root() {
        return;
    }
    watch_signals().unwrap();
    let mut lab = Lab::up(&LabOptions {
        shape: Shape::FarServer,
        ..LabOptions::default()
    })
    .unwrap();
    lab.load(&gateway::program().unwrap()).unwrap();
    lab.wait_until_reachable("host1").unwrap();
    hush(&lab).unwrap();
    let (gateway, ce) = (lab.gateway(Role::Ce).unwrap(), lab.node("ce").unwrap());
    let ctl = |words: &[&str]| gateway.ctl(ce, words).and_then(|done| done.success()).unwrap().stdout;
    let stat = || ctl(&["stat"]);
    let ports = Ports::choose().unwrap();
    let forwarded = ports.forwarded.to_string();
    ctl(&["forward", "add", "both", &forwarded, &format!("{HOST}:{SERVICE}")]);
    let seed = std::env::var("MAPE_SEED")
        .ok()
        .map_or(0x6d61_7065, |text| text.parse().unwrap());
    let script = Script::all(seed, &ports);
    let expected = |way| script.iter().filter(|sent| sent.way == way && sent.leaves).count();
    let senders = Senders::open(&lab).unwrap();
    // Sessions are opened, neighbours and NICs found.
    senders.play(script.get(..script.len() / ROUNDS).unwrap()).unwrap();

    let before = gateway.by_path(ce).unwrap();
    let fast = play(&lab, &senders, &script).unwrap();
    let between = gateway.by_path(ce).unwrap();
    ctl(&["detach"]);
    let slow = play(&lab, &senders, &script).unwrap();
    let after = gateway.by_path(ce).unwrap();

    let passed = |from: [[u64; 2]; 2], to: [[u64; 2]; 2], path: usize| -> u64 {
        (0..2).map(|way| to[path][way] - from[path][way]).sum()
    };
    println!(
        "{} packets, of which {} leave by the WAN and {} by the LAN; with XDP {} by it and {} by the stack, without {} and {}",
        script.len(),
        expected(Way::Up),
        expected(Way::Down),
        passed(before, between, 0),
        passed(before, between, 1),
        passed(between, after, 0),
        passed(between, after, 1),
    );
    for (wire, fast, slow, expected) in [
        ("WAN", &fast.wan, &slow.wan, expected(Way::Up)),
        ("LAN", &fast.lan, &slow.lan, expected(Way::Down)),
    ] {
        let (only_fast, only_slow) = (only_in(fast, slow), only_in(slow, fast));
        assert_eq!(
            (only_fast.0, only_slow.0),
            (0, 0),
            "{wire}: only with XDP {:#?}, only without {:#?}\n{}",
            only_fast.1,
            only_slow.1,
            stat()
        );
        assert_eq!(fast.values().sum::<usize>(), expected, "{wire}: packets\n{}", stat());
    }
    // Only options have taken the slow path while there was a fast one.
    let [with, without] = [passed(before, between, 0), passed(between, after, 0)];
    assert!(
        with * 10 > u64::try_from(script.len()).unwrap() * 8 && without == 0,
        "{}",
        stat()
    );
}
