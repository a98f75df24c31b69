//! What a gateway is held by in the kernel is taken away: the BPF file system unmounted, pins removed, or of another layout.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mape_tests::{
    capture::Capture,
    lab::alone,
    process::{self, Background, Finished},
};

use crate::{PATIENCE, Site, flow::Flow};

const BPFFS: &str = "/sys/fs/bpf";

/// A place with mounts of its own, so that a BPF file system can be unmounted and nobody else's is.
struct Place {
    holder: Background,
}

impl Place {
    fn new() -> Result<Self> {
        let mut unshare = Command::new("unshare");
        let holder = Background::start(unshare.args(["--mount", "--propagation", "private", "sleep", "600"]))?;
        let place = Self { holder };
        process::wait_for("mounts of its own", PATIENCE, || {
            let mounts = |process: String| fs::read_link(format!("/proc/{process}/ns/mnt"));
            let own = mounts(place.holder.pid().as_raw_nonzero().to_string())?;
            Ok(own != mounts("self".to_owned())?)
        })?;
        place.tool(&["mount", "-t", "bpf", "bpf", BPFFS])?;
        Ok(place)
    }

    fn words(&self) -> [String; 2] {
        let mounts = format!("--mount=/proc/{}/ns/mnt", self.holder.pid().as_raw_nonzero());
        ["nsenter".to_owned(), mounts]
    }

    fn command(&self) -> Command {
        let [nsenter, mounts] = self.words();
        let mut command = Command::new(nsenter);
        command.arg(mounts);
        command
    }

    fn tool(&self, words: &[&str]) -> Result<Finished> {
        process::run(self.command().args(words), PATIENCE)?.success()
    }

    fn unmount(&self) -> Result<()> {
        self.tool(&["umount", BPFFS]).map(drop)
    }

    /// mape-ctl on the customer edge, with these mounts.
    fn mape(&self, site: &Site, words: &[String]) -> Result<Command> {
        let mut command = self.command();
        command.arg(&site.program);
        command.args(["--instance", site.gateway()?.instance()]).args(words);
        Ok(command)
    }

    fn ctl(&self, site: &Site, words: &[String]) -> Result<Finished> {
        let mut command = self.mape(site, words)?;
        site.ce()?.enter(|| process::run(&mut command, 4 * PATIENCE))
    }
}

fn own(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn without_the_bpf_file_system_ipv4_stops_nothing_leaks_and_load_brings_it_back() {
    let _alone = alone();
    let Some(site) = Site::new().unwrap() else { return };
    let place = Place::new().unwrap();
    let load = site.load_words().unwrap();
    place.ctl(&site, &load).unwrap().success().unwrap();
    site.lab.wait_until_reachable("host1").unwrap();
    let add = own(&["forward", "add", "udp", "4930", "192.168.10.2:53"]);
    place.ctl(&site, &add).unwrap().success().unwrap();
    let capture = Capture::start(&site.lab, "transit", "ce0").unwrap();
    let flow = Flow::start(&site.lab, 7_110, 200).unwrap();
    thread::sleep(Duration::from_secs(1));

    place.unmount().unwrap();
    thread::sleep(Duration::from_secs(1));
    site.others_are_well().unwrap();
    let seen = flow.finish().unwrap();
    println!("{seen:?}");
    assert!(seen.lost > 100 && seen.sent > seen.lost, "{seen:?}");
    let wire = capture.judge().unwrap();
    println!("{} frames from the customer edge in the tunnel", wire.from_ce);
    assert!(wire.from_ce > 0 && wire.is_clean(), "{wire:?}");

    let begin = Instant::now();
    place.ctl(&site, &load).unwrap().success().unwrap();
    println!("loaded again within {:?}", begin.elapsed());
    site.forwards().unwrap();
    // What a command has added is there until a command takes it away.
    let list = site.ctl(&["forward", "list"]).unwrap().success().unwrap().stdout;
    assert!(list.contains("4930") && list.contains("4928"), "{list}");
    site.unload_leaves_nothing().unwrap();
}

#[test]
fn run_loads_again_when_the_bpf_file_system_was_unmounted() {
    let _alone = alone();
    let Some(site) = Site::new().unwrap() else { return };
    let place = Place::new().unwrap();
    let mut words = site.load_words().unwrap();
    "run".clone_into(&mut words[0]);
    let mut command = place.mape(&site, &words).unwrap();
    let run = site.ce().unwrap().enter(|| Background::start(&mut command)).unwrap();
    let file = format!("/run/mape/{}.run.pid", site.gateway().unwrap().instance());
    process::wait_for("run", 4 * PATIENCE, || {
        Ok(fs::read_to_string(&file).is_ok_and(|text| text.contains("ready")))
    })
    .unwrap();
    site.lab.wait_until_reachable("host1").unwrap();

    place.unmount().unwrap();
    let begin = Instant::now();
    process::wait_for("packets again", 4 * PATIENCE, || {
        Ok(site.lab.wait_until_reachable("host1").is_ok())
    })
    .unwrap();
    println!("reachable {:?} after the unmount", begin.elapsed());
    site.forwards().unwrap();
    let said = run.stop().unwrap();
    assert!(said.stdout.contains("nothing is pinned any longer"), "{said:?}");
    site.unload_leaves_nothing().unwrap();
}

#[test]
fn pins_of_another_layout_are_left_alone_and_go_on_forwarding() {
    let _alone = alone();
    let Some(site) = Site::loaded().unwrap() else { return };
    let own = site.gateway().unwrap().pin("");
    let instance = site.gateway().unwrap().instance().to_owned();
    // As if a release with another layout had loaded it.
    let other = own.parent().and_then(|layout| layout.parent()).unwrap().join("v998");
    fs::create_dir_all(&other).unwrap();
    let folder = other.join(&instance);
    fs::rename(&own, &folder).unwrap();
    let flow = Flow::start(&site.lab, 7_120, 500).unwrap();
    for command in [&["unload"][..], &["stat"]] {
        let refused = site.ctl(command).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.stderr.contains("layout v998"), "{refused:?}");
    }
    let refused = site.load().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let way_out = format!("rm -r {}", folder.display());
    assert!(refused.stderr.contains(&way_out), "{refused:?}");
    let seen = flow.finish().unwrap();
    println!("beside three refused commands: {seen:?}");
    assert_eq!(seen.lost, 0, "{seen:?}");

    // As it says.
    fs::remove_dir_all(&folder).unwrap();
    let _ = fs::remove_dir(&other);
    site.load().unwrap().success().unwrap();
    site.forwards().unwrap();
    site.unload_leaves_nothing().unwrap();
}

#[test]
fn pins_that_were_removed_by_hand_are_made_anew_or_named() {
    let _alone = alone();
    let Some(site) = Site::loaded().unwrap() else { return };
    let gateway = site.gateway().unwrap();
    // One map of a gateway that forwards: without it nobody can change what it does, and it goes on.
    let flow = Flow::start(&site.lab, 7_130, 500).unwrap();
    fs::remove_file(gateway.pin("maps/GAUGES")).unwrap();
    let refused = site.load().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    for word in ["maps/GAUGES is missing", "mape-ctl unload"] {
        assert!(refused.stderr.contains(word), "{refused:?}");
    }
    let seen = flow.finish().unwrap();
    println!("without a map's pin: {seen:?}");
    assert_eq!(seen.lost, 0, "{seen:?}");
    site.unload_leaves_nothing().unwrap();

    // Links and some maps: half a gateway, which forwards nothing.
    site.load().unwrap().success().unwrap();
    site.forwards().unwrap();
    remove_half(&site).unwrap();
    site.others_are_well().unwrap();
    site.load().unwrap().success().unwrap();
    site.forwards().unwrap();
    site.unload_leaves_nothing().unwrap();
}

fn remove_half(site: &Site) -> Result<()> {
    let gateway = site.gateway()?;
    for name in ["links/lan0", "links/lan1", "links/wan0", "maps/CONFIG", "maps/SESSIONS"] {
        let pin = gateway.pin(name);
        fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))?;
    }
    ensure!(gateway.pin("maps/GATE").exists(), "the rest is there");
    Ok(())
}
