//! Processors that share the packets from the tunnel: told while the gate is closed, and let go of when no packet is handed on to them.

use std::path::PathBuf;

use aya::{Ebpf, programs::Xdp};
use aya_obj::programs::XdpAttachType;
use mape_common::{
    layout::{maps, programs as names},
    step::stage::{self, Stage},
};

use super::{
    LoadError, Loading,
    links::{OldPrograms, cannot_open},
};
use crate::{
    datapath::{maps::Tables, programs},
    gateway::Spread,
    host::processor::Processors,
};

/// What runs on a processor that takes packets over, behind the program that they enter by.
const STAGES: [(u32, &str); 2] = [
    (Stage::InboundOpen.number(), names::CPU_INBOUND_OPEN),
    (stage::TRACE, names::CPU_TRACE),
];

/// Those that are wanted.
pub(super) fn processors(spread: &Spread) -> Result<Processors, LoadError> {
    let online = || Processors::online().map_err(LoadError::Processors);
    match spread {
        Spread::None => Ok(Processors::default()),
        Spread::All => online(),
        Spread::These(wanted) => {
            let online = online()?;
            let missing = wanted.without(&online);
            if missing.is_empty() {
                Ok(wanted.clone())
            } else {
                Err(LoadError::NotOnline { missing, online })
            }
        }
    }
}

impl Loading<'_> {
    /// The programs that run there.
    pub(super) fn spread_programs(&self) -> impl Iterator<Item = &'static str> + use<> {
        let is_wanted = !self.spread.is_empty();
        let stages = STAGES.map(|(_, name)| name);
        [names::CPU_INBOUND]
            .into_iter()
            .chain(stages)
            .filter(move |_| is_wanted)
    }

    /// Has the processors run the new programs.
    pub(super) fn spread_anew(&mut self, ebpf: &Ebpf, old: &OldPrograms) -> Result<(), LoadError> {
        self.note_old_spread(old.get(names::CPU_INBOUND).cloned())?;
        if self.spread.is_empty() {
            return Ok(());
        }
        for (number, name) in STAGES {
            self.tables
                .set_stage(maps::CPU_STAGES, number, &programs::fd(ebpf, name)?)?;
            let (tables, path) = (self.tables.clone(), old.get(name).cloned());
            self.undo.push(format!("put the old program {name} back"), move || {
                let Some(path) = path else {
                    return tables.clear_stage(maps::CPU_STAGES, number).map_err(Into::into);
                };
                let program = Xdp::from_pin(path, XdpAttachType::CpuMap)?;
                tables
                    .set_stage(maps::CPU_STAGES, number, program.fd()?)
                    .map_err(Into::into)
            });
        }
        let program = programs::fd(ebpf, names::CPU_INBOUND)?;
        Ok(self.tables.set_spread(&self.spread, &program)?)
    }

    /// The same with the program that is there: others may be online now.
    pub(super) fn spread_again(&mut self) -> Result<(), LoadError> {
        let path = self.pins.program(names::CPU_INBOUND);
        self.note_old_spread(Some(path.clone()))?;
        if self.spread.is_empty() {
            return Ok(());
        }
        let failed = |error| cannot_open(names::CPU_INBOUND, error);
        let program = Xdp::from_pin(path, XdpAttachType::CpuMap).map_err(failed)?;
        let fd = program.fd().map_err(failed)?;
        Ok(self.tables.set_spread(&self.spread, fd)?)
    }

    /// Notes how to give the packets back to the processors that have them now.
    fn note_old_spread(&mut self, program: Option<PathBuf>) -> Result<(), LoadError> {
        let before = self.tables.spread()?;
        let tables = self.tables.clone();
        let what = "give the packets from the tunnel back to those that had them";
        self.undo.push(what, move || {
            match program.filter(|_| !before.is_empty()) {
                Some(path) => {
                    let program = Xdp::from_pin(path, XdpAttachType::CpuMap)?;
                    tables.set_spread(&before, program.fd()?)?;
                }
                None => tables.clear_spread()?,
            }
            tables.spread_to_no_others(&before)?;
            Ok(())
        });
        Ok(())
    }

    /// Lets go of processors that share the packets no longer, now that none is handed on to them.
    pub(super) fn leave_processors(&mut self) {
        let leave = |tables: &Tables, kept: &Processors| {
            if kept.is_empty() {
                tables.clear_spread()?;
                for (number, _) in STAGES {
                    tables.clear_stage(maps::CPU_STAGES, number)?;
                }
            }
            tables.spread_to_no_others(kept)
        };
        if let Err(error) = leave(&self.tables, &self.spread) {
            self.done.warnings.push(error.to_string());
        }
    }
}
