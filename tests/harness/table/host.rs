//! The world in host memory.

use mape_common::{
    env::{Env as _, Route},
    host::HostEnv,
    layout::{Config, NATIVE_WORDS, PortOrder},
    nat::forward,
    packet::VecPacket,
    step::{edge, native::Lease},
    verdict::{Direction, Failure, Verdict},
};

use super::world::{
    ELSEWHERE, GATEWAY, HOST, HOST6, LAN_MAC, Outcome, Program, SERVER6, STRANGER6, WAN_MAC, World, config, host,
    router,
};

/// Interface index of the LAN NIC here.
pub const LAN: u32 = 1;
/// Interface index of the WAN NIC here.
pub const WAN: u32 = 2;
/// Interface index of the tunnel device here.
pub const TUNNEL: u32 = 100;

/// A gateway whose state is a [`HostEnv`].
pub struct HostWorld {
    /// The state, for tests to look at and to let time pass.
    pub env: HostEnv,
    /// Nothing comes from the router unless the test gives it; else it has been heard just before every frame.
    pub is_router_silent: bool,
}

impl HostWorld {
    /// A gateway with room for that many sessions.
    ///
    /// # Panics
    /// If the plan of addresses and indices contradicts itself.
    pub fn new(sessions: u32) -> Self {
        Self::of(config(TUNNEL, sessions))
    }

    /// A gateway with this configuration, its tunnel device being [`TUNNEL`].
    ///
    /// # Panics
    /// If the plan of addresses and indices contradicts itself.
    pub fn of(config: Config) -> Self {
        let mut env = HostEnv::new(config);
        assert_eq!(
            (
                env.add_link_with(LAN_MAC, 1500, GATEWAY.octets()),
                env.add_link(WAN_MAC, 1500)
            ),
            (LAN, WAN),
            "first and second link"
        );
        env.set_far_hop(0, &router(WAN));
        env.routes.borrow_mut().extend([
            ([0; 4], 0, Route::Unresolved { ifindex: TUNNEL }),
            ([192, 168, 10, 0], 24, Route::Resolved(host(LAN))),
            (ELSEWHERE.octets(), 32, Route::Unresolved { ifindex: 3 }),
        ]);
        env.routes6.borrow_mut().extend([
            (SERVER6.octets(), 48, Route::Resolved(router(WAN))),
            (HOST6.octets(), 64, Route::Unresolved { ifindex: LAN }),
            (HOST6.octets(), 128, Route::Resolved(host(LAN))),
            (STRANGER6.octets(), 48, Route::Resolved(host(3))),
        ]);
        assert!(HOST.octets().starts_with(&[192, 168, 10]), "the route's network");
        Self {
            env,
            is_router_silent: false,
        }
    }
}

impl World for HostWorld {
    fn forward_native(&mut self, on: bool) {
        let lease = if on { Lease::FOR_EVER } else { Lease::NONE };
        for index in 0..NATIVE_WORDS {
            let word = self.env.native(index).expect("a word of NATIVE");
            word.store(if index == Lease::INDEX { lease.0 } else { 0 });
        }
    }

    fn order(&mut self, order: PortOrder) -> u32 {
        let config = self.env.config().expect("configured");
        forward::carry_out(&self.env, config, &order)
    }

    fn give(&mut self, program: Program, frame: &[u8]) -> (Outcome, &'static str) {
        if !self.is_router_silent
            && let Some(hop) = self.env.hop(0)
        {
            hop.confirm(self.env.now());
        }
        let mut packet = VecPacket(frame.to_vec());
        let outcome = match program {
            Program::Lan => edge::all(&mut packet, &self.env, LAN, Direction::Outbound),
            Program::Wan => edge::all(&mut packet, &self.env, WAN, Direction::Inbound),
        };
        match outcome {
            Ok(Verdict::Forward { .. }) => (Outcome::Forwarded(packet.0), "forwarded"),
            Ok(Verdict::Native { .. }) => (Outcome::Forwarded(packet.0), "native"),
            Ok(Verdict::Answer(reason)) => (Outcome::Answered(packet.0), reason.label()),
            Ok(Verdict::Deliver) => (Outcome::Passed(packet.0), "delivered"),
            Err(Failure::Refused(reason)) => {
                assert_eq!(
                    packet.0,
                    frame,
                    "a refusal leaves the frame as it came ({})",
                    reason.label()
                );
                let outcome = if reason.action().passes() {
                    Outcome::Passed(packet.0)
                } else {
                    Outcome::Dropped
                };
                (outcome, reason.label())
            }
            Err(broken @ Failure::Broken(_)) => (Outcome::Dropped, broken.reason().label()),
        }
    }
}
