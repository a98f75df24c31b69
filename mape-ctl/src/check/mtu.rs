//! Sizes of packets: the WAN's, the LANs' and the tunnel's have to fit each other.

use super::{Report, Subject, Trouble, fix::Fix, kind};
use crate::{datapath::load::OVERHEAD, netlink::link::Interface};

/// MTUs of interfaces; nothing where there is no such interface.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) wan: Option<u32>,
    pub(super) lan: Vec<(String, u32)>,
    pub(super) device: Option<u32>,
}

pub(super) fn gather(subject: &Subject, interfaces: &[Interface]) -> Facts {
    let of = |name: &str| {
        interfaces
            .iter()
            .find(|found| found.name == name)
            .map(|found| found.mtu)
    };
    Facts {
        wan: of(&subject.wan),
        lan: subject
            .lan
            .iter()
            .filter(|name| **name != subject.wan)
            .filter_map(|name| Some((name.clone(), of(name)?)))
            .collect(),
        device: of(&subject.device),
    }
}

pub(super) fn judge(report: &mut Report, subject: &Subject, facts: &Facts) {
    let (mtu, wan) = (u32::from(subject.mtu), &subject.wan);
    let needed = mtu.saturating_add(OVERHEAD);
    if let Some(there) = facts.wan {
        let too_small = (there < needed).then(|| {
            let fits = there.saturating_sub(OVERHEAD);
            Trouble::new(
                format!("packets of {mtu} bytes in the tunnel need an MTU of {needed} on {wan}, which has {there}"),
                format!("ip link set dev {wan} mtu {needed}, or tunnel.mtu = {fits} (--mtu {fits})"),
            )
        });
        report.see(kind::MTU_WAN, wan, too_small);
        let room = (there > needed && there <= 1500).then(|| {
            let fits = there.saturating_sub(OVERHEAD);
            Trouble::new(
                format!("the tunnel takes packets of {mtu} bytes, and {wan} has room for {fits}"),
                format!("tunnel.mtu = {fits} (--mtu {fits}), if the provider takes IPv6 packets of {there} bytes"),
            )
        });
        report.see(kind::MTU_ROOM, wan, room);
    }
    for (name, there) in &facts.lan {
        report.see(kind::MTU_LAN, name, lan(subject, name, *there));
    }
    if let Some(there) = facts.device.filter(|_| subject.is_edge() && subject.is_loaded) {
        let device = &subject.device;
        let differs = (there != mtu).then(|| {
            Trouble::mended_by(
                format!("{device} has an MTU of {there}, and the gateway's tunnel takes {mtu}"),
                Fix::Mtu {
                    device: device.clone(),
                    mtu: subject.mtu,
                },
            )
        });
        report.see(kind::MTU_DEVICE, device, differs);
    }
}

fn lan(subject: &Subject, name: &str, there: u32) -> Option<Trouble> {
    let mtu = u32::from(subject.mtu);
    if there < mtu {
        return Some(Trouble::new(
            format!("{name} has an MTU of {there}, and packets out of the tunnel may have {mtu}"),
            format!(
                "ip link set dev {name} mtu {mtu} or more, on its hosts too; or tunnel.mtu = {there} (--mtu {there})"
            ),
        ));
    }
    (there > mtu && !subject.clamps_mss && subject.is_edge()).then(|| {
        Trouble::new(
            format!("hosts of {name} may send packets of {there} bytes, the tunnel takes {mtu}, and the TCP MSS is not clamped"),
            "tunnel.mss-clamp = true (--mss-clamp true): connections then begin with sizes that fit",
        )
    })
}
