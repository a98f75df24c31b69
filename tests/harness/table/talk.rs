//! Talks through a gateway of the tables: packets to and from it, and what became of them in one word.

use std::net::Ipv4Addr;

use mape_common::{
    env::{Env as _, Search as _},
    host::HostEnv,
    layout::{PortOrder, Transport},
    nat::sweep::Sweep,
};

use super::{
    frame::{Frame, Outer, Payload, Seen},
    world::{CE, HOST_MAC, LAN_MAC, Outcome, Program, RELAY, ROUTER_MAC, SHARED, WAN_MAC, World},
};

/// A frame from a LAN host.
pub fn up(from: Ipv4Addr, to: Ipv4Addr, payload: Payload) -> Vec<u8> {
    Frame {
        to_mac: LAN_MAC.0,
        from_mac: HOST_MAC.0,
        ..Frame::new(from, to, payload)
    }
    .bytes()
}

/// A tunnelled frame for the shared address, through the border relay.
pub fn down(from: Ipv4Addr, payload: Payload) -> Vec<u8> {
    down_frame(from, payload).bytes()
}

/// The same in the making.
pub fn down_frame(from: Ipv4Addr, payload: Payload) -> Frame {
    let outer = Some(Outer {
        from: RELAY,
        to: CE,
        class: 0,
        extension: None,
    });
    Frame {
        to_mac: WAN_MAC.0,
        from_mac: ROUTER_MAC.0,
        outer,
        ..Frame::new(from, SHARED, payload)
    }
}

/// Sends from the LAN; gives the external port.
///
/// # Errors
/// The reason why none comes out.
pub fn send(world: &mut dyn World, from: Ipv4Addr, to: Ipv4Addr, payload: Payload) -> Result<u16, &'static str> {
    match world.give(Program::Lan, &up(from, to, payload)) {
        (Outcome::Forwarded(frame), _) => Ok(Seen::of(&frame).ports.0),
        (_, label) => Err(label),
    }
}

/// Sends from the Internet; gives the LAN host and port that it reaches.
///
/// # Errors
/// The reason why it reaches none.
pub fn answer(world: &mut dyn World, from: Ipv4Addr, payload: Payload) -> Result<(Ipv4Addr, u16), &'static str> {
    match world.give(Program::Wan, &down(from, payload)) {
        (Outcome::Forwarded(frame), _) => {
            let seen = Seen::of(&frame);
            Ok((seen.addresses.1, seen.ports.1))
        }
        (_, label) => Err(label),
    }
}

/// Reserves a port of the set for every protocol: nobody is given it by chance.
///
/// # Panics
/// Where the gateway does not do it.
pub fn reserve(world: &mut dyn World, port: u16) {
    for transport in Transport::ALL {
        let order = PortOrder {
            external_port: port.to_be_bytes(),
            protocol: transport.protocol(),
            action: PortOrder::RESERVE,
            ..PortOrder::default()
        };
        assert_eq!(world.order(order), PortOrder::DONE, "{transport:?} {port}");
    }
}

/// Sweeps the whole table; gives how many records that ended.
///
/// # Panics
/// Where the gateway is not configured.
pub fn sweep(env: &HostEnv) -> u32 {
    let config = env.config().expect("configured");
    let mut sweep = Sweep {
        env,
        config,
        order: None,
        first: 0,
        now: env.now(),
        ended: 0,
    };
    for index in 0..config.sessions {
        sweep.step(index);
    }
    sweep.ended
}
