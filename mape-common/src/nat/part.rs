//! The parts of opening a session that the kernel's verifier goes through one at a time.
//!
//! The verifier follows every path through a program, and the paths of one part multiply with those of the next. So in the kernel
//! each part is a function of its own ([`crate::env::Env::part`]) that takes numbers, gives back a number, and is verified once, for
//! any numbers, wherever it is called from.

use super::{
    allocate, mapping, open,
    table::{self, Draft},
};
use crate::{
    env::{Env, InsertError, Side},
    verdict::Reason,
};

/// A part of opening a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Makes the draft's entry in OUTSIDE.
    EnterOutside,
    /// Makes the draft's entry in INSIDE.
    EnterInside,
    /// Makes a mapping for the draft's LAN endpoint and the draft a member of it.
    Map,
    /// Finds the draft a port to share, and makes its entry in OUTSIDE.
    Share,
    /// Gives the ordinal of a port that the draft's session can share, or `u32::MAX`, or [`allocate::UNCLEAR`].
    FindUsable,
    /// The same among ports of which only the table of flows can tell.
    FindUnclear,
    /// Gives the ordinal of a port whose session with the draft's destination is over in all but name, or `u32::MAX`.
    FindOver,
    /// Ends the session that the draft's destination has on the port that the draft's record says.
    EndOver,
    /// Takes a share of the port that the draft's record says, and makes its entry in OUTSIDE.
    Claim,
    /// Makes the draft's last entry and its record live.
    Finish,
}

/// What a part came to, as a number: zero for success, else the number of a [`Reason`]; an ordinal where one was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Done(pub u32);

impl Done {
    /// From a result.
    #[inline(always)]
    pub const fn new(result: Result<(), Reason>) -> Self {
        match result {
            Ok(()) => Self(0),
            Err(reason) => Self(reason.number()),
        }
    }

    /// As a result.
    ///
    /// # Errors
    /// The reason.
    #[inline(always)]
    pub const fn result(self) -> Result<(), Reason> {
        match self.0 {
            0 => Ok(()),
            number => Err(Reason::from_number(number)),
        }
    }
}

impl Part {
    /// Does the part.
    #[inline(always)]
    pub fn run<E: Env>(self, env: &E, draft: Draft) -> Done {
        let Some(config) = env.config() else {
            return Done::new(Err(Reason::NotConfigured));
        };
        let result = match self {
            Self::FindUsable => return Done(allocate::find_usable(env, config, draft)),
            Self::FindUnclear => return Done(allocate::find_unclear(env, config, draft)),
            Self::FindOver => return Done(allocate::find_over(env, config, draft)),
            Self::EnterOutside => table::enter(env, config, Side::Outside, draft).map_err(refused),
            Self::EnterInside => table::enter(env, config, Side::Inside, draft).map_err(refused),
            Self::Map => mapping::create(env, config, draft),
            Self::Share => allocate::take_shared(env, config, draft),
            Self::EndOver => allocate::end_over(env, config, draft),
            Self::Claim => allocate::claim(env, config, draft),
            Self::Finish => open::finish(env, config, draft),
        };
        Done::new(result)
    }
}

/// The reason that stands for a failed entry.
#[inline(always)]
pub const fn refused(error: InsertError) -> Reason {
    match error {
        InsertError::Exists => Reason::Contended,
        InsertError::Full => Reason::SessionsExhausted,
    }
}
