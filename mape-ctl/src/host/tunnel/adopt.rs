//! Owns the look at a tunnel device that somebody else has made: whether it can do what is wanted of it, and the command that mends it.

use std::net::{IpAddr, Ipv6Addr};

use super::{Line, OWN_ADDRESS, is_tun};
use crate::netlink::{
    address::Assigned,
    ip6_tunnel::{Carries, Ip6Tunnel},
    link::Interface,
    route::Ipv4Route,
};

/// A device that cannot be the tunnel.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{device} was there before and cannot be used: {}; {mend}", .faults.join("; "))]
pub struct Unfit {
    device: String,
    faults: Vec<String>,
    mend: String,
}

/// A device that is used as it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Adopted {
    pub(super) message: String,
    /// What costs something.
    pub(super) warnings: Vec<String>,
}

/// Looks at a device that was there before.
pub(super) fn look(
    device: &Interface,
    line: &Line<'_>,
    addresses: &[Assigned],
    routes: &[Ipv4Route],
) -> Result<Adopted, Unfit> {
    let name = &device.name;
    let mut warnings = Vec::new();
    let what = match &device.tunnel {
        Some(settings) => {
            let faults = faults(name, settings, line);
            if !faults.is_empty() {
                return Err(Unfit {
                    device: name.clone(),
                    faults,
                    mend: mend(name, settings, line),
                });
            }
            warnings.extend(costs(name, settings, line));
            if settings.external {
                "ip6tnl external"
            } else {
                warnings.push(format!(
                    "should {name} be removed and made again by what made it, its packets are dropped at the WAN until the next load or run: \
                     let load make it instead (remove it, then load), or load again after each such change"
                ));
                "ip6tnl"
            }
        }
        None if is_tun(device) => "a TUN device, whose packets whoever reads it must tunnel",
        None => "a device of another kind, which must tunnel what it gets",
    };
    if !device.up {
        warnings.push(format!("{name} is switched off: ip link set {name} up"));
    }
    let wanted = u32::from(line.tunnel.mtu);
    if device.mtu != wanted {
        warnings.push(format!(
            "{name} has an MTU of {}, and tunnel.mtu is {wanted}: packets on the slow path are {} than those on the fast one; \
             ip link set {name} mtu {wanted}",
            device.mtu,
            if device.mtu < wanted { "smaller" } else { "larger" },
        ));
    }
    warnings.extend(shared_address(device, line, addresses));
    if !routes.iter().any(|route| route.index == Some(device.index)) {
        warnings.push(format!(
            "no IPv4 route leads into {name}, and nothing is tunnelled without: ip route add default dev {name} mtu {wanted}"
        ));
    }
    Ok(Adopted {
        message: format!("{name} was there before ({what}): used as it is, its routes are yours to make"),
        warnings,
    })
}

/// What makes it unusable.
fn faults(name: &str, settings: &Ip6Tunnel, line: &Line<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    match settings.carries {
        Carries::Any | Carries::Ipv4 => {}
        Carries::Ipv6 => faults.push("it carries IPv6 and not IPv4 (mode ip6ip6)".to_owned()),
        Carries::Other(protocol) => faults.push(format!("it carries protocol {protocol} and not IPv4")),
    }
    if settings.external {
        return faults;
    }
    if settings.local != line.near {
        faults.push(format!(
            "its near end (local) is {}, not this line's {}",
            any(settings.local),
            line.near
        ));
    }
    if settings.remote.is_unspecified() {
        faults.push(
            "it has no far end (remote any): the kernel sends nothing by it and takes packets from anybody".to_owned(),
        );
    } else if settings.remote != line.relay {
        faults.push(format!(
            "its far end (remote) is {}, not the border relay {}",
            settings.remote, line.relay
        ));
    } else if line.rules > 0 {
        faults.push(format!(
            "it sends to the border relay and takes packets from it alone, and there are rules (fmr = true: {}) that lead to other \
             customers; with another name in tunnel.device (such as {name}m) load makes one beside it that reaches all",
            line.rules
        ));
    }
    faults
}

/// What it costs to use it.
fn costs(name: &str, settings: &Ip6Tunnel, line: &Line<'_>) -> Option<String> {
    settings.encapsulation_limit.map(|_| {
        format!(
            "{name} sends packets with an encapsulation limit: eight bytes less for each, in a header that many border relays \
             discard packets for; without: {} (systemd-networkd: EncapsulationLimit=none in [Tunnel])",
            change(name, line)
        )
    })
}

fn any(address: Ipv6Addr) -> String {
    if address.is_unspecified() {
        "any".to_owned()
    } else {
        address.to_string()
    }
}

/// The command that makes it what it should be.
fn change(name: &str, line: &Line<'_>) -> String {
    format!(
        "ip -6 tunnel change {name} mode ipip6 local {} remote {} encaplimit none",
        line.near, line.relay
    )
}

fn mend(name: &str, settings: &Ip6Tunnel, line: &Line<'_>) -> String {
    let remove = format!("let load make it: ip link delete {name}");
    if settings.external || line.rules > 0 {
        // What it is made with cannot be changed.
        return remove;
    }
    format!("{}, or {remove}", change(name, line))
}

/// The shared address on the device: the box would take for itself what belongs to other customers.
fn shared_address(device: &Interface, line: &Line<'_>, addresses: &[Assigned]) -> Option<String> {
    let name = &device.name;
    let found = addresses.iter().find_map(|assigned| match assigned.address {
        IpAddr::V4(address) if assigned.index == device.index && line.shared.contains(address) => {
            Some((address, assigned.len))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    });
    let (address, len) = found?;
    Some(format!(
        "{name} has the shared address {address}: packets for ports that are not this line's reach this machine's own services, and \
         customers with the same address cannot be reached; another first, since routes go with the last: \
         ip address add {OWN_ADDRESS}/32 dev {name} && ip address delete {address}/{len} dev {name}"
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{
        gateway::{Tunnel, TunnelKind},
        host::nic::tests::nic,
    };

    const NEAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x12, 0x3400, 0, 0xc000, 0x212, 0x34);
    const RELAY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);
    pub(in crate::host::tunnel) const FIXED: Ip6Tunnel = Ip6Tunnel {
        carries: Carries::Ipv4,
        local: NEAR,
        remote: RELAY,
        encapsulation_limit: None,
        external: false,
    };
    pub(in crate::host::tunnel) const EXTERNAL: Ip6Tunnel = Ip6Tunnel {
        local: Ipv6Addr::UNSPECIFIED,
        remote: Ipv6Addr::UNSPECIFIED,
        external: true,
        ..FIXED
    };

    pub(in crate::host::tunnel) fn tunnel(kind: TunnelKind) -> Tunnel {
        Tunnel {
            device: "mape0".to_owned(),
            kind,
            mtu: 1460,
            mss: None,
            copy_dscp: true,
            process: true,
            routes: Vec::new(),
        }
    }

    pub(in crate::host::tunnel) fn line(tunnel: &Tunnel, rules: usize) -> Line<'_> {
        Line {
            tunnel,
            near: NEAR,
            relay: RELAY,
            shared: "192.0.2.18/32".parse().unwrap(),
            rules,
        }
    }

    fn device(settings: Ip6Tunnel) -> Interface {
        Interface {
            mtu: 1460,
            kind: Some("ip6tnl".to_owned()),
            tunnel: Some(settings),
            ..nic(7, "mape0")
        }
    }

    const ROUTE: Ipv4Route = Ipv4Route {
        destination: Ipv4Addr::UNSPECIFIED,
        len: 0,
        index: Some(7),
        mtu: None,
    };

    fn look_at(
        device: &Interface,
        rules: usize,
        addresses: &[Assigned],
        routes: &[Ipv4Route],
    ) -> Result<Adopted, Unfit> {
        look(device, &line(&tunnel(TunnelKind::Auto), rules), addresses, routes)
    }

    fn refused(settings: Ip6Tunnel, rules: usize) -> String {
        look_at(&device(settings), rules, &[], &[ROUTE])
            .unwrap_err()
            .to_string()
    }

    fn warned(device: &Interface, addresses: &[Assigned], routes: &[Ipv4Route]) -> Vec<String> {
        look_at(device, 0, addresses, routes).unwrap().warnings
    }

    #[test]
    fn one_that_is_right_is_taken() {
        assert_eq!(warned(&device(EXTERNAL), &[], &[ROUTE]), Vec::<String>::new());
        let any = Ip6Tunnel {
            carries: Carries::Any,
            ..FIXED
        };
        let [again] = &warned(&device(any), &[], &[ROUTE])[..] else {
            panic!("one warning: that nobody guards it")
        };
        assert!(again.contains("made again"), "{again}");
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_command_that_mends_it() {
        let change = "ip -6 tunnel change mape0 mode ipip6 local 2001:db8:12:3400:0:c000:212:34 \
                      remote 2001:db8:ffff::1 encaplimit none";
        let other = Ipv6Addr::LOCALHOST;
        let rows = [
            (
                Ip6Tunnel {
                    carries: Carries::Ipv6,
                    ..FIXED
                },
                "mode ip6ip6",
            ),
            (Ip6Tunnel { local: other, ..FIXED }, "near end (local) is ::1"),
            (
                Ip6Tunnel {
                    local: Ipv6Addr::UNSPECIFIED,
                    ..FIXED
                },
                "near end (local) is any",
            ),
            (Ip6Tunnel { remote: other, ..FIXED }, "far end (remote) is ::1"),
            (
                Ip6Tunnel {
                    remote: Ipv6Addr::UNSPECIFIED,
                    ..FIXED
                },
                "remote any",
            ),
        ];
        for (settings, fault) in rows {
            let said = refused(settings, 0);
            assert!(said.contains(fault) && said.contains(change), "{said}");
        }
        let both = refused(
            Ip6Tunnel {
                carries: Carries::Ipv6,
                local: other,
                ..FIXED
            },
            0,
        );
        assert!(both.contains("mode ip6ip6") && both.contains("near end"), "{both}");
        let external = refused(
            Ip6Tunnel {
                carries: Carries::Ipv6,
                ..EXTERNAL
            },
            0,
        );
        assert!(
            external.contains("ip link delete mape0") && !external.contains("change"),
            "{external}"
        );
    }

    #[test]
    fn a_tunnel_to_the_relay_alone_is_none_for_other_customers() {
        let said = refused(FIXED, 2);
        assert!(
            said.contains("fmr = true: 2") && said.contains("tunnel.device"),
            "{said}"
        );
        assert!(look_at(&device(EXTERNAL), 2, &[], &[ROUTE]).is_ok());
    }

    #[test]
    fn what_costs_is_a_warning_with_the_command() {
        let limited = Ip6Tunnel {
            encapsulation_limit: Some(4),
            ..FIXED
        };
        let said = warned(&device(limited), &[], &[ROUTE]).join("\n");
        assert!(
            said.contains("encaplimit none") && said.contains("EncapsulationLimit=none"),
            "{said}"
        );
        let small = Interface {
            mtu: 1452,
            ..device(EXTERNAL)
        };
        let said = warned(&small, &[], &[ROUTE]).join("\n");
        assert!(
            said.contains("smaller") && said.contains("ip link set mape0 mtu 1460"),
            "{said}"
        );
        let off = Interface {
            up: false,
            ..device(EXTERNAL)
        };
        let said = warned(&off, &[], &[]).join("\n");
        assert!(
            said.contains("ip link set mape0 up") && said.contains("ip route add default dev mape0 mtu 1460"),
            "{said}"
        );
    }

    #[test]
    fn the_shared_address_does_not_belong_there() {
        let address = |index, address: &str| Assigned {
            index,
            address: address.parse().unwrap(),
            len: 24,
        };
        let external = device(EXTERNAL);
        for other in [
            address(7, "192.0.0.2"),
            address(1, "192.0.2.18"),
            address(7, "2001:db8::1"),
        ] {
            assert_eq!(warned(&external, &[other], &[ROUTE]), Vec::<String>::new());
        }
        let [said] = &warned(&external, &[address(7, "192.0.2.18")], &[ROUTE])[..] else {
            panic!("one warning")
        };
        let mended = "ip address add 192.0.0.2/32 dev mape0 && ip address delete 192.0.2.18/24 dev mape0";
        assert!(said.ends_with(mended), "{said}");
    }

    #[test]
    fn other_devices_are_used_as_they_are() {
        let tun = Interface {
            mtu: 1460,
            kind: Some("tun".to_owned()),
            ..nic(7, "mape0")
        };
        let adopted = look_at(&tun, 3, &[], &[ROUTE]).unwrap();
        assert!(adopted.message.contains("TUN"), "{adopted:?}");
        assert_eq!(adopted.warnings, Vec::<String>::new());
    }
}
