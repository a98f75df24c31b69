//! Owns what the tunnel has done so far, and the line that says it.

use std::{cell::RefCell, collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Way {
    /// Packets carried.
    pub packets: u64,
    /// Their bytes, without the outer header.
    pub bytes: u64,
    /// System calls that carried them.
    pub batches: u64,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Into the tunnel.
    pub outbound: Way,
    /// Out of the tunnel.
    pub inbound: Way,
    /// Senders told that a packet is too big.
    pub answered: u64,
    /// Packets that were not carried, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Counts a packet that was not carried.
    pub fn drop(&mut self, reason: &'static str) {
        *self.dropped.entry(reason).or_insert(0) += 1;
    }
}

/// The counts, shared by the directions.
#[derive(Debug, Default)]
pub struct Shared(RefCell<Counts>);

impl Shared {
    /// Changes them.
    pub fn with<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        change(&mut self.0.borrow_mut())
    }
}

/// The whole status.
#[derive(Clone, Debug, Serialize)]
pub struct Status<'a> {
    /// Its gateway.
    pub instance: &'a str,
    /// Its device.
    pub device: &'a str,
    /// The near end.
    pub near: String,
    /// The border relay.
    pub relay: String,
    /// The largest packet that goes through it to the border relay.
    pub mtu: u16,
    /// The path's MTU where that is why.
    pub path_mtu: Option<u16>,
    /// What it has done.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Status<'_> {
    /// One line of JSON, with stable keys.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// One line for people. (Writing to a `String` cannot fail.)
    pub fn text(&self) -> String {
        let Counts {
            outbound,
            inbound,
            answered,
            dropped,
        } = &self.counts;
        let mut text = format!(
            "{}: {} packets ({} bytes) sent, {} packets ({} bytes) received, MTU {}",
            self.device, outbound.packets, outbound.bytes, inbound.packets, inbound.bytes, self.mtu
        );
        if *answered > 0 {
            let _ = write!(text, ", {answered} answered with \"fragmentation needed\"");
        }
        for (reason, count) in dropped {
            let _ = write!(text, ", {count} dropped: {reason}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_everything_in_json_and_in_words() {
        let shared = Shared::default();
        shared.with(|counts| {
            counts.outbound.packets = 3;
            counts.answered = 1;
            counts.drop("untranslated");
            counts.drop("untranslated");
        });
        let status = Status {
            instance: "home",
            device: "mape0",
            near: "2001:db8::1".to_owned(),
            relay: "2001:db8::2".to_owned(),
            mtu: 1_360,
            path_mtu: Some(1_400),
            counts: shared.with(|counts| counts.clone()),
        };
        assert_eq!(
            status.json(),
            r#"{"instance":"home","device":"mape0","near":"2001:db8::1","relay":"2001:db8::2","mtu":1360,"path_mtu":1400,"outbound":{"packets":3,"bytes":0,"batches":0},"inbound":{"packets":0,"bytes":0,"batches":0},"answered":1,"dropped":{"untranslated":2}}"#
        );
        assert_eq!(
            status.text(),
            "mape0: 3 packets (0 bytes) sent, 0 packets (0 bytes) received, MTU 1360, 1 answered with \
             \"fragmentation needed\", 2 dropped: untranslated"
        );
    }
}
