//! Owns taking a gateway out of the kernel, whole or half: what is there goes, what is not there is no error.

use super::{
    classify,
    load::Done,
    maps::{Opening, Tables},
    pin::{PinError, PinFolder, refuse_other_layouts},
};
use crate::{
    host::{
        address, neighbour,
        state::{State, StateError},
        tunnel,
    },
    instance::{Instance, LockError},
    kernel::{self, KernelError},
    netlink::{Netlink, NetlinkError},
    post::{self, Post, PostError},
    tunnel::process,
};

/// Why something is left.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum UnloadError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Post(#[from] PostError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    State(#[from] StateError),
}

/// Takes a gateway out: gate, links, maps, then what `load` made on the machine.
///
/// # Errors
/// [`UnloadError`]; what could be taken out is out then.
pub fn unload(instance: &Instance) -> Result<Done, UnloadError> {
    kernel::check_root("unload")?;
    let mut done = Done::default();
    // Before everything else: it would put back what is taken away here, and holds the lock while it loads.
    if let Some(pid) = post::stop(Post::Run, instance)? {
        done.messages.push(format!("ended `mape-ctl run` (process {pid})"));
    }
    let _lock = instance.lock()?;
    refuse_other_layouts(instance)?;
    let pins = PinFolder::new(instance);
    let state = State::read(instance);
    if let Some(state) = &state {
        begin(instance, state)?;
    }
    match process::stop(instance) {
        Ok(Some(pid)) => done.messages.push(format!("ended `mape-ctl tunnel` (process {pid})")),
        Ok(None) => {}
        // The device goes anyhow, and then the process has nothing to read.
        Err(error) => done.warnings.push(error.to_string()),
    }
    let elsewhere = state
        .as_ref()
        .is_some_and(|state| Some(state.network_namespace) != kernel::network_namespace());
    if pins.exists() {
        // Half of the maps may be gone; closing the gate only spares the packets of the next moment.
        let _ = Tables::new(&pins).set_gate(Opening::Closed);
        if !elsewhere {
            remove_filters(&pins, state.as_ref(), &mut done)?;
        }
        let links = pins.linked_interfaces();
        pins.remove()?;
        done.messages.push(format!("unloaded instance {instance}"));
        done.messages
            .extend(links.into_iter().map(|name| format!("detached from {name}")));
    }
    if elsewhere {
        // Namespaces are gone with their devices more often than not; their numbers may be another's by then.
        done.warnings.push(format!(
            "instance {instance} was loaded in another network namespace: its tunnel device and address, if they are still there, stay"
        ));
    } else {
        restore_host(instance, state.as_ref(), &mut done)?;
    }
    State::remove(instance)?;
    if done.messages.is_empty() && done.warnings.is_empty() {
        done.messages.push(format!("instance {instance}: nothing is loaded"));
    }
    Ok(done)
}

/// Has the record say that the gateway is being taken out: a `load` after an unload that was killed knows then what is still to be
/// removed, and that nobody wants the forwards of commands any longer.
fn begin(instance: &Instance, state: &State) -> Result<(), StateError> {
    let mut ending = state.clone();
    ending.forwards.clear();
    if !state.unfinished {
        // A device of that name that has no mark is another's.
        ending.tunnel.iter_mut().for_each(|tunnel| tunnel.made = false);
    }
    ending.unfinished = true;
    ending.write(instance)
}

/// Takes the tc programs off a tunnel device that stays and off the NICs, where nothing does it with the pins. A `load` that was killed may have left no
/// record: the configuration in the kernel says which device it was, too.
fn remove_filters(pins: &PinFolder, state: Option<&State>, done: &mut Done) -> Result<(), NetlinkError> {
    let index = Tables::new(pins).config().map_or(0, |config| config.tunnel_ifindex);
    let recorded = state
        .and_then(|state| state.tunnel.as_ref())
        .map(|record| record.device.as_str());
    let interfaces = Netlink::open()?.interfaces()?;
    let linked = pins.linked_interfaces();
    let devices = interfaces
        .iter()
        .filter(|found| found.index == index || recorded == Some(found.name.as_str()) || linked.contains(&found.name));
    for device in devices {
        if let Err(error) = classify::remove_filters(&device.name) {
            done.warnings.push(error.to_string());
        }
    }
    Ok(())
}

fn restore_host(instance: &Instance, state: Option<&State>, done: &mut Done) -> Result<(), NetlinkError> {
    let netlink = Netlink::open()?;
    if tunnel::remove_unmarked(&netlink, state)? {
        done.messages
            .push("removed the tunnel device of a load that was killed".to_owned());
    }
    for device in tunnel::made_by(&netlink, instance)? {
        if tunnel::remove(&netlink, instance, &device)? {
            done.messages.push(format!("removed the tunnel device {device}"));
        }
    }
    if let Some(state) = state {
        neighbour::forget(&netlink, &state.neighbours)?;
    }
    for made in state.iter().flat_map(|state| &state.addresses) {
        if address::remove(&netlink, made)? {
            done.messages
                .push(format!("removed {}/{} from {}", made.address, made.len, made.interface));
        }
    }
    Ok(())
}
