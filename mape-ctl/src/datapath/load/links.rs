//! Programs and their interfaces: verified, attached or replaced, pinned, proven; and what is not wanted any longer, taken off.

use std::{collections::BTreeMap, fs, path::PathBuf};

use aya::{
    Ebpf,
    programs::{ProgramError, ProgramInfo, SchedClassifier, Xdp},
};
use aya_obj::programs::XdpAttachType;
use mape_common::{
    layout::{maps, programs as names},
    step::stage::{self, Stage},
};

use super::{LoadError, Loading};
use crate::{
    datapath::{
        attach::{self, mode_name},
        classify::{self, Put, Side},
        maps::TableError,
        pin::{PinError, PinFolder},
        programs::{self, LoadError as ProgramLoadError},
        prove::{self, Proof},
    },
    gateway::{Ipv6Forward, Mode, Role},
    netlink::link::Interface,
    undo::Undo,
};

/// Behind the name of a program that ran before.
const OLD: &str = "-old";
/// Pins of the programs that ran before, by name: where they are now.
pub(super) type OldPrograms = BTreeMap<String, PathBuf>;

impl Loading<'_> {
    /// The programs that this gateway runs; the verifier sees them before anything of a running gateway is touched.
    pub(super) fn programs(&self) -> Vec<&'static str> {
        let mut wanted: Vec<&'static str> = self.ports.iter().map(|port| port.program).collect();
        wanted.extend([names::TRACE, names::ROUTE]);
        if self.gateway.role == Role::CustomerEdge {
            wanted.extend([names::SWEEP, names::PORT]);
        }
        wanted.extend(self.stages().map(Stage::program));
        wanted.extend(self.spread_programs());
        wanted.extend(self.classifiers());
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    pub(super) fn load_programs(&self, ebpf: &mut Ebpf) -> Result<(), LoadError> {
        Ok(programs::load_all(ebpf, &self.programs())?)
    }

    /// The tunnel device's programs, where there is one.
    fn classifiers(&self) -> impl Iterator<Item = &'static str> + use<> {
        let wanted = self.gateway.role == Role::CustomerEdge;
        classify::all().filter(move |_| wanted)
    }

    /// Puts the tunnel device's programs there, its stages first.
    pub(super) fn attach_tunnel(&mut self, ebpf: &mut Ebpf) -> Result<(), LoadError> {
        if self.gateway.role != Role::CustomerEdge {
            return Ok(());
        }
        let device = self.gateway.tunnel.device.clone();
        for (stage, name) in classify::STAGES {
            self.tables
                .set_stage(maps::TUNNEL_STAGES, stage.number(), &programs::fd(ebpf, name)?)?;
            self.put_stage_back(stage, name);
        }
        for (side, device) in self.sides() {
            let put = classify::put(&self.pins, classify::get(ebpf, side.program)?, &side, &device)?;
            match put {
                Put::Attached => self.take_off_again(side, device),
                Put::Replaced => {
                    let pins = self.pins.clone();
                    let path = self.pins.program(&format!("{}{OLD}", side.program));
                    self.undo
                        .push(format!("put the old program back on {device}"), move || {
                            let mut program = SchedClassifier::from_pin(path)?;
                            classify::put(&pins, &mut program, &side, &device)?;
                            Ok(())
                        });
                }
            }
        }
        self.done
            .messages
            .push(format!("{device}: translates what takes the slow path"));
        Ok(())
    }

    /// Where the tc programs go: the tunnel device, and the WAN.
    fn sides(&self) -> impl Iterator<Item = (Side, String)> + use<> {
        let (tunnel, wan) = (self.gateway.tunnel.device.clone(), self.wan.name.clone());
        let sides = classify::SIDES.into_iter().map(move |side| (side, tunnel.clone()));
        sides.chain(classify::WAN_SIDES.into_iter().map(move |side| (side, wan.clone())))
    }

    fn take_off_again(&mut self, side: Side, device: String) {
        let pins = self.pins.clone();
        self.undo.push(format!("detach from {device}"), move || {
            classify::take_off(&pins, &side, &device).map_err(Into::into)
        });
    }

    fn put_stage_back(&mut self, stage: Stage, name: &'static str) {
        let path = self.pins.program(&format!("{name}{OLD}"));
        if !path.exists() {
            return;
        }
        let tables = self.tables.clone();
        self.undo.push(format!("put the old program {name} back"), move || {
            let program = SchedClassifier::from_pin(path)?;
            tables
                .set_stage(maps::TUNNEL_STAGES, stage.number(), program.fd()?)
                .map_err(Into::into)
        });
    }

    /// Whether a program of an earlier load is on a NIC. The pin alone does not say so: its link may be that of a NIC which is gone,
    /// whose place another one has taken.
    pub(super) fn is_attached(&self, nic: &Interface) -> bool {
        self.is_reload && nic.xdp.is_some() && self.pins.link(&nic.name).exists()
    }

    /// Puts each program on its interface.
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf, old: &OldPrograms) -> Result<(), LoadError> {
        for port in &self.ports {
            let program: &mut Xdp = ebpf
                .program_mut(port.program)
                .and_then(|program| program.try_into().ok())
                .ok_or(ProgramLoadError::NoProgram(port.program))?;
            if self.is_attached(&port.nic) {
                let (name, pins) = (port.nic.name.clone(), self.pins.clone());
                let path = self.running(old, &name);
                attach::replace(&self.pins, program, &name)?;
                self.undo.push(format!("put the old program back on {name}"), move || {
                    let Some(path) = path else { return Ok(()) };
                    let mut program = Xdp::from_pin(path, XdpAttachType::Interface)?;
                    attach::replace(&pins, &mut program, &name)?;
                    Ok(())
                });
            } else {
                attach_anew(&self.pins, &mut self.undo, program, &port.nic, self.gateway.mode)?;
            }
        }
        Ok(())
    }

    /// Where the program is pinned that runs on a NIC now: not always the one that is put there next.
    fn running(&self, old: &OldPrograms, nic: &str) -> Option<PathBuf> {
        let running = attach::pinned_program(&self.pins, nic)?;
        let is_it = |path: &&PathBuf| ProgramInfo::from_pin(path).is_ok_and(|info| info.id() == running);
        old.values().find(is_it).cloned()
    }

    /// Whether all programs of this gateway are in the kernel, and stay at the tunnel device without this process.
    pub(super) fn has_programs(&self) -> bool {
        let mut wanted = self.programs().into_iter();
        self.is_reload && crate::kernel::has_tcx() && wanted.all(|name| self.pins.program(name).exists())
    }

    /// Puts the programs that are there on those devices that have none.
    pub(super) fn attach_pinned(&mut self) -> Result<(), LoadError> {
        for port in &self.ports {
            if self.is_attached(&port.nic) {
                continue;
            }
            let mut program = Xdp::from_pin(self.pins.program(port.program), XdpAttachType::Interface)
                .map_err(|error| cannot_open(port.program, error))?;
            attach_anew(&self.pins, &mut self.undo, &mut program, &port.nic, self.gateway.mode)?;
        }
        if self.gateway.role != Role::CustomerEdge {
            return Ok(());
        }
        for (side, device) in self.sides() {
            let mut program = SchedClassifier::from_pin(self.pins.program(side.program))
                .map_err(|error| cannot_open(side.program, error))?;
            if classify::put(&self.pins, &mut program, &side, &device)? == Put::Attached {
                self.take_off_again(side, device);
            }
        }
        Ok(())
    }

    /// The stages of this gateway's role, less those that are not wanted.
    fn stages(&self) -> impl Iterator<Item = Stage> + use<> {
        let is_relay = self.gateway.role == Role::BorderRelay;
        let is_native = self.gateway.ipv6_forward != Ipv6Forward::Never;
        Stage::ALL
            .iter()
            .copied()
            .filter(move |stage| stage.is_of_relay() == is_relay && (is_native || !stage.is_of_native()))
    }

    /// Takes stages out that are not wanted any longer.
    fn leave_stages(&mut self, old: &OldPrograms) -> Result<(), LoadError> {
        if !self.is_reload || self.gateway.ipv6_forward != Ipv6Forward::Never {
            return Ok(());
        }
        for stage in Stage::ALL.iter().filter(|stage| stage.is_of_native()) {
            self.tables.clear_stage(maps::STAGES, stage.number())?;
            let name = stage.program();
            if let Some(path) = old.get(name).cloned() {
                let (tables, number) = (self.tables.clone(), stage.number());
                self.undo.push(format!("put the program {name} back"), move || {
                    let program = Xdp::from_pin(path, XdpAttachType::Interface)?;
                    tables
                        .set_stage(maps::STAGES, number, program.fd()?)
                        .map_err(Into::into)
                });
            }
        }
        Ok(())
    }

    /// Enters the stages' programs into their map. The gate is closed: no packet is on its way from one to another.
    pub(super) fn enter_stages(&mut self, ebpf: &Ebpf, old: &OldPrograms) -> Result<(), LoadError> {
        self.leave_stages(old)?;
        let stages = self.stages().map(|stage| (stage.number(), stage.program()));
        for (number, name) in stages.chain([(stage::TRACE, names::TRACE)]) {
            self.tables
                .set_stage(maps::STAGES, number, &programs::fd(ebpf, name)?)?;
            if let Some(path) = old.get(name).cloned() {
                let tables = self.tables.clone();
                self.undo.push(format!("put the old program {name} back"), move || {
                    let program = Xdp::from_pin(path, XdpAttachType::Interface)?;
                    tables
                        .set_stage(maps::STAGES, number, program.fd()?)
                        .map_err(Into::into)
                });
            }
        }
        Ok(())
    }

    /// Moves the pins of the programs that run now aside, so that they can be put back.
    pub(super) fn old_programs(&mut self) -> Result<OldPrograms, LoadError> {
        let mut moved = BTreeMap::new();
        if !self.is_reload {
            return Ok(moved);
        }
        // All that are there: the new gateway may want others.
        for name in self.pins.programs() {
            if name.ends_with(OLD) {
                continue;
            }
            let from = self.pins.program(&name);
            let aside = self.pins.program(&format!("{name}{OLD}"));
            let failed = |source| PinError::File {
                action: "move",
                path: from.clone(),
                source,
            };
            self.pins.remove_program(&format!("{name}{OLD}"))?;
            fs::rename(&from, &aside).map_err(failed)?;
            let (back, to) = (aside.clone(), from);
            self.undo.push(format!("keep the old program {name}"), move || {
                let _ = fs::remove_file(&to);
                fs::rename(&back, &to).map_err(Into::into)
            });
            moved.insert(name, aside);
        }
        Ok(moved)
    }

    pub(super) fn pin_programs(&mut self, ebpf: &mut Ebpf, old: &OldPrograms) -> Result<(), LoadError> {
        for name in self.programs() {
            if !old.contains_key(name) {
                let pins = self.pins.clone();
                self.undo.push(format!("remove the pin of {name}"), move || {
                    pins.remove_program(name).map_err(Into::into)
                });
            }
            let program = ebpf.program_mut(name).ok_or(ProgramLoadError::NoProgram(name))?;
            program
                .pin(self.pins.program(name))
                .map_err(|source| LoadError::PinProgram { name, source })?;
        }
        Ok(())
    }

    /// Waits for each program to show that it runs.
    pub(super) fn prove(&mut self) -> Result<(), LoadError> {
        let nics: Vec<Interface> = self.ports.iter().map(|port| port.nic.clone()).collect();
        let neighbours: Vec<_> = self
            .hops
            .resolved
            .iter()
            .map(|found| (found.hop.ifindex, found.neighbour))
            .collect();
        let mode = mode_name(self.gateway.mode);
        for (name, proof) in prove::prove(&self.netlink, &self.tables, &nics, &neighbours)? {
            match proof {
                Proof::Proven => self.done.messages.push(format!("{name}: {mode} XDP, runs")),
                Proof::Silent => {
                    self.done.messages.push(format!("{name}: {mode} XDP, attached"));
                    self.done.warnings.push(format!(
                        "no frame has arrived on {name} yet; packets are forwarded to it from the first one on"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Where filters stay by themselves, those on an earlier load's device have to be taken off; links have gone with their pins.
    fn leave_old_tunnel(&mut self) {
        let old = self.before.as_ref().and_then(|before| before.tunnel.as_ref());
        if let Some(old) = old.filter(|old| old.device != self.gateway.tunnel.device)
            && let Err(error) = classify::remove_filters(&old.device)
        {
            self.done.warnings.push(error.to_string());
        }
    }

    /// Takes the programs off interfaces that are not in the configuration any longer, and drops the old programs' pins.
    pub(super) fn detach_others(&mut self, was_open: bool) {
        // Nothing may be redirected to others any longer: without a program the kernel drops such frames without a word.
        if let Err(error) = self.forget_other_links() {
            self.done.warnings.push(error.to_string());
        }
        for name in self.pins.linked_interfaces() {
            if self.ports.iter().any(|port| port.nic.name == name) {
                continue;
            }
            match self.pins.remove_link(&name) {
                Ok(()) => self.done.messages.push(format!("detached from {name}")),
                Err(error) => self
                    .done
                    .warnings
                    .push(format!("{name} is not in the configuration any longer, but {error}")),
            }
        }
        self.leave_old_tunnel();
        self.leave_processors();
        let wanted = self.programs();
        for name in self
            .pins
            .programs()
            .into_iter()
            .filter(|name| !wanted.contains(&name.as_str()))
        {
            if let Err(error) = self.pins.remove_program(&name) {
                self.done.warnings.push(error.to_string());
            }
        }
        if self.is_reload && !was_open {
            self.done
                .messages
                .push("forwarding was switched off and is on again".to_owned());
        }
    }
    fn forget_other_links(&self) -> Result<(), TableError> {
        for index in self.tables.linked()? {
            if !self.ports.iter().any(|port| port.nic.index == index) {
                self.tables.set_link_words(index, [0; 2])?;
            }
        }
        Ok(())
    }
}

/// Attaches a program to a NIC that has none of ours; what is pinned in its name is of one that is gone.
fn attach_anew(
    pins: &PinFolder,
    undo: &mut Undo,
    program: &mut Xdp,
    nic: &Interface,
    mode: Mode,
) -> Result<(), LoadError> {
    pins.remove_link(&nic.name)?;
    attach::attach(pins, program, nic, mode)?;
    let (pins, name) = (pins.clone(), nic.name.clone());
    undo.push(format!("detach from {name}"), move || {
        pins.remove_link(&name).map_err(Into::into)
    });
    Ok(())
}

pub(super) fn cannot_open(name: &'static str, error: ProgramError) -> LoadError {
    LoadError::OpenProgram {
        name,
        source: Box::new(error),
    }
}
