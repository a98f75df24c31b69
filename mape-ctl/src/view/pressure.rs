//! Whether ports or records are short, and what that means for idle times, in words and as JSON.

use std::fmt::{self, Write as _};

use mape_common::{
    layout::{Config, Gauge, Timeouts, Transport},
    nat::pressure,
    time::Tick,
};
use serde_json::{Map, Value, json};

use crate::datapath::maps::Gauges;

/// What ends sooner while a protocol is short: what it is called, its idle time, and that under pressure, in seconds.
type Shortened = (&'static str, u32, u32);

/// The state of all protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Seconds since a protocol was last short, where that still counts.
    short: [(Transport, Option<u32>); 3],
    /// Sessions ended before their idle time was over.
    reclaimed: u64,
    /// Endpoints that had to share a port.
    degraded: u64,
    timeouts: Timeouts,
    pressed: Timeouts,
    /// Records in use, and of a protocol with mappings ports, from which on it is short.
    high: (u32, u32),
}

impl Pressure {
    /// As the gauges say.
    pub fn new(config: &Config, gauges: &Gauges, now: Tick) -> Self {
        Self {
            short: Transport::ALL.map(|transport| {
                let noted = gauges.get(Gauge::Pressed(transport));
                (transport, pressure::age(noted, now).map(Tick::seconds))
            }),
            reclaimed: gauges.get(Gauge::Reclaimed),
            degraded: Transport::ALL
                .into_iter()
                .map(|transport| gauges.get(Gauge::Degraded(transport)))
                .sum(),
            timeouts: config.timeouts,
            pressed: config.pressed,
            high: (config.sessions_high, config.ports_high),
        }
    }

    /// Whether a protocol is short.
    pub fn is_on(&self, transport: Transport) -> bool {
        let of = |(one, short): &(Transport, Option<u32>)| *one == transport && short.is_some();
        self.short.iter().any(of)
    }

    /// The idle times that hold for a protocol.
    pub fn timeouts(&self, transport: Transport) -> &Timeouts {
        if self.is_on(transport) {
            &self.pressed
        } else {
            &self.timeouts
        }
    }

    fn shortened(&self, transport: Transport) -> Vec<Shortened> {
        let (long, short) = (&self.timeouts, &self.pressed);
        let all: &[(&'static str, Tick, Tick)] = match transport {
            Transport::Udp => &[("query", long.udp_query, short.udp_query)],
            Transport::Tcp => &[
                ("opening", long.tcp_opening, short.tcp_opening),
                ("closed and reset", long.tcp_closing, short.tcp_closing),
            ],
            Transport::Icmp => &[],
        };
        all.iter()
            .filter(|(_, long, short)| short < long)
            .map(|(name, long, short)| (*name, long.seconds(), short.seconds()))
            .collect()
    }

    /// For people: what holds at the moment, and what it has come to; `all` says, too, that nothing has.
    ///
    /// # Errors
    /// None that a string can have.
    pub fn text(&self, all: bool) -> Result<String, fmt::Error> {
        let mut out = String::new();
        for (transport, ago) in self.short {
            let Some(ago) = ago else { continue };
            let sooner: Vec<_> = self
                .shortened(transport)
                .into_iter()
                .map(|(name, long, short)| format!("{name} sessions end after {short} s idle instead of {long} s"))
                .collect();
            let sooner = if sooner.is_empty() {
                "none of its idle times is shorter for that".to_owned()
            } else {
                sooner.join(", ")
            };
            writeln!(
                out,
                "{} is short of ports or sessions (last noted {ago} s ago): {sooner}",
                transport.name()
            )?;
        }
        if out.is_empty() && all {
            writeln!(
                out,
                "no protocol is short of ports or sessions: the ordinary idle times hold"
            )?;
        }
        if all || self.reclaimed > 0 || self.degraded > 0 {
            writeln!(
                out,
                "{} sessions ended early because what they held was needed; {} endpoints had to share a port",
                self.reclaimed, self.degraded
            )?;
        }
        Ok(out)
    }

    /// The same as JSON.
    pub fn json(&self) -> Value {
        let protocols = self.short.map(|(transport, ago)| {
            let shortened = self.shortened(transport).into_iter().map(|(name, long, short)| {
                let seconds = json!({ "ordinary_seconds": long, "pressed_seconds": short });
                (name.replace(' ', "_"), seconds)
            });
            let state = json!({
                "active": ago.is_some(),
                "noted_seconds_ago": ago,
                "timeouts": shortened.collect::<Map<_, _>>(),
            });
            (transport.name().to_owned(), state)
        });
        json!({
            "protocols": protocols.into_iter().collect::<Map<_, _>>(),
            "watermark": { "records": self.high.0, "ports": self.high.1 },
            "reclaimed": self.reclaimed,
            "degraded": self.degraded,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressure(short: [Option<u32>; 3]) -> Pressure {
        let [udp, tcp, icmp] = short;
        Pressure {
            short: [(Transport::Udp, udp), (Transport::Tcp, tcp), (Transport::Icmp, icmp)],
            reclaimed: 0,
            degraded: 0,
            timeouts: Timeouts::DEFAULT,
            pressed: Timeouts::PRESSED,
            high: (52_428, 192),
        }
    }

    #[test]
    fn without_pressure_nothing_is_said_but_on_demand() {
        let none = pressure([None; 3]);
        assert_eq!(none.text(false).unwrap(), "");
        assert_eq!(
            none.text(true).unwrap(),
            "no protocol is short of ports or sessions: the ordinary idle times hold\n\
             0 sessions ended early because what they held was needed; 0 endpoints had to share a port\n"
        );
        assert_eq!(none.timeouts(Transport::Tcp), &Timeouts::DEFAULT);
    }

    #[test]
    fn what_ends_sooner_is_said_per_protocol() {
        let mut some = pressure([Some(0), Some(3), Some(7)]);
        some.reclaimed = 12;
        some.degraded = 4;
        assert_eq!(
            some.text(false).unwrap(),
            "udp is short of ports or sessions (last noted 0 s ago): query sessions end after 10 s idle instead of 60 s\n\
             tcp is short of ports or sessions (last noted 3 s ago): opening sessions end after 30 s idle instead of 240 s, \
             closed and reset sessions end after 2 s idle instead of 240 s\n\
             icmp is short of ports or sessions (last noted 7 s ago): none of its idle times is shorter for that\n\
             12 sessions ended early because what they held was needed; 4 endpoints had to share a port\n"
        );
        assert_eq!(some.timeouts(Transport::Udp), &Timeouts::PRESSED);
    }

    #[test]
    fn an_idle_time_that_is_not_shorter_is_not_called_so() {
        let mut same = pressure([Some(1), None, None]);
        same.pressed = Timeouts::DEFAULT;
        assert_eq!(
            same.text(false).unwrap(),
            "udp is short of ports or sessions (last noted 1 s ago): none of its idle times is shorter for that\n"
        );
    }

    #[test]
    fn the_json_has_the_same_facts() {
        let json = pressure([None, Some(3), None]).json();
        assert_eq!(
            json["protocols"]["tcp"],
            json!({
                "active": true,
                "noted_seconds_ago": 3,
                "timeouts": {
                    "opening": { "ordinary_seconds": 240, "pressed_seconds": 30 },
                    "closed_and_reset": { "ordinary_seconds": 240, "pressed_seconds": 2 },
                },
            })
        );
        assert_eq!(json["protocols"]["udp"]["active"], json!(false));
        assert_eq!(json["watermark"], json!({ "records": 52_428, "ports": 192 }));
        assert_eq!((&json["reclaimed"], &json["degraded"]), (&json!(0), &json!(0)));
    }
}
