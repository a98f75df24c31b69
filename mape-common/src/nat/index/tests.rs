use super::*;
use crate::{
    host::HostEnv,
    layout::Transport,
    map::psid::PortSet,
    nat::{
        session::{Facts, Phase, State},
        table,
    },
    time::Tick,
    wire::port::Port,
};

fn world(sessions: u32) -> HostEnv {
    let set = PortSet::new(6, 8, 0x34).expect("a port set");
    HostEnv::new(HostEnv::customer_edge([1; 16], [2; 16], [192, 0, 2, 18], set, sessions))
}

/// A live record in a slot, with no entry yet; its key in INSIDE.
fn record(env: &HostEnv, slot: u32, inside: [u8; 4], port: u16, remote: [u8; 4]) -> FlowKey {
    let record = env.session(slot).expect("a slot");
    let building = record.begin(Tick(1_000)).expect("a free record");
    let facts = Facts {
        transport: Transport::Tcp,
        inside,
        inside_port: Port(port),
        remote,
        remote_port: Port(443),
        ..Facts::EMPTY
    };
    record.write(&facts);
    let live = State {
        phase: Phase::TcpEstablished,
        ..building
    };
    assert!(record.advance(building, live));
    facts.inside_key()
}

/// One with only two buckets in use: all but the highest bit of a hash is left out.
fn crowded_world(sessions: u32) -> HostEnv {
    let mut env = world(sessions);
    env.config.as_mut().expect("configured").flow_shift = 63;
    env
}

/// A live record of one host's flows, its port being the slot's number.
fn nth_record(env: &HostEnv, slot: u32) -> FlowKey {
    let port = u16::try_from(slot).expect("few slots");
    record(env, slot, [10, 0, 0, 1], port, [198, 51, 100, 7])
}

fn slot_of(env: &HostEnv, key: &FlowKey) -> Option<u32> {
    table::find(env, Side::Inside, key).map(|(found, _)| found.slot)
}

type Make = fn(&dyn Fn(u32) -> [u8; 4], &dyn Fn(u32) -> u16, u32) -> ([u8; 4], u16, [u8; 4]);

#[test]
fn every_flow_of_a_full_table_is_found_whatever_its_numbers_have_in_common() {
    const RECORDS: u32 = 16_384;
    let host = |n: u32| {
        let [_, _, c, d] = n.to_be_bytes();
        [10, 0, c, d]
    };
    let low = |n: u32| u16::try_from(n & 0xffff).unwrap();
    let patterns: [Make; 4] = [
        // One host's ports, one after the other.
        |host, low, n| (host(1), low(n), [198, 51, 100, 7]),
        // Ports far apart.
        |host, low, n| (host(n & 3), low(n.wrapping_mul(256) | n >> 8), [198, 51, 100, 7]),
        // Many hosts by one port.
        |host, _, n| (host(n), 5_000, [198, 51, 100, 7]),
        // One port towards many remotes.
        |host, low, n| {
            let [c, d] = low(n).to_be_bytes();
            (host(1), 5_000, [198, 51, c, d])
        },
    ];
    for (number, pattern) in patterns.iter().enumerate() {
        let env = world(RECORDS);
        let mut keys = Vec::new();
        for slot in 0..RECORDS {
            let (inside, port, remote) = pattern(&host, &low, slot);
            let key = record(&env, slot, inside, port, remote);
            assert_eq!(
                env.insert(Side::Inside, slot),
                Ok(()),
                "pattern {number}, record {slot}"
            );
            keys.push(key);
        }
        let config = env.config().unwrap();
        let mut steps = 0;
        for (slot, key) in (0..).zip(&keys) {
            assert_eq!(slot_of(&env, key), Some(slot), "pattern {number}");
            let place = Place::new(config, key);
            let bucket = env.bucket(Side::Inside, place.bucket).unwrap();
            let is_here = |step: &u32| {
                let [low, high] = halves(bucket.word(place.first.wrapping_add(*step)).load());
                low == place.entry(slot) || high == place.entry(slot)
            };
            steps += (0..STEPS).position(|step| is_here(&step)).unwrap();
        }
        // Nearly all are in the first or the second word that is looked at.
        assert!(
            steps * 2 < keys.len(),
            "pattern {number}: {steps} steps for {} flows",
            keys.len()
        );
        for (slot, key) in (0..).zip(&keys) {
            env.remove(Side::Inside, slot);
            assert_eq!(slot_of(&env, key), None);
        }
        let buckets = (0..buckets(RECORDS)).filter_map(|index| env.bucket(Side::Inside, index));
        assert!(buckets.into_iter().all(Bucket::is_empty), "pattern {number}");
    }
}

#[test]
fn a_flow_has_one_entry_and_a_second_one_changes_nothing() {
    let env = world(64);
    let key = record(&env, 3, [10, 0, 0, 1], 1, [198, 51, 100, 7]);
    assert_eq!(record(&env, 4, [10, 0, 0, 1], 1, [198, 51, 100, 7]), key);
    assert_eq!(record(&env, 2, [10, 0, 0, 1], 1, [198, 51, 100, 7]), key);
    assert_eq!(env.insert(Side::Inside, 3), Ok(()));
    // Neither the one that leaves at once nor the one that waits for the other's to go.
    for slot in [2, 4] {
        assert_eq!(env.insert(Side::Inside, slot), Err(InsertError::Exists));
    }
    assert_eq!(slot_of(&env, &key), Some(3));
    let place = Place::new(env.config().unwrap(), &key);
    assert_eq!(env.bucket(Side::Inside, place.bucket).unwrap().len(), 1);
    assert_eq!(
        slot_of(&env, &record(&env, 5, [10, 0, 0, 1], 2, [198, 51, 100, 7])),
        None
    );
}

#[test]
fn a_bucket_holds_sixteen_and_then_no_more() {
    let env = crowded_world(256);
    let mut entered = Vec::new();
    for slot in 0..256_u32 {
        let key = nth_record(&env, slot);
        match env.insert(Side::Inside, slot) {
            Ok(()) => entered.push((slot, key)),
            error => assert_eq!(error, Err(InsertError::Full)),
        }
    }
    assert_eq!(entered.len(), 32);
    for (slot, key) in &entered {
        assert_eq!(slot_of(&env, key), Some(*slot));
    }
    let (slot, key) = entered.swap_remove(11);
    env.remove(Side::Inside, slot);
    assert_eq!(slot_of(&env, &key), None);
    assert_eq!(env.insert(Side::Inside, slot), Ok(()), "its place is free again");
}

#[test]
fn flows_that_the_entry_does_not_tell_apart_are_told_apart_by_their_records() {
    let env = crowded_world(4_096);
    let config = *env.config().unwrap();
    let first = nth_record(&env, 0);
    let place = Place::new(&config, &first);
    let twin = (1..4_096_u32).find_map(|slot| {
        let key = nth_record(&env, slot);
        let other = Place::new(&config, &key);
        ((other.bucket, other.tag) == (place.bucket, place.tag)).then_some((slot, key))
    });
    let (slot, twin) = twin.expect("2,048 tags and two buckets for 4,095 flows");
    assert_eq!(env.insert(Side::Inside, 0), Ok(()));
    assert_eq!(slot_of(&env, &twin), None);
    assert_eq!(env.insert(Side::Inside, slot), Ok(()));
    assert_eq!((slot_of(&env, &first), slot_of(&env, &twin)), (Some(0), Some(slot)));
    env.remove(Side::Inside, 0);
    assert_eq!((slot_of(&env, &first), slot_of(&env, &twin)), (None, Some(slot)));
}

#[test]
fn buckets_are_enough_for_the_records() {
    for (records, wanted) in [
        (1, 2),
        (8, 2),
        (9, 4),
        (256, 64),
        (65_536, 16_384),
        (100_000, 32_768),
        (1_048_576, 262_144),
    ] {
        assert_eq!(buckets(records), wanted);
        assert_eq!(1_u64 << (64 - shift(wanted)), u64::from(wanted));
    }
}
