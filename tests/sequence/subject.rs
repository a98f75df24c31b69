//! What a sequence runs on: a scene (a port set and a number of records) and whatever plays the gateway in it.

use mape_common::{
    host::HostEnv,
    layout::{Config, Filtering as FilteringOf, FlowKey, PortOrder, SweepOrder, Timeouts as IdleTimes},
    map::psid::PortSet,
    time::Tick,
    wire::port::Port,
};
use mape_tests::{
    model::{
        Model,
        forward::Order,
        life::Flow,
        policy::{Filtering, Policy, Set, Timeouts, Transport},
    },
    table::{
        stack::{self, AtDevice},
        world::{Outcome, Program, config},
    },
};

/// Where the clock starts, ticks: longer after zero than anything lives.
pub(crate) const START: u32 = 1_000_000;

/// What a sequence runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) set: Set,
    pub(crate) slots: u32,
    pub(crate) reserved: Option<u16>,
}

/// The set of the step tables, and sets that are soon full, with few records too.
pub(crate) const SCENES: [Scene; 4] = [
    Scene {
        name: "252 ports",
        set: Set {
            offset: 6,
            length: 8,
            psid: 0x34,
        },
        slots: 64,
        reserved: None,
    },
    Scene {
        name: "4 ports",
        set: Set {
            offset: 1,
            length: 13,
            psid: 5,
        },
        slots: 24,
        reserved: None,
    },
    Scene {
        name: "8 ports, port 0 among them",
        set: Set {
            offset: 0,
            length: 13,
            psid: 0,
        },
        slots: 48,
        reserved: Some(0),
    },
    Scene {
        name: "6 ports and 7 records",
        set: Set {
            offset: 2,
            length: 13,
            psid: 77,
        },
        slots: 7,
        reserved: None,
    },
];

impl Scene {
    pub(crate) fn config(&self, tunnel: u32) -> Config {
        let narrow = |n: u32| u8::try_from(n).expect("at most 16");
        let port_set = PortSet::new(narrow(self.set.offset), narrow(self.set.length), self.set.psid).expect("a set");
        let plain = config(tunnel, self.slots);
        Config {
            tunnel_ifindex: tunnel,
            ..HostEnv::customer_edge(
                plain.tunnel_address,
                plain.relay_address,
                plain.external_address,
                port_set,
                self.slots,
            )
        }
    }

    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy::new(self.set, usize::try_from(self.slots).expect("small"));
        policy.reserved.extend(self.reserved);
        policy
    }
}

/// What runs the packets.
pub(crate) trait Subject {
    /// Ticks that its clock may differ from the model's.
    fn slack(&self) -> u32 {
        0
    }
    /// Whether so much time has really passed that the model knows nothing certain.
    fn is_stalled(&self) -> bool {
        false
    }
    fn give(&mut self, program: Program, frame: &[u8]) -> (Outcome, &'static str);
    /// Gives the frame's packet to the tunnel device, if there is one and the stack would lead it there.
    fn give_to_stack(&mut self, _: Program, _: &[u8]) -> Option<(Outcome, &'static str)> {
        None
    }
    /// The oracle.
    fn port_of(&mut self, flow: &Flow) -> Option<u16>;
    /// Carries an order about a forward out.
    fn order(&mut self, order: PortOrder) -> u32;
    fn wait(&mut self, ticks: u32);
    fn sweep(&mut self);
    fn flush(&mut self, order: &SweepOrder);
    fn configure(&mut self, policy: &Policy, is_open: bool);
    /// What is left although everything has expired.
    fn check_empty(&mut self) -> Result<(), String>;
    /// What is wrong with its state.
    fn check(&mut self, model: &mut Model) -> Result<(), String>;
}

/// The packet of a frame that the stack leads to the tunnel device.
pub(crate) fn lead(program: Program, frame: &[u8]) -> Option<AtDevice> {
    let at = stack::lead(program, frame).ok()?;
    // Options are not in the model.
    (!stack::has_options(&at.packet)).then_some(at)
}

/// What leaves the gateway of what has left the device.
pub(crate) fn left(program: Program, (outcome, label): (Outcome, &'static str)) -> (Outcome, &'static str) {
    match outcome {
        Outcome::Forwarded(packet) => (Outcome::Forwarded(stack::after(program, packet)), label),
        other @ (Outcome::Answered(_) | Outcome::Passed(_) | Outcome::Dropped) => (other, label),
    }
}

pub(crate) fn key(flow: &Flow) -> FlowKey {
    FlowKey::new(
        transport(flow.transport),
        flow.inside.0,
        Port(flow.inside.1),
        flow.remote.0,
        Port(flow.remote.1),
    )
}

/// The order as it is given to the data path.
pub(crate) fn port_order(of: &Order) -> PortOrder {
    PortOrder {
        inside: of.inside.0,
        inside_port: of.inside.1.to_be_bytes(),
        external_port: of.port.to_be_bytes(),
        protocol: transport(of.transport).protocol(),
        action: if of.is_wanted {
            PortOrder::FORWARD
        } else {
            PortOrder::UNFORWARD
        },
        ..PortOrder::default()
    }
}

pub(crate) const fn transport(of: Transport) -> mape_common::layout::Transport {
    match of {
        Transport::Udp => mape_common::layout::Transport::Udp,
        Transport::Tcp => mape_common::layout::Transport::Tcp,
        Transport::Icmp => mape_common::layout::Transport::Icmp,
    }
}

/// Puts what changes while a gateway runs into its configuration.
pub(crate) fn apply(config: &mut Config, policy: &Policy) {
    let wanted = |flag, on| if on { flag } else { 0 };
    config.flags = Config::COPY_DSCP
        | Transport::ALL.into_iter().fold(0, |flags, of| {
            let filtering = match policy.of(of).filtering {
                Filtering::EndpointIndependent => FilteringOf::EndpointIndependent,
                Filtering::AddressDependent => FilteringOf::Address,
                Filtering::AddressAndPortDependent => FilteringOf::AddressAndPort,
            };
            flags | Config::filter(transport(of), filtering) | wanted(Config::mapping(transport(of)), policy.maps(of))
        });
    for (place, port) in config.overlap_ports.iter_mut().zip([53, 123, 443]) {
        *place = Port(if policy.client_server.contains(&port) { port } else { 0 });
    }
    config.timeouts = idle_times(policy.timeouts);
    config.pressed = idle_times(policy.pressed);
    let narrow = |n: usize| u32::try_from(n).expect("small");
    (config.ports_high, config.sessions_high) = (narrow(policy.high.0), narrow(policy.high.1));
    config.host_ports = narrow(policy.quota.ports.unwrap_or(0));
    config.host_sessions = narrow(policy.quota.sessions.unwrap_or(0));
    config.mapping_permissions = narrow(policy.permissions);
    config.quarantine = Tick::at_least_seconds(policy.quarantine);
    config.fragment_timeout = Tick::at_least_seconds(policy.fragments);
}

pub(crate) const fn idle_times(of: Timeouts) -> IdleTimes {
    IdleTimes {
        icmp: Tick::at_least_seconds(of.icmp),
        udp: Tick::at_least_seconds(of.udp),
        udp_query: Tick::at_least_seconds(of.query),
        tcp_opening: Tick::at_least_seconds(of.opening),
        tcp_closing: Tick::at_least_seconds(of.closing),
        tcp_established: Tick::at_least_seconds(of.established),
    }
}
