use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::{
    env::Rules,
    host::HostEnv,
    layout::RuleRef,
    map::{
        domain::{Domain, GivenPsid},
        rule::Rule,
        spec::RuleSpec,
    },
    packet::VecPacket,
    wire::port::Port,
};

const RELAY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
const OWN: [u8; 4] = [192, 0, 2, 18];
const OTHER: [u8; 4] = [192, 0, 2, 19];
const SERVER: [u8; 4] = [198, 51, 100, 7];
/// Ports of the edges 0x34 and 0x36.
const OWN_PORT: u16 = 0x1340;
const OTHER_PORT: u16 = 0x1360;
const NOW: Tick = Tick(5_000);

struct Book(Rule);

impl Rules for Book {
    fn rule_by_ipv4(&self, address: [u8; 4]) -> Option<RuleRef> {
        self.0.contains_ipv4(address).then_some(RuleRef { rule: 0, hop: 0 })
    }

    fn rule_by_ipv6(&self, address: [u8; 16]) -> Option<RuleRef> {
        (address[..5] == self.0.ipv6()[..5]).then_some(RuleRef { rule: 0, hop: 0 })
    }

    fn rule(&self, _: u32) -> Option<&Rule> {
        Some(&self.0)
    }
}

struct World {
    book: Book,
    config: Config,
    fragments: Fragments,
    other: [u8; 16],
}

fn domain(rule: &Rule, prefix: &str) -> Domain {
    Domain::new(prefix.parse().unwrap(), rule, GivenPsid::default()).unwrap()
}

impl World {
    fn new() -> Self {
        let spec = RuleSpec::new("2001:db8::/40".parse().unwrap(), "192.0.2.0/24".parse().unwrap(), 16, 4);
        let rule = Rule::new(&spec).unwrap();
        let own = domain(&rule, "2001:db8:12:3400::/56");
        Self {
            book: Book(rule),
            config: HostEnv::customer_edge(own.ce_address().octets(), RELAY.octets(), OWN, own.port_set(), 16),
            fragments: Fragments::default(),
            other: domain(&rule, "2001:db8:13:3600::/56").ce_address().octets(),
        }
    }

    fn out(&mut self, packet: &Sample) -> Result<Outbound, Refusal> {
        outbound(&packet.frame(), &self.book, &self.config, &mut self.fragments, NOW)
    }

    fn take(&mut self, outer: [u8; 16], class: u8, packet: &Sample) -> Result<Inbound, Refusal> {
        let outer = (&outer, class);
        inbound(
            &packet.frame(),
            &self.book,
            &self.config,
            &mut self.fragments,
            outer,
            NOW,
        )
    }
}

#[derive(Clone)]
struct Sample {
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    tos: u8,
    /// Flags and offset, as they stand in the header.
    part: u16,
    id: u16,
    options: usize,
    body: Vec<u8>,
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 24, 0, 0], &[9; 16]].concat()
}

fn packet(protocol: u8, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Sample {
    Sample {
        source: from.0,
        destination: to.0,
        protocol,
        tos: 0,
        part: 0x4000,
        id: 7,
        options: 0,
        body: match protocol {
            1 => [&[8, 0, 0, 0][..], &from.1.max(to.1).to_be_bytes(), &[0; 10]].concat(),
            _ => ports(from.1, to.1),
        },
    }
}

impl Sample {
    fn frame(&self) -> VecPacket {
        let len = u16::try_from(20 + self.options + self.body.len()).unwrap();
        let mut bytes = vec![0x45 + u8::try_from(self.options / 4).unwrap(), self.tos];
        bytes.extend(len.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.part.to_be_bytes());
        bytes.extend([63, self.protocol, 0, 0]);
        bytes.extend(self.source);
        bytes.extend(self.destination);
        let sum: u32 = bytes
            .chunks(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
            .sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        bytes[10..12].copy_from_slice(&(!u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()).to_be_bytes());
        bytes.extend(vec![1; self.options]);
        bytes.extend(&self.body);
        VecPacket(bytes)
    }

    fn error_about(self, from: [u8; 4], to: [u8; 4]) -> Self {
        let mut quoted = self.frame().0;
        quoted.truncate(28);
        Self {
            source: from,
            destination: to,
            protocol: 1,
            body: [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted].concat(),
            ..self
        }
    }
}

#[test]
fn a_packet_goes_to_the_relay_unless_a_rule_has_its_destination() {
    let mut world = World::new();
    let sent = world.out(&packet(17, (OWN, OWN_PORT), (SERVER, 53))).unwrap();
    assert_eq!(sent.far_end, RELAY.octets());
    assert_eq!(sent.label, tunnel::flow_label(Port(OWN_PORT), SERVER, Port(53), 17));
    assert_eq!((sent.len, sent.dont_fragment, sent.is_error), (44, true, false));
    let sent = world.out(&packet(6, (OWN, OWN_PORT), (OTHER, OTHER_PORT))).unwrap();
    assert_eq!(sent.far_end, world.other);
    // An identifier does not tell whose it is.
    let sent = world.out(&packet(1, (OWN, OWN_PORT), (OTHER, OWN_PORT))).unwrap();
    assert_eq!(sent.far_end, RELAY.octets());
    // Options change nothing.
    let sample = Sample {
        options: 8,
        ..packet(17, (OWN, OWN_PORT), (OTHER, OTHER_PORT))
    };
    assert_eq!(world.out(&sample).unwrap().far_end, world.other);
}

#[test]
fn dscp_and_ecn_are_the_inner_ones_and_dscp_can_be_left_out() {
    let mut world = World::new();
    let sample = Sample {
        tos: 0xb9,
        ..packet(17, (OWN, OWN_PORT), (SERVER, 53))
    };
    assert_eq!(world.out(&sample).unwrap().traffic_class, 0xb9);
    world.config.flags &= !Config::COPY_DSCP;
    assert_eq!(world.out(&sample).unwrap().traffic_class, 1);
}

#[test]
fn what_was_not_translated_does_not_get_out() {
    let mut world = World::new();
    for sample in [
        packet(17, ([192, 168, 1, 2], OWN_PORT), (SERVER, 53)),
        packet(17, ([192, 0, 0, 2], OWN_PORT), (SERVER, 53)),
        packet(17, (OWN, OTHER_PORT), (SERVER, 53)),
        packet(1, (OWN, 5), (SERVER, 5)),
    ] {
        assert_eq!(world.out(&sample), Err(Refusal::Untranslated));
    }
    let gre = Sample {
        protocol: 47,
        ..packet(17, (OWN, OWN_PORT), (SERVER, 53))
    };
    assert_eq!(world.out(&gre), Err(Reason::UnsupportedProtocol.into()));
    let frame = VecPacket(vec![0x60; 60]);
    assert_eq!(
        outbound(&frame, &world.book, &world.config, &mut world.fragments, NOW),
        Err(Refusal::NotIpv4)
    );
}

#[test]
fn lengths_that_contradict_each_other_are_refused_in_both_directions() {
    let mut world = World::new();
    let mut frame = packet(17, (OWN, OWN_PORT), (SERVER, 53)).frame();
    frame.0.truncate(40);
    let refused = outbound(&frame, &world.book, &world.config, &mut world.fragments, NOW);
    assert_eq!(refused, Err(Reason::BadLength.into()));
    let mut frame = packet(17, (SERVER, 53), (OWN, OWN_PORT)).frame();
    frame.0[0] = 0x44;
    let outer = (&RELAY.octets(), 0);
    let refused = inbound(&frame, &world.book, &world.config, &mut world.fragments, outer, NOW);
    assert_eq!(refused, Err(Reason::BadLength.into()));
}

#[test]
fn later_fragments_go_where_the_first_went() {
    let mut world = World::new();
    let first = Sample {
        part: 0x2000,
        ..packet(17, (OWN, OWN_PORT), (OTHER, OTHER_PORT))
    };
    let later = Sample {
        part: 0x0003,
        body: vec![4; 8],
        ..first.clone()
    };
    assert_eq!(world.out(&later), Err(Reason::FragmentFirstMissing.into()));
    let sent = world.out(&first).unwrap();
    assert_eq!(sent.far_end, world.other);
    let followed = world.out(&later).unwrap();
    assert_eq!((followed.far_end, followed.label), (sent.far_end, sent.label));
    let another = Sample { id: 8, ..later };
    assert_eq!(world.out(&another), Err(Reason::FragmentFirstMissing.into()));
}

#[test]
fn errors_go_to_who_has_sent_what_they_are_about() {
    let mut world = World::new();
    let error = packet(17, (OTHER, OTHER_PORT), (OWN, OWN_PORT)).error_about(OWN, OTHER);
    let sent = world.out(&error).unwrap();
    assert_eq!((sent.far_end, sent.is_error), (world.other, true));
    let elsewhere = packet(17, (OTHER, OTHER_PORT), (OWN, OWN_PORT)).error_about(OWN, SERVER);
    assert_eq!(world.out(&elsewhere), Err(Reason::ErrorUnusable.into()));
    let untranslated = packet(17, (SERVER, 53), (OWN, OTHER_PORT)).error_about(OWN, SERVER);
    assert_eq!(world.out(&untranslated), Err(Refusal::Untranslated));
}

#[test]
fn who_sends_must_be_the_relay_or_who_the_rules_say() {
    let mut world = World::new();
    let (relay, other) = (RELAY.octets(), world.other);
    let from_server = packet(17, (SERVER, 53), (OWN, OWN_PORT));
    let from_other = packet(17, (OTHER, OTHER_PORT), (OWN, OWN_PORT));
    assert!(world.take(relay, 0, &from_server).is_ok());
    assert!(world.take(relay, 0, &from_other).is_ok());
    assert!(world.take(other, 0, &from_other).is_ok());
    assert_eq!(world.take(other, 0, &from_server), Err(Reason::InvalidV4.into()));
    let stolen = packet(17, (OTHER, OTHER_PORT + 16), (OWN, OWN_PORT));
    assert_eq!(world.take(other, 0, &stolen), Err(Reason::InvalidV4.into()));
    assert_eq!(world.take([0x20; 16], 0, &from_other), Err(Reason::InvalidV6.into()));
    let elsewhere = packet(17, (SERVER, 53), (OTHER, OTHER_PORT));
    assert_eq!(world.take(relay, 0, &elsewhere), Err(Reason::NotMyAddress.into()));
    let foreign = packet(6, (SERVER, 53), (OWN, OTHER_PORT));
    assert_eq!(world.take(relay, 0, &foreign), Err(Reason::ForeignPort.into()));
}

#[test]
fn later_fragments_of_another_edge_need_a_first_from_the_same_one() {
    let mut world = World::new();
    let (relay, other) = (RELAY.octets(), world.other);
    let first = Sample {
        part: 0x2000,
        ..packet(17, (OTHER, OTHER_PORT), (OWN, OWN_PORT))
    };
    let later = Sample {
        part: 0x0003,
        body: vec![4; 8],
        ..first.clone()
    };
    assert!(world.take(relay, 0, &later).is_ok(), "the relay's word is taken");
    let missing = Err(Reason::FragmentFirstMissing.into());
    assert_eq!(world.take(other, 0, &later), missing);
    assert!(world.take(other, 0, &first).is_ok());
    assert!(world.take(other, 0, &later).is_ok());
    let mut stranger = other;
    stranger[15] ^= 1;
    assert_eq!(world.take(stranger, 0, &later), missing);
    let late = Tick(NOW.0 + world.config.fragment_timeout.0 + 1);
    let outer = (&other, 0);
    let after = inbound(
        &later.frame(),
        &world.book,
        &world.config,
        &mut world.fragments,
        outer,
        late,
    );
    assert_eq!(after, missing);
}

#[test]
fn errors_come_in_from_the_relay_or_from_who_was_sent_to() {
    let mut world = World::new();
    let (relay, other) = (RELAY.octets(), world.other);
    let about = |to| packet(17, (OWN, OWN_PORT), to);
    let from_router = about((SERVER, 53)).error_about([203, 0, 113, 9], OWN);
    assert!(world.take(relay, 0, &from_router).is_ok());
    assert_eq!(world.take(other, 0, &from_router), Err(Reason::InvalidV4.into()));
    let from_edge = about((OTHER, OTHER_PORT)).error_about(OTHER, OWN);
    assert!(world.take(other, 0, &from_edge).is_ok());
    let made_up = packet(17, (SERVER, OWN_PORT), (SERVER, 53)).error_about(SERVER, OWN);
    assert_eq!(world.take(relay, 0, &made_up), Err(Reason::ErrorUnusable.into()));
}

#[test]
fn congestion_on_the_way_is_told_inside_and_the_header_stays_right() {
    let mut world = World::new();
    let relay = RELAY.octets();
    let sample = Sample {
        tos: 0xb9,
        ..packet(17, (SERVER, 53), (OWN, OWN_PORT))
    };
    let taken = world.take(relay, 3, &sample).unwrap();
    assert_eq!(taken.tos, 0xbb);
    let expected = Sample { tos: 0xbb, ..sample }.frame();
    assert_eq!(taken.checksum.to_be_bytes(), expected.0[10..12]);
    let cannot = packet(17, (SERVER, 53), (OWN, OWN_PORT));
    assert_eq!(world.take(relay, 3, &cannot), Err(Reason::EcnInvalid.into()));
    assert_eq!(world.take(relay, 1, &cannot).unwrap().tos, 0);
}

#[test]
fn who_sends_too_much_is_told_by_the_far_end() {
    let error = too_big(&packet(17, (OWN, OWN_PORT), (SERVER, 53)).frame(), 1_360).unwrap();
    assert_eq!((error.from, error.to, error.mtu), (FAR_END, OWN, 1_360));
    assert_eq!(error.payload, [0x13, 0x40, 0, 53, 0, 24, 0, 0]);
    assert_eq!(Ipv4Addr::from(error.quoted.source()), Ipv4Addr::from(OWN));
    assert!(too_big(&VecPacket(vec![0x45; 24]), 1_360).is_none());
}
