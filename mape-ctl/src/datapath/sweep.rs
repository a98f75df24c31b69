//! Owns calls of the sweeper: arming its timer, and ending sessions that an operator wants ended.

use std::path::PathBuf;

use aya::{
    TestRun as _, TestRunOptions,
    programs::{ProgramError, Xdp},
};
use aya_obj::programs::XdpAttachType;
use mape_common::layout::{SweepOrder, programs};

use super::{
    maps::{TableError, Tables},
    pin::PinFolder,
};

/// Why the sweeper did not run.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The pinned program cannot be opened.
    #[error("cannot open the pinned program {path}; if the gateway is half gone, `mape-ctl unload` cleans up")]
    Open {
        /// Its pin.
        path: PathBuf,
        /// Why.
        source: Box<ProgramError>,
    },
    /// It cannot be run.
    #[error("cannot run the sweeper")]
    Run(#[source] Box<ProgramError>),
    /// It does not go on.
    #[error("the sweeper stops at slot {at} of {sessions}")]
    Stuck {
        /// Where.
        at: u32,
        /// The table's size.
        sessions: u32,
    },
    /// Its order cannot be written or read.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// A frame for a program that looks at none; the kernel wants at least an Ethernet header.
const FRAME: [u8; 64] = [0; 64];

/// The sweeper of a loaded gateway.
pub struct Sweeper {
    program: Xdp,
    tables: Tables,
}

impl Sweeper {
    /// Opens the pinned program.
    ///
    /// # Errors
    /// [`SweepError::Open`].
    pub fn open(pins: &PinFolder) -> Result<Self, SweepError> {
        let path = pins.program(programs::SWEEP);
        let program = Xdp::from_pin(&path, XdpAttachType::Interface).map_err(|source| SweepError::Open {
            path,
            source: Box::new(source),
        })?;
        Ok(Self {
            program,
            tables: Tables::new(pins),
        })
    }

    fn call(&self) -> Result<(), SweepError> {
        let options = TestRunOptions {
            data_in: Some(&FRAME),
            ..TestRunOptions::new()
        };
        self.program
            .test_run(options)
            .map_err(|source| SweepError::Run(Box::new(source)))?;
        Ok(())
    }

    /// Starts the timer that ends expired sessions from now on.
    ///
    /// # Errors
    /// [`SweepError`].
    pub fn arm(&self) -> Result<(), SweepError> {
        self.tables.set_sweep_order(&SweepOrder::default())?;
        self.call()
    }

    /// Ends every session that the order means, and what has expired; gives how many.
    ///
    /// # Errors
    /// [`SweepError`].
    pub fn flush(&self, filter: &SweepOrder) -> Result<u32, SweepError> {
        let sessions = self.tables.config()?.sessions;
        self.tables.set_sweep_order(&SweepOrder {
            flush: 1,
            next_slot: 0,
            ended: 0,
            ..*filter
        })?;
        let mut at = 0;
        while at < sessions {
            self.call()?;
            let next = self.tables.sweep_order()?.next_slot;
            if next <= at {
                return Err(SweepError::Stuck { at, sessions });
            }
            at = next;
        }
        let ended = self.tables.sweep_order()?.ended;
        // An order left behind would be carried out by the next call that only wants the timer started.
        self.tables.set_sweep_order(&SweepOrder::default())?;
        Ok(ended)
    }
}
