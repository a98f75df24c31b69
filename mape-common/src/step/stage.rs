//! The parts that a gateway is made of, and what a part comes to.
//!
//! In the kernel each part is a program of its own, entered by a tail call: it has 512 bytes of stack for itself, the verifier
//! looks at it alone, and the parts that most packets never enter take no room beside the one that all do.

use crate::{
    layout::programs,
    verdict::{Broken, Direction, Failure, Reason, Verdict},
};

macro_rules! stages {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal, $program:ident, $direction:ident;)*) => {
        /// A part that another one hands a packet on to. The number is its index in the map STAGES.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Stage {
            $($(#[doc = $doc])* $name = $number,)*
        }

        impl Stage {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Index in STAGES.
            #[inline(always)]
            pub const fn number(self) -> u32 {
                match self { $(Self::$name => $number,)* }
            }

            /// The stage with that number.
            #[inline(always)]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// The program that is it in the kernel.
            pub const fn program(self) -> &'static str {
                match self { $(Self::$name => programs::$program,)* }
            }

            /// What it does, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*),)* }
            }

            /// Whether a border relay has it, which has no other; else a customer edge.
            pub const fn is_of_relay(self) -> bool {
                matches!(
                    self,
                    Self::RelayOutboundFragment
                        | Self::RelayInboundFragment
                        | Self::RelayOutboundIcmp
                        | Self::RelayInboundIcmp
                )
            }

            /// Whether it is for packets in fragments.
            pub const fn is_of_fragments(self) -> bool {
                matches!(
                    self,
                    Self::OutboundFragment
                        | Self::InboundFragment
                        | Self::RelayOutboundFragment
                        | Self::RelayInboundFragment
                )
            }

            /// Whether it is for native IPv6, which a gateway may leave to the stack.
            pub const fn is_of_native(self) -> bool {
                matches!(self, Self::NativeOutbound | Self::NativeInbound)
            }

            /// Which way the packets go that it is for; they are counted there.
            pub const fn direction(self) -> Direction {
                match self { $(Self::$name => Direction::$direction,)* }
            }
        }
    };
}

stages! {
    /// Looks after the session of a LAN host's packet or opens one, then forwards.
    OutboundOpen = 0, OUTBOUND_OPEN, Outbound;
    /// Looks after the session of a packet from the tunnel or opens one, then forwards.
    InboundOpen = 1, INBOUND_OPEN, Inbound;
    /// Translates ICMP errors of LAN hosts.
    OutboundError = 2, OUTBOUND_ERROR, Outbound;
    /// Translates ICMP errors about packets of LAN hosts.
    InboundError = 3, INBOUND_ERROR, Inbound;
    /// Tells LAN hosts of ICMPv6 errors about tunnel packets.
    TunnelError = 4, TUNNEL_ERROR, Inbound;
    /// Answers a LAN host whose packet was refused for the reason that led here.
    Answer = 5, ANSWER, Outbound;
    /// Forwards a fragment of a LAN host's packet.
    OutboundFragment = 6, OUTBOUND_FRAGMENT, Outbound;
    /// Forwards a fragment of a packet from the tunnel.
    InboundFragment = 7, INBOUND_FRAGMENT, Inbound;
    /// From one LAN host to another by the shared address.
    Hairpin = 8, HAIRPIN, Outbound;
    /// Forwards a fragment into the domain of a border relay.
    RelayOutboundFragment = 9, RELAY_OUTBOUND_FRAGMENT, Outbound;
    /// Forwards a fragment from the domain of a border relay.
    RelayInboundFragment = 10, RELAY_INBOUND_FRAGMENT, Inbound;
    /// Forwards an ICMP error into the domain of a border relay, or tells its sender that a packet is too big.
    RelayOutboundIcmp = 11, RELAY_OUTBOUND_ICMP, Outbound;
    /// Forwards an ICMP error from the domain of a border relay, or tells its sender why a packet ends there.
    RelayInboundIcmp = 12, RELAY_INBOUND_ICMP, Inbound;
    /// Translates ICMP errors about packets from one LAN host to another.
    HairpinError = 13, HAIRPIN_ERROR, Outbound;
    /// Forwards native IPv6 from a LAN.
    NativeOutbound = 14, NATIVE_OUTBOUND, Outbound;
    /// Forwards native IPv6 from the WAN.
    NativeInbound = 16, NATIVE_INBOUND, Inbound;
}

/// Entries of STAGES: room for more stages than there are.
pub const STAGES: u32 = 32;
/// The entry of the program that tells what became of a packet: no stage, for the packet's way is over there.
pub const TRACE: u32 = 15;

/// Where a packet goes on when a stage has done its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Who takes it over, the frame as it came.
    pub stage: Stage,
    /// What it is counted by if nobody is there.
    pub reason: Reason,
}

/// What a stage came to, as one number: an `enum` whose variants leave bytes unused is written with whatever is in a
/// register, and the kernel refuses a program that stores what it never set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Attempt(u64);

impl Attempt {
    /// Zero, and asked for first: what nearly all packets come to is the interface's number and nothing else.
    const FORWARDED: u32 = 0;
    const DELIVERED: u32 = 2;
    const REFUSED: u32 = 3;
    const BROKEN: u32 = 4;
    const ANSWERED: u32 = 5;
    const NATIVE: u32 = 6;
    /// And above: the next stage's number more.
    const NEXT: u32 = 16;

    #[inline(always)]
    const fn new(kind: u32, value: u32) -> Self {
        let [a, b, c, d] = kind.to_be_bytes();
        let [e, f, g, h] = value.to_be_bytes();
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// The packet has come to its end here.
    #[inline(always)]
    pub fn ended(outcome: Result<Verdict, Failure>) -> Self {
        match outcome {
            Ok(Verdict::Forward { ifindex }) => Self::new(Self::FORWARDED, ifindex),
            Ok(Verdict::Native { ifindex }) => Self::new(Self::NATIVE, ifindex),
            Ok(Verdict::Deliver) => Self::new(Self::DELIVERED, 0),
            Ok(Verdict::Answer(reason)) => Self::new(Self::ANSWERED, reason.number()),
            Err(Failure::Refused(reason)) => Self::new(Self::REFUSED, reason.number()),
            Err(Failure::Broken(Broken(reason))) => Self::new(Self::BROKEN, reason.number()),
        }
    }

    /// The packet is not forwarded.
    #[inline(always)]
    pub const fn refused(reason: Reason) -> Self {
        Self::new(Self::REFUSED, reason.number())
    }

    /// Another stage takes over; where it is missing, the packet is counted by `reason`.
    #[inline(always)]
    pub const fn go_on(stage: Stage, reason: Reason) -> Self {
        Self::new(Self::NEXT.wrapping_add(stage.number()), reason.number())
    }

    /// The outcome, or who goes on.
    ///
    /// # Errors
    /// [`Next`].
    #[inline(always)]
    #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "the two halves")]
    pub const fn outcome(self) -> Result<Result<Verdict, Failure>, Next> {
        let (kind, value) = ((self.0 >> 32) as u32, self.0 as u32);
        if kind == Self::FORWARDED {
            return Ok(Ok(Verdict::Forward { ifindex: value }));
        }
        match kind {
            Self::NATIVE => Ok(Ok(Verdict::Native { ifindex: value })),
            Self::DELIVERED => Ok(Ok(Verdict::Deliver)),
            Self::ANSWERED => Ok(Ok(Verdict::Answer(Reason::from_number(value)))),
            Self::BROKEN => Ok(Err(Failure::Broken(Broken(Reason::from_number(value))))),
            _ => match Stage::from_number(kind.wrapping_sub(Self::NEXT)) {
                Some(stage) => Err(Next {
                    stage,
                    reason: Reason::from_number(value),
                }),
                None => Ok(Err(Failure::Refused(Reason::from_number(value)))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_into_an_attempt_comes_out() {
        let ends = [
            Ok(Verdict::Forward { ifindex: 7 }),
            Ok(Verdict::Native { ifindex: 7 }),
            Ok(Verdict::Deliver),
            Ok(Verdict::Answer(Reason::TooBig)),
            Err(Failure::Refused(Reason::NoSession)),
            Err(Failure::Broken(Broken(Reason::WriteFailed))),
        ];
        for outcome in ends {
            assert_eq!(Attempt::ended(outcome).outcome(), Ok(outcome));
        }
        for stage in Stage::ALL {
            let next = Next {
                stage: *stage,
                reason: Reason::Fragment,
            };
            assert_eq!(Attempt::go_on(*stage, Reason::Fragment).outcome(), Err(next));
        }
    }

    #[test]
    fn every_stage_has_a_place_and_a_program_of_its_own() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_number(stage.number()), Some(*stage));
            assert!(stage.number() < STAGES && stage.number() != TRACE);
            assert!(stage.program().len() <= 15, "{}", stage.program());
        }
        let mut names: Vec<_> = Stage::ALL.iter().map(|stage| stage.program()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Stage::ALL.len());
    }
}
