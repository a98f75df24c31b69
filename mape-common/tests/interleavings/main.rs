//! What several processors do to the core's shared memory at once, in every order (loom), judged by packets and by what is
//! left in the tables.
//!
//! Compiled under `--cfg loom` alone; `cargo xtask test` does that. Where a packet's whole way is run, an order with more
//! than [`SWITCHES`] changes of processor in the middle of something is left out: most races need one or two.
#![cfg(loom)]
#![expect(clippy::unwrap_used, reason = "what is not as assumed here is a failed test")]

mod flows;
mod fragments;
mod world;

use loom::{model::Builder, thread};
use mape_common::{
    layout::{Gauge, Timeouts, Transport},
    nat::{
        overlap::{self, Fingerprint},
        port::{self, PortState, Share},
        session::{Facts, Hold, Phase, Session, State},
    },
    time::Tick,
    verdict::Reason,
    wire::port::Port,
    word::Word,
};
use std::sync::Arc;

use world::{ACK, Ends, FIN_ACK, FIRST, Gateway, HOST, OTHER_HOST, OTHER_SERVER, Processor, SERVER, START, SYN};

/// Changes of processor in the middle of something, in tests that run whole packets.
const SWITCHES: usize = 2;

/// The same in tests of a few words. Every order there is takes a minute each; it has been run, with the same outcome.
const MORE_SWITCHES: usize = 4;

/// Runs a test in every order there is.
fn exhaustively(test: impl Fn() + Send + Sync + 'static) {
    builder(None).check(test);
}

/// Runs a test in every order with at most so many changes in the middle of something.
fn bounded(switches: usize, test: impl Fn() + Send + Sync + 'static) {
    builder(Some(switches)).check(test);
}

fn builder(switches: Option<usize>) -> Builder {
    let mut builder = Builder::new();
    builder.max_branches = 100_000;
    // The environment's LOOM_MAX_PREEMPTIONS asks for more.
    builder.preemption_bound = builder.preemption_bound.or(switches);
    builder
}

/// Does two things at once and gives what came of both.
fn both<A: Send + 'static, B: Send + 'static>(
    first: impl FnOnce() -> A + Send + 'static,
    second: impl FnOnce() -> B + Send + 'static,
) -> (A, B) {
    let other = thread::spawn(second);
    let first = first();
    (first, other.join().unwrap())
}

/// Ends everything and looks whether all is as at the beginning.
fn assert_ends_empty(gateway: &Arc<Gateway>) {
    Processor::new(gateway).flush();
    gateway.assert_whole();
    assert!(gateway.live().is_empty());
}

fn one_flow_from_two_processors(ends: Ends, records: usize) {
    bounded(SWITCHES, move || {
        let gateway = Gateway::new(2, 4);
        let (a, b) = (Processor::new(&gateway), Processor::new(&gateway));
        let (first, second) = both(move || a.send(ends, SYN), move || b.send(ends, SYN));
        gateway.assert_whole();
        gateway.assert_members_have_their_mapping();
        let here = Processor::new(&gateway);
        // Each may have met the other's entry before it was alive: then both have to come again, and the next one has its way.
        if let (Err(_), Err(_)) = (first, second) {
            assert_eq!(here.send(ends, SYN), Ok(FIRST));
        }
        assert_eq!(gateway.live().len(), records, "{first:?} {second:?}");
        let (_, facts) = here.session_of(ends).unwrap();
        for outcome in [first, second] {
            match outcome {
                Ok(port) => assert_eq!(port, facts.external_port.0, "every packet leaves by the session's port"),
                Err(reason) => assert_eq!(reason, Reason::Contended),
            }
        }
        assert_eq!(
            here.answer(facts.external_port.0, ends, ACK),
            Ok((ends.host, ends.port))
        );
        assert_ends_empty(&gateway);
    });
}

#[test]
fn one_tcp_flow_from_two_processors_has_one_session() {
    one_flow_from_two_processors(Ends::tcp(HOST, 40_000), 1);
}

#[test]
fn one_udp_flow_from_two_processors_has_one_session_and_one_mapping() {
    one_flow_from_two_processors(Ends::udp(HOST, 40_000, 4_000), 2);
}

#[test]
fn one_flow_from_three_processors_has_one_session() {
    bounded(1, || {
        let gateway = Gateway::new(2, 4);
        let ends = Ends::tcp(HOST, 40_000);
        let others =
            [Processor::new(&gateway), Processor::new(&gateway)].map(|p| thread::spawn(move || p.send(ends, SYN)));
        let mut outcomes = vec![Processor::new(&gateway).send(ends, SYN)];
        outcomes.extend(others.map(|other| other.join().unwrap()));
        gateway.assert_whole();
        assert_eq!(gateway.live().len(), 1);
        assert!(outcomes.iter().any(Result::is_ok), "{outcomes:?}");
        assert_ends_empty(&gateway);
    });
}

#[test]
fn two_flows_that_want_one_port_do_not_share_a_destination() {
    // Each tries seven times, and every try is a dozen things that the other can do something between.
    bounded(SWITCHES - 1, || {
        let gateway = Gateway::new(1, 4);
        let (a, b) = (Processor::new(&gateway), Processor::new(&gateway));
        let (one, other) = (Ends::tcp(HOST, 40_000), Ends::tcp(OTHER_HOST, 50_000));
        let outcomes = both(move || a.send(one, SYN), move || b.send(other, SYN));
        assert!(
            matches!(outcomes, (Ok(FIRST), Err(_)) | (Err(_), Ok(FIRST))),
            "one has the port: {outcomes:?}"
        );
        gateway.assert_whole();
        let owner = if outcomes.0.is_ok() { one } else { other };
        let here = Processor::new(&gateway);
        assert_eq!(here.answer(FIRST, owner, ACK), Ok((owner.host, owner.port)));
        assert_ends_empty(&gateway);
    });
}

/// When a session of `phase` that was used at the start has just expired.
fn expired(timeout: Tick) -> Tick {
    // A stamp may be that much older than the last packet.
    Tick(START.0 + timeout.0 + Tick::STALE.0)
}

#[test]
fn of_two_flows_that_meet_an_expired_session_one_has_its_port() {
    // Two switches take minutes: the refused flow looks for another port at length.
    bounded(1, || {
        let gateway = Gateway::new(1, 3);
        assert_eq!(Processor::new(&gateway).send(Ends::tcp(HOST, 40_000), SYN), Ok(FIRST));
        let now = expired(Timeouts::DEFAULT.tcp_opening);
        let (a, b) = (Processor::at(&gateway, now), Processor::at(&gateway, now));
        let (one, other) = (Ends::tcp(OTHER_HOST, 50_000), Ends::tcp(OTHER_HOST, 50_001));
        let outcomes = both(move || a.send(one, SYN), move || b.send(other, SYN));
        gateway.assert_whole();
        assert!(
            matches!(outcomes, (Ok(FIRST), Err(_)) | (Err(_), Ok(FIRST))),
            "{outcomes:?}"
        );
        let owner = if outcomes.0.is_ok() { one } else { other };
        assert_eq!(
            Processor::at(&gateway, now).answer(FIRST, owner, ACK),
            Ok((owner.host, owner.port))
        );
        assert_ends_empty(&gateway);
    });
}

#[test]
fn an_answer_to_an_expired_session_never_reaches_its_old_owner() {
    bounded(SWITCHES, || {
        let gateway = Gateway::new(1, 3);
        let (old, new) = (Ends::tcp(HOST, 40_000), Ends::tcp(OTHER_HOST, 50_000));
        assert_eq!(Processor::new(&gateway).send(old, SYN), Ok(FIRST));
        let now = expired(Timeouts::DEFAULT.tcp_opening);
        let (a, b) = (Processor::at(&gateway, now), Processor::at(&gateway, now));
        let (sent, answered) = both(move || a.send(new, SYN), move || b.answer(FIRST, new, ACK));
        gateway.assert_whole();
        assert_eq!(sent, Ok(FIRST));
        if let Ok(reached) = answered {
            assert_eq!(reached, (new.host, new.port));
        }
        assert_ends_empty(&gateway);
    });
}

#[test]
fn a_flow_and_the_sweeper_meet_an_expired_session() {
    bounded(SWITCHES, || {
        let gateway = Gateway::new(1, 3);
        let old = Ends::tcp(HOST, 40_000);
        assert_eq!(Processor::new(&gateway).send(old, SYN), Ok(FIRST));
        let now = expired(Timeouts::DEFAULT.tcp_opening);
        let (a, b) = (Processor::at(&gateway, now), Processor::at(&gateway, now));
        let new = Ends::tcp(OTHER_HOST, 50_000);
        let (sent, ended) = both(move || a.send(new, SYN), move || b.sweep());
        gateway.assert_whole();
        assert!(ended <= 1);
        let here = Processor::at(&gateway, now);
        if sent.is_ok() {
            assert_eq!(here.answer(FIRST, new, ACK), Ok((new.host, new.port)));
        } else {
            assert_eq!(here.answer(FIRST, new, ACK), Err(Reason::NoSession));
        }
        assert_ends_empty(&gateway);
    });
}

/// A packet that has read the clock before the session was over, and a sweeper that has read it after.
fn touch_against_sweeper(ends: Ends, timeout: Tick, by_answer: bool) {
    bounded(SWITCHES, move || {
        let gateway = Gateway::new(2, 4);
        let port = Processor::new(&gateway).send(ends, SYN).unwrap();
        let end = expired(timeout);
        let (a, b) = (Processor::at(&gateway, Tick(end.0 - 1)), Processor::at(&gateway, end));
        let used = move || {
            if by_answer {
                a.answer(port, ends, SYN).map(|_| port)
            } else {
                a.send(ends, SYN)
            }
        };
        let (used, _) = both(used, move || b.sweep());
        gateway.assert_whole();
        gateway.assert_members_have_their_mapping();
        let here = Processor::at(&gateway, end);
        match used {
            Ok(port) => assert_eq!(
                here.answer(port, ends, ACK),
                Ok((ends.host, ends.port)),
                "what was used is still there"
            ),
            Err(reason) => assert!(
                matches!(reason, Reason::Contended | Reason::NoSession | Reason::Filtered),
                "{reason:?}"
            ),
        }
        assert_ends_empty(&gateway);
    });
}

#[test]
fn a_session_that_a_packet_uses_is_not_swept() {
    touch_against_sweeper(Ends::tcp(HOST, 40_000), Timeouts::DEFAULT.tcp_opening, false);
}

#[test]
fn a_session_that_an_answer_uses_is_not_swept() {
    touch_against_sweeper(Ends::tcp(HOST, 40_000), Timeouts::DEFAULT.tcp_opening, true);
}

#[test]
fn a_mapping_that_a_packet_uses_is_not_swept() {
    touch_against_sweeper(Ends::udp(HOST, 40_000, 4_000), Timeouts::DEFAULT.udp, false);
}

#[test]
fn a_mapping_that_an_answer_uses_is_not_swept() {
    touch_against_sweeper(Ends::udp(HOST, 40_000, 4_000), Timeouts::DEFAULT.udp, true);
}

#[test]
fn a_member_of_a_mapping_that_is_being_swept_does_not_stay_without_it() {
    bounded(SWITCHES, || {
        let gateway = Gateway::new(2, 4);
        Processor::new(&gateway)
            .send(Ends::udp(HOST, 40_000, 4_000), 0)
            .unwrap();
        let end = expired(Timeouts::DEFAULT.udp);
        let (a, b) = (Processor::at(&gateway, Tick(end.0 - 1)), Processor::at(&gateway, end));
        let second = Ends::udp(HOST, 40_000, 5_000);
        let (sent, _) = both(move || a.send(second, 0), move || b.sweep());
        gateway.assert_whole();
        gateway.assert_members_have_their_mapping();
        if let Ok(port) = sent {
            assert_eq!(
                Processor::at(&gateway, end).answer(port, second, 0),
                Ok((second.host, second.port))
            );
        }
        assert_ends_empty(&gateway);
    });
}

/// Ports for a flow to be moved to while its old port is being given back, and one more: [`LAST`].
const PORTS: u32 = 3;
/// The port that a test's second flow has as its own number: the first flow can never come by it.
const LAST: u16 = FIRST + 2;

#[test]
fn a_packet_is_never_translated_as_the_flow_that_got_its_record_and_entry() {
    let (first, second) = (Ends::tcp(HOST, FIRST), Ends::tcp(OTHER_HOST, LAST));
    bounded(SWITCHES, move || {
        let gateway = Gateway::new(PORTS, 2);
        assert_eq!(Processor::new(&gateway).send(first, SYN), Ok(FIRST));
        let (a, b) = (Processor::new(&gateway), Processor::new(&gateway));
        let (sent, _) = both(
            move || a.send(first, SYN),
            move || {
                b.flush();
                b.send(second, SYN)
            },
        );
        assert_ne!(sent, Ok(LAST), "translated as the other flow");
        gateway.assert_whole();
        assert_ends_empty(&gateway);
    });
}

#[test]
fn an_answer_is_never_delivered_to_the_flow_that_got_its_record_and_entry() {
    let (first, second) = (Ends::tcp(HOST, FIRST), Ends::tcp(OTHER_HOST, LAST));
    bounded(SWITCHES, move || {
        let gateway = Gateway::new(PORTS, 2);
        assert_eq!(Processor::new(&gateway).send(first, SYN), Ok(FIRST));
        assert!(Processor::new(&gateway).answer(FIRST, first, SYN | ACK).is_ok());
        let (a, b) = (Processor::new(&gateway), Processor::new(&gateway));
        let (reached, _) = both(
            move || a.answer(FIRST, first, ACK),
            move || {
                b.flush();
                b.send(second, SYN)
            },
        );
        if let Ok(reached) = reached {
            assert_eq!(reached, (first.host, first.port), "delivered to the other host");
        }
        gateway.assert_whole();
        assert_ends_empty(&gateway);
    });
}

#[test]
fn a_new_flow_never_joins_the_mapping_that_got_its_own_ones_entry() {
    let (mine, theirs) = (Ends::udp(HOST, FIRST, 4_000), Ends::udp(OTHER_HOST, LAST, 4_000));
    bounded(SWITCHES, move || {
        let gateway = Gateway::new(PORTS, 4);
        assert_eq!(Processor::new(&gateway).send(mine, 0), Ok(FIRST));
        let (a, b) = (Processor::new(&gateway), Processor::new(&gateway));
        let again = Ends {
            remote_port: 5_000,
            ..mine
        };
        let (sent, _) = both(
            move || a.send(again, 0),
            move || {
                b.flush();
                b.send(theirs, 0)
            },
        );
        assert_ne!(sent, Ok(LAST), "another endpoint's port");
        gateway.assert_whole();
        assert_ends_empty(&gateway);
    });
}

#[test]
fn both_ends_closing_at_once_leave_a_closed_session() {
    bounded(SWITCHES, || {
        let gateway = Gateway::new(1, 2);
        let ends = Ends::tcp(HOST, 40_000);
        let here = Processor::new(&gateway);
        assert_eq!(here.send(ends, SYN), Ok(FIRST));
        assert!(here.answer(FIRST, ends, SYN | ACK).is_ok());
        let (a, b) = (here.clone(), here.clone());
        let (out, back) = both(move || a.send(ends, FIN_ACK), move || b.answer(FIRST, ends, FIN_ACK));
        let [(_, state, _)] = gateway.live()[..] else {
            panic!("one session")
        };
        if out.is_ok() && back.is_ok() {
            assert_eq!(state.phase, Phase::TcpClosing, "both were forwarded");
        }
    });
}

#[test]
fn two_sessions_that_permit_one_host_are_counted_once() {
    bounded(SWITCHES, || {
        let gateway = Gateway::new(1, 4);
        let here = Processor::new(&gateway);
        let to = |remote, remote_port| Ends {
            remote,
            ..Ends::udp(HOST, 40_000, remote_port)
        };
        here.send(to(OTHER_SERVER, 4_000), 0).unwrap();
        let (a, b) = (here.clone(), here.clone());
        let outcomes = both(
            move || a.send(to(SERVER, 4_000), 0),
            move || b.send(to(SERVER, 5_000), 0),
        );
        assert_eq!(outcomes, (Ok(FIRST), Ok(FIRST)));
        assert_eq!(gateway.read(Gauge::Permissions), 2);
        gateway.assert_whole();
        assert_ends_empty(&gateway);
    });
}

#[test]
fn a_session_that_is_flushed_while_it_opens_leaves_nothing() {
    for ends in [Ends::udp(HOST, 40_000, 4_000), Ends::tcp(HOST, 40_000)] {
        bounded(SWITCHES, move || {
            let gateway = Gateway::new(2, 4);
            let (a, b) = (Processor::new(&gateway), Processor::new(&gateway));
            let _ = both(move || a.send(ends, SYN), move || b.flush());
            assert_ends_empty(&gateway);
        });
    }
}

#[test]
fn a_session_that_is_flushed_while_it_is_refreshed_leaves_nothing() {
    bounded(SWITCHES, || {
        let gateway = Gateway::new(2, 4);
        let ends = Ends::udp(HOST, 40_000, 4_000);
        Processor::new(&gateway).send(ends, 0).unwrap();
        let later = Tick(START.0 + Tick::STALE.0);
        let (a, b) = (Processor::at(&gateway, later), Processor::at(&gateway, later));
        let _ = both(move || a.send(ends, 0), move || b.flush());
        assert_ends_empty(&gateway);
    });
}

fn facts(n: u8) -> Facts {
    Facts {
        transport: Transport::Tcp,
        hold: Hold::Overlap,
        inside: [192, 168, 10, n],
        inside_port: Port(u16::from(n)),
        external_port: Port(1_000 + u16::from(n)),
        remote: [198, 51, 100, n],
        far_end: [n; 16],
        wan_hop: u16::from(n),
        first: Phase::TcpOpening,
        ..Facts::EMPTY
    }
}

fn start_life(record: &Session, n: u8) -> State {
    let building = record.begin(START).unwrap();
    record.write(&facts(n));
    let live = State {
        phase: Phase::TcpOpening,
        ..building
    };
    assert!(record.advance(building, live));
    live
}

fn end_life(record: &Session, live: State) {
    let dead = State {
        phase: Phase::Dead,
        ..live
    };
    assert!(record.advance(live, dead));
    assert!(record.advance(
        dead,
        State {
            phase: Phase::Free,
            ..dead
        }
    ));
}

#[test]
fn a_reader_that_was_held_up_never_gets_the_next_lifes_facts() {
    bounded(MORE_SWITCHES, || {
        let record = Arc::new(Session::default());
        let live = start_life(&record, 1);
        let reader = Arc::clone(&record);
        let (read, ()) = both(
            move || reader.read(live.generation),
            move || {
                end_life(&record, live);
                start_life(&record, 2);
            },
        );
        if let Some((_, read)) = read {
            assert_eq!(read, facts(1));
        }
    });
}

#[test]
fn a_new_way_of_a_session_that_has_ended_is_not_the_next_ones() {
    bounded(MORE_SWITCHES, || {
        let record = Arc::new(Session::default());
        let live = start_life(&record, 1);
        let (slow, after) = (Arc::clone(&record), Arc::clone(&record));
        both(
            move || {
                if let Some((_, facts)) = slow.read(live.generation) {
                    slow.set_hops(&facts, 77, 77);
                }
            },
            move || {
                end_life(&record, live);
                start_life(&record, 2);
            },
        );
        assert_eq!(after.facts(), facts(2));
    });
}

#[test]
fn a_port_is_exclusive_or_shared_never_both() {
    bounded(MORE_SWITCHES, || {
        let port = Arc::new(Word::new(0));
        let takers = [(); 2].map(|()| {
            let port = Arc::clone(&port);
            thread::spawn(move || {
                if port::take_share(&port, START) == Share::Refused {
                    return false;
                }
                assert!(matches!(PortState::from_word(port.load()), PortState::Shared(1 | 2)));
                port::give_share(&port)
            })
        });
        if port::take_exclusive(&port, START) {
            assert_eq!(PortState::from_word(port.load()), PortState::Exclusive);
            assert_eq!(port::take_share(&port, START), Share::Refused);
            port::give_exclusive(&port, None);
        }
        for taker in takers {
            taker.join().unwrap();
        }
        assert_eq!(PortState::from_word(port.load()), PortState::Free);
    });
}

#[test]
fn of_shares_given_back_at_once_one_is_the_last() {
    exhaustively(|| {
        let port = Arc::new(Word::new(PortState::Shared(2).to_word()));
        let other = Arc::clone(&port);
        let last = both(
            {
                let port = Arc::clone(&port);
                move || port::give_share(&port)
            },
            move || port::give_share(&other),
        );
        assert!(last.0 ^ last.1);
        assert_eq!(PortState::from_word(port.load()), PortState::Free);
    });
}

#[test]
fn a_cell_forgets_whatever_the_order() {
    exhaustively(|| {
        let cell = Arc::new(Word::new(0));
        let threads = [0x1111, 0x2222].map(|tag| {
            let cell = Arc::clone(&cell);
            thread::spawn(move || {
                overlap::add(&cell, Fingerprint(tag));
                overlap::remove(&cell, Fingerprint(tag));
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(cell.load(), 0);
    });
}
