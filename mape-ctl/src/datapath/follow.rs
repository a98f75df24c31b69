//! Owns following the kernel's tables: what a loaded gateway took from them, looked at again and brought up to date.
//!
//! What is one record of a map (a router's MAC address, a NIC's, an MTU) is written while packets flow. What needs programs
//! attached or a device made is `load`'s, and only said here.

use std::{collections::BTreeSet, net::IpAddr, net::Ipv6Addr};

use mape_common::{
    hop::{Link, NextHop},
    map::domain::Domain,
    time::Tick,
};

use super::{
    hops::{Hops, HopsError},
    load::{Loaded, OVERHEAD},
    maps::{TableError, Tables},
    narrow::{Narrow, NarrowError},
    nics,
    pin::PinFolder,
};
use crate::{
    gateway::{Gateway, Role},
    host::state::{self, State, StateError},
    instance::{Instance, LockError},
    kernel::BPFFS,
    netlink::{
        Netlink, NetlinkError,
        link::Interface,
        resolve::{ResolveError, Target, towards},
    },
};

/// A router that has not been heard of for so long is asked whether it is still there.
const SILENCE: Tick = Tick::at_least_seconds(3);

/// Why the gateway could not be looked at.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum FollowError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Hops(#[from] HopsError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Narrow(#[from] NarrowError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    State(#[from] StateError),
}

/// What a look came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What has changed and was written.
    pub messages: Vec<String>,
    /// What is not as it should be, and was not so at the last look.
    pub warnings: Vec<String>,
    /// Why the gateway has to be loaded again.
    pub load_again: Option<String>,
    /// Something is missing that may come at any time.
    pub is_waiting: bool,
}

/// A NIC as it was when the gateway was loaded.
#[derive(Debug)]
struct Port {
    name: String,
    index: u32,
    is_there: bool,
    /// Its program was taken off (`mape-ctl detach`).
    is_detached: bool,
}

/// A loaded gateway and what is known of the machine around it.
pub struct Follower {
    gateway: Gateway,
    instance: Instance,
    netlink: Netlink,
    tables: Tables,
    ports: Vec<Port>,
    tunnel: u32,
    hops: Hops,
    /// Where the kernel's tunnel carries what XDP does not.
    narrow: Option<Narrow>,
    state: State,
    /// What has been said already.
    told: BTreeSet<String>,
}

impl Follower {
    /// Begins to follow what has just been loaded.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn new(gateway: Gateway, instance: Instance, loaded: Loaded) -> Result<Self, NetlinkError> {
        let port = |(nic, _): (Interface, &str)| Port {
            name: nic.name,
            index: nic.index,
            is_there: true,
            is_detached: false,
        };
        let netlink = Netlink::open()?;
        Ok(Self {
            narrow: Narrow::of(&gateway, &loaded, &netlink.interfaces()?),
            tables: Tables::new(&PinFolder::new(&instance)),
            gateway,
            instance,
            netlink,
            ports: loaded.nics.into_iter().map(port).collect(),
            tunnel: loaded.tunnel,
            hops: loaded.hops,
            state: loaded.state,
            told: BTreeSet::new(),
        })
    }

    /// Interfaces whose IPv6 neighbours matter.
    pub fn neighbours_on(&self) -> Vec<u32> {
        let wan = self.ports.iter().filter(|port| port.name == self.gateway.wan);
        wan.map(|port| port.index).collect()
    }

    /// What is followed.
    pub const fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Looks at everything and writes what has changed.
    ///
    /// # Errors
    /// [`FollowError`]; what was written until then is right.
    pub fn look(&mut self) -> Result<Look, FollowError> {
        let mut look = Look::default();
        if !PinFolder::new(&self.instance).has_maps() {
            // Programs and maps have gone with their pins; what is asked of them below would only fail.
            look.load_again = Some(format!("nothing is pinned any longer (was {BPFFS} unmounted?)"));
            return Ok(look);
        }
        let mut warnings = Vec::new();
        let interfaces = self.netlink.interfaces()?;
        self.look_at_nics(&interfaces, &mut look, &mut warnings)?;
        self.look_at_tunnel(&interfaces, &mut look, &mut warnings)?;
        let wan = interfaces.iter().find(|interface| interface.name == self.gateway.wan);
        if let Some(wan) = wan
            && let Some(why) = look.load_again.take()
        {
            // Loading would only say so: a link that has come back gets its addresses and routes one after the other.
            match towards(&self.netlink, wan, self.gateway.relay, Target::Host) {
                Err(error @ ResolveError::NoRoute { .. }) if self.gateway.role == Role::CustomerEdge => {
                    warnings.push(format!("{why}, and is not taken up yet: {error}"));
                    look.is_waiting = true;
                }
                Ok(_) | Err(_) => look.load_again = Some(why),
            }
        }
        let is_detached = |name: &str| self.ports.iter().any(|port| port.name == name && port.is_detached);
        if let Some(wan) = wan.filter(|wan| look.load_again.is_none() && !is_detached(&wan.name)) {
            if u32::from(self.gateway.tunnel.mtu) + OVERHEAD > wan.mtu {
                warnings.push(format!(
                    "{} has an MTU of {} and so takes inner packets of {} bytes, not of {} (tunnel.mtu): \
                     larger ones are fragmented or answered",
                    wan.name,
                    wan.mtu,
                    wan.mtu.saturating_sub(OVERHEAD),
                    self.gateway.tunnel.mtu
                ));
            }
            self.look_at_hops(wan, &mut look, &mut warnings)?;
        }
        look.warnings = self.anew(warnings);
        Ok(look)
    }

    fn look_at_nics(
        &mut self,
        interfaces: &[Interface],
        look: &mut Look,
        warnings: &mut Vec<String>,
    ) -> Result<(), FollowError> {
        let addresses = self.netlink.addresses()?;
        for port in &mut self.ports {
            let name = &port.name;
            let Some(nic) = interfaces.iter().find(|interface| interface.name == *name) else {
                if port.is_there {
                    // The stack gets what would have been sent there: redirected, it would be lost without a word.
                    self.tables.detach_link(port.index)?;
                    port.is_there = false;
                }
                warnings.push(format!("{name} is gone; it is taken up again when it is back"));
                look.is_waiting = true;
                continue;
            };
            let known = self.tables.link_words(nic.index)?;
            port.is_detached = nic.index == port.index && port.is_there && known[1] & Link::DETACHED != 0;
            if port.is_detached {
                // By an operator, who wants it so.
                continue;
            }
            if nic.index != port.index || nic.xdp.is_none() || !port.is_there {
                if nic.up {
                    look.load_again = Some(format!("{name} is another device than before"));
                } else {
                    warnings.push(format!("{name} is back, and down: ip link set dev {name} up"));
                    look.is_waiting = true;
                }
                continue;
            }
            let words = nics::words(nic, &addresses, known[1]);
            if words != known {
                self.tables.set_link_words(nic.index, words)?;
                look.messages.push(nics::describe(name, words));
            }
        }
        let own = self
            .gateway
            .domain
            .as_ref()
            .map_or(self.gateway.relay, Domain::ce_address);
        let wan = self.ports.iter().find(|port| port.name == self.gateway.wan);
        let has_own = |index| {
            let mut all = addresses.iter();
            all.any(|assigned| assigned.index == index && assigned.address == IpAddr::V6(own))
        };
        if let Some(wan) = wan.filter(|wan| wan.is_there)
            && look.load_again.is_none()
            && !has_own(wan.index)
        {
            look.load_again = Some(format!("{own} was taken away from {}", wan.name));
        }
        Ok(())
    }

    fn look_at_tunnel(
        &self,
        interfaces: &[Interface],
        look: &mut Look,
        warnings: &mut Vec<String>,
    ) -> Result<(), FollowError> {
        let Some(record) = self
            .state
            .tunnel
            .as_ref()
            .filter(|_| self.gateway.role == Role::CustomerEdge)
        else {
            return Ok(());
        };
        let name = &record.device;
        match interfaces.iter().find(|interface| interface.name == *name) {
            None if record.made => look.load_again = Some(format!("the tunnel device {name} is gone")),
            None => {
                warnings.push(format!(
                    "the tunnel device {name} is gone; it is taken up again when it is back"
                ));
                look.is_waiting = true;
            }
            Some(device) if device.index != self.tunnel => {
                look.load_again = Some(format!("the tunnel device {name} is another one than before"));
            }
            Some(device) if record.made && !device.up => {
                look.load_again = Some(format!("the tunnel device {name} is down"));
            }
            Some(_) if record.made && !record.routes.is_empty() => {
                let routes = self.netlink.ipv4_routes()?;
                let is_there = |wanted: &state::MadeRoute| {
                    routes.iter().any(|route| {
                        route.index == Some(self.tunnel)
                            && (route.destination, route.len) == (wanted.destination, wanted.len)
                    })
                };
                if let Some(missing) = record.routes.iter().find(|wanted| !is_there(wanted)) {
                    look.load_again = Some(format!(
                        "the route {}/{} into {name} is gone",
                        missing.destination, missing.len
                    ));
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn look_at_hops(
        &mut self,
        wan: &Interface,
        look: &mut Look,
        warnings: &mut Vec<String>,
    ) -> Result<(), FollowError> {
        let found = self.hops.look_again(&self.netlink, &self.gateway, wan)?;
        let lines = found.write_changes(&self.tables, &self.hops, state::now())?;
        let records = found.records();
        look.is_waiting |= !found.warnings.is_empty();
        warnings.extend(found.warnings.iter().cloned());
        self.hops = found;
        if !lines.is_empty() {
            look.messages.extend(lines);
            let _lock = self.instance.lock()?;
            if let Some(mut state) = State::read(&self.instance) {
                state.far_hops = records;
                state.write(&self.instance)?;
            }
        }
        Ok(())
    }

    /// Whether the path to the border relay has to be looked at again and again: nobody tells of it.
    pub const fn watches_path(&self) -> bool {
        self.narrow.is_some()
    }

    /// Looks at what the path to the border relay takes, and has the routes into the tunnel follow it; what has changed.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn look_at_path(&mut self) -> Result<Option<String>, FollowError> {
        match &mut self.narrow {
            Some(narrow) => Ok(narrow.follow(&self.tables, &self.netlink)?),
            None => Ok(None),
        }
    }

    /// Of what is not as it should be, what was not said last time.
    fn anew(&mut self, warnings: Vec<String>) -> Vec<String> {
        let all: BTreeSet<String> = warnings.into_iter().collect();
        let anew = all.difference(&self.told).cloned().collect();
        self.told = all;
        anew
    }

    /// Asks routers of which nothing has been heard for some seconds whether they are still there.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn probe(&self) -> Result<(), FollowError> {
        let now = state::now();
        let mut asked: BTreeSet<Ipv6Addr> = BTreeSet::new();
        for (index, found) in (0..).zip(&self.hops.resolved) {
            let record = NextHop::from_words(self.tables.far_hop(index)?);
            if now.since(record.confirmed()) >= SILENCE && asked.insert(found.neighbour) {
                self.netlink.probe_neighbour(found.hop.ifindex, found.neighbour)?;
            }
        }
        Ok(())
    }
}
