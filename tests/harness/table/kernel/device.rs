//! The tunnel device's programs, run by `BPF_PROG_TEST_RUN` over packets without a frame.

use anyhow::{Context, Result, bail};
use aya::{
    TestRun as _, TestRunOptions,
    maps::ProgramArray,
    programs::{ProgramFd, SchedClassifier},
};
use mape_common::{
    layout::{maps, programs},
    step::stage::Stage,
    verdict::{Direction, OUTCOMES},
};

use super::{KernelWorld, ROOM, index, label};
use crate::table::world::{Outcome, Program};

const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;

/// The parts that a packet is handed on to.
const STAGES: [(Stage, &str); 4] = [
    (Stage::OutboundError, programs::TUNNEL_OUT_ERROR),
    (Stage::InboundError, programs::TUNNEL_IN_ERROR),
    (Stage::OutboundFragment, programs::TUNNEL_OUT_FRAGMENT),
    (Stage::InboundFragment, programs::TUNNEL_IN_FRAGMENT),
];

impl KernelWorld {
    /// Loads the programs, and lets the tunnel device translate.
    ///
    /// # Errors
    /// When the kernel refuses one, with the verifier's log.
    pub fn load_device(&mut self) -> Result<()> {
        for name in [programs::TUNNEL_OUT, programs::TUNNEL_IN] {
            self.load_classifier(name)?;
        }
        for (stage, name) in STAGES {
            let fd = self.load_classifier(name)?.try_clone()?;
            let stages = self.ebpf.map_mut(maps::TUNNEL_STAGES).context("TUNNEL_STAGES")?;
            ProgramArray::try_from(stages)?.set(stage.number(), &fd, 0)?;
        }
        self.set_gate(true)
    }

    fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("program {name}"))?;
        Ok(program.try_into()?)
    }

    fn load_classifier(&mut self, name: &str) -> Result<&ProgramFd> {
        let program = self.classifier(name)?;
        program.load().with_context(|| format!("loading {name}"))?;
        Ok(program.fd()?)
    }

    /// Gives a packet to the device's program, as from the LAN or as from the border relay: a test run has no tunnel key that could say
    /// another sender.
    ///
    /// # Errors
    /// When the kernel refuses, or more than one counter has moved.
    pub fn translate(&mut self, which: Program, packet: &[u8]) -> Result<(Outcome, &'static str)> {
        let (name, direction, came_by) = match which {
            Program::Lan => (programs::TUNNEL_OUT, Direction::Outbound, "lan0"),
            Program::Wan => (programs::TUNNEL_IN, Direction::Inbound, "mape0"),
        };
        // struct __sk_buff: ten words, of which the tenth is the interface that the packet came in by and the eleventh the device; then
        // what has no say here. A test run puts the packet where a device without frames has it.
        let mut context = [0_u32; 48];
        context[9] = index(came_by)?;
        context[10] = index("mape0")?;
        let context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
        let before = self.counters()?;
        let mut out = vec![0; ROOM];
        let result = self.classifier(name)?.test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        })?;
        out.truncate(usize::try_from(result.data_size_out)?);
        let slot = self.counted(&before)?;
        let after = self.counters()?;
        let first = if direction == Direction::Outbound { 0 } else { OUTCOMES };
        let own = usize::try_from(first + slot)?;
        if before.get(own) == after.get(own) {
            bail!("{} is counted in the other direction", label(slot));
        }
        let label = label(slot);
        Ok(match (result.return_value, label) {
            (TC_ACT_UNSPEC, "translated") => (Outcome::Forwarded(out), label),
            (TC_ACT_UNSPEC, _) => (Outcome::Passed(out), label),
            (TC_ACT_SHOT, _) => (Outcome::Dropped, label),
            (action, _) => bail!("tc action {action}"),
        })
    }
}
