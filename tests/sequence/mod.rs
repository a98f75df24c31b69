//! Random sequences of packets, waits and changes, made to collide: few hosts, few remotes, few ports.
//!
//! A step says what it wants in small numbers; the frame is made when its turn comes, from what the model knows then. So a
//! step can answer a session that an earlier one has opened, and a sequence stays a sequence when steps are cut out of it.

mod frames;
pub(crate) mod host;
pub(crate) mod kernel;
pub(crate) mod play;
pub(crate) mod subject;

use mape_tests::model::{door::Door, policy::Transport};
use proptest::{collection::vec, prelude::*};

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A packet of a LAN host.
    Up(Up),
    /// A packet of a remote host.
    Down(Down),
    /// An ICMP error about a packet of a session.
    Report(Report),
    /// An operator makes or ends a static forward.
    Forward(Forward),
    /// Time passes; the sweeper comes around in time, or late.
    Wait(Wait, bool),
    /// The sweeper.
    Sweep,
    /// An operator ends sessions.
    Flush(Flush),
    /// The configuration becomes another one.
    Change(Change),
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Udp,
    /// Control bits.
    Tcp(u8),
    /// A query, or an answer.
    Echo(bool),
}

impl Kind {
    pub(crate) const fn transport(self) -> Transport {
        match self {
            Self::Udp => Transport::Udp,
            Self::Tcp(_) => Transport::Tcp,
            Self::Echo(_) => Transport::Icmp,
        }
    }
}

/// A packet from the LAN.
#[derive(Clone, Debug)]
pub(crate) struct Up {
    pub(crate) to: UpTo,
    pub(crate) kind: Kind,
    pub(crate) twist: Twist,
    pub(crate) door: Door,
}

/// Of which flow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum UpTo {
    /// Host, its port, remote host, its port: places in short lists.
    Any(u8, u8, u8, u8),
    /// The session with that number, counted around.
    Again(u16),
    /// From the LAN end of one session to the external end of another.
    Across(u16, u16),
    /// The endpoint of that session, to another place.
    Else(u16, u8, u8),
}

/// A packet from the WAN.
#[derive(Clone, Debug)]
pub(crate) struct Down {
    pub(crate) from: DownFrom,
    pub(crate) kind: Kind,
    pub(crate) twist: Twist,
    pub(crate) door: Door,
}

/// From whom to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DownFrom {
    /// The other end of the session with that number.
    Answer(u16),
    /// The same host, from another port.
    OtherPort(u16, u8),
    /// Another host, to the session's port.
    OtherHost(u16, u8, u8),
    /// A place in the set, remote host, its port.
    Any(u16, u8, u8),
}

/// An ICMP error.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// From where.
    pub(crate) way: Way,
    /// About a packet of the session with that number.
    pub(crate) session: u16,
    /// Type and code.
    pub(crate) kind: (u8, u8),
    /// The MTU that it tells.
    pub(crate) mtu: u32,
    /// Who says it: a place in the lists of hosts.
    pub(crate) from: u8,
    pub(crate) quoted: Quoted,
    pub(crate) twist: Twist,
    pub(crate) door: Door,
}

/// Where an error comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// The LAN.
    Lan,
    /// The Internet.
    Internet,
    /// The way of the tunnel packet: ICMPv6.
    Tunnel,
}

/// How the quoted packet differs from the one that was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quoted {
    /// Words of options.
    pub(crate) options: u8,
    /// Bytes of it, at most.
    pub(crate) len: u8,
    /// Flags and fragment offset.
    pub(crate) fragment: u16,
    /// UDP's checksum is there.
    pub(crate) checksum: bool,
    /// Its port on our side is another one; the far end of the tunnel is another one.
    pub(crate) is_foreign: bool,
}

/// A static forward.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    pub(crate) is_wanted: bool,
    pub(crate) kind: Kind,
    /// A place in the set.
    pub(crate) port: u16,
    /// LAN host and its port, or the LAN end of the session with that number.
    pub(crate) host: u8,
    pub(crate) inside: u8,
    pub(crate) of_session: Option<u16>,
}

/// How a frame differs from an ordinary one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Twist {
    None,
    Ttl(u8),
    Tos(u8),
    /// The outer header's traffic class.
    Class(u8),
    Padding(u8),
    /// So many bytes too short.
    Cut(u8),
    /// The IPv4 length is another.
    Length(i8),
    /// UDP's length, or TCP's header length, is another.
    Inner(i8),
    NoChecksum,
    /// One bit of the frame is another.
    Flip(u16),
    Options,
    /// Of the packet's payload these eights of bytes, and whether more follow, as it says; the identification.
    Piece(Piece),
    /// Flags and fragment offset are others.
    Fragment(u16),
    OtherMac,
    Vlan,
    /// The outer source is nobody we know.
    Stranger,
    /// The outer header has an extension.
    Extension,
    /// So much data.
    Size(u16),
    /// A segment size, after so many other options.
    Mss(u16, u8),
}

/// A fragment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) start: u8,
    pub(crate) count: u8,
    /// It says the contrary of what is so about its being the last.
    pub(crate) lies: bool,
    pub(crate) identification: u8,
}

/// How long.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    /// Ticks.
    Ticks(u16),
    /// Until that many ticks before or after a record expires.
    Until(u16, i8),
}

/// Which sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flush {
    All,
    Host(u8),
    Protocol(u8),
    Remote(u8),
    /// The LAN endpoint of that session.
    Endpoint(u16),
}

/// A change of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Gate(bool),
    /// Whether UDP, or TCP, has endpoint-independent mappings.
    Mapping(bool, bool),
    /// Who may send to mappings of a protocol.
    Filtering(Kind, u8),
    /// Ports and sessions of a host at most; zero for any number.
    Quota(u8, u8),
    /// Hosts that a mapping permits at most.
    Permissions(u8),
    /// Whether 443 is among the ports of client-server protocols.
    ClientServer(bool),
    /// Shorter idle times, or the ordinary ones.
    Hurry(bool),
}

fn kind() -> impl Strategy<Value = Kind> {
    let flags = prop_oneof![
        5 => Just(2u8),
        3 => Just(16),
        3 => Just(18),
        2 => Just(17),
        1 => Just(4),
        1 => Just(20),
        1 => 0..64u8,
    ];
    prop_oneof![
        5 => Just(Kind::Udp),
        5 => flags.prop_map(Kind::Tcp),
        2 => prop::bool::weighted(0.7).prop_map(Kind::Echo),
    ]
}

fn twist() -> impl Strategy<Value = Twist> {
    let odd = prop_oneof![
        (0..4u8).prop_map(Twist::Ttl),
        any::<u8>().prop_map(Twist::Tos),
        any::<u8>().prop_map(Twist::Class),
        (1..40u8).prop_map(Twist::Padding),
        (1..60u8).prop_map(Twist::Cut),
        any::<i8>().prop_map(Twist::Length),
        any::<i8>().prop_map(Twist::Inner),
        Just(Twist::NoChecksum),
        any::<u16>().prop_map(Twist::Flip),
        Just(Twist::Options),
        (0..0x2000u16, 0..8u16).prop_map(|(offset, flags)| Twist::Fragment(flags << 13 | offset)),
        Just(Twist::OtherMac),
        Just(Twist::Vlan),
        Just(Twist::Stranger),
        Just(Twist::Extension),
        prop_oneof![Just(0u16), 1380..1520u16].prop_map(Twist::Size),
        (1380..1500u16, 0..9u8).prop_map(|(mss, before)| Twist::Mss(mss, before)),
    ];
    // First ones, and such as follow, overlap or leave holes; of few packets, so that they meet.
    let place = prop_oneof![4 => (Just(0u8), 1..5u8), 6 => (1..9u8, 1..5u8), 1 => (0..9u8, 0..12u8)];
    let piece = (place, prop::bool::weighted(0.05), 0..3u8).prop_map(|((start, count), lies, identification)| {
        Twist::Piece(Piece {
            start,
            count,
            lies,
            identification,
        })
    });
    prop_oneof![8 => Just(Twist::None), 2 => odd, 3 => piece]
}

/// By which door, where the subject has both and the stack would lead the packet to the second.
fn door() -> impl Strategy<Value = Door> {
    prop_oneof![Just(Door::Nic), Just(Door::Device)]
}

fn report_step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        8 => prop_oneof![Just((3u8, 1u8)), Just((3, 3)), Just((3, 4)), Just((11, 0)), Just((12, 0))],
        // For ICMPv6.
        6 => prop_oneof![Just((1u8, 4u8)), Just((2, 0)), Just((2, 0)), Just((3, 0)), Just((4, 1))],
        1 => any::<(u8, u8)>(),
    ];
    let mtu = prop_oneof![
        4 => 1280..1501u32,
        1 => 0..1300u32,
        1 => any::<u32>(),
    ];
    let quoted = (
        prop_oneof![6 => Just(0u8), 1 => 1..11u8],
        prop_oneof![4 => Just(28u8), 4 => Just(60), 1 => 0..100u8],
        prop_oneof![6 => Just(0x4000u16), 3 => Just(0), 1 => any::<u16>()],
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(options, len, fragment, checksum, is_foreign)| Quoted {
            options,
            len,
            fragment,
            checksum,
            is_foreign,
        });
    let way = prop_oneof![3 => Just(Way::Lan), 3 => Just(Way::Internet), 2 => Just(Way::Tunnel)];
    (way, any::<u16>(), kind, mtu, 0..8u8, quoted, twist(), door()).prop_map(
        |(way, session, kind, mtu, from, quoted, twist, door)| {
            Step::Report(Report {
                way,
                session,
                kind,
                mtu,
                from,
                quoted,
                twist,
                door,
            })
        },
    )
}

fn forward_step() -> impl Strategy<Value = Step> {
    (
        prop::bool::weighted(0.6),
        prop_oneof![8 => Just(Kind::Udp), 8 => Just(Kind::Tcp(2)), 1 => Just(Kind::Echo(true))],
        0..6u16,
        prop_oneof![8 => Just(0u8), 1 => Just(3)],
        0..10u8,
        prop::option::weighted(0.3, any::<u16>()),
    )
        .prop_map(|(is_wanted, kind, port, host, inside, of_session)| {
            Step::Forward(Forward {
                is_wanted,
                kind,
                port,
                host,
                inside,
                of_session,
            })
        })
}

/// A place in the list of remote hosts: mostly one of the first three.
fn remote() -> impl Strategy<Value = u8> {
    prop_oneof![12 => 0..3u8, 1 => 3..8u8]
}

fn up_step() -> impl Strategy<Value = Step> {
    let any_flow = (prop_oneof![12 => 0..3u8, 1 => Just(3u8)], 0..10u8, remote(), 0..6u8);
    let to = prop_oneof![
        4 => any_flow.prop_map(|(host, port, remote, to)| UpTo::Any(host, port, remote, to)),
        2 => any::<u16>().prop_map(UpTo::Again),
        1 => any::<(u16, u16)>().prop_map(|(from, to)| UpTo::Across(from, to)),
        1 => (any::<u16>(), remote(), 0..6u8).prop_map(|(pick, remote, port)| UpTo::Else(pick, remote, port)),
    ];
    (to, kind(), twist(), door()).prop_map(|(to, kind, twist, door)| Step::Up(Up { to, kind, twist, door }))
}

fn down_step() -> impl Strategy<Value = Step> {
    let from = prop_oneof![
        5 => any::<u16>().prop_map(DownFrom::Answer),
        2 => (any::<u16>(), 0..6u8).prop_map(|(pick, port)| DownFrom::OtherPort(pick, port)),
        2 => (any::<u16>(), remote(), 0..6u8).prop_map(|(pick, host, port)| DownFrom::OtherHost(pick, host, port)),
        1 => (any::<u16>(), remote(), 0..6u8).prop_map(|(port, host, from)| DownFrom::Any(port, host, from)),
    ];
    (from, kind(), twist(), door()).prop_map(|(from, kind, twist, door)| {
        Step::Down(Down {
            from,
            kind,
            twist,
            door,
        })
    })
}

/// One step.
fn step() -> impl Strategy<Value = Step> {
    let wait = prop_oneof![
        2 => (1..6u16).prop_map(Wait::Ticks),
        1 => (1..1_500u16).prop_map(Wait::Ticks),
        1 => Just(Wait::Ticks(30_000)),
        4 => (any::<u16>(), -8..9i8).prop_map(|(pick, by)| Wait::Until(pick, by)),
    ];
    let flush = prop_oneof![
        Just(Flush::All),
        (0..3u8).prop_map(Flush::Host),
        (0..3u8).prop_map(Flush::Protocol),
        (0..3u8).prop_map(Flush::Remote),
        any::<u16>().prop_map(Flush::Endpoint),
    ];
    let change = prop_oneof![
        2 => prop::bool::weighted(0.8).prop_map(Change::Gate),
        2 => (prop::bool::weighted(0.8), any::<bool>()).prop_map(|(udp, tcp)| Change::Mapping(udp, tcp)),
        2 => (kind(), any::<u8>()).prop_map(|(of, number)| Change::Filtering(of, number)),
        1 => (0..4u8, 0..9u8).prop_map(|(ports, sessions)| Change::Quota(ports, sessions)),
        1 => (0..4u8).prop_map(Change::Permissions),
        1 => any::<bool>().prop_map(Change::ClientServer),
        1 => any::<bool>().prop_map(Change::Hurry),
    ];
    prop_oneof![
        60 => up_step(),
        35 => down_step(),
        15 => report_step(),
        3 => forward_step(),
        8 => (wait, prop::bool::weighted(0.6)).prop_map(|(wait, swept)| Step::Wait(wait, swept)),
        2 => Just(Step::Sweep),
        1 => flush.prop_map(Step::Flush),
        1 => change.prop_map(Step::Change),
    ]
}

/// Sequences of up to that many steps.
pub(crate) fn steps(longest: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..longest)
}
