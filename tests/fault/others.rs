//! Programs of others on the devices of a gateway: who has a NIC keeps it, and what others have put there stays.

use std::fs;

use anyhow::{Context as _, Result};
use mape_tests::{lab::alone, pass};

use crate::{Site, flow::Flow};

/// Writes an object file for `ip` and `tc`; it goes with the lab.
fn object(site: &Site, name: &str, bytes: &[u8]) -> Result<String> {
    let file = site.lab.folder().join(name);
    fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file.display().to_string())
}

/// The kernel's number of the XDP program on a device.
fn program_on(site: &Site, device: &str) -> Result<Option<u64>> {
    let links: serde_json::Value = serde_json::from_str(&site.ce()?.tool(&format!("ip -j link show {device}"))?)?;
    Ok(links[0].pointer("/xdp/prog/id").and_then(serde_json::Value::as_u64))
}

#[test]
fn another_xdp_program_cannot_take_a_nic_and_is_not_taken_for_ours() {
    let _alone = alone();
    let Some(site) = Site::loaded().unwrap() else { return };
    let file = object(&site, "other.o", &pass::elf()).unwrap();
    let attach = format!("ip link set dev wan0 xdpdrv obj {file} sec xdp");
    let flow = Flow::start(&site.lab, 7_170, 500).unwrap();
    let own = program_on(&site, "wan0").unwrap();
    let refused = site.ce().unwrap().tool(&attach).unwrap_err().to_string();
    assert_eq!(program_on(&site, "wan0").unwrap(), own, "{refused}");
    let detach = site.ce().unwrap().tool("ip link set dev wan0 xdpdrv off");
    assert!(detach.is_err() && program_on(&site, "wan0").unwrap() == own);

    // Where ours was taken off by its operator, another's may come, and keeps the NIC; all takes the slow path meanwhile.
    site.ctl(&["detach", "wan0"]).unwrap().success().unwrap();
    site.ce().unwrap().tool(&attach).unwrap();
    let other = program_on(&site, "wan0").unwrap().unwrap();
    let refused = site.load().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    for word in ["wan0", "another XDP program", &other.to_string(), "xdp off"] {
        assert!(refused.stderr.contains(word), "{word}: {refused:?}");
    }
    assert_eq!(program_on(&site, "wan0").unwrap(), Some(other));
    site.others_are_well().unwrap();
    let seen = flow.finish().unwrap();
    println!("beside another's attempts, and behind it: {seen:?}");
    assert_eq!(seen.lost, 0, "{seen:?}");

    // Unloading leaves it; what is refused beside it leaves nothing.
    site.ctl(&["unload"]).unwrap().success().unwrap();
    assert_eq!(program_on(&site, "wan0").unwrap(), Some(other));
    let refused = site.load().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(program_on(&site, "lan0").unwrap(), None, "nothing half attached");
    site.ce().unwrap().tool("ip link set dev wan0 xdpdrv off").unwrap();
    site.is_as_before().unwrap();
    site.load().unwrap().success().unwrap();
    site.forwards().unwrap();
    site.unload_leaves_nothing().unwrap();
}

#[test]
fn tc_filters_of_others_stay_through_load_and_unload() {
    let _alone = alone();
    let Some(site) = Site::loaded().unwrap() else { return };
    let file = object(&site, "next.o", &pass::classifier()).unwrap();
    let node = site.ce().unwrap();
    for device in ["wan0", "mape0"] {
        node.tool(&format!("tc qdisc add dev {device} clsact")).unwrap();
        for side in ["ingress", "egress"] {
            node.tool(&format!(
                "tc filter add dev {device} {side} bpf da obj {file} sec classifier"
            ))
            .unwrap();
        }
    }
    let flow = Flow::start(&site.lab, 7_180, 500).unwrap();
    site.load().unwrap().success().unwrap();
    // The slow path goes by all of them.
    site.ctl(&["detach"]).unwrap().success().unwrap();
    site.lab.wait_until_reachable("host1").unwrap();
    site.load().unwrap().success().unwrap();
    site.forwards().unwrap();
    let seen = flow.finish().unwrap();
    println!("through filters of others: {seen:?}");
    assert_eq!(seen.lost, 0, "{seen:?}");
    site.ctl(&["unload"]).unwrap().success().unwrap();
    for side in ["ingress", "egress"] {
        let filters = node.tool(&format!("tc filter show dev wan0 {side}")).unwrap();
        assert!(filters.contains("next.o"), "{side}: {filters}");
    }
    node.tool("tc qdisc del dev wan0 clsact").unwrap();
    site.is_as_before().unwrap();
}
