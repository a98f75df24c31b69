//! The core on the host as a subject, its records compared with the model's one by one.

use mape_common::{
    env::{Env, Search, Side},
    host::HostEnv,
    layout::{Gauge, PortOrder, SweepOrder},
    nat::{port::PortState, session::Hold as HeldBy, sweep::Sweep, table},
    time::Tick,
    wire::port::Port,
};
use mape_tests::{
    model::{
        Model,
        life::{self, Flow, Hold, Phase},
        policy::Policy,
    },
    table::{
        host::{HostWorld, TUNNEL},
        stack,
        world::{Outcome, Program, World},
    },
};

use super::subject::{START, Scene, Subject, apply, key, lead, left, transport};

/// The core on the host; with the slow path's door beside the NICs', if so wanted.
pub(crate) struct Host(HostWorld, HasDevice);

/// Whether packets may go by the tunnel device.
type HasDevice = bool;

impl Host {
    pub(crate) fn new(scene: &Scene, has_device: HasDevice) -> Self {
        let mut config = scene.config(TUNNEL);
        apply(&mut config, &scene.policy());
        let world = HostWorld::of(config);
        world.env.now.set(Tick(START));
        let config = world.env.config.expect("configured");
        if let Some(ordinal) = scene.reserved.and_then(|port| config.port_set.ordinal(Port(port))) {
            for transport in mape_common::layout::Transport::ALL {
                let state = world.env.port(transport, ordinal).expect("a port of the set");
                state.store(PortState::Reserved.to_word());
            }
        }
        Self(world, has_device)
    }

    fn sweep_for(&mut self, order: Option<&SweepOrder>) {
        let env = &self.0.env;
        let config = env.config().expect("configured");
        let mut sweep = Sweep {
            env,
            config,
            order,
            first: 0,
            now: env.now(),
            ended: 0,
        };
        for index in 0..config.sessions {
            sweep.step(index);
        }
    }
}

/// A record or a permission, in words that the core and the model have in common: protocol, kind of hold, LAN end, external port, remote
/// end, phase, stamp.
type Row = (u8, &'static str, life::End, u16, life::End, &'static str, u32);

fn rows_of_core(env: &HostEnv) -> Vec<Row> {
    let live = env.sessions.iter().filter(|record| record.state().phase.is_live());
    let mut rows: Vec<Row> = live
        .map(|record| {
            let (state, facts) = (record.state(), record.facts());
            let (hold, phase) = match facts.hold {
                HeldBy::Mapping => ("mapping", ""),
                HeldBy::Member => ("member", state.phase.name()),
                HeldBy::Overlap => ("share", state.phase.name()),
            };
            (
                facts.transport.protocol(),
                hold,
                (facts.inside, facts.inside_port.0),
                facts.external_port.0,
                (facts.remote, facts.remote_port.0),
                phase,
                if START.wrapping_sub(state.used.0) < u32::MAX / 2 && state.used.0 != START {
                    life::LONG_AGO
                } else {
                    state.used.0
                },
            )
        })
        .collect();
    rows.extend(env.permissions().into_iter().filter_map(|(key, stamp)| {
        let (_, of) = env.session(key.mapping.slot)?.read(key.mapping.generation)?;
        let remote = (key.remote, 0);
        Some((
            of.transport.protocol(),
            "permission",
            (of.inside, of.inside_port.0),
            of.external_port.0,
            remote,
            "",
            stamp.0,
        ))
    }));
    rows.sort_unstable();
    rows
}

/// The word for how a port is held; a mapping holds it itself.
const fn hold_name(hold: Option<Hold>) -> &'static str {
    match hold {
        None => "mapping",
        Some(Hold::Member(_)) => "member",
        Some(Hold::Share) => "share",
    }
}

fn rows_of_model(model: &Model) -> Vec<Row> {
    let name = |phase| match phase {
        Phase::Udp | Phase::Icmp => "open",
        Phase::Query => "query",
        Phase::Opening => "opening",
        Phase::Established => "established",
        Phase::LanClosed => "fin-sent",
        Phase::RemoteClosed => "fin-received",
        Phase::Closing => "closing",
        Phase::Reset => "reset",
        Phase::Unanswered | Phase::UdpUnanswered => "unanswered",
    };
    let sessions = model.sessions.iter().map(|s| {
        let hold = hold_name(Some(s.hold));
        let protocol = transport(s.flow.transport).protocol();
        (
            protocol,
            hold,
            s.flow.inside,
            s.port,
            s.flow.remote,
            name(s.phase),
            s.stamp,
        )
    });
    let mappings = model.mappings.iter().map(|m| {
        let protocol = transport(m.transport).protocol();
        (protocol, "mapping", m.inside, m.port, ([0; 4], 0), "", m.stamp)
    });
    let permissions = model.permissions.iter().filter_map(|((id, remote), permission)| {
        let m = model.mappings.iter().find(|m| m.id == *id)?;
        let protocol = transport(m.transport).protocol();
        Some((
            protocol,
            "permission",
            m.inside,
            m.port,
            (*remote, 0),
            "",
            permission.stamp,
        ))
    });
    let mut rows: Vec<Row> = sessions.chain(mappings).chain(permissions).collect();
    rows.sort_unstable();
    rows
}

impl Subject for Host {
    fn check_empty(&mut self) -> Result<(), String> {
        let found = self.0.env.overlap_violations();
        let permissions = self.0.env.read(Gauge::Permissions);
        if found.is_empty() && permissions == 0 && self.0.env.live() == 0 {
            return Ok(());
        }
        Err(format!(
            "left: {permissions} permissions, {} records, {found:?}",
            self.0.env.live()
        ))
    }

    fn give(&mut self, program: Program, frame: &[u8]) -> (Outcome, &'static str) {
        self.0.give(program, frame)
    }

    fn give_to_stack(&mut self, program: Program, frame: &[u8]) -> Option<(Outcome, &'static str)> {
        let at = lead(program, frame).filter(|_| self.1)?;
        Some(left(program, stack::translate(&self.0.env, program, &at)))
    }

    fn port_of(&mut self, flow: &Flow) -> Option<u16> {
        let (_, _, facts) = table::read(&self.0.env, Side::Inside, &key(flow))?;
        Some(facts.external_port.0)
    }

    fn order(&mut self, order: PortOrder) -> u32 {
        self.0.order(order)
    }

    fn wait(&mut self, ticks: u32) {
        let now = &self.0.env.now;
        now.set(Tick(now.get().0 + ticks));
    }

    fn sweep(&mut self) {
        self.sweep_for(None);
    }

    fn flush(&mut self, order: &SweepOrder) {
        self.sweep_for(Some(order));
    }

    fn configure(&mut self, policy: &Policy, is_open: bool) {
        self.0.env.gate.set(is_open);
        apply(self.0.env.config.as_mut().expect("configured"), policy);
    }

    fn check(&mut self, model: &mut Model) -> Result<(), String> {
        let found = self.0.env.violations();
        if !found.is_empty() {
            return Err(found.join("\n"));
        }
        let core = rows_of_core(&self.0.env);
        // What has expired may be gone.
        model.reclaim(|flow, port, hold| {
            let hold = hold_name(hold);
            let protocol = transport(flow.transport).protocol();
            !core
                .iter()
                .any(|row| (row.0, row.1, row.2, row.3, row.4) == (protocol, hold, flow.inside, port, flow.remote))
        });
        let model = rows_of_model(model);
        if core == model {
            return Ok(());
        }
        let missing: Vec<_> = model.iter().filter(|row| !core.contains(row)).collect();
        let surplus: Vec<_> = core.iter().filter(|row| !model.contains(row)).collect();
        Err(format!(
            "records that the core lacks: {missing:?}; that the model lacks: {surplus:?}"
        ))
    }
}
