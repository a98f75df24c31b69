//! What an operator can do about a packet that was not forwarded.

use mape_common::verdict::Reason;

/// One sentence, where there is anything to be done.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "most packets that are not forwarded are as they should be"
)]
pub const fn for_reason(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::NotConfigured | Reason::GateClosed => "run `mape-ctl load`; if it has failed, it says why",
        Reason::OtherMac => {
            "a host sends to the NIC's own MAC address when its default route leads here; frames of a capture must have been \
             captured on this NIC"
        }
        Reason::VlanTagged => {
            "load with the NIC that carries the frames without a tag, or take the tag off in the switch"
        }
        Reason::NotTunnelled => {
            "if it should go into the tunnel: ip route get DESTINATION iif INTERFACE must name the tunnel device"
        }
        Reason::SourceNotLan => {
            "is the source spoofed? If not: ip route get SOURCE must lead back to the interface that it came by"
        }
        Reason::NoRule => {
            "the destination is nobody's of this domain; if it is, its rule is missing in the configuration"
        }
        Reason::TooBig => {
            "a host that honours path MTU discovery sends smaller packets next; TCP is clamped when it opens"
        }
        Reason::NextHopUnknown => "is the router reachable? Then `mape-ctl load` again looks its MAC address up",
        Reason::LinkUnproven => "wait for a first frame on that NIC; if none comes, look at its cable and driver",
        Reason::NoSession => "if it should be let in: a static forward, or a packet of the LAN host first",
        Reason::Filtered => {
            "the LAN host has to send to this address first; or set the protocol's filtering to endpoint-independent"
        }
        Reason::NotMyAddress | Reason::ForeignPort => {
            "the sender's rules do not agree with ours: compare `mape-ctl calc` with what the provider says"
        }
        Reason::InvalidV4 | Reason::InvalidV6 => {
            "spoofed, or a rule is missing: compare the rules in the configuration with the provider's"
        }
        Reason::PortsExhausted => {
            "`mape-ctl sessions --remote ADDRESS` shows who holds them; quotas and shorter timeouts are in docs/config.md"
        }
        Reason::SessionsExhausted => "raise nat.sessions, or limit LAN hosts by nat.host-sessions",
        Reason::HostSessions => "`mape-ctl sessions --inside ADDRESS` shows them; the limit is nat.host-sessions",
        Reason::RecentlyRefused => "the reason is that of the packet before: see `mape-ctl stat`",
        Reason::UnsupportedProtocol => "shared addresses carry TCP, UDP and ICMP only (RFC 7597 section 8.2)",
        _ => return None,
    })
}
