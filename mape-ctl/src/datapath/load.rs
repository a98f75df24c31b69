//! Owns putting a gateway into the kernel, or changing one that is there: all of it, or nothing.
//!
//! Order: look at everything, make what the machine lacks, fill the maps with the gate closed, attach, prove that the
//! programs run, open the gate. Each step leaves its reverse in an [`Undo`], which failure carries out.

use std::{collections::BTreeMap, io, rc::Rc};

use aya::{
    Ebpf,
    programs::{ProgramError, Xdp},
};
use aya_obj::programs::XdpAttachType;
use mape_common::{
    hop::{Link, Mac},
    layout::{Config, SweepOrder, programs as names},
    nat::port::PortState,
};

use super::{
    attach::{self, AttachError, mode_name},
    hops::{Hops, HopsError},
    maps::{RuleTables, TableError, Tables},
    pin::{self, PinError, PinFolder},
    programs::{self, LoadError as ProgramLoadError, Sizes},
    prove::{self, Proof, ProveError},
    sweep::{SweepError, Sweeper},
    tables,
};
use crate::{
    gateway::{Gateway, Role},
    host::{
        address,
        nic::{self, NicError},
        state::{self, State, StateError},
        tunnel::{self, TunnelError},
    },
    instance::{BadName, Instance, LockError},
    kernel::{self, KernelError},
    netlink::{Netlink, NetlinkError, link::Interface},
    object::object,
    undo::Undo,
};

/// Bytes of the outer header.
const OVERHEAD: u32 = 40;

/// Why the gateway is not in the kernel; everything is as it was before.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum LoadError {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Nic(#[from] NicError),
    #[error(transparent)]
    Hops(#[from] HopsError),
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Programs(#[from] ProgramLoadError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Prove(#[from] ProveError),
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot pin the program {name}")]
    PinProgram { name: &'static str, source: aya::pin::PinError },
    #[error("cannot open the loaded program {name}; if the gateway is half gone, `mape-ctl unload` cleans up")]
    OldProgram { name: &'static str, source: Box<ProgramError> },
    #[error("the kernel gives no random numbers")]
    Random(#[source] io::Error),
    #[error(
        "packets of {mtu} bytes in the tunnel need an MTU of {} on {wan}, which has {wan_mtu}; set tunnel.mtu = {}",
        u32::from(*.mtu) + OVERHEAD,
        .wan_mtu.saturating_sub(OVERHEAD)
    )]
    Mtu { mtu: u16, wan: String, wan_mtu: u32 },
    #[error("instance {0} is loaded in another network namespace; unload it there, or give this one another name (--instance)")]
    OtherNamespace(Instance),
    #[error("instance {instance} is loaded as {loaded}, not as {wanted}; unload it first")]
    OtherRole { instance: Instance, loaded: &'static str, wanted: &'static str },
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// What was done, line by line.
    pub messages: Vec<String>,
    /// What an operator should look at.
    pub warnings: Vec<String>,
    /// Part of the gateway cannot work as configured.
    pub partly: bool,
}

/// An interface and the program that belongs there.
struct Port {
    nic: Interface,
    program: &'static str,
}

/// The word for a role, as in the configuration.
pub const fn role_name(role: Role) -> &'static str {
    match role {
        Role::CustomerEdge => "ce",
        Role::BorderRelay => "br",
    }
}

/// Puts the gateway into the kernel. One that is there is changed; its sessions stay where the line is the same.
///
/// # Errors
/// [`LoadError`]; nothing is changed then.
pub fn load(gateway: &Gateway) -> Result<Done, LoadError> {
    let instance: Instance = gateway.instance.parse()?;
    kernel::check("load")?;
    let _lock = instance.lock()?;
    let mut loading = Loading::start(gateway, instance)?;
    loading.prepare_host()?;
    loading.into_kernel()
}

/// Everything that the steps share.
struct Loading<'a> {
    gateway: &'a Gateway,
    instance: Instance,
    netlink: Rc<Netlink>,
    pins: PinFolder,
    tables: Tables,
    ports: Vec<Port>,
    wan: Interface,
    hops: Hops,
    sizes: Sizes,
    is_reload: bool,
    before: Option<State>,
    state: State,
    tunnel_ifindex: u32,
    done: Done,
    // Last: what is taken back may still need what stands above.
    undo: Undo,
}

impl<'a> Loading<'a> {
    /// Looks at everything and changes nothing, but for the BPF file system, which may be mounted.
    fn start(gateway: &'a Gateway, instance: Instance) -> Result<Self, LoadError> {
        let mut done = Done { warnings: kernel::warnings(), ..Done::default() };
        if kernel::ensure_bpffs()? {
            done.messages.push(format!("mounted the BPF file system on {}", kernel::BPFFS));
        }
        pin::refuse_other_layouts(&instance)?;
        let pins = PinFolder::new(&instance);
        let is_reload = pins.exists();
        let netlink = Rc::new(Netlink::open()?);
        // Without pins, what is left of an earlier load is told by its tunnel device; a record alone may be from another place.
        let is_left = is_reload || !tunnel::made_by(&netlink, &instance)?.is_empty();
        let before = State::read(&instance).filter(|_| is_left);
        let network_namespace = kernel::network_namespace().unwrap_or(0);
        if is_reload {
            refuse_other_place(&instance, before.as_ref(), network_namespace, gateway.role)?;
        }
        let interfaces = netlink.interfaces()?;
        let (ports, wan) = ports(gateway, &interfaces)?;
        for port in &ports {
            attach::check_free(&pins, &port.nic, gateway.mode)?;
            done.warnings.extend(nic::warnings(&interfaces, &port.nic));
        }
        if u32::from(gateway.tunnel.mtu) + OVERHEAD > wan.mtu {
            return Err(LoadError::Mtu { mtu: gateway.tunnel.mtu, wan: wan.name, wan_mtu: wan.mtu });
        }
        let max_ifindex = interfaces.iter().map(|interface| interface.index).max().unwrap_or(0);
        let sizes = tables::sizes(gateway, max_ifindex);
        if is_reload {
            programs::check_pinned(&pins, &sizes)?;
        }
        let hops = Hops::resolve(&netlink, gateway, &wan)?;
        done.warnings.extend(hops.warnings.iter().cloned());
        done.partly = hops.unreachable > 0;
        let state = State {
            role: role_name(gateway.role).to_owned(),
            network_namespace,
            loaded_at: before.as_ref().filter(|_| is_reload).map_or_else(state::uptime, |before| before.loaded_at),
            far_hops: hops.records(),
            ..State::default()
        };
        let tables = Tables::new(&pins);
        let undo = Undo::default();
        Ok(Self {
            gateway,
            instance,
            netlink,
            pins,
            tables,
            ports,
            wan,
            hops,
            sizes,
            is_reload,
            before,
            state,
            tunnel_ifindex: 0,
            done,
            undo,
        })
    }

    /// Makes what the machine lacks: tunnel device and its routes, the tunnel's address, forwarding.
    fn prepare_host(&mut self) -> Result<(), LoadError> {
        let gateway = self.gateway;
        let mut forwarding: Vec<String> = self.ports.iter().map(|port| port.nic.name.clone()).collect();
        let address = match &gateway.domain {
            Some(domain) => {
                forwarding.retain(|name| gateway.lan.contains(name));
                forwarding.push(gateway.tunnel.device.clone());
                let old = self.before.as_ref().and_then(|before| before.tunnel.as_ref());
                let ready = tunnel::ensure(&self.netlink, &mut self.undo, &self.instance, &gateway.tunnel, old)?;
                self.tunnel_ifindex = ready.interface.index;
                self.sizes.max_ifindex = self.sizes.max_ifindex.max(ready.interface.index);
                self.state.tunnel = Some(ready.record);
                self.done.messages.extend(ready.messages);
                self.done.warnings.extend(ready.warnings);
                domain.ce_address()
            }
            None => gateway.relay,
        };
        for name in forwarding {
            if !kernel::forwards_ipv4(&name) {
                kernel::forward_ipv4(&name)?;
                self.done.messages.push(format!("switched IPv4 forwarding on for {name} (net/ipv4/conf/{name}/forwarding)"));
            }
        }
        let (made, note) = address::ensure(&self.netlink, &mut self.undo, &self.wan, address)?;
        if let Some(made) = &made {
            self.done.messages.push(format!("added {}/{} to {}", made.address, made.len, made.interface));
        }
        self.done.warnings.extend(note);
        // What an earlier load has added and is still there stays on the list of what unload removes.
        let earlier = self.before.iter().flat_map(|before| before.addresses.clone());
        self.state.addresses = earlier.filter(|old| Some(old) != made.as_ref()).chain(made.clone()).collect();
        Ok(())
    }

    /// Fills the maps, attaches, proves and opens the gate.
    fn into_kernel(mut self) -> Result<Done, LoadError> {
        if !self.is_reload {
            let pins = self.pins.clone();
            self.undo.push("remove the pins", move || pins.remove().map_err(Into::into));
            self.pins.create()?;
        }
        let mut ebpf = programs::load(object(), &self.pins, &self.sizes)?;
        self.load_programs(&mut ebpf)?;
        let was_open = self.close_gate()?;
        self.fill()?;
        self.attach(&mut ebpf)?;
        self.pin_programs(&mut ebpf)?;
        self.prove()?;
        if self.gateway.role == Role::CustomerEdge {
            Sweeper::open(&self.pins)?.arm()?;
        }
        self.remember()?;
        self.tables.set_gate(true)?;
        self.detach_others(was_open);
        self.forget_addresses();
        self.summarise();
        self.undo.keep();
        Ok(self.done)
    }

    /// The programs that this gateway runs; the verifier sees them before anything of a running gateway is touched.
    fn programs(&self) -> Vec<&'static str> {
        let mut wanted: Vec<&'static str> = self.ports.iter().map(|port| port.program).collect();
        if self.gateway.role == Role::CustomerEdge {
            wanted.push(names::SWEEP);
        }
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    fn load_programs(&self, ebpf: &mut Ebpf) -> Result<(), LoadError> {
        for name in self.programs() {
            programs::program(ebpf, name)?;
        }
        Ok(())
    }

    /// Closes the gate of a running gateway; its reverse comes last of all, when everything else is as it was.
    fn close_gate(&mut self) -> Result<bool, LoadError> {
        let was_open = self.tables.is_gate_open()?;
        if was_open {
            let tables = self.tables.clone();
            self.undo.push("open the gate again", move || tables.set_gate(true).map_err(Into::into));
            self.tables.set_gate(false)?;
        }
        Ok(was_open)
    }

    /// Writes every map, keeping the sessions of a running gateway where they are still right.
    fn fill(&mut self) -> Result<(), LoadError> {
        let gateway = self.gateway;
        let old = if self.is_reload { Some(self.tables.config()?).filter(|config| config.tunnel_mtu != 0) } else { None };
        let key = match &old {
            Some(old) => old.hash_key,
            None => tables::secret().map_err(LoadError::Random)?,
        };
        let new = tables::config(gateway, self.tunnel_ifindex, key);
        if self.is_reload {
            self.note_old_tables()?;
        }
        if let Some(domain) = &gateway.domain {
            let set = domain.port_set();
            let reserved = &gateway.nat.reserved_ports;
            match &old {
                Some(old) if tables::keeps_sessions(old, &new) && self.same_rules()? && self.same_reserved(old)? => {}
                Some(old) => {
                    let ended = Sweeper::open(&self.pins)?.flush(&SweepOrder::default())?;
                    self.done.messages.push(format!("the line or its ports have changed: {ended} sessions were ended"));
                    self.clear_ports(old)?;
                    self.tables.set_ports(tables::fresh_ports(&set, reserved))?;
                }
                None => {
                    self.tables.fill_free_slots(new.sessions)?;
                    self.tables.set_ports(tables::fresh_ports(&set, reserved))?;
                }
            }
        }
        self.tables.set_rules(&self.hops.rules)?;
        self.tables.set_far_hops(&self.hops.words(state::now()))?;
        for port in &self.ports {
            let [words, flags] = Link::words(port.nic.mac.unwrap_or(Mac([0; 6])), port.nic.mtu_u16());
            // A link that has been proven stays so: its program is replaced, not attached anew.
            let known = self.tables.link(port.nic.index)?;
            let kept = if self.is_attached(&port.nic.name) && known.proven { flags | Link::ALIVE } else { flags };
            self.tables.set_link_words(port.nic.index, [words, kept])?;
        }
        self.tables.set_config(&new)?;
        Ok(())
    }

    /// Notes how to give a running gateway back what it had.
    fn note_old_tables(&mut self) -> Result<(), LoadError> {
        let (config, rules, hops) = (self.tables.config()?, self.tables.rules()?, self.tables.far_hops()?);
        let tables = self.tables.clone();
        self.undo.push("restore the configuration", move || {
            tables.set_rules(&rules)?;
            tables.set_far_hops(&hops)?;
            tables.set_config(&config)?;
            Ok(())
        });
        Ok(())
    }

    /// Whether packets to the same addresses have the same far ends as before; next hops may differ.
    fn same_rules(&self) -> Result<bool, LoadError> {
        let plain = |tables: RuleTables| {
            let mut forwarding: Vec<_> = tables.by_ipv4.iter().map(|(len, prefix, found)| (*len, *prefix, found.rule)).collect();
            forwarding.sort_unstable();
            (tables.rules, forwarding)
        };
        Ok(plain(self.tables.rules()?) == plain(self.hops.rules.clone()))
    }

    fn same_reserved(&self, old: &Config) -> Result<bool, LoadError> {
        let wanted = tables::reserved_ordinals(&old.port_set, &self.gateway.nat.reserved_ports);
        let mut now = Vec::new();
        for ordinal in 0..old.ports {
            if PortState::from_word(self.tables.port(ordinal)?) == PortState::Reserved {
                now.push(ordinal);
            }
        }
        Ok(now == wanted)
    }

    /// Empties the port states of a gateway whose sessions have been ended: the rows may be of another length now.
    fn clear_ports(&self, old: &Config) -> Result<(), LoadError> {
        Ok(self.tables.set_ports((0..old.ports.saturating_mul(3)).map(|index| (index, 0)))?)
    }

    fn is_attached(&self, interface: &str) -> bool {
        self.is_reload && self.pins.link(interface).exists()
    }

    /// Puts each program on its interface.
    fn attach(&mut self, ebpf: &mut Ebpf) -> Result<(), LoadError> {
        let old = self.old_programs()?;
        for port in &self.ports {
            let program: &mut Xdp = ebpf
                .program_mut(port.program)
                .and_then(|program| program.try_into().ok())
                .ok_or(ProgramLoadError::NoProgram(port.program))?;
            let name = port.nic.name.clone();
            let pins = self.pins.clone();
            if self.is_attached(&name) {
                attach::replace(&self.pins, program, &name)?;
                let path = old.get(port.program).cloned();
                self.undo.push(format!("put the old program back on {name}"), move || {
                    let Some(path) = path else { return Ok(()) };
                    let mut program = Xdp::from_pin(path, XdpAttachType::Interface)?;
                    attach::replace(&pins, &mut program, &name)?;
                    Ok(())
                });
            } else {
                attach::attach(&self.pins, program, &port.nic, self.gateway.mode)?;
                self.undo.push(format!("detach from {name}"), move || pins.remove_link(&name).map_err(Into::into));
            }
        }
        Ok(())
    }

    /// Moves the pins of the programs that run now aside, so that they can be put back.
    fn old_programs(&mut self) -> Result<BTreeMap<&'static str, std::path::PathBuf>, LoadError> {
        let mut moved = BTreeMap::new();
        if !self.is_reload {
            return Ok(moved);
        }
        for name in self.programs() {
            let from = self.pins.program(name);
            if !from.exists() {
                continue;
            }
            let aside = self.pins.program(&format!("{name}-old"));
            let failed = |source| PinError::File { action: "move", path: from.clone(), source };
            self.pins.remove_program(&format!("{name}-old"))?;
            std::fs::rename(&from, &aside).map_err(failed)?;
            let (back, to) = (aside.clone(), from);
            self.undo.push(format!("keep the old program {name}"), move || {
                let _ = std::fs::remove_file(&to);
                std::fs::rename(&back, &to).map_err(Into::into)
            });
            moved.insert(name, aside);
        }
        Ok(moved)
    }

    fn pin_programs(&self, ebpf: &mut Ebpf) -> Result<(), LoadError> {
        for name in self.programs() {
            let program = ebpf.program_mut(name).ok_or(ProgramLoadError::NoProgram(name))?;
            program.pin(self.pins.program(name)).map_err(|source| LoadError::PinProgram { name, source })?;
        }
        Ok(())
    }

    /// Waits for each program to show that it runs.
    fn prove(&mut self) -> Result<(), LoadError> {
        let nics: Vec<Interface> = self.ports.iter().map(|port| port.nic.clone()).collect();
        let neighbours: Vec<_> = self.hops.resolved.iter().map(|found| (found.hop.ifindex, found.neighbour)).collect();
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

    fn remember(&mut self) -> Result<(), LoadError> {
        let (instance, before) = (self.instance.clone(), self.before.clone());
        self.undo.push("restore the record of what was made", move || match before {
            Some(before) => before.write(&instance).map_err(Into::into),
            None => State::remove(&instance).map_err(Into::into),
        });
        Ok(self.state.write(&self.instance)?)
    }

    /// Takes the programs off interfaces that are not in the configuration any longer, and drops the old programs' pins.
    fn detach_others(&mut self, was_open: bool) {
        for name in self.pins.linked_interfaces() {
            if self.ports.iter().any(|port| port.nic.name == name) {
                continue;
            }
            // Nothing may be redirected to it any longer: without a program the kernel drops such frames without a word.
            if let Ok(Some(gone)) = self.netlink.interface(&name)
                && let Err(error) = self.tables.set_link_words(gone.index, [0; 2])
            {
                self.done.warnings.push(error.to_string());
            }
            match self.pins.remove_link(&name) {
                Ok(()) => self.done.messages.push(format!("detached from {name}")),
                Err(error) => self.done.warnings.push(format!("{name} is not in the configuration any longer, but {error}")),
            }
        }
        let wanted = self.programs();
        for name in self.pins.programs().into_iter().filter(|name| !wanted.contains(&name.as_str())) {
            if let Err(error) = self.pins.remove_program(&name) {
                self.done.warnings.push(error.to_string());
            }
        }
        if self.is_reload && !was_open {
            self.done.messages.push("forwarding was switched off and is on again".to_owned());
        }
    }

    /// Removes addresses that an earlier load added for a line that is not this one's any longer.
    fn forget_addresses(&mut self) {
        let own = self.gateway.domain.as_ref().map_or(self.gateway.relay, mape_common::map::domain::Domain::ce_address);
        let (kept, old): (Vec<_>, Vec<_>) = std::mem::take(&mut self.state.addresses)
            .into_iter()
            .partition(|made| made.address == own && made.interface == self.wan.name);
        self.state.addresses = kept;
        if old.is_empty() {
            return;
        }
        for made in old {
            match address::remove(&self.netlink, &made) {
                Ok(_) => self.done.messages.push(format!("removed {} from {}", made.address, made.interface)),
                Err(error) => self.done.warnings.push(format!("{error} from {}", made.interface)),
            }
        }
        if let Err(error) = self.state.write(&self.instance) {
            self.done.warnings.push(error.to_string());
        }
    }

    fn summarise(&mut self) {
        let verb = if self.is_reload { "reloaded" } else { "loaded" };
        let what = match &self.gateway.domain {
            Some(domain) => format!(
                "customer edge {}, {}, {} ports (PSID {}), border relay {}",
                domain.ce_address(),
                domain.ipv4(),
                domain.port_set().len(),
                domain.port_set().psid().0,
                self.gateway.relay
            ),
            None => format!("border relay {}, {} rules", self.gateway.relay, self.gateway.rules.len()),
        };
        self.done.messages.insert(0, format!("{verb} instance {}: {what}", self.instance));
    }
}

/// Refuses to change a gateway from a place or into a role where its devices would not be found.
fn refuse_other_place(instance: &Instance, before: Option<&State>, here: u64, role: Role) -> Result<(), LoadError> {
    let Some(before) = before else { return Ok(()) };
    if before.network_namespace != here {
        return Err(LoadError::OtherNamespace(instance.clone()));
    }
    let wanted = role_name(role);
    if before.role != wanted {
        let loaded = if before.role == "br" { "br" } else { "ce" };
        return Err(LoadError::OtherRole { instance: instance.clone(), loaded, wanted });
    }
    Ok(())
}

/// The interfaces and which program each gets, and the WAN among them.
fn ports(gateway: &Gateway, interfaces: &[Interface]) -> Result<(Vec<Port>, Interface), NicError> {
    let (lan, wan, both) = match gateway.role {
        Role::CustomerEdge => (names::LAN, names::WAN, names::ONE_ARM),
        Role::BorderRelay => (names::RELAY_V4, names::RELAY_V6, names::RELAY_ONE_ARM),
    };
    let mut ports = Vec::new();
    for name in &gateway.lan {
        let program = if *name == gateway.wan { both } else { lan };
        ports.push(Port { nic: nic::find(interfaces, name)?, program });
    }
    let uplink = nic::find(interfaces, &gateway.wan)?;
    if !gateway.lan.contains(&gateway.wan) {
        ports.push(Port { nic: uplink.clone(), program: wan });
    }
    Ok((ports, uplink))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::{
        gateway::{Mode, Nat, Seconds, Tunnel},
        host::nic::tests::nic as interface,
    };

    fn relay(lan: &[&str], wan: &str, role: Role) -> Gateway {
        Gateway {
            instance: "test".to_owned(),
            role,
            lan: lan.iter().map(|name| (*name).to_owned()).collect(),
            wan: wan.to_owned(),
            mode: Mode::Native,
            domain: None,
            relay: Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1),
            rules: Vec::new(),
            tunnel: Tunnel { device: "mape0".to_owned(), mtu: 1460, mss: Some(1420), copy_dscp: true, routes: Vec::new() },
            nat: Nat {
                sessions: 0,
                udp_endpoint_independent: true,
                tcp_endpoint_independent: false,
                overlap_ports: vec![53],
                reserved_ports: Vec::new(),
                external_address: None,
                timeouts: Seconds::default(),
            },
        }
    }

    fn chosen(lan: &[&str], wan: &str, role: Role) -> Vec<(String, &'static str)> {
        let there = [interface(1, "a"), interface(2, "b"), interface(3, "w")];
        let (ports, uplink) = ports(&relay(lan, wan, role), &there).unwrap();
        assert_eq!(uplink.name, wan);
        ports.into_iter().map(|port| (port.nic.name, port.program)).collect()
    }

    #[test]
    fn every_interface_gets_the_program_of_its_side() {
        let own = |name: &str, program| (name.to_owned(), program);
        assert_eq!(
            chosen(&["a", "b"], "w", Role::CustomerEdge),
            [own("a", names::LAN), own("b", names::LAN), own("w", names::WAN)]
        );
        assert_eq!(chosen(&["w"], "w", Role::CustomerEdge), [own("w", names::ONE_ARM)]);
        assert_eq!(chosen(&["a", "w"], "w", Role::CustomerEdge), [own("a", names::LAN), own("w", names::ONE_ARM)]);
        assert_eq!(chosen(&["a"], "w", Role::BorderRelay), [own("a", names::RELAY_V4), own("w", names::RELAY_V6)]);
        assert_eq!(chosen(&["w"], "w", Role::BorderRelay), [own("w", names::RELAY_ONE_ARM)]);
    }

    #[test]
    fn a_gateway_of_another_place_or_role_is_left_alone() {
        let instance = Instance::default();
        let before = State { role: "ce".to_owned(), network_namespace: 5, ..State::default() };
        let refuse = |here, role| refuse_other_place(&instance, Some(&before), here, role);
        assert!(refuse(5, Role::CustomerEdge).is_ok());
        assert!(matches!(refuse(6, Role::CustomerEdge), Err(LoadError::OtherNamespace(_))));
        assert!(matches!(refuse(5, Role::BorderRelay), Err(LoadError::OtherRole { loaded: "ce", wanted: "br", .. })));
        assert!(refuse_other_place(&instance, None, 6, Role::BorderRelay).is_ok());
    }

    #[test]
    fn a_tunnel_that_does_not_fit_says_what_would() {
        let error = LoadError::Mtu { mtu: 1460, wan: "wan0".to_owned(), wan_mtu: 1492 }.to_string();
        assert!(error.contains("need an MTU of 1500 on wan0") && error.ends_with("set tunnel.mtu = 1452"), "{error}");
    }
}
