//! The parts of opening a session, and its ending, each a global function: verified once, by itself, for any numbers.
#![expect(
    unsafe_code,
    reason = "only a function with a name of its own is a global one to the kernel"
)]

use mape_common::{
    layout::SessionRef,
    nat::{
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
    Finish = mape_finish;
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
