//! What the machine lacks around the data path, made and taken back: tunnel device and routes, address, forwarding, neighbours.

use std::net::Ipv6Addr;

use super::{LoadError, Loading};
use crate::{
    gateway::Role,
    host::{
        address, neighbour,
        state::{MadeNeighbour, MadeRoute, TunnelRecord},
        tunnel::{self, Line},
    },
    kernel,
};

impl Loading<'_> {
    /// Makes what the machine lacks: the tunnel device, the tunnel's address, forwarding. Nothing is routed into the device yet:
    /// first there must be who translates.
    pub(super) fn prepare_host(&mut self) -> Result<(), LoadError> {
        let gateway = self.gateway;
        let mut forwarding: Vec<String> = self.ports.iter().map(|port| port.nic.name.clone()).collect();
        let address = gateway
            .domain
            .as_ref()
            .map_or(gateway.relay, mape_common::map::domain::Domain::ce_address);
        self.announce_making(address)?;
        if let Some(domain) = &gateway.domain {
            forwarding.retain(|name| gateway.lan.contains(name));
            forwarding.push(gateway.tunnel.device.clone());
            let line = Line {
                tunnel: &gateway.tunnel,
                near: domain.ce_address(),
                relay: gateway.relay,
                shared: domain.ipv4(),
                rules: gateway.rules.len(),
            };
            let ready = tunnel::ensure(&self.netlink, &mut self.undo, &self.instance, &line)?;
            self.sizes.max_ifindex = self.sizes.max_ifindex.max(ready.interface.index);
            self.done.carried = ready.is_carried().then(|| ready.interface.name.clone());
            self.state.tunnel = Some(ready.record);
            self.tunnel = Some(ready.interface);
            self.done.messages.extend(ready.messages);
            self.done.warnings.extend(ready.warnings);
            let device = &gateway.tunnel.device;
            if kernel::ignores_routes_without_carrier(device) {
                self.done.warnings.push(format!(
                    "routes into {device} are passed over, since it has no carrier: \
                         sysctl -w net/ipv4/conf/{device}/ignore_routes_with_linkdown=0"
                ));
            }
        }
        for name in forwarding {
            if !kernel::forwards_ipv4(&name) {
                kernel::set_ipv4_forwarding(&name, true)?;
                let off = name.clone();
                self.undo
                    .push(format!("switch IPv4 forwarding off again for {name}"), move || {
                        kernel::set_ipv4_forwarding(&off, false).map_err(Into::into)
                    });
                self.done.messages.push(format!(
                    "switched IPv4 forwarding on for {name} (net/ipv4/conf/{name}/forwarding)"
                ));
            }
        }
        let (made, note) = address::ensure(&self.netlink, &mut self.undo, &self.wan, address)?;
        if let Some(made) = &made {
            self.done
                .messages
                .push(format!("added {}/{} to {}", made.address, made.len, made.interface));
        }
        self.done.warnings.extend(note);
        // What an earlier load has added and is still there stays on the list of what unload removes.
        let earlier = self.before.iter().flat_map(|before| before.addresses.clone());
        self.state.addresses = earlier
            .filter(|old| Some(old) != made.as_ref())
            .chain(made.clone())
            .collect();
        Ok(())
    }

    /// Records what is going to be made before it is: the tunnel device, routes into it, and the tunnel's address.
    fn announce_making(&mut self, address: Ipv6Addr) -> Result<(), LoadError> {
        if tunnel::remove_unmarked(&self.netlink, self.before.as_ref())? {
            self.done
                .messages
                .push("removed the tunnel device of a load that was killed".to_owned());
        }
        if self.gateway.role == Role::CustomerEdge {
            let device = &self.gateway.tunnel.device;
            let is_ours = self
                .netlink
                .interface(device)?
                .is_none_or(|found| tunnel::owner(&found) == Some(self.instance.as_ref()));
            let routes = self.underway.tunnel.take().filter(|before| before.device == *device);
            let mut routes = routes.map_or_else(Vec::new, |before| before.routes);
            if is_ours {
                let wanted = self.gateway.tunnel.routes.iter().map(MadeRoute::from);
                let anew: Vec<_> = wanted.filter(|wanted| !routes.contains(wanted)).collect();
                routes.extend(anew);
            }
            self.underway.tunnel = Some(TunnelRecord {
                device: device.clone(),
                made: is_ours,
                routes,
            });
        }
        let missing = address::missing(&self.netlink, &self.wan, address)?;
        let anew = missing.filter(|missing| !self.underway.addresses.contains(missing));
        self.underway.addresses.extend(anew);
        self.announce()
    }

    /// Routes what is wanted into the tunnel device, now that its programs are there.
    pub(super) fn route_into_tunnel(&mut self) -> Result<(), LoadError> {
        let (Some(device), Some(record)) = (&self.tunnel, &mut self.state.tunnel) else {
            return Ok(());
        };
        let before = self.before.as_ref().and_then(|before| before.tunnel.as_ref());
        let warnings = tunnel::route(
            &self.netlink,
            &mut self.undo,
            device,
            &self.gateway.tunnel,
            record,
            before,
        )?;
        self.done.warnings.extend(warnings);
        Ok(())
    }

    /// Removes addresses that an earlier load added for a line that is not this one's any longer.
    pub(super) fn forget_addresses(&mut self) {
        let own = self
            .gateway
            .domain
            .as_ref()
            .map_or(self.gateway.relay, mape_common::map::domain::Domain::ce_address);
        let (kept, old): (Vec<_>, Vec<_>) = std::mem::take(&mut self.state.addresses)
            .into_iter()
            .partition(|made| made.address == own && made.interface == self.wan.name);
        self.state.addresses = kept;
        if old.is_empty() {
            return;
        }
        for made in old {
            match address::remove(&self.netlink, &made) {
                Ok(_) => self
                    .done
                    .messages
                    .push(format!("removed {} from {}", made.address, made.interface)),
                Err(error) => self.done.warnings.push(format!("{error} from {}", made.interface)),
            }
        }
        if let Err(error) = self.state.write(&self.instance) {
            self.done.warnings.push(error.to_string());
        }
    }

    /// Writes the record, with neighbours that are let go of only after it: one that nobody knows of would stay.
    pub(super) fn write_with_old_neighbours(&mut self) -> Result<(), LoadError> {
        let mut record = self.state.clone();
        record.neighbours.extend(self.old_neighbours());
        Ok(record.write(&self.instance)?)
    }

    /// Neighbours that a forward led to which is gone.
    fn old_neighbours(&self) -> Vec<MadeNeighbour> {
        let earlier = self.before.iter().flat_map(|before| before.neighbours.clone());
        earlier.filter(|old| !self.state.neighbours.contains(old)).collect()
    }

    /// Lets go of those.
    pub(super) fn forget_neighbours(&mut self) {
        let gone = self.old_neighbours();
        if gone.is_empty() {
            return;
        }
        match neighbour::forget(&self.netlink, &gone) {
            Ok(()) => {
                if let Err(error) = self.state.write(&self.instance) {
                    self.done.warnings.push(error.to_string());
                }
            }
            // They stay on the list of what unload removes.
            Err(error) => {
                self.done.warnings.push(error.to_string());
                self.state.neighbours.extend(gone);
            }
        }
    }
}
