//! Owns the MTU of the routes into the kernel's tunnel device: that of the path to the border relay, where it is narrower than the tunnel.
//!
//! The device itself drops what the path does not take, with an answer or without, and forwarding asks the route and not what the kernel has
//! learned of a destination: so only a route's MTU has the IPv4 layer fragment what may be, and answer what may not. What routers say of the path
//! comes to the data path's programs where they are attached, and else to the kernel.

use std::{net::Ipv6Addr, time::Instant};

use mape_common::map::domain::Domain;

use super::{
    load::Loaded,
    maps::{TableError, Tables},
};
use crate::{
    gateway::{Gateway, Role},
    host::{
        state::{self, MadeRoute},
        tunnel,
    },
    netlink::{Netlink, NetlinkError, link::Interface},
    tunnel::{path_mtu::PathMtu, socket},
};

/// The kind of device that the kernel makes outer headers for.
const KIND: &str = "ip6tnl";

/// The routes and the path.
pub struct Narrow {
    near: Ipv6Addr,
    relay: Ipv6Addr,
    device: String,
    index: u32,
    routes: Vec<MadeRoute>,
    path: PathMtu,
    /// What the routes have.
    mtu: u16,
}

/// Why the routes do not follow.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum NarrowError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl Narrow {
    /// Of what has just been loaded; none where the tunnel is not the kernel's, or has no routes of ours.
    pub fn of(gateway: &Gateway, loaded: &Loaded, interfaces: &[Interface]) -> Option<Self> {
        let record = loaded.state.tunnel.as_ref()?;
        let device = interfaces.iter().find(|interface| interface.index == loaded.tunnel)?;
        if gateway.role != Role::CustomerEdge || device.kind.as_deref() != Some(KIND) || record.routes.is_empty() {
            return None;
        }
        let near = gateway.domain.as_ref().map(Domain::ce_address)?;
        Some(Self {
            near,
            relay: gateway.relay,
            device: record.device.clone(),
            index: loaded.tunnel,
            routes: record.routes.clone(),
            path: PathMtu::new(gateway.tunnel.mtu, gateway.relay.octets()),
            // As `load` has made them.
            mtu: gateway.tunnel.mtu,
        })
    }

    /// Asks kernel and data path how large the path is, and changes the routes if they do not fit it; says so.
    ///
    /// # Errors
    /// [`NarrowError`]; it is tried again the next time.
    pub fn follow(&mut self, tables: &Tables, netlink: &Netlink) -> Result<Option<String>, NarrowError> {
        let noted = tables.narrowest_path(state::now())?;
        let kernel = socket::path_mtu(self.near, self.relay);
        self.path.note_relay(kernel, noted, Instant::now());
        let mtu = self.path.relay();
        if mtu == self.mtu {
            return Ok(None);
        }
        tunnel::set_route_mtu(netlink, &self.routes, self.index, mtu)?;
        self.mtu = mtu;
        Ok(Some(format!(
            "the path to the border relay takes inner packets of {mtu} bytes: so do the routes into {}",
            self.device
        )))
    }
}
