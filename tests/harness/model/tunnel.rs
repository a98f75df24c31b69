//! ICMPv6 errors about tunnel packets (RFC 2473 §8), and what the path to the border relay is known to take (RFC 8201).

use super::{Answer, Class, Model, error::quoted, packet::Stop, rewrite};
use crate::table::world::{CE, RELAY, SHARED};

/// Where the ICMPv6 message begins.
const MESSAGE: usize = 54;
/// Where the tunnel packet in it begins, and the packet in that.
const OUTER: usize = MESSAGE + 8;
const INNER: usize = OUTER + 40;
/// Bytes of the outer header.
const HEADER: usize = 40;
/// The least that an IPv6 link takes (RFC 8200 §5).
const LEAST: u32 = 1280;
/// A path is remembered in units of so many ticks (69 s), for so many of them after the first.
const UNIT: u32 = 256;
const UNITS: u32 = 9;

impl Model {
    /// The largest IPv6 packet that is known to come through to the border relay.
    fn path(&self) -> Option<u16> {
        let (mtu, then) = self.path?;
        (self.now / UNIT - then / UNIT <= UNITS).then_some(mtu)
    }

    /// The largest packet that fits into the tunnel.
    pub(super) fn tunnel_mtu(&self) -> usize {
        if self.is_at_device() {
            // The path's is the stack's matter.
            return self.policy.tunnel_mtu;
        }
        let path = self.path().map_or(usize::MAX, |path| usize::from(path) - HEADER);
        self.policy.tunnel_mtu.min(path)
    }

    /// The largest segment that fits, with all headers.
    pub(super) fn mss(&self) -> u16 {
        let path = self.path().map_or(u16::MAX, |path| path - 80);
        self.policy.mss.min(path)
    }

    /// Whether the path's MTU is about to be forgotten at a time.
    pub(super) fn is_path_near(&self, then: u32, slack: u32) -> bool {
        self.path.is_some_and(|(_, learned)| {
            let age = then - learned;
            age + slack >= (UNITS - 1) * UNIT && age <= (UNITS + 2) * UNIT + slack
        })
    }

    /// An ICMPv6 message to the tunnel's address.
    pub(super) fn tunnel_error(&mut self, frame: &[u8]) -> Answer {
        match self.hear(frame) {
            Ok(answer) => answer,
            Err(Stop::Drop(class)) => Answer::Drop(class),
            Err(_) => Answer::Pass,
        }
    }

    fn hear(&mut self, frame: &[u8]) -> Result<Answer, Stop> {
        const UNSOLICITED: Stop = Stop::Drop(Class::Unsolicited);
        let message = frame.get(MESSAGE..OUTER).ok_or(Stop::Pass)?;
        let outer = frame.get(OUTER..INNER).ok_or(Stop::Pass)?;
        let is_ours = outer[0] >> 4 == 6 && outer[8..24] == CE.octets() && outer[6] == 4;
        if !matches!(message[0], 1..=4) || !is_ours {
            return Err(Stop::Pass);
        }
        let quoted = quoted(frame, INNER, frame.len() - INNER)?;
        // We send none with options.
        if quoted.has_options {
            return Err(Stop::Drop(Class::Unusable));
        }
        if quoted.source.0 != SHARED.octets() {
            return Err(UNSOLICITED);
        }
        let at = self.sender_of(&quoted).ok_or(UNSOLICITED)?;
        // To nobody else it has sent anything; what goes from one LAN host to another is in no tunnel.
        if outer[24..40] != RELAY.octets() || self.is_turned(quoted.transport, quoted.destination) {
            return Err(UNSOLICITED);
        }
        let is_too_big = message[0] == 2;
        if is_too_big {
            let told = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
            // RFC 8201 §4: discarded, and the estimate is not reduced below the least.
            if told < LEAST {
                return Err(Stop::Drop(Class::Unusable));
            }
            let told = u16::try_from(told).unwrap_or(u16::MAX);
            if self.path().is_none_or(|known| told <= known) {
                self.path = Some((told, self.now));
            }
            if quoted.may_be_fragmented {
                return Err(Stop::Drop(Class::Noted));
            }
        }
        let (code, mtu) = if is_too_big { (4, self.tunnel_mtu()) } else { (1, 0) };
        let mtu = u16::try_from(mtu).map_err(|_| Stop::Pass)?;
        Ok(Answer::Tell(rewrite::told(
            code,
            mtu,
            &frame[INNER..INNER + 28],
            quoted.transport,
            self.sessions[at].flow.inside,
        )))
    }
}
