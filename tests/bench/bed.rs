//! Owns the test bed: chains of three namespaces, in each of which frames go from a host through a middle to another host. The chains are
//! alike but for what carries frames through the middle, and are there all at once, so that cases can take turns.

use anyhow::Result;
use mape_tests::netns::Netns;

/// MAC addresses: LAN host, LAN NIC, WAN NIC, router.
pub(crate) const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
pub(crate) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 4];
/// Devices, in this order: the host's, LAN and WAN NIC in the middle, the router's.
pub(crate) const DEVICES: [&str; 4] = ["host0", "lan0", "wan0", "router0"];

/// A direction through a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the LAN to the WAN.
    Up,
    /// From the WAN to the LAN.
    Down,
}

impl Way {
    /// The device by which frames are sent.
    pub(crate) const fn source(self) -> &'static str {
        match self {
            Self::Up => DEVICES[0],
            Self::Down => DEVICES[3],
        }
    }
}

/// A chain; its namespaces go with it.
pub(crate) struct Chain {
    host: Netns,
    middle: Netns,
    router: Netns,
}

impl Chain {
    /// Makes namespaces, cables and addresses. Nothing forwards yet.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let make = |end: &str| Netns::create(&format!("mape-bench{}-{name}-{end}", std::process::id()));
        let host = make("host")?;
        // Whatever fails from here on, what is made goes with it.
        let mut chain = Self {
            middle: host.clone(),
            router: host.clone(),
            host,
        };
        chain.middle = make("middle")?;
        chain.router = make("router")?;
        chain.cable()?;
        chain.address()?;
        Ok(chain)
    }

    fn cable(&self) -> Result<()> {
        let [host, lan, wan, router] = DEVICES;
        for (end, own, own_mac, near, near_mac) in [
            (&self.host, host, HOST_MAC, lan, LAN_MAC),
            (&self.router, router, ROUTER_MAC, wan, WAN_MAC),
        ] {
            end.tool(&format!(
                "ip link add {own} address {} type veth peer name {near} address {} netns {}",
                mac(own_mac),
                mac(near_mac),
                self.middle.name()
            ))?;
            for (netns, device) in [(end, own), (&self.middle, near)] {
                // Frames as large as on a wire.
                netns.tool(&format!("ethtool -K {device} tx off sg off tso off gso off"))?;
                netns.tool(&format!("ip link set {device} up"))?;
                // With it the driver takes frames that a program redirects to it; it begins to when this is set on a device that is up.
                netns.tool(&format!("ethtool -K {device} gro off gro on"))?;
            }
        }
        Ok(())
    }

    fn address(&self) -> Result<()> {
        for (netns, lines) in [
            (&self.host, &["ip -4 address add 192.168.10.2/24 dev host0"][..]),
            (
                &self.middle,
                &[
                    "ip -4 address add 192.168.10.1/24 dev lan0",
                    "ip -4 address add 10.0.0.1/24 dev wan0",
                    "ip -6 address add 2001:db8:12:3400::2/64 dev wan0 nodad",
                    "ip -6 address add 2001:db8:12:3400:0:c000:212:34/128 dev wan0 nodad",
                    "ip -6 route add default via 2001:db8:12:3400::1",
                ],
            ),
            (
                &self.router,
                &[
                    "ip -4 address add 10.0.0.2/24 dev router0",
                    "ip -6 address add 2001:db8:12:3400::1/64 dev router0 nodad",
                ],
            ),
        ] {
            for line in lines {
                netns.tool(line)?;
            }
        }
        for interface in ["all", "lan0", "wan0"] {
            self.middle.sysctl(&format!("ipv4/conf/{interface}/forwarding"), "1")?;
        }
        Ok(())
    }

    /// The namespace in the middle.
    pub(crate) const fn middle(&self) -> &Netns {
        &self.middle
    }

    /// Where frames of a direction are sent.
    pub(crate) const fn source(&self, way: Way) -> &Netns {
        match way {
            Way::Up => &self.host,
            Way::Down => &self.router,
        }
    }

    /// Where they arrive.
    pub(crate) const fn sink(&self, way: Way) -> (&Netns, &'static str) {
        match way {
            Way::Up => (&self.router, DEVICES[3]),
            Way::Down => (&self.host, DEVICES[0]),
        }
    }

    /// Has the kernel forward IPv4 to the router, as plainly as it can.
    pub(crate) fn forward_by_kernel(&self) -> Result<()> {
        self.middle.tool("ip -4 route add default via 10.0.0.2")?;
        for (address, device, mac_of) in [("10.0.0.2", "wan0", ROUTER_MAC), ("192.168.10.2", "lan0", HOST_MAC)] {
            self.middle.tool(&format!(
                "ip -4 neigh replace {address} lladdr {} dev {device} nud permanent",
                mac(mac_of)
            ))?;
        }
        Ok(())
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for netns in [&self.host, &self.middle, &self.router] {
            netns.delete();
        }
    }
}

/// As tools write it.
pub(crate) fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
