//! What can become of a packet: the only list of outcomes, with the action of each.
//!
//! A step ends in a [`Verdict`], in a [`Reason`] (the frame is as it came) or in [`Broken`] (it is neither old nor new).
//! Numbers are counters' indices, shared with user space and never reused.

/// Which way a packet crosses the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the tunnel: LAN to WAN on a customer edge, Internet to domain on a border relay.
    Outbound,
    /// Out of the tunnel: WAN to LAN on a customer edge, domain to Internet on a border relay.
    Inbound,
}

impl Direction {
    /// Both, in the order of the counters.
    pub const ALL: [Self; 2] = [Self::Outbound, Self::Inbound];

    /// The word used in reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// A packet that was changed as planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Out of the NIC with this interface index.
    Forward {
        /// Kernel interface index of the NIC to leave by.
        ifindex: u32,
    },
    /// Native IPv6, routed out of the NIC with this interface index: none of the tunnel's, and counted apart from it.
    Native {
        /// Kernel interface index of the NIC to leave by.
        ifindex: u32,
    },
    /// Turned into an answer to its sender, out of the NIC it came by; counted by the reason that it is the answer for.
    Answer(Reason),
    /// To this machine's own stack, which does the rest (a neighbour to resolve, its own address).
    Deliver,
}

/// What happens to a packet that is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Not ours: the stack gets it as it came.
    PassNotOurs,
    /// Ours, but not for the fast path: the stack and the slow path get it as it came.
    PassSlow,
    /// Ours and refused: dropped, in the fast and in the slow path alike.
    Drop,
}

impl Action {
    /// True where the stack gets the packet.
    pub const fn passes(self) -> bool {
        matches!(self, Self::PassNotOurs | Self::PassSlow)
    }

    /// The word used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PassNotOurs => "pass",
            Self::PassSlow => "slow",
            Self::Drop => "drop",
        }
    }
}

/// Number of counter slots per direction: room for every number below.
pub const OUTCOMES: u32 = 64;
/// Counter slot of packets that left by a NIC.
pub const FORWARDED: u32 = 0;
/// Counter slot of packets handed to the stack after translation and decapsulation.
pub const DELIVERED: u32 = 1;
/// Counter slot of packets translated at the tunnel device, which the stack has routed and goes on to route.
pub const TRANSLATED: u32 = 13;

/// Counter slot of later fragments handed to who holds them until the first of their packet has come; they come again then.
pub const HELD: u32 = 14;
/// Counter slot of native IPv6 packets that left by a NIC.
pub const NATIVE: u32 = 15;

macro_rules! reasons {
    ($($name:ident = $number:literal, $label:literal, $action:ident, $meaning:literal;)*) => {
        /// Why a packet was not forwarded. The frame is untouched, or (for [`Broken`]) can only be dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Reason {
            $(#[doc = $meaning] $name = $number,)*
        }

        impl Reason {
            /// All of them, in numerical order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The counter's index.
            #[inline(always)]
            pub const fn number(self) -> u32 {
                match self { $(Self::$name => $number,)* }
            }

            /// The reason with that number; for a number that none has, one that can be no packet's.
            #[inline(always)]
            pub const fn from_number(number: u32) -> Self {
                match number { $($number => Self::$name,)* _ => Self::WriteFailed }
            }

            /// The stable name in reports and metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// One sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// What happens to the packet. The match has no default: a new reason does not compile without its action.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $(Self::$name => Action::$action,)* }
            }
        }
    };
}

reasons! {
    NotConfigured = 2, "not-configured", PassNotOurs, "the program runs but has no configuration yet";
    GateClosed = 3, "gate-closed", PassNotOurs, "forwarding is switched off: loading, unloading, or after a failure";
    OtherEtherType = 4, "other-ethertype", PassNotOurs, "neither IPv4 from the LAN nor IPv6 from the WAN (ARP, native IPv6, ...)";
    OtherMac = 5, "other-mac", PassNotOurs, "the frame is not addressed to this NIC (broadcast, multicast, other hosts)";
    VlanTagged = 6, "vlan-tagged", PassNotOurs, "the frame carries an 802.1Q tag; attach to the NIC that the VLAN device stands on without a tag";
    NotTunnelled = 7, "not-tunnelled", PassNotOurs, "the kernel's routing table sends this destination elsewhere, not into the tunnel";
    NotUnicast = 8, "not-unicast", PassNotOurs, "multicast, broadcast or loopback address";
    OtherIpv6 = 9, "other-ipv6", PassNotOurs, "IPv6 that carries no IPv4, or is not for the tunnel address";
    SourceNotLan = 10, "source-not-lan", PassNotOurs, "the route back to the source is not the interface the packet came from";
    Icmpv6 = 11, "icmpv6", PassNotOurs, "ICMPv6 to the tunnel's address that is no error about the tunnel: neighbour discovery, a ping";
    NoRule = 12, "no-rule", PassNotOurs, "the destination is in no mapping rule of this border relay";

    Fragment = 16, "fragment", PassSlow, "an IPv4 fragment";
    IpOptions = 17, "ip-options", PassSlow, "the IPv4 header has options";
    TtlExpired = 18, "ttl-expired", PassSlow, "the TTL ends here; the stack answers with time exceeded";
    TooBig = 19, "too-big", PassSlow, "larger than the tunnel's or the next link's MTU";
    NextHopUnknown = 20, "next-hop-unknown", PassSlow, "the next hop's MAC address is not known yet";
    IcmpError = 21, "icmp-error", PassSlow, "an ICMP error or other message that is no echo";
    OuterExtension = 22, "outer-extension", PassSlow, "the tunnel packet has IPv6 extension headers (fragmented on the way)";
    LinkUnproven = 23, "link-unproven", PassSlow, "the NIC to leave by has not yet shown that its XDP program runs";
    ErrorElsewhere = 24, "error-elsewhere", PassSlow, "an ICMP message about no packet of ours: a redirect, a router's, another protocol's";
    FragmentByStack = 25, "fragment-by-stack", PassSlow, "a later fragment of a packet whose first fragment takes the slow path";
    NextHopSilent = 26, "next-hop-silent", PassSlow, "nothing has come from the router for two seconds: the stack finds out whether it is still there";
    NativeNotPlain = 27, "native-not-plain", PassNotOurs, "native IPv6 that is the stack's alone: neighbour discovery, link-local and other special addresses, options for routers, a hop limit or lengths that end here";
    FragmentFirstMissing = 28, "fragment-first-missing", Drop, "a later fragment of a packet whose first fragment has not come through here";
    NativeElsewhere = 29, "native-elsewhere", PassNotOurs, "native IPv6 that the routing table gives no neighbour on another of our NICs: to this machine, to nowhere, or to one that is not known yet";
    NativeTooBig = 30, "native-too-big", PassNotOurs, "native IPv6 larger than the next link's or route's MTU; the stack answers with packet too big";
    NativeAsks = 31, "native-asks", PassNotOurs, "native IPv6, one packet to each neighbour in four seconds: the stack finds out by it whether the neighbour is still there";

    BadLength = 32, "bad-length", Drop, "lengths in the headers contradict each other or the frame";
    NoSession = 33, "no-session", Drop, "nobody on the LAN has opened this port";
    Filtered = 34, "filtered", Drop, "the port is open, but not for this sender (address-dependent filtering, RFC 7597 section 10)";
    NotMyAddress = 35, "not-my-address", Drop, "decapsulated, but for another IPv4 address (RFC 7597 section 8.1)";
    ForeignPort = 36, "foreign-port", Drop, "decapsulated, but for a port of another customer edge";
    InvalidV4 = 37, "security-invalid-v4", Drop, "inner source outside what its outer source may use (mapSecurityCheckInvalidv4)";
    InvalidV6 = 38, "security-invalid-v6", Drop, "outer source in no rule and not the border relay (mapSecurityCheckInvalidv6)";
    PortsExhausted = 39, "ports-exhausted", Drop, "no port of the set is usable towards this destination";
    SessionsExhausted = 40, "sessions-exhausted", Drop, "the session table is full";
    RecentlyRefused = 41, "recently-refused", Drop, "the same host and destination was refused less than a second ago";
    Contended = 42, "contended", Drop, "two packets opened the same session at once; the sender's next packet finds it";
    EcnInvalid = 43, "ecn-invalid", Drop, "congestion marked on a flow that cannot react (RFC 6040)";
    UnsupportedProtocol = 44, "unsupported-protocol", Drop, "neither TCP, UDP nor ICMP: there is no port to share";
    Hairpin = 45, "hairpin", Drop, "a LAN host towards the shared address itself, with what cannot be turned round";
    ResetWithoutSession = 46, "reset-without-session", Drop, "a TCP reset for no session";

    ErrorWithoutSession = 47, "error-without-session", Drop, "an ICMP error about a packet that no session has sent (RFC 5508 REQ-4)";
    ErrorUnusable = 48, "error-unusable", Drop, "an ICMP error that quotes too little to know whom it is for, or contradicts itself";
    TunnelError = 49, "tunnel-error", Drop, "an ICMPv6 error about a tunnel packet: what it says has been noted, and nobody is to be told";
    FragmentTiny = 50, "fragment-tiny", Drop, "a first fragment without the whole transport header (RFC 1858, 3128)";
    FragmentOverlap = 51, "fragment-overlap", Drop, "a fragment that overlaps the first one, or is another first one of the same packet (RFC 1858, 3128)";
    FragmentTooLong = 52, "fragment-too-long", Drop, "fragments that end beyond, or together are more than, the largest packet there is";
    FragmentsExhausted = 53, "fragments-exhausted", Drop, "no room to note one more packet that comes in fragments";
    ForwardUnrouted = 54, "forward-unrouted", Drop, "the port is forwarded to an address that the routing table does not have on the LAN";
    HostSessions = 56, "host-sessions", Drop, "the LAN host has as many sessions as one may have";
    Untranslated = 57, "untranslated", Drop, "out of the tunnel device without having been translated: it was made anew, and `mape-ctl load` has not been there";

    NoHeadroom = 60, "no-headroom", Drop, "the NIC leaves no room before the frame for the IPv6 header";
    WriteFailed = 61, "write-failed", Drop, "the frame ended before a byte that had been checked";
}

/// Why a frame is not forwarded, and whether it is still whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The frame is as it came.
    Refused(Reason),
    /// The frame is neither old nor new.
    Broken(Broken),
}

impl From<Reason> for Failure {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

impl From<Broken> for Failure {
    #[inline(always)]
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Failure {
    /// What it is counted by.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Refused(reason) | Self::Broken(Broken(reason)) => reason,
        }
    }
}

/// A frame half rewritten: it can only be dropped. Holds the reason it is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub Reason);

/// The frame ends before what a step wanted to read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

impl From<Truncated> for Broken {
    #[inline(always)]
    fn from(_: Truncated) -> Self {
        Self(Reason::WriteFailed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_counter_of_its_own() {
        let mut seen = [false; 64];
        for slot in [FORWARDED, DELIVERED, TRANSLATED, HELD, NATIVE]
            .into_iter()
            .chain(Reason::ALL.iter().map(|r| r.number()))
        {
            assert!(slot < OUTCOMES);
            assert!(
                !std::mem::replace(&mut seen[usize::try_from(slot).unwrap()], true),
                "{slot} twice"
            );
        }
    }

    #[test]
    fn every_number_leads_back_to_its_reason() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason.number()), *reason);
        }
    }

    #[test]
    fn labels_are_kebab_case_and_unique() {
        let mut labels: Vec<_> = Reason::ALL.iter().map(|r| r.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
        assert!(labels.iter().all(|l| {
            l.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        }));
    }
}
