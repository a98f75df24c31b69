//! Plays a sequence: each step is given to a subject and judged by the model.

use std::{cell::RefCell, collections::BTreeMap};

use mape_common::{
    layout::{PortOrder, SweepOrder},
    verdict::{Action, Reason},
};
use mape_tests::{
    model::{
        Model,
        door::Door,
        forward::{Order, Outcome as Ordered},
        life,
        policy::{Behaviour, Filtering, Mapping, Quota, Timeouts},
    },
    table::world::{Outcome, Program},
};

use super::{
    Change, Flush, Kind, Step, Wait,
    frames::{HOSTS, REMOTES, down, forward, report, session, up},
    subject::{START, Scene, Subject, port_order, transport},
};

/// How often each outcome was seen.
pub(crate) type Tally = RefCell<BTreeMap<&'static str, u64>>;

/// Runs one sequence.
pub(crate) fn run(subject: &mut dyn Subject, scene: &Scene, steps: &[Step], tally: &Tally) -> Result<(), String> {
    let mut model = Model::new(scene.policy(), START);
    model.is_exact = subject.slack() == 0;
    for (number, step) in steps.iter().enumerate() {
        if subject.is_stalled() {
            *tally.borrow_mut().entry("stalled").or_default() += 1;
            return Ok(());
        }
        let label = take(subject, &mut model, step).map_err(|wrong| format!("step {number}, {step:?}: {wrong}"))?;
        if let Some(label) = label {
            *tally.borrow_mut().entry(label).or_default() += 1;
        }
        let mut found = model.violations();
        found.extend(subject.check(&mut model).err());
        if !found.is_empty() {
            return Err(format!("after step {number}, {step:?}: {}", found.join("\n")));
        }
    }
    // Nothing is left after everything has expired, and what does not was ended.
    let made: Vec<_> = model.mappings.iter().filter(|m| m.is_static).cloned().collect();
    for forward in made {
        let wanted = Order {
            is_wanted: false,
            transport: forward.transport,
            port: forward.port,
            inside: forward.inside,
        };
        order(subject, &mut model, &wanted)?;
    }
    for step in [Step::Wait(Wait::Ticks(60_000), true), Step::Sweep] {
        take(subject, &mut model, &step)?;
    }
    if model.records() != 0 {
        return Err(format!("{} records left in the model", model.records()));
    }
    subject.check(&mut model)?;
    subject.check_empty()
}

/// Takes one step; gives the label of a packet's outcome.
fn take(subject: &mut dyn Subject, model: &mut Model, step: &Step) -> Result<Option<&'static str>, String> {
    match step {
        Step::Up(packet) => give(subject, model, Program::Lan, &up(model, packet), packet.door).map(Some),
        Step::Down(packet) => give(subject, model, Program::Wan, &down(model, packet), packet.door).map(Some),
        Step::Report(error) => match report(model, error) {
            Some((program, frame)) => give(subject, model, program, &frame, error.door).map(Some),
            None => Ok(None),
        },
        Step::Forward(wanted) => {
            let wanted = forward(model, wanted);
            order(subject, model, &wanted).map(|()| None)
        }
        Step::Wait(wait, is_swept) => {
            let ticks = match *wait {
                Wait::Ticks(ticks) => u32::from(ticks),
                Wait::Until(number, by) => until(model, number, by),
            };
            let slack = subject.slack();
            if slack > 0 && (ticks <= slack || model.is_near(ticks, slack)) {
                return Ok(None);
            }
            if slack > 0 {
                // The sweeper's timer may come around while records are made older.
                subject.sweep();
                model.sweep();
            }
            subject.wait(ticks);
            model.pass(ticks)?;
            if *is_swept || slack > 0 {
                subject.sweep();
                model.sweep();
            }
            Ok(None)
        }
        Step::Sweep => {
            subject.sweep();
            model.sweep();
            Ok(None)
        }
        Step::Flush(what) => {
            flush(subject, model, *what);
            Ok(None)
        }
        Step::Change(change) => {
            if matches!(change, Change::Hurry(_)) {
                // Longer idle times would bring back to life what has expired.
                subject.sweep();
                model.sweep();
            }
            alter(model, *change);
            if matches!(change, Change::Filtering(..)) {
                model.filtered_since = model.now;
            }
            subject.configure(&model.policy, model.is_open);
            Ok(None)
        }
    }
}

/// Gives a frame by a door; what the NICs leave to the slow path goes there.
fn give(
    subject: &mut dyn Subject,
    model: &mut Model,
    program: Program,
    frame: &[u8],
    door: Door,
) -> Result<&'static str, String> {
    if door == Door::Nic {
        let seen = subject.give(program, frame);
        let label = judge(subject, model, program, frame, &seen, Door::Nic)?;
        if !matches!(seen.0, Outcome::Passed(_)) || !is_for_slow_path(label) {
            return Ok(label);
        }
        let Some(seen) = subject.give_to_stack(program, frame) else {
            return Ok(label);
        };
        judge(subject, model, program, frame, &seen, Door::Device)?;
        return Ok(label);
    }
    if let Some(seen) = subject.give_to_stack(program, frame) {
        return judge(subject, model, program, frame, &seen, Door::Device);
    }
    let seen = subject.give(program, frame);
    judge(subject, model, program, frame, &seen, Door::Nic)
}

fn is_for_slow_path(label: &str) -> bool {
    let reason = Reason::ALL.iter().find(|reason| reason.label() == label);
    reason.is_some_and(|reason| matches!(reason.action(), Action::PassSlow))
}

fn judge(
    subject: &mut dyn Subject,
    model: &mut Model,
    program: Program,
    frame: &[u8],
    (outcome, label): &(Outcome, &'static str),
    door: Door,
) -> Result<&'static str, String> {
    let subject = RefCell::new(subject);
    model.door = door;
    model.judge(
        program,
        frame,
        (outcome, label),
        &|flow| subject.borrow_mut().port_of(flow),
        &|model| subject.borrow_mut().check(model),
    )?;
    Ok(label)
}

/// Has a forward made or ended.
fn order(subject: &mut dyn Subject, model: &mut Model, wanted: &Order) -> Result<(), String> {
    let expected = match model.order(wanted) {
        Ordered::Done => PortOrder::DONE,
        Ordered::Busy => PortOrder::BUSY,
        Ordered::Full => PortOrder::FULL,
        Ordered::Absent => PortOrder::ABSENT,
        Ordered::Invalid => PortOrder::INVALID,
    };
    let outcome = subject.order(port_order(wanted));
    if outcome != expected {
        return Err(format!("{wanted:?} comes to {outcome}, but it should to {expected}"));
    }
    if !wanted.is_wanted && outcome == PortOrder::DONE {
        // As `mape-ctl forward` does: the members of a forward that has ended are ended by the sweeper.
        let mut order = SweepOrder {
            flush: 1,
            ..SweepOrder::default()
        };
        order.protocol = transport(wanted.transport).protocol();
        order.inside = wanted.inside.0;
        order.inside_port = wanted.inside.1.to_be_bytes();
        order.external_port = wanted.port.to_be_bytes();
        subject.flush(&order);
        model.sweep();
        model.flush(|of, inside, port, _| (of, inside, port) == (wanted.transport, wanted.inside, wanted.port));
    }
    Ok(())
}

/// Ticks until shortly before or after a record expires.
fn until(model: &Model, number: u16, by: i8) -> u32 {
    let Some(session) = session(model, number) else {
        return 1;
    };
    let limit = life::limit(session.phase.seconds(&model.policy.timeouts));
    (session.stamp + limit)
        .saturating_add_signed(by.into())
        .saturating_sub(model.now)
}

fn flush(subject: &mut dyn Subject, model: &mut Model, what: Flush) {
    let mut order = SweepOrder {
        flush: 1,
        ..SweepOrder::default()
    };
    match what {
        Flush::All => {}
        Flush::Host(host) => order.inside = HOSTS[usize::from(host)].octets(),
        Flush::Protocol(protocol) => order.protocol = [17, 6, 1][usize::from(protocol)],
        Flush::Remote(remote) => order.remote = REMOTES[usize::from(remote)].octets(),
        Flush::Endpoint(number) => {
            if let Some(session) = session(model, number) {
                order.protocol = transport(session.flow.transport).protocol();
                order.inside = session.flow.inside.0;
                order.inside_port = session.flow.inside.1.to_be_bytes();
            }
        }
    }
    subject.flush(&order);
    // The sweeper ends on its way what has expired.
    model.sweep();
    model.flush(|protocol, inside, _, remote| {
        (order.protocol == 0 || order.protocol == transport(protocol).protocol())
            && (order.inside == [0; 4] || order.inside == inside.0)
            && (order.inside_port == [0; 2] || order.inside_port == inside.1.to_be_bytes())
            && (order.remote == [0; 4] || remote.is_some_and(|r| r.0 == order.remote))
    });
}

fn alter(model: &mut Model, change: Change) {
    let policy = &mut model.policy;
    let mapping = |of: Behaviour, on| Behaviour {
        mapping: if on {
            Mapping::EndpointIndependent
        } else {
            Mapping::Overlapping
        },
        ..of
    };
    match change {
        Change::Gate(open) => model.is_open = open,
        Change::Filtering(of, number) => {
            let filtering = [
                Filtering::EndpointIndependent,
                Filtering::AddressDependent,
                Filtering::AddressAndPortDependent,
            ][usize::from(number % 3)];
            match of {
                Kind::Udp => policy.udp.filtering = filtering,
                Kind::Tcp(_) => policy.tcp.filtering = filtering,
                Kind::Echo(_) => policy.icmp.filtering = filtering,
            }
        }
        Change::Quota(ports, sessions) => {
            let some = |n: u8| (n > 0).then_some(usize::from(n));
            policy.quota = Quota {
                ports: some(ports),
                sessions: some(sessions),
            };
        }
        Change::Permissions(most) => policy.permissions = usize::from(most),
        Change::Mapping(udp, tcp) => {
            policy.udp = mapping(policy.udp, udp);
            policy.tcp = mapping(policy.tcp, tcp);
        }
        Change::ClientServer(on) => {
            policy.client_server.remove(&443);
            policy.client_server.extend(on.then_some(443));
        }
        Change::Hurry(on) => {
            policy.timeouts = if on {
                Timeouts {
                    udp: 120,
                    query: 10,
                    icmp: 61,
                    opening: 30,
                    closing: 20,
                    established: 600,
                }
            } else {
                Timeouts::DEFAULT
            };
            policy.pressed = Timeouts {
                query: 10,
                opening: 30,
                closing: 2,
                ..policy.timeouts
            };
        }
    }
}
