//! The tables of flows, whose entries are made and taken away without a lock.

use mape_common::{
    env::{Env, InsertError, Side},
    nat::{
        index::{Bucket, Place},
        session::{Facts, Phase, State},
        table,
    },
    wire::port::Port,
};

use super::{both, exhaustively};
use crate::world::{Ends, Gateway, HOST, Processor, START};

/// Writes whose a record is, alive or on its way to be.
fn record(processor: &Processor, slot: u32, ends: Ends, is_live: bool) {
    let record = processor.session(slot).unwrap();
    let building = record.begin(START).unwrap();
    record.write(&Facts {
        transport: ends.transport,
        inside: ends.host,
        inside_port: Port(ends.port),
        remote: ends.remote,
        remote_port: Port(ends.remote_port),
        ..Facts::EMPTY
    });
    if is_live {
        let live = State {
            phase: Phase::TcpEstablished,
            ..building
        };
        assert!(record.advance(building, live));
    }
}

/// Another flow of the same bucket, so that entries are put where that one's are.
fn neighbour(processor: &Processor, of: Ends) -> Ends {
    let config = processor.config().unwrap();
    let bucket = |ends: Ends| Place::new(config, &ends.inside_key()).bucket;
    (of.port + 1..)
        .map(|port| Ends { port, ..of })
        .find(|other| bucket(*other) == bucket(of))
        .unwrap()
}

fn entries(processor: &Processor) -> usize {
    (0..2)
        .filter_map(|index| processor.bucket(Side::Inside, index))
        .map(Bucket::len)
        .sum()
}

#[test]
fn of_two_entries_of_one_flow_at_most_one_is_made() {
    exhaustively(|| {
        let gateway = Gateway::new(1, 4);
        let (a, b) = (Processor::new(&gateway), Processor::new(&gateway));
        let ends = Ends::tcp(HOST, 40_000);
        record(&a, 0, ends, false);
        record(&a, 1, ends, false);
        // One that is there and is taken away meanwhile: the two may be put into different words.
        record(&a, 2, neighbour(&a, ends), false);
        assert_eq!(a.insert(Side::Inside, 2), Ok(()));
        let here = a.clone();
        let (first, second) = both(
            move || a.insert(Side::Inside, 0),
            move || {
                b.remove(Side::Inside, 2);
                b.insert(Side::Inside, 1)
            },
        );
        let made = [first, second].iter().filter(|outcome| outcome.is_ok()).count();
        assert!(made <= 1, "both have an entry");
        for outcome in [first, second] {
            assert!(matches!(outcome, Ok(()) | Err(InsertError::Exists)), "{outcome:?}");
        }
        assert_eq!(entries(&here), made, "who has made none leaves none");
    });
}

#[test]
fn a_flow_is_found_while_others_come_and_go_in_its_bucket() {
    exhaustively(|| {
        let gateway = Gateway::new(1, 4);
        let (a, b) = (Processor::new(&gateway), Processor::new(&gateway));
        let ends = Ends::tcp(HOST, 40_000);
        record(&a, 2, neighbour(&a, ends), false);
        assert_eq!(a.insert(Side::Inside, 2), Ok(()));
        record(&a, 0, ends, true);
        assert_eq!(a.insert(Side::Inside, 0), Ok(()));
        record(&a, 1, ends, false);
        let (found, ()) = both(
            move || table::find(&a, Side::Inside, &ends.inside_key()),
            move || {
                b.remove(Side::Inside, 2);
                // One of the same flow that is not alive, and cannot stay.
                assert_eq!(b.insert(Side::Inside, 1), Err(InsertError::Exists));
            },
        );
        assert_eq!(found.map(|(reference, _)| reference.slot), Some(0));
    });
}
