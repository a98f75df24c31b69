//! Owns what `--fix` may do: each step says the command that it stands for, and does no more than that.

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use crate::{
    host::tunnel::OWN_ADDRESS,
    instance::Instance,
    kernel::{self, BPFFS, KernelError},
    netlink::{Netlink, NetlinkError, address::Assigned, route::Ipv4Route},
    tunnel::process::{self, ProcessError},
};

/// Why something was not mended.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum FixError {
    #[error("cannot write {0}")]
    Setting(String, #[source] io::Error),
    #[error("there is no interface {0} any longer")]
    Gone(String),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

/// A step that is safe: it gives this machine what the gateway needs and takes nothing from anybody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Sets a setting of the kernel.
    Sysctl {
        /// Its name, with slashes: interfaces may have dots.
        setting: String,
        /// The value.
        value: &'static str,
    },
    /// Mounts the BPF file system.
    Mount,
    /// Sets a device's MTU.
    Mtu {
        /// The device.
        device: String,
        /// Bytes.
        mtu: u16,
    },
    /// Switches the tunnel device on.
    Up {
        /// The device.
        device: String,
        /// The MTU that it has and keeps.
        mtu: u32,
    },
    /// Puts the box's own address in the place of the shared one.
    SharedAddress {
        /// The tunnel device.
        device: String,
        /// The shared address.
        address: Ipv4Addr,
        /// Its length there.
        len: u8,
    },
    /// Gives the WAN the tunnel's address.
    NearAddress {
        /// The WAN.
        interface: String,
        /// The address.
        address: Ipv6Addr,
    },
    /// Starts `mape-ctl tunnel`.
    Process(Instance),
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl { setting, value } => write!(f, "sysctl -w {setting}={value}"),
            Self::Mount => write!(f, "mount -t bpf bpf {BPFFS}"),
            Self::Mtu { device, mtu } => write!(f, "ip link set dev {device} mtu {mtu}"),
            Self::Up { device, .. } => write!(f, "ip link set dev {device} up"),
            Self::SharedAddress { device, address, len } => write!(
                f,
                "ip addr add {OWN_ADDRESS}/32 dev {device} && ip addr del {address}/{len} dev {device}"
            ),
            Self::NearAddress { interface, address } => {
                write!(f, "ip -6 addr add {address}/128 dev {interface} nodad preferred_lft 0")
            }
            Self::Process(instance) => write!(f, "mape-ctl --instance {instance} tunnel &"),
        }
    }
}

impl Fix {
    /// Does it. What is as it should be already is no error.
    ///
    /// # Errors
    /// [`FixError`].
    pub fn apply(&self, netlink: &Netlink) -> Result<(), FixError> {
        let index = |name: &str| {
            let found = netlink.interface(name)?;
            found
                .map(|found| found.index)
                .ok_or_else(|| FixError::Gone(name.to_owned()))
        };
        match self {
            Self::Sysctl { setting, value } => {
                let path = Path::new("/proc/sys").join(setting);
                fs::write(path, value).map_err(|source| FixError::Setting(setting.clone(), source))
            }
            Self::Mount => Ok(kernel::ensure_bpffs().map(|_| ())?),
            Self::Mtu { device, mtu } => Ok(netlink.set_mtu(index(device)?, u32::from(*mtu))?),
            Self::Up { device, mtu } => {
                let found = netlink.interface(device)?;
                let found = found.ok_or_else(|| FixError::Gone(device.clone()))?;
                Ok(netlink.set_up(found.index, *mtu, found.alias.as_deref().unwrap_or_default())?)
            }
            Self::SharedAddress { device, address, len } => move_address(netlink, index(device)?, *address, *len),
            Self::NearAddress { interface, address } => {
                there_is_fine(netlink.add_address(index(interface)?, (*address).into(), 128))
            }
            Self::Process(instance) => Ok(process::ensure(instance).map(|_| ())?),
        }
    }
}

/// The other one first: with its last IPv4 address a device loses its IPv4 routes. Routes that name the address as their
/// source go with it even so; they are made again without.
fn move_address(netlink: &Netlink, index: u32, address: Ipv4Addr, len: u8) -> Result<(), FixError> {
    there_is_fine(netlink.add_address(index, OWN_ADDRESS.into(), 32))?;
    let before = routes_into(netlink, index)?;
    let assigned = Assigned {
        index,
        address: IpAddr::V4(address),
        len,
    };
    match netlink.remove_address(assigned) {
        Err(error) if !error.is_absent() => return Err(error.into()),
        _ => {}
    }
    let after = routes_into(netlink, index)?;
    let is_its_network = |route: &Ipv4Route| len < 32 && route.len == len && is_in(route.destination, address, len);
    for gone in before
        .iter()
        .filter(|route| !after.contains(route) && !is_its_network(route))
    {
        there_is_fine(netlink.add_ipv4_route(gone.destination, gone.len, index, gone.mtu, false))?;
    }
    Ok(())
}

fn routes_into(netlink: &Netlink, index: u32) -> Result<Vec<Ipv4Route>, NetlinkError> {
    let mut routes = netlink.ipv4_routes()?;
    routes.retain(|route| route.index == Some(index));
    Ok(routes)
}

fn is_in(network: Ipv4Addr, address: Ipv4Addr, len: u8) -> bool {
    let rest = 32_u32.saturating_sub(u32::from(len));
    (network.to_bits() ^ address.to_bits()).checked_shr(rest).unwrap_or(0) == 0
}

fn there_is_fine(outcome: Result<(), NetlinkError>) -> Result<(), FixError> {
    match outcome {
        Err(error) if !error.is_exists() => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_says_the_command_it_stands_for() {
        let fix = Fix::SharedAddress {
            device: "mape0".to_owned(),
            address: Ipv4Addr::new(192, 0, 2, 18),
            len: 32,
        };
        assert_eq!(
            fix.to_string(),
            "ip addr add 192.0.0.2/32 dev mape0 && ip addr del 192.0.2.18/32 dev mape0"
        );
        let fix = Fix::Sysctl {
            setting: "net/ipv4/conf/eth0.10/forwarding".to_owned(),
            value: "1",
        };
        assert_eq!(fix.to_string(), "sysctl -w net/ipv4/conf/eth0.10/forwarding=1");
    }

    #[test]
    fn the_network_of_an_address_is_told_from_others() {
        let address = Ipv4Addr::new(192, 0, 2, 18);
        assert!(is_in(Ipv4Addr::new(192, 0, 2, 0), address, 24));
        assert!(!is_in(Ipv4Addr::new(192, 0, 3, 0), address, 24));
        assert!(is_in(address, address, 32));
    }
}
