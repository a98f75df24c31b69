//! Owns what is known of network interfaces.

use mape_common::hop::Mac;
use rtnetlink::{
    LinkUnspec,
    packet_route::link::{
        LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, State, Stats64, XdpAttached,
    },
};

use super::{
    Netlink, NetlinkError,
    ip6_tunnel::{self, Ip6Tunnel},
};

/// Packets that may wait for a device.
const QUEUE: u32 = 1_000;

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The kernel's number of the program.
    pub program: u32,
    /// In the driver, as opposed to the generic layer.
    pub native: bool,
}

/// A network interface as it is at the moment.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Kernel interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MAC address, if it is an Ethernet device.
    pub mac: Option<Mac>,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// The driver's own word for virtual devices: `veth`, `bridge`, `tun`, …; none for hardware.
    pub kind: Option<String>,
    /// What it is set to, where it is a tunnel of the kernel's in IPv6.
    pub tunnel: Option<Ip6Tunnel>,
    /// Free text set by whoever made it.
    pub alias: Option<String>,
    /// Switched on by the administrator.
    pub up: bool,
    /// The kernel's word for the state of the line.
    pub state: State,
    /// The bridge or bond that it is a port of.
    pub controller: Option<u32>,
    /// The device that it stands on (of a VLAN device).
    pub lower: Option<u32>,
    /// The loopback device.
    pub loopback: bool,
    /// An XDP program on it.
    pub xdp: Option<Attached>,
    /// The driver's counters.
    pub stats: Stats64,
}

impl Interface {
    fn from_message(message: &LinkMessage) -> Self {
        let mut interface = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            kind: None,
            tunnel: None,
            alias: None,
            up: message.header.flags.contains(LinkFlags::Up),
            state: State::Unknown,
            controller: None,
            lower: None,
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            xdp: None,
            stats: Stats64::default(),
        };
        let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        for attribute in &message.attributes {
            interface.note(attribute, ethernet);
        }
        interface
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the kernel tells a hundred things of which these are wanted"
    )]
    fn note(&mut self, attribute: &LinkAttribute, ethernet: bool) {
        match attribute {
            LinkAttribute::IfName(name) => self.name.clone_from(name),
            LinkAttribute::Address(bytes) if ethernet => self.mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::Mtu(mtu) => self.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => self.alias = Some(alias.clone()),
            LinkAttribute::OperState(state) => self.state = *state,
            LinkAttribute::Controller(index) => self.controller = Some(*index),
            LinkAttribute::Link(index) => self.lower = Some(*index),
            LinkAttribute::Stats64(stats) => self.stats = *stats,
            LinkAttribute::LinkInfo(info) => {
                self.tunnel = ip6_tunnel::read(info);
                self.kind = info.iter().find_map(|info| {
                    if let LinkInfo::Kind(kind) = info {
                        Some(kind.to_string())
                    } else {
                        None
                    }
                });
            }
            LinkAttribute::Xdp(facts) => self.xdp = attached(facts),
            _ => {}
        }
    }

    /// Whether frames can pass as far as the kernel knows; a driver that does not say counts as yes.
    pub fn has_carrier(&self) -> bool {
        matches!(self.state, State::Up | State::Unknown)
    }

    /// The MTU as the data path's tables hold it.
    pub fn mtu_u16(&self) -> u16 {
        u16::try_from(self.mtu).unwrap_or(u16::MAX)
    }
}

fn attached(facts: &[LinkXdp]) -> Option<Attached> {
    let mut native = true;
    let mut program = None;
    for fact in facts {
        if let LinkXdp::Attached(mode) = fact {
            native = *mode != XdpAttached::SocketBuffer;
        }
        if let LinkXdp::ProgId(id) = fact {
            program = Some(*id);
        }
    }
    program.map(|program| Attached { program, native })
}

impl Netlink {
    /// All interfaces of this network namespace.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn interfaces(&self) -> Result<Vec<Interface>, NetlinkError> {
        let messages = self.list("list the network interfaces", self.handle.link().get().execute())?;
        Ok(messages.iter().map(Interface::from_message).collect())
    }

    /// One interface; none where there is none of that name.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn interface(&self, name: &str) -> Result<Option<Interface>, NetlinkError> {
        Ok(self.interfaces()?.into_iter().find(|interface| interface.name == name))
    }

    /// Switches an interface on and sets its MTU, its alias, and room for as many packets as an Ethernet device has.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn set_up(&self, index: u32, mtu: u32, alias: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index)
            .mtu(mtu)
            .alias(alias)
            .append_extra_attribute(LinkAttribute::TxQueueLen(QUEUE))
            .up()
            .build();
        self.wait("switch the interface on", self.handle.link().set(message).execute())
    }

    /// Sets an interface's alias.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn set_alias(&self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).alias(alias).build();
        self.wait("mark the interface", self.handle.link().set(message).execute())
    }

    /// Sets an interface's MTU.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.wait("set the interface's MTU", self.handle.link().set(message).execute())
    }

    /// Removes an interface.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn delete_interface(&self, index: u32) -> Result<(), NetlinkError> {
        self.wait("remove the interface", self.handle.link().del(index).execute())
    }
}
