//! Native IPv6, both ways: what is sent on, and what is left to the stack.

use std::net::Ipv6Addr;

use mape_tests::table::world::{
    CE, GATEWAY6, HOST_MAC, HOST6, LAN_MAC, Outcome, Program, ROUTER_MAC, SERVER6, SILENT6, STRANGER6, WAN_MAC, World,
};

/// One behaviour.
pub(crate) struct Native {
    /// A sentence.
    pub name: &'static str,
    /// To which program.
    program: Program,
    /// The frame.
    given: Vec<u8>,
    /// "native", or the reason's label.
    pub counted: &'static str,
}

const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;

/// An ordinary frame, changed.
fn frame(program: Program, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let (macs, from, to) = match program {
        Program::Lan => ([LAN_MAC.0, HOST_MAC.0], HOST6, SERVER6),
        Program::Wan => ([WAN_MAC.0, ROUTER_MAC.0], SERVER6, HOST6),
    };
    let mut frame = macs.concat();
    frame.extend([0x86, 0xdd, 0x6b, 0x91, 0x23, 0x45, 0, 24, UDP, 64]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend([0x10, 0x20, 0x30, 0x40, 0, 24, 0xab, 0xcd]);
    frame.extend(0..16);
    change(&mut frame);
    frame
}

fn to(address: Ipv6Addr) -> impl FnOnce(&mut Vec<u8>) {
    move |frame| frame[38..54].copy_from_slice(&address.octets())
}

fn from(address: Ipv6Addr) -> impl FnOnce(&mut Vec<u8>) {
    move |frame| frame[22..38].copy_from_slice(&address.octets())
}

/// Makes the packet, its IPv6 header with it, so many bytes long.
fn of_length(len: usize) -> impl FnOnce(&mut Vec<u8>) {
    move |frame| {
        let payload = u16::try_from(len - 40).expect("a frame's length");
        frame[18..20].copy_from_slice(&payload.to_be_bytes());
        frame.resize(14 + len, 0x5a);
    }
}

fn row(name: &'static str, program: Program, change: impl FnOnce(&mut Vec<u8>), counted: &'static str) -> Native {
    Native {
        name,
        program,
        given: frame(program, change),
        counted,
    }
}

pub(crate) fn cases() -> Vec<Native> {
    [sends_on(), is_the_stacks(), goes_elsewhere()]
        .into_iter()
        .flatten()
        .collect()
}

fn sends_on() -> Vec<Native> {
    use Program::{Lan, Wan};
    let sent = |name, program, change: fn(&mut Vec<u8>)| row(name, program, change, "native");
    vec![
        sent("from the LAN", Lan, |_| {}),
        sent("from the WAN", Wan, |_| {}),
        sent("with bytes behind the packet", Lan, |frame| frame.extend([9; 7])),
        sent("with two hops", Lan, |frame| frame[21] = 2),
        sent("in fragments", Lan, |frame| frame[20] = 44),
        sent("an echo request", Wan, |frame| (frame[20], frame[54]) = (ICMPV6, 128)),
        row("as large as the next link takes", Lan, of_length(1500), "native"),
    ]
}

fn is_the_stacks() -> Vec<Native> {
    use Program::{Lan, Wan};
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let multicast = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 1);
    let special = |name, program, change: fn(&mut Vec<u8>)| row(name, program, change, "native-not-plain");
    vec![
        special("with the last hop", Lan, |frame| frame[21] = 1),
        special("with options for routers", Lan, |frame| frame[20] = 0),
        special("longer than its frame", Lan, |frame| frame[19] = 25),
        special("no IPv6 behind its type", Lan, |frame| frame[14] = 0x45),
        special("a question for a neighbour", Wan, |frame| {
            (frame[20], frame[54]) = (ICMPV6, NEIGHBOUR_SOLICITATION);
        }),
        row("from a link-local address", Wan, from(link_local), "native-not-plain"),
        row("to a link-local address", Lan, to(link_local), "native-not-plain"),
        row("to a group", Lan, to(multicast), "native-not-plain"),
        row("from nobody", Lan, from(Ipv6Addr::UNSPECIFIED), "native-not-plain"),
        row("to the sender itself", Lan, to(Ipv6Addr::LOCALHOST), "native-not-plain"),
        row("in the tunnel's name", Lan, from(CE), "native-not-plain"),
    ]
}

fn goes_elsewhere() -> Vec<Native> {
    use Program::{Lan, Wan};
    vec![
        row(
            "larger than the next link takes",
            Lan,
            of_length(1501),
            "native-too-big",
        ),
        row("to the gateway", Lan, to(GATEWAY6), "native-elsewhere"),
        row("back by the same NIC", Lan, to(HOST6), "native-elsewhere"),
        row("to a neighbour that is not known", Wan, to(SILENT6), "native-elsewhere"),
        row("by a NIC that is not ours", Lan, to(STRANGER6), "native-elsewhere"),
    ]
}

/// The only bytes that may differ: both MAC addresses and the hop limit.
fn sent_on(program: Program, given: &[u8]) -> Vec<u8> {
    let macs = match program {
        Program::Lan => [ROUTER_MAC.0, WAN_MAC.0],
        Program::Wan => [HOST_MAC.0, LAN_MAC.0],
    };
    let mut expected = given.to_vec();
    expected[..12].copy_from_slice(&macs.concat());
    expected[21] -= 1;
    expected
}

impl Native {
    /// Runs the row in a world that forwards native IPv6; the neighbour has just been asked after.
    pub(crate) fn run(&self, world: &mut dyn World) {
        world.forward_native(true);
        let plain = frame(self.program, |_| {});
        let (outcome, label) = world.give(self.program, &plain);
        assert_eq!(
            (outcome, label),
            (Outcome::Passed(plain), "native-asks"),
            "{}",
            self.name
        );
        let (outcome, label) = world.give(self.program, &self.given);
        let expected = if self.counted == "native" {
            Outcome::Forwarded(sent_on(self.program, &self.given))
        } else {
            Outcome::Passed(self.given.clone())
        };
        assert_eq!((outcome, label), (expected, self.counted), "{}", self.name);
        // Switched off, it is what it was before there was such a thing.
        world.forward_native(false);
        let (outcome, label) = world.give(self.program, &self.given);
        let before = match self.program {
            Program::Lan => "other-ethertype",
            Program::Wan => "other-ipv6",
        };
        assert_eq!(
            (outcome, label),
            (Outcome::Passed(self.given.clone()), before),
            "{}, off",
            self.name
        );
    }
}
