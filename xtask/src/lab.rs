//! Owns `cargo xtask lab`: keeps a lab open between commands, to play in.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use mape_tests::{
    lab::{Lab, LabOptions, OPEN_LAB},
    plan::Shape,
    process::{pause, wait_for},
    servers::Servers,
};

use crate::{build::build, demo::PICTURE, setup};

/// Written by the servers once they listen.
const READY: &str = "servers.ready";

/// What to do with the lab.
#[derive(Subcommand)]
pub(crate) enum LabTask {
    /// Make it, load both gateways, start the servers, and leave it open.
    Up {
        /// With a switch, a router and host3 behind it on the second LAN.
        #[arg(long, conflicts_with = "one_arm")]
        router: bool,
        /// With a single interface on ce, for LAN and WAN.
        #[arg(long)]
        one_arm: bool,
        /// Without gateways: plain IPv4 routes, to compare with.
        #[arg(long)]
        plain: bool,
        /// Load this program instead of building one.
        #[arg(long, value_name = "FILE", conflicts_with = "plain")]
        mape_ctl: Option<PathBuf>,
    },
    /// Take it down.
    Down,
    /// Open a shell in one of its nodes.
    Shell {
        /// host1, host2, ce, transit, br or internet.
        #[arg(default_value = "host1")]
        node: String,
    },
    /// Run one command in one of its nodes.
    Exec {
        /// host1, host2, ce, transit, br or internet.
        node: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Answer on the Internet side until ended; `up` starts this by itself.
    #[command(hide = true)]
    Serve,
}

/// Does one of them.
pub(crate) fn lab(task: LabTask) -> Result<()> {
    match task {
        LabTask::Up {
            router,
            one_arm,
            plain,
            mape_ctl,
        } => {
            let shape = match (router, one_arm) {
                (true, _) => Shape::LanRouter,
                (false, true) => Shape::OneArm,
                (false, false) => Shape::TwoLans,
            };
            setup::everything()?;
            let program = match (plain, mape_ctl) {
                (true, _) => None,
                (false, Some(file)) => Some(file),
                (false, None) => Some(build()?),
            };
            up(shape, program.as_deref())
        }
        LabTask::Down => {
            Lab::open(OPEN_LAB)?.down();
            println!("the lab is down");
            Ok(())
        }
        LabTask::Shell { node } => {
            let shell = env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
            println!("a shell in {node}; `exit` leaves it");
            become_program(&node, &[shell])
        }
        LabTask::Exec { node, words } => become_program(&node, &words),
        LabTask::Serve => serve(),
    }
}

/// Without a program the lab routes plainly.
fn up(shape: Shape, program: Option<&Path>) -> Result<()> {
    let mut lab = Lab::up(&LabOptions {
        id: OPEN_LAB.to_owned(),
        shape,
    })?;
    match program {
        Some(program) => lab.load(program)?,
        None => lab.route_plainly()?,
    }
    start_servers(&lab)?;
    let lost = lab.wait_until_reachable("host1")?;
    println!("{PICTURE}");
    println!("The lab is up ({lost} packets were lost until all neighbours were known). Try:");
    println!("  cargo xtask lab exec host1 ping -c 3 198.51.100.1");
    println!("  cargo xtask lab exec host1 iperf3 -c 198.51.100.1");
    println!("  cargo xtask lab exec transit tcpdump -ni ce0");
    if let Some(program) = program {
        println!(
            "  cargo xtask lab exec ce {} --instance {OPEN_LAB}-ce stat",
            program.display()
        );
    }
    println!(
        "  cargo xtask lab shell host1        (nodes: {})",
        lab.nodes().collect::<Vec<_>>().join(", ")
    );
    println!("  cargo xtask lab down");
    lab.keep();
    Ok(())
}

/// Starts this very program inside the node, so that `lab down` finds and ends it there.
fn start_servers(lab: &Lab) -> Result<()> {
    let program = env::current_exe().context("cannot find this program's own file")?;
    let log = lab.folder().join("servers.log");
    let output = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let error = output.try_clone()?;
    lab.node("internet")?.enter(|| {
        let mut command = Command::new(&program);
        command
            .args(["lab", "serve"])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(error);
        // A Ctrl-C in the terminal is for what runs in front there, not for the servers.
        command.process_group(0).spawn().context("cannot start the servers")?;
        Ok(())
    })?;
    let ready = lab.folder().join(READY);
    wait_for("the servers", Duration::from_secs(15), || Ok(ready.exists()))
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())
}

fn serve() -> Result<()> {
    let lab = Lab::open(OPEN_LAB)?;
    let servers = Servers::start(&lab)?;
    fs::write(lab.folder().join(READY), "")?;
    println!("serving files from {}", servers.files().display());
    while pause(Duration::from_hours(1)).is_ok() {}
    // What ended us is `lab down`, which also does the rest.
    lab.keep();
    Ok(())
}

/// Turns this process into the program, so that its terminal, signals and exit status are the user's own.
fn become_program(node: &str, words: &[String]) -> Result<()> {
    let lab = Lab::open(OPEN_LAB)?;
    lab.node(node)?.enter_here()?;
    let Some((program, arguments)) = words.split_first() else {
        bail!("no command given")
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {program}"))
}
