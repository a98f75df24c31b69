//! The parts of opening a session, and its ending, each a global function: verified once, by itself, for any numbers.
#![expect(
    unsafe_code,
    reason = "only a function with a name of its own is a global one to the kernel"
)]

use mape_common::{
    env::{InsertError, Side},
    layout::{FlowKey, SessionRef},
    nat::{
        index,
        part::{Done, Part},
        session::State,
        table::{self, Draft, Ending},
    },
    time::Tick,
};

use crate::env::KernelEnv;

macro_rules! parts {
    ($($part:ident = $name:ident;)*) => {
        /// Calls the function that does a part.
        #[inline(always)]
        pub(crate) fn call(part: Part, draft: Draft) -> Done {
            let SessionRef { slot, generation } = draft.reference();
            Done(match part { $(Part::$part => $name(slot, generation),)* })
        }

        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(slot: u32, generation: u32) -> u32 {
                // Some do not need it, and then the compiler passes whatever is in a register, which the verifier does not allow.
                // SAFETY: there is no instruction in it.
                unsafe { core::arch::asm!("/* {0} */", in(reg) u64::from(generation), options(nomem, nostack, preserves_flags)) };
                let draft = Draft::resume(SessionRef { slot, generation });
                Part::$part.run(&KernelEnv::without_frame(), draft).0
            }
        )*
    };
}

parts! {
    EnterOutside = mape_enter_outside;
    EnterInside = mape_enter_inside;
    Map = mape_map;
    Share = mape_share;
    FindUsable = mape_find_usable;
    FindUnclear = mape_find_unclear;
    FindOver = mape_find_over;
    EndOver = mape_end_over;
    Claim = mape_claim;
    Finish = mape_finish;
}

/// No record, as a number: a slot has twenty bits, a generation 24.
const NONE: u64 = u64::MAX;

/// Calls the function that finds the record of a flow.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is the slot")]
pub(crate) fn find(side: Side, key: &FlowKey) -> Option<SessionRef> {
    let [a, b] = key.local_port;
    let [c, d] = key.remote_port;
    let found = mape_find(
        u32::from_ne_bytes(key.local),
        u32::from_ne_bytes(key.remote),
        u32::from_ne_bytes([a, b, c, d]),
        key.protocol,
        side.number(),
    );
    (found != NONE).then_some(SessionRef {
        slot: found as u32,
        generation: (found >> 32) as u32,
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mape_find(local: u32, remote: u32, ports: u32, protocol: u32, side: u32) -> u64 {
    let [a, b, c, d] = ports.to_ne_bytes();
    let key = FlowKey {
        local: local.to_ne_bytes(),
        remote: remote.to_ne_bytes(),
        local_port: [a, b],
        remote_port: [c, d],
        protocol,
    };
    match index::find(&KernelEnv::without_frame(), Side::from_number(side), &key) {
        Some(SessionRef { slot, generation }) => u64::from(generation) << 32 | u64::from(slot),
        None => NONE,
    }
}

/// Calls the function that makes a record's entry.
#[inline(always)]
pub(crate) fn insert(side: Side, slot: u32) -> Result<(), InsertError> {
    match mape_insert(side.number(), slot) {
        0 => Ok(()),
        1 => Err(InsertError::Exists),
        _ => Err(InsertError::Full),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mape_insert(side: u32, slot: u32) -> u32 {
    match index::insert(&KernelEnv::without_frame(), Side::from_number(side), slot) {
        Ok(()) => 0,
        Err(InsertError::Exists) => 1,
        Err(InsertError::Full) => 2,
    }
}

/// Calls the function that takes a record's entry away.
#[inline(always)]
pub(crate) fn remove(side: Side, slot: u32) {
    let _ = mape_remove(side.number(), slot);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mape_remove(side: u32, slot: u32) -> u32 {
    index::remove(&KernelEnv::without_frame(), Side::from_number(side), slot);
    0
}

/// Calls the function that ends a record.
#[inline(always)]
pub(crate) fn end(slot: u32, state: State, ending: Ending) -> bool {
    let (now, is_flushed) = match ending {
        Ending::Expired(now) => (now, 0),
        Ending::Flushed(now) => (now, 1),
    };
    mape_end(slot, state.to_word(), now.0, is_flushed) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mape_end(slot: u32, state: u64, now: u32, is_flushed: u32) -> u32 {
    let ending = if is_flushed == 0 {
        Ending::Expired(Tick(now))
    } else {
        Ending::Flushed(Tick(now))
    };
    let ended = table::end(&KernelEnv::without_frame(), slot, State::from_word(state), ending);
    u32::from(ended)
}
