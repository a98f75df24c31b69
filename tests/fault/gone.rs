//! A NIC is deleted and made again while nobody looks after the gateway: what is said of that, and that `load` takes it up.

use std::{thread, time::Duration};

use anyhow::Result;
use mape_tests::lab::alone;
use serde_json::Value;

use crate::{CE_ADDRESS, PATIENCE, Site};

/// What `check` finds, without what is fine.
fn findings(site: &Site) -> Result<Vec<(String, String)>> {
    let config = site.gateway()?.config().to_string_lossy().into_owned();
    let said = site.ctl(&["check", "--config", &config, "--json"])?.stdout;
    let report: Value = serde_json::from_str(&said)?;
    let all = report["findings"].as_array().cloned().unwrap_or_default();
    let bad = all.into_iter().filter(|found| found["level"] == "error");
    Ok(bad
        .map(|found| {
            let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
            (text("id"), text("about"))
        })
        .collect())
}

/// The links that `stat` shows as gone, and as running.
fn links(site: &Site) -> Result<(usize, usize)> {
    let stat = site.stat()?;
    let links = stat["links"].as_array().cloned().unwrap_or_default();
    let having = |key: &str| links.iter().filter(|link| link[key] == true).count();
    Ok((having("gone"), having("alive")))
}

#[test]
fn a_nic_that_was_deleted_and_made_again_is_said_so_and_taken_up_by_load() {
    let _alone = alone();
    let Some(site) = Site::loaded().unwrap() else { return };
    let running = links(&site).unwrap().1;
    for nic in ["wan0", "lan0"] {
        site.lab.cut("ce", nic).unwrap();
        assert_eq!(links(&site).unwrap(), (1, running - 1), "{nic} is gone");
        let text = site.ctl(&["stat", "--no-rates"]).unwrap().success().unwrap().stdout;
        assert!(text.contains("(gone)"), "{text}");

        site.lab.mend("ce", nic).unwrap();
        if nic == "wan0" {
            // The lab's plan has the address that `load` adds.
            site.ce()
                .unwrap()
                .tool(&format!("ip -6 address del {CE_ADDRESS}/128 dev wan0"))
                .unwrap();
        }
        thread::sleep(Duration::from_secs(1));
        let found = findings(&site).unwrap();
        println!("{nic} made again: {found:?}");
        assert!(
            found.contains(&("loaded-attached".to_owned(), nic.to_owned())),
            "{found:?}"
        );
        assert!(!found.iter().any(|(id, _)| id == "loaded-running"), "{found:?}");

        let load = site.load().unwrap().success().unwrap();
        mape_tests::process::wait_for("the fast path", PATIENCE, || {
            site.forwards()?;
            Ok(links(&site)? == (0, running))
        })
        .unwrap();
        println!("{nic}: {}", load.stdout.lines().next().unwrap_or_default());
        assert_eq!(findings(&site).unwrap(), []);
    }
    site.ctl(&["unload"]).unwrap().success().unwrap();
    site.left_nothing_of_ours().unwrap();
}
