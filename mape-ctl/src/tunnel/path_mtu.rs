//! Owns how large the packets are that the paths to the tunnel's far ends take.

use std::time::{Duration, Instant};

/// Bytes of the outer header.
const OUTER: u16 = 40;
/// No IPv6 link takes less (RFC 8200 §5).
const LEAST: u16 = 1_280;
/// How long it counts what a router has told (RFC 8201 §4).
const LIFETIME: Duration = Duration::from_mins(10);
/// Far ends besides the border relay of which something is known.
const FAR_ENDS: usize = 64;

/// What is known of the paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMtu {
    /// Largest inner packet as configured.
    tunnel: u16,
    relay: [u8; 16],
    /// To the border relay, as the kernel knows it.
    kernel: Option<u16>,
    /// What the data path has noted, and since when: NICs that are taken out of the fast path forget next hops, and this with them.
    noted: Option<(u16, Instant)>,
    told: Vec<([u8; 16], u16, Instant)>,
}

impl PathMtu {
    /// Nothing is known yet.
    pub fn new(tunnel: u16, relay: [u8; 16]) -> Self {
        Self {
            tunnel,
            relay,
            kernel: None,
            noted: None,
            told: Vec::new(),
        }
    }

    /// Notes what kernel and data path know of the path to the border relay.
    pub fn note_relay(&mut self, kernel: Option<u16>, noted: Option<u16>, now: Instant) {
        self.kernel = kernel.map(|mtu| mtu.max(LEAST));
        let noted = noted.map(|mtu| mtu.max(LEAST));
        self.noted = match (noted, self.noted) {
            (Some(mtu), known @ Some((same, _))) if mtu == same => known,
            (Some(mtu), _) => Some((mtu, now)),
            (None, known) => known.filter(|(_, since)| now.duration_since(*since) < LIFETIME),
        };
    }

    /// Notes what a router has told of the path to another far end.
    pub fn note(&mut self, far_end: [u8; 16], mtu: u32, now: Instant) {
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).max(LEAST);
        self.told
            .retain(|(known, _, since)| *known != far_end && now.duration_since(*since) < LIFETIME);
        // Where there are too many, somebody is making them up.
        if far_end != self.relay && self.told.len() < FAR_ENDS {
            self.told.push((far_end, mtu, now));
        }
    }

    fn noted(&self) -> Option<u16> {
        self.noted.map(|(mtu, _)| mtu)
    }

    /// The path's MTU where it is smaller than the tunnel needs.
    pub fn outer(&self) -> Option<u16> {
        let narrowest = self.kernel.into_iter().chain(self.noted()).min();
        narrowest.filter(|mtu| mtu.saturating_sub(OUTER) < self.tunnel)
    }

    /// The size to which packets must be fragmented since the kernel would not know it: the data path has taken the error.
    pub fn fragments(&self) -> Option<u16> {
        self.noted()
            .filter(|noted| self.kernel.is_none_or(|kernel| *noted < kernel))
    }

    /// The largest inner packet towards the border relay.
    pub fn relay(&self) -> u16 {
        self.outer()
            .map_or(self.tunnel, |mtu| self.tunnel.min(mtu.saturating_sub(OUTER)))
    }

    /// The largest inner packet towards a far end.
    pub fn inner(&self, far_end: &[u8; 16], now: Instant) -> u16 {
        if *far_end == self.relay {
            return self.relay();
        }
        let told = self
            .told
            .iter()
            .find(|(known, _, since)| known == far_end && now.duration_since(*since) < LIFETIME);
        // The data path notes by next hop, and that may be the relay's, too.
        let narrowest = told.map(|(_, mtu, _)| *mtu).into_iter().chain(self.noted()).min();
        narrowest.map_or(self.tunnel, |mtu| self.tunnel.min(mtu.saturating_sub(OUTER)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: [u8; 16] = [1; 16];

    #[test]
    fn the_narrowest_that_is_known_counts_and_none_below_what_ipv6_asks_for() {
        let now = Instant::now();
        let mut paths = PathMtu::new(1_460, RELAY);
        assert_eq!((paths.inner(&RELAY, now), paths.outer()), (1_460, None));
        paths.note_relay(Some(1_500), None, now);
        assert_eq!((paths.inner(&RELAY, now), paths.outer()), (1_460, None));
        paths.note_relay(Some(1_500), Some(1_400), now);
        assert_eq!(
            (paths.relay(), paths.outer(), paths.fragments()),
            (1_360, Some(1_400), Some(1_400))
        );
        paths.note_relay(Some(1_300), Some(1_400), now);
        assert_eq!(
            (paths.relay(), paths.outer(), paths.fragments()),
            (1_260, Some(1_300), None)
        );
        paths.note_relay(Some(600), None, now);
        assert_eq!(paths.relay(), 1_240);
        paths.note_relay(Some(9_000), None, now + LIFETIME);
        assert_eq!(paths.relay(), 1_460, "not more than is configured");
    }

    #[test]
    fn what_the_data_path_has_noted_holds_for_ten_minutes_also_when_its_next_hops_are_forgotten() {
        let now = Instant::now();
        let mut paths = PathMtu::new(1_460, RELAY);
        paths.note_relay(Some(1_500), Some(1_400), now);
        let almost = now + LIFETIME.saturating_sub(Duration::from_secs(1));
        paths.note_relay(Some(1_500), None, almost);
        assert_eq!(paths.relay(), 1_360);
        paths.note_relay(Some(1_500), Some(1_380), almost);
        assert_eq!(paths.relay(), 1_340, "news count at once");
        paths.note_relay(Some(1_500), None, now + LIFETIME);
        assert_eq!(paths.relay(), 1_340, "and from then on");
        paths.note_relay(Some(1_500), None, almost + LIFETIME);
        assert_eq!(paths.relay(), 1_460);
        paths.note_relay(Some(1_500), Some(1_400), now);
        paths.note_relay(Some(1_500), Some(1_400), now + LIFETIME);
        paths.note_relay(Some(1_500), None, now + LIFETIME);
        assert_eq!(paths.relay(), 1_460, "not longer than the data path would");
    }

    #[test]
    fn what_a_router_tells_of_another_far_end_is_that_ones_alone_and_ends() {
        let now = Instant::now();
        let mut paths = PathMtu::new(1_460, RELAY);
        paths.note([2; 16], 1_400, now);
        paths.note(RELAY, 1_300, now);
        assert_eq!(paths.inner(&[2; 16], now), 1_360);
        assert_eq!(paths.inner(&[3; 16], now), 1_460);
        assert_eq!(paths.inner(&RELAY, now), 1_460, "the kernel is asked about that one");
        assert_eq!(paths.inner(&[2; 16], now + LIFETIME), 1_460);
        for number in 0..=255 {
            paths.note([number; 16], 1_400, now);
        }
        assert!(paths.told.len() <= FAR_ENDS);
    }
}
