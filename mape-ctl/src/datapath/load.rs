//! Owns putting a gateway into the kernel, or changing one that is there: all of it, or nothing.
//!
//! Order: look at everything, make what the machine lacks, fill the maps with the gate closed, attach, prove that the
//! programs run, open the gate. Each step leaves its reverse in an [`Undo`], which failure carries out.

mod fill;
mod links;
mod machine;
mod spread;

use std::{
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mape_common::layout::programs as names;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use super::{
    attach::{self, AttachError},
    classify::ClassifyError,
    forwards::{self, ForwardsError},
    hops::{Hops, HopsError},
    maps::{Opening, TableError, Tables},
    pin::{self, PinError, PinFolder},
    programs::{self, LoadError as ProgramLoadError, Sizes},
    prove::ProveError,
    sweep::{SweepError, Sweeper},
    tables,
};
use crate::{
    gateway::{Gateway, Ipv6Forward, Mode, Role, Spread},
    host::{
        nic::{self, NicError},
        processor::Processors,
        state::{self, State, StateError},
        tunnel::{self, TunnelError},
        virtio,
    },
    instance::{BadName, Instance, LockError},
    kernel::{self, KernelError},
    netlink::{Netlink, NetlinkError, link::Interface},
    object::object,
    post::{self, Post},
    undo::Undo,
};

/// Bytes of the outer header.
pub const OVERHEAD: u32 = 40;

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
    Classify(#[from] ClassifyError),
    #[error(transparent)]
    Prove(#[from] ProveError),
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error(transparent)]
    Forwards(#[from] ForwardsError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot pin the program {name}")]
    PinProgram {
        name: &'static str,
        source: aya::pin::PinError,
    },
    #[error("cannot open the pinned program {name}")]
    OpenProgram {
        name: &'static str,
        source: Box<aya::programs::ProgramError>,
    },
    #[error("interrupted")]
    Interrupted,
    #[error(
        "`mape-ctl run` (process {pid}) looks after instance {instance}: change its configuration and have it read that again \
         (kill -HUP {pid}, or systemctl reload), or end it first"
    )]
    LookedAfter { instance: Instance, pid: i32 },
    #[error("the kernel does not say which processors are online")]
    Processors(#[source] io::Error),
    #[error("spread names the processors {missing}, which are not online; these are: {online}")]
    NotOnline { missing: Processors, online: Processors },
    #[error("cannot watch for signals")]
    Signals(#[source] io::Error),
    #[error("the kernel gives no random numbers")]
    Random(#[source] io::Error),
    #[error(
        "packets of {mtu} bytes in the tunnel need an MTU of {} on {wan}, which has {wan_mtu}; set tunnel.mtu = {}",
        u32::from(*.mtu) + OVERHEAD,
        .wan_mtu.saturating_sub(OVERHEAD)
    )]
    Mtu { mtu: u16, wan: String, wan_mtu: u32 },
    #[error(
        "instance {0} is loaded in another network namespace; unload it there, or give this one another name (--instance)"
    )]
    OtherNamespace(Instance),
    #[error("instance {instance} is loaded as {loaded}, not as {wanted}; unload it first")]
    OtherRole {
        instance: Instance,
        loaded: &'static str,
        wanted: &'static str,
    },
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
    /// The tunnel device, where a process has to carry its packets.
    pub carried: Option<String>,
}

/// A gateway in the kernel, and what it was made from that may be another thing later.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What was done.
    pub done: Done,
    /// The next hops.
    pub hops: Hops,
    /// Its NICs, each with the program there.
    pub nics: Vec<(Interface, &'static str)>,
    /// Index of the tunnel device; zero for a border relay.
    pub tunnel: u32,
    /// What was made on the machine.
    pub state: State,
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
    if let Some(pid) = post::holder(Post::Run, &instance) {
        return Err(LoadError::LookedAfter {
            instance,
            pid: pid.as_raw_nonzero().get(),
        });
    }
    let interrupted = watch_signals(&[SIGINT, SIGTERM, SIGHUP]).map_err(LoadError::Signals)?;
    let mut loaded = load_until(gateway, interrupted, Programs::Anew)?;
    if gateway.role == Role::CustomerEdge && gateway.ipv6_forward == Ipv6Forward::Auto {
        loaded.done.messages.push(
            "native IPv6: left to the kernel; only `mape-ctl run` sees to it that XDP bypasses no firewall rules \
             (or ipv6.forward = \"always\")"
                .to_owned(),
        );
    }
    Ok(loaded.done)
}

/// Which programs a gateway is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// This binary's.
    Anew,
    /// Those in the kernel, which are this binary's, as far as they are there: the verifier, which takes most of the time, has seen them.
    AsTheyAre,
}

/// The same for who looks after the gateway, and has its own way of hearing of signals: it is left off, and taken back, when the
/// flag is set.
///
/// # Errors
/// [`LoadError`]; nothing is changed then.
pub fn load_until(gateway: &Gateway, interrupted: Arc<AtomicBool>, programs: Programs) -> Result<Loaded, LoadError> {
    let instance: Instance = gateway.instance.parse()?;
    kernel::check("load")?;
    kernel::check_verifier()?;
    kernel::allow_files()?;
    let _lock = instance.lock()?;
    let mut loading = Loading::start(gateway, instance, interrupted)?;
    loading.check_interrupted()?;
    loading.prepare_host()?;
    if programs == Programs::AsTheyAre && loading.has_programs() {
        loading.into_kernel_again()
    } else {
        loading.into_kernel()
    }
}

/// What the generic layer cannot see: a frame whose sum a NIC was to finish. Changed as if it were finished, it is wrong.
fn unfinished_sums(nic: &str) -> Option<String> {
    virtio::Features::of(nic)?.has_unfinished_sums().then(|| {
        format!(
            "{nic}: TCP and UDP that other machines of the same host send, or that the host has merged, come with unfinished checksums and \
             are damaged in the generic layer; set guest_csum=off, guest_tso4=off and guest_tso6=off for the NIC in the VM's definition"
        )
    })
}

/// From here on a signal does not end the process half-way: the next step finds it and takes everything back.
///
/// # Errors
/// When the kernel refuses.
pub fn watch_signals(signals: &[i32]) -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in signals {
        flag::register(*signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
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
    /// Those that share the packets from the tunnel.
    spread: Processors,
    hops: Hops,
    sizes: Sizes,
    is_reload: bool,
    is_new_line: bool,
    before: Option<State>,
    /// What stands in the record while this load is under way.
    underway: State,
    state: State,
    tunnel: Option<Interface>,
    done: Done,
    interrupted: Arc<AtomicBool>,
    // Last: what is taken back may still need what stands above.
    undo: Undo,
}

impl<'a> Loading<'a> {
    /// Looks at everything and changes nothing, but for the BPF file system, which may be mounted.
    fn start(gateway: &'a Gateway, instance: Instance, interrupted: Arc<AtomicBool>) -> Result<Self, LoadError> {
        let mut done = Done {
            warnings: kernel::warnings(),
            ..Done::default()
        };
        if kernel::ensure_bpffs()? {
            done.messages
                .push(format!("mounted the BPF file system on {}", kernel::BPFFS));
        }
        pin::refuse_other_layouts(&instance)?;
        let pins = PinFolder::new(&instance);
        let tables = Tables::new(&pins);
        let is_reload = pins.exists() && !is_half_made(&pins, &tables);
        let netlink = Rc::new(Netlink::open()?);
        // Without pins, what is left of an earlier load is told by its record, unless that is of another place.
        let network_namespace = kernel::network_namespace().unwrap_or(0);
        let is_left = is_reload || !tunnel::made_by(&netlink, &instance)?.is_empty();
        let before = State::read(&instance).filter(|record| is_left || record.network_namespace == network_namespace);
        if is_reload {
            refuse_other_place(&instance, before.as_ref(), network_namespace, gateway.role)?;
        }
        let interfaces = netlink.interfaces()?;
        let (ports, wan) = ports(gateway, &interfaces)?;
        for port in &ports {
            attach::check_free(&pins, &port.nic, gateway.mode)?;
            done.warnings.extend(nic::warnings(&interfaces, &port.nic));
            if gateway.mode == Mode::Generic {
                done.warnings.extend(unfinished_sums(&port.nic.name));
            }
        }
        if u32::from(gateway.tunnel.mtu) + OVERHEAD > wan.mtu {
            return Err(LoadError::Mtu {
                mtu: gateway.tunnel.mtu,
                wan: wan.name,
                wan_mtu: wan.mtu,
            });
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
            loaded_at: before
                .as_ref()
                .filter(|_| is_reload)
                .map_or_else(state::uptime, |before| before.loaded_at),
            far_hops: hops.records(),
            forwards: match &gateway.domain {
                Some(domain) => {
                    let (all, warnings) = forwards::merge(
                        &gateway.forwards,
                        before.as_ref(),
                        &domain.port_set(),
                        &gateway.nat.reserved_ports,
                    )?;
                    forwards::refuse_own_addresses(&netlink, all.iter().map(|record| &record.forward))?;
                    done.warnings.extend(warnings);
                    all
                }
                None => Vec::new(),
            },
            ..State::default()
        };
        let undo = Undo::default();
        Ok(Self {
            gateway,
            instance,
            netlink,
            pins,
            tables,
            ports,
            wan,
            spread: spread::processors(&gateway.spread)?,
            hops,
            sizes,
            is_reload,
            is_new_line: false,
            underway: before.clone().unwrap_or_else(|| State {
                role: state.role.clone(),
                network_namespace,
                loaded_at: state.loaded_at,
                ..State::default()
            }),
            before,
            state,
            tunnel: None,
            done,
            interrupted,
            undo,
        })
    }

    fn check_interrupted(&self) -> Result<(), LoadError> {
        if self.interrupted.load(Ordering::Relaxed) {
            Err(LoadError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Fills the maps, attaches, proves and opens the gate.
    fn into_kernel(mut self) -> Result<Loaded, LoadError> {
        if !self.is_reload {
            let pins = self.pins.clone();
            self.undo
                .push("remove the pins", move || pins.remove().map_err(Into::into));
            // Half of a gateway may be there, of a load or an unload that was killed.
            self.pins.remove()?;
            self.pins.create()?;
        }
        let mut ebpf = programs::load(object(), &self.pins, &self.sizes)?;
        self.load_programs(&mut ebpf)?;
        self.check_interrupted()?;
        let was_open = self.close_gate()?;
        self.fill()?;
        let old = self.old_programs()?;
        self.enter_stages(&ebpf, &old)?;
        self.spread_anew(&ebpf, &old)?;
        self.attach(&mut ebpf, &old)?;
        self.attach_tunnel(&mut ebpf)?;
        self.route_into_tunnel()?;
        self.pin_programs(&mut ebpf, &old)?;
        self.open(was_open)
    }

    /// The same with the programs that are there.
    fn into_kernel_again(mut self) -> Result<Loaded, LoadError> {
        let was_open = self.close_gate()?;
        self.fill()?;
        self.spread_again()?;
        self.attach_pinned()?;
        self.route_into_tunnel()?;
        self.open(was_open)
    }

    /// Proves that the programs run, and opens the gate.
    fn open(mut self, was_open: bool) -> Result<Loaded, LoadError> {
        self.prove()?;
        self.check_interrupted()?;
        if self.gateway.role == Role::CustomerEdge {
            Sweeper::open(&self.pins)?.arm()?;
            self.settle_ports()?;
        }
        self.write_with_old_neighbours()?;
        self.tables.set_gate(Opening::Whole)?;
        self.detach_others(was_open);
        self.forget_addresses();
        self.forget_neighbours();
        self.summarise();
        self.undo.keep();
        Ok(Loaded {
            done: self.done,
            hops: self.hops,
            nics: self.ports.into_iter().map(|port| (port.nic, port.program)).collect(),
            tunnel: self.tunnel.as_ref().map_or(0, |device| device.index),
            state: self.state,
        })
    }

    /// Has the record say what is going to be made, so that also who is killed right behind that leaves nothing that nobody knows of.
    fn announce(&mut self) -> Result<(), LoadError> {
        let (instance, before) = (self.instance.clone(), self.before.clone());
        self.undo
            .push("restore the record of what was made", move || match before {
                Some(before) => before.write(&instance).map_err(Into::into),
                None => State::remove(&instance).map_err(Into::into),
            });
        self.underway.unfinished = true;
        Ok(self.underway.write(&self.instance)?)
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
            None => format!(
                "border relay {}, {} rules",
                self.gateway.relay,
                self.gateway.rules.len()
            ),
        };
        if self.gateway.role == Role::CustomerEdge {
            let native = match self.gateway.ipv6_forward {
                Ipv6Forward::Always => Some("native IPv6: forwarded in XDP, past all firewall rules (ipv6.forward)"),
                Ipv6Forward::Never => Some("native IPv6: left to the kernel (ipv6.forward)"),
                Ipv6Forward::Auto => None,
            };
            self.done.messages.extend(native.map(ToOwned::to_owned));
            self.done.messages.extend(match self.spread.len() {
                0 => None,
                1 => Some(format!("packets from the tunnel: all for processor {}", self.spread)),
                _ => Some(format!(
                    "packets from the tunnel: shared by the processors {}",
                    self.spread
                )),
            });
        }
        self.done
            .messages
            .insert(0, format!("{verb} instance {}: {what}", self.instance));
    }
}

/// Whether what is pinned is of a load or an unload that was killed: no NIC has a program of ours, and maps are missing or were never
/// filled to the end. Maps half filled are of no use: a free slot would be there twice.
fn is_half_made(pins: &PinFolder, tables: &Tables) -> bool {
    let is_filled = || tables.config().map_or(true, |config| config.tunnel_mtu != 0);
    pins.linked_interfaces().is_empty() && !(pins.has_all_maps() && is_filled())
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
        return Err(LoadError::OtherRole {
            instance: instance.clone(),
            loaded,
            wanted,
        });
    }
    Ok(())
}

/// The interfaces and which program each gets, and the WAN among them.
fn ports(gateway: &Gateway, interfaces: &[Interface]) -> Result<(Vec<Port>, Interface), NicError> {
    let (lan, wan, both) = match gateway.role {
        Role::CustomerEdge if gateway.spread != Spread::None => (names::LAN, names::SPREAD, names::ONE_ARM),
        Role::CustomerEdge => (names::LAN, names::WAN, names::ONE_ARM),
        Role::BorderRelay => (names::RELAY_V4, names::RELAY_V6, names::RELAY_ONE_ARM),
    };
    let mut ports = Vec::new();
    for name in &gateway.lan {
        let program = if *name == gateway.wan { both } else { lan };
        ports.push(Port {
            nic: nic::find(interfaces, name)?,
            program,
        });
    }
    let uplink = nic::find(interfaces, &gateway.wan)?;
    if !gateway.lan.contains(&gateway.wan) {
        ports.push(Port {
            nic: uplink.clone(),
            program: wan,
        });
    }
    Ok((ports, uplink))
}

#[cfg(test)]
mod tests;
