//! Owns which processors take packets from the tunnel over, where a NIC cannot tell their flows apart.

use aya::{
    maps::{CpuMap, MapData, MapError, PerCpuArray, PerCpuValues},
    programs::ProgramFd,
};
use mape_common::{
    layout::{HANDED_ON, TAKEN_OVER, maps},
    step::spread::{HERE, PLACES},
};

use super::maps::{TableError, Tables, reading, writing};
use crate::host::processor::Processors;

/// Packets that may wait for a processor. More are a burst that it cannot catch up with: 2,048 take it about half a millisecond.
const QUEUE: u32 = 2_048;

/// What one processor has handed on and taken over since loading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Handed {
    /// The kernel's number of it.
    pub processor: u32,
    /// Packets handed on to others.
    pub handed_on: u64,
    /// Packets taken over from others.
    pub taken_over: u64,
}

impl Tables {
    /// The processors that take packets over.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn spread(&self) -> Result<Processors, TableError> {
        let processors: CpuMap<MapData> = self.typed(maps::CPUS)?;
        let mut found = Vec::new();
        for number in 0..processors.len() {
            if is_there(&processors, number)? {
                found.push(number);
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Has these processors take packets over, in equal shares, by `program`; also while packets are handed on. Those that took some
    /// before go on with what waits for them, and stay until [`Self::spread_to_no_others`].
    ///
    /// # Errors
    /// [`TableError`].
    pub fn set_spread(&self, wanted: &Processors, program: &ProgramFd) -> Result<(), TableError> {
        let mut processors: CpuMap<MapData> = self.typed(maps::CPUS)?;
        for number in wanted.iter() {
            let set = processors.set(number, QUEUE, Some(program), 0);
            set.map_err(|source| TableError::Processor { number, source })?;
        }
        self.share_out(wanted)
    }

    /// Leaves every packet where it was received, by and by; the processors stay until [`Self::spread_to_no_others`].
    ///
    /// # Errors
    /// [`TableError`].
    pub fn clear_spread(&self) -> Result<(), TableError> {
        self.share_out(&Processors::default())
    }

    fn share_out(&self, wanted: &Processors) -> Result<(), TableError> {
        let mut table = self.array::<u32>(maps::SPREAD)?;
        let numbers: Vec<u32> = if wanted.is_empty() {
            vec![HERE]
        } else {
            wanted.iter().collect()
        };
        for (place, number) in (0..PLACES).zip(numbers.iter().cycle()) {
            table.set(place, *number, 0).map_err(writing(maps::SPREAD))?;
        }
        Ok(())
    }

    /// Lets no other processors take packets over than these; what waits for them is dropped.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn spread_to_no_others(&self, kept: &Processors) -> Result<(), TableError> {
        let mut processors: CpuMap<MapData> = self.typed(maps::CPUS)?;
        for number in self.spread()?.without(kept).iter() {
            // A queue of no length: the kernel takes the processor out.
            let taken = processors.set(number, 0, None, 0);
            taken.map_err(|source| TableError::Processor { number, source })?;
        }
        Ok(())
    }

    /// What each processor has handed on and taken over; none where none takes any.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn handed(&self) -> Result<Vec<Handed>, TableError> {
        let processors = self.spread()?;
        if processors.is_empty() {
            return Ok(Vec::new());
        }
        let table: PerCpuArray<MapData, u64> = self.typed(maps::HANDED)?;
        let read =
            |index| -> Result<PerCpuValues<u64>, TableError> { table.get(&index, 0).map_err(reading(maps::HANDED)) };
        let (on, over) = (read(HANDED_ON)?, read(TAKEN_OVER)?);
        let all = (0..).zip(on.iter().zip(over.iter()));
        let handed = all.map(|(processor, (on, over))| Handed {
            processor,
            handed_on: *on,
            taken_over: *over,
        });
        // One that has nothing to do with it is not worth a line.
        let takes = |processor: u32| processors.iter().any(|one| one == processor);
        Ok(handed
            .filter(|one| takes(one.processor) || (one.handed_on, one.taken_over) != (0, 0))
            .collect())
    }
}

fn is_there(processors: &CpuMap<MapData>, number: u32) -> Result<bool, TableError> {
    match processors.get(number, 0) {
        Ok(value) => Ok(value.queue_size != 0),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(reading(maps::CPUS)(error)),
    }
}
