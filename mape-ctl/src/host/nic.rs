//! Owns the choice of NICs: whether an interface is one that XDP forwards between, and which one to take instead.

use crate::{netlink::link::Interface, suggest};

/// Why an interface will not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NicError {
    /// There is none of that name.
    #[error("there is no interface {name}{}; there are: {}", suggest::did_you_mean(name, .there), .there.join(", "))]
    Missing {
        /// The name.
        name: String,
        /// The interfaces of this network namespace.
        there: Vec<String>,
    },
    /// A device that frames only pass through.
    #[error("{name} is a {kind}, and XDP runs on what it stands on: {}", ports_hint(.ports))]
    Upper {
        /// The interface.
        name: String,
        /// `bridge`, `bond`, `vlan`, …
        kind: String,
        /// Interfaces to use instead.
        ports: Vec<String>,
    },
    /// No Ethernet.
    #[error("{name} is no Ethernet device ({kind}); name the NIC")]
    NotEthernet {
        /// The interface.
        name: String,
        /// What it is.
        kind: String,
    },
    /// Switched off.
    #[error("{name} is down; switch it on: ip link set dev {name} up")]
    Down {
        /// The interface.
        name: String,
    },
}

fn ports_hint(ports: &[String]) -> String {
    if ports.is_empty() {
        "it has no ports yet; take a NIC that is in no bridge or bond".to_owned()
    } else {
        format!(
            "name {} instead, and give it the addresses that are on the device above it",
            ports.join(" or ")
        )
    }
}

/// Finds an interface and sees whether it will do.
///
/// # Errors
/// [`NicError`].
pub fn find(interfaces: &[Interface], name: &str) -> Result<Interface, NicError> {
    let Some(nic) = interfaces.iter().find(|interface| interface.name == name) else {
        let there = interfaces
            .iter()
            .filter(|interface| !interface.loopback)
            .map(|interface| interface.name.clone());
        return Err(NicError::Missing {
            name: name.to_owned(),
            there: there.collect(),
        });
    };
    let kind = nic.kind.as_deref().unwrap_or_default();
    let named = |index: Option<u32>| {
        interfaces
            .iter()
            .filter(|other| Some(other.index) == index)
            .map(|other| other.name.clone())
            .collect()
    };
    let ports = match kind {
        "bridge" | "bond" | "team" => {
            let ports = interfaces.iter().filter(|port| port.controller == Some(nic.index));
            Some(ports.map(|port| port.name.clone()).collect())
        }
        "vlan" | "macvlan" | "ipvlan" => Some(named(nic.lower)),
        _ => None,
    };
    if let Some(ports) = ports {
        let kind = if kind == "vlan" { "VLAN device" } else { kind };
        return Err(NicError::Upper {
            name: name.to_owned(),
            kind: kind.to_owned(),
            ports,
        });
    }
    if nic.loopback || nic.mac.is_none() {
        let kind = if nic.loopback {
            "the loopback device"
        } else if kind.is_empty() {
            "no MAC address"
        } else {
            kind
        };
        return Err(NicError::NotEthernet {
            name: name.to_owned(),
            kind: kind.to_owned(),
        });
    }
    if !nic.up {
        return Err(NicError::Down { name: name.to_owned() });
    }
    Ok(nic.clone())
}

/// What may be wrong with a NIC that will do.
pub fn warnings(interfaces: &[Interface], nic: &Interface) -> Vec<String> {
    let mut warnings = Vec::new();
    if !nic.has_carrier() {
        warnings.push(format!("{} has no carrier: is the cable in?", nic.name));
    }
    if let Some(above) = nic
        .controller
        .and_then(|index| interfaces.iter().find(|other| other.index == index))
    {
        warnings.push(format!(
            "{} is a port of {}: packets whose route leads to {} are left to the kernel; take the NIC out of it",
            nic.name, above.name, above.name
        ));
    }
    warnings
}

#[cfg(test)]
pub(crate) mod tests {
    use mape_common::hop::Mac;
    use rtnetlink::packet_route::link::{State, Stats64};

    use super::*;

    /// An ordinary NIC.
    pub(crate) fn nic(index: u32, name: &str) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            mtu: 1500,
            kind: None,
            tunnel: None,
            alias: None,
            up: true,
            state: State::Up,
            controller: None,
            lower: None,
            loopback: false,
            xdp: None,
            stats: Stats64::default(),
        }
    }

    fn of_kind(index: u32, name: &str, kind: &str) -> Interface {
        Interface {
            kind: Some(kind.to_owned()),
            ..nic(index, name)
        }
    }

    #[test]
    fn a_missing_interface_is_answered_with_those_there() {
        let there = [
            Interface {
                loopback: true,
                ..nic(1, "lo")
            },
            nic(2, "eth0"),
            nic(3, "eth1"),
        ];
        let error = find(&there, "eht0").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no interface eht0, did you mean eth0?; there are: eth0, eth1"
        );
    }

    #[test]
    fn bridges_bonds_and_vlans_are_answered_with_their_nics() {
        let there = [
            of_kind(1, "br0", "bridge"),
            Interface {
                controller: Some(1),
                ..nic(2, "eth0")
            },
            Interface {
                controller: Some(1),
                ..nic(3, "eth1")
            },
            Interface {
                lower: Some(3),
                ..of_kind(4, "eth1.10", "vlan")
            },
            of_kind(5, "bond0", "bond"),
        ];
        let error = find(&there, "br0").unwrap_err().to_string();
        assert!(
            error.starts_with("br0 is a bridge, and XDP runs on what it stands on: name eth0 or eth1 instead"),
            "{error}"
        );
        let error = find(&there, "eth1.10").unwrap_err().to_string();
        assert!(
            error.contains("VLAN device") && error.contains("name eth1 instead"),
            "{error}"
        );
        let error = find(&there, "bond0").unwrap_err().to_string();
        assert!(error.contains("no ports yet"), "{error}");
        assert!(warnings(&there, &there[1])[0].contains("port of br0"));
    }

    #[test]
    fn what_is_no_ethernet_or_is_off_is_refused() {
        let there = [
            Interface {
                mac: None,
                ..of_kind(1, "wg0", "wireguard")
            },
            Interface {
                loopback: true,
                ..nic(2, "lo")
            },
            Interface {
                up: false,
                ..nic(3, "eth0")
            },
            of_kind(4, "veth0", "veth"),
        ];
        assert!(matches!(find(&there, "wg0"), Err(NicError::NotEthernet { .. })));
        assert!(matches!(find(&there, "lo"), Err(NicError::NotEthernet { .. })));
        assert!(
            find(&there, "eth0")
                .unwrap_err()
                .to_string()
                .contains("ip link set dev eth0 up")
        );
        assert!(find(&there, "veth0").is_ok());
    }
}
