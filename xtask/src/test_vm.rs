//! Owns `cargo xtask test-vm`: the gateway on virtio NICs under Debian's kernels, in virtual machines.

mod bench;
mod check;
mod edge;
mod equal;
mod handover;
mod peer;
mod report;
mod spread;
mod traffic;
mod trap;
mod tunnel;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Result, bail, ensure};
use clap::Args;
use mape_tests::{plan, process::interrupted};

use self::{
    bench::{Bench, Setup},
    report::{Found, Report},
};
use crate::{
    build::build,
    document,
    setup::progress,
    vm::{
        kernel::{Kernel, Kernels},
        live::Shape,
        modules,
        qemu::Qemu,
    },
};

/// The oldest kernel that mape-ctl accepts.
const OLDEST: [u32; 2] = [6, 1];
/// The two that most machines run; others take their time.
const IN_TESTS: [&str; 2] = ["6.1", "6.12"];
/// As small as a virtual machine is.
const SMALL: Shape = Shape {
    board: "pc",
    processors: 1,
    queues: 1,
};
/// With queues enough for XDP's own: twice as many as processors.
const LARGE: Shape = Shape {
    board: "q35",
    processors: 2,
    queues: 4,
};

/// Where one processor receives all, and another has nothing to do.
const ONE_QUEUE: Shape = Shape {
    board: "q35",
    processors: 2,
    queues: 1,
};

/// What to try on.
#[derive(Args)]
pub(crate) struct TestVm {
    /// Series of Debian cloud kernels: the newest of each is tried. 7 is any 7.x. One before 6.1 must be refused by mape-ctl.
    #[arg(value_name = "KERNEL", default_values_t = ["5.10", "6.1", "6.12", "6.18", "7"].map(str::to_owned))]
    kernels: Vec<String>,
    /// Only what has this in its name, and `load`, which all needs.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Keep the rows that the file of --json has already, but for those that are tried again.
    #[arg(long, requires = "json")]
    update: bool,
    /// Write the rows to this file, as JSON; after each of them.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the table into this document, between its marks, when every kernel could be tried.
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// Only one machine for each kernel.
    #[arg(long)]
    quick: bool,
    /// Look for newer kernels than those fetched earlier.
    #[arg(long)]
    refresh: bool,
    /// Try this program instead of building one.
    #[arg(long, value_name = "FILE")]
    mape_ctl: Option<PathBuf>,
}

/// A scenario in a machine that is a customer edge, and what reports call it.
type Scenario = (&'static str, fn(&mut Bench) -> Result<Found>);

/// What is tried in a customer edge, in this order: each needs what those before have left.
const BASIC: [Scenario; 15] = [
    ("load, native XDP on both NICs", edge::load),
    ("tunnel device of the slow path", edge::tunnel_device),
    ("check", check::of_one_that_is_well),
    ("fast path: TCP by hash, counted UDP, ping, DNS", traffic::fast),
    ("fragments that fit the tunnel", traffic::fragments),
    ("fragments that do not fit", traffic::large_fragments),
    ("larger than the tunnel", traffic::too_big),
    ("IPv4 options", traffic::options),
    ("time exceeded", traffic::time_exceeded),
    ("the gateway's own traffic", traffic::own),
    ("the gateway's own fragments", traffic::own_fragments),
    ("equivalence: the wire cannot tell the paths apart", equal::on_the_wire),
    (
        "hand-over: a stateful firewall from here on",
        handover::behind_a_firewall,
    ),
    ("hand-over: neighbours forgotten", handover::neighbours),
    ("hand-over: loaded again", handover::reload),
];
/// And after that, where there is time for it: the verifier takes a while, emulated.
const LONG: [Scenario; 5] = [
    ("hand-over: both NICs detached and on again", handover::both),
    ("hand-over: one NIC detached and on again", handover::one),
    ("hand-over: a NIC that loses its program", handover::torn_off),
    ("a narrow link on the way to the relay", traffic::narrow_path),
    ("a tunnel device of somebody else's", tunnel::of_others),
];
/// Where there are queues.
const QUEUES: [Scenario; 1] = [("packets from the tunnel, by queues", spread::by_queues)];
/// In a machine that has one queue for two processors.
const SHARED: [Scenario; 2] = [
    BASIC[0],
    (
        "packets from the tunnel in one queue, shared by processors",
        spread::by_processors,
    ),
];
/// At last.
const LAST: [Scenario; 2] = [
    ("unload leaves nothing", edge::unload),
    (
        "customer edge of ip6tnl and nftables, our border relay",
        peer::customer_edge,
    ),
];
const MTU: [Scenario; 1] = [("NIC with an MTU of 9,000", trap::large_mtu)];
/// In a machine that is the border relay.
const RELAY: [Scenario; 1] = [(
    "border relay of ip6tnl and routes, our customer edge",
    peer::border_relay,
)];
/// In machines whose NICs lack something.
const TRAPS: [(&str, Scenario); 3] = [
    (
        "mrg_rxbuf=off",
        ("NICs with mrg_rxbuf=off", trap::without_mergeable_buffers),
    ),
    (
        "ctrl_guest_offloads=off",
        ("NICs with ctrl_guest_offloads=off", trap::without_control_of_offloads),
    ),
    (
        "ctrl_guest_offloads=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_uso4=off,guest_uso6=off",
        (
            "NICs without guest offloads, and generic XDP there",
            trap::without_offloads,
        ),
    ),
];
/// What an old kernel is tried on.
const OLD: [Scenario; 1] = [("load, native XDP on both NICs", edge::refusal)];
/// And one that is only looked at.
const SMOKE: [Scenario; 7] = [BASIC[0], BASIC[1], BASIC[2], BASIC[3], BASIC[6], BASIC[9], LAST[0]];

/// How much is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Everything, on two machines a kernel; some kernels are only looked at.
    Full,
    /// On one machine, and not what loads again and again.
    Quick,
}

/// What is tried: how much, and only what has this in its name.
struct What {
    extent: Extent,
    only: String,
}

/// Tries all kernels, one machine after the other, and fails at the end if something was not as it should be.
pub(crate) fn test_vm(arguments: TestVm) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the machines' NICs end in network namespaces, which need root"
    );
    ensure!(
        arguments.document.is_none() || arguments.only.is_none() || arguments.update,
        "the document is of everything: --only leaves a part out, --update keeps what is known of it"
    );
    let program = match arguments.mape_ctl {
        Some(file) => file,
        None => build()?,
    };
    let extent = if arguments.quick { Extent::Quick } else { Extent::Full };
    let qemu = Qemu::provide()?;
    let mut report = match arguments.json {
        Some(file) if arguments.update => Report::continued(file)?,
        file => Report::kept_in(file),
    };
    let what = What {
        extent,
        only: arguments.only.unwrap_or_default(),
    };
    run(
        &qemu,
        &arguments.kernels,
        &what,
        arguments.refresh,
        &program,
        &mut report,
    )?;
    ensure!(
        report.len() > 0,
        "nothing that is tried has `{}` in its name",
        what.only
    );
    let table = report.markdown();
    println!("\n{table}");
    let failures = report.failures();
    if let Some(file) = &arguments.document
        && failures.is_empty()
    {
        document::write_between_marks(file, "test-vm", &table)?;
    }
    ensure!(
        failures.is_empty(),
        "{} of {} are not as they should be:\n{}",
        failures.len(),
        report.len(),
        failures.join("\n")
    );
    Ok(())
}

/// What came of the part that belongs to every test run.
pub(crate) enum InTests {
    /// Nothing, and why.
    Skipped(String),
    /// So many rows are as they should be, and these are not.
    Done { passed: usize, failed: Vec<String> },
}

/// The part that belongs to every test run.
pub(crate) fn in_tests(program: &Path) -> Result<InTests> {
    if !rustix::process::geteuid().is_root() {
        let reason = "virtual machines: their NICs end in network namespaces, which need root";
        return Ok(InTests::Skipped(reason.to_owned()));
    }
    let qemu = match provide() {
        Ok(qemu) => qemu,
        Err(error) => return Ok(InTests::Skipped(format!("virtual machines: {error:#}"))),
    };
    let mut report = Report::default();
    let what = What {
        extent: Extent::Quick,
        only: String::new(),
    };
    run(&qemu, &IN_TESTS.map(str::to_owned), &what, false, program, &mut report)?;
    let failed = report.failures();
    Ok(InTests::Done {
        passed: report.len() - failed.len(),
        failed,
    })
}

/// Everything that has to be fetched.
fn provide() -> Result<Qemu> {
    let mut kernels = Kernels::new(false);
    for series in IN_TESTS {
        let kernel = kernels.newest(series)?;
        kernels.modules(&kernel)?;
    }
    Qemu::provide()
}

fn run(qemu: &Qemu, kernels: &[String], what: &What, refresh: bool, program: &Path, report: &mut Report) -> Result<()> {
    let mut found = Kernels::new(refresh);
    for (number, series) in kernels.iter().enumerate() {
        let begin = Instant::now();
        if let Err(error) = try_kernel(qemu, &mut found, series, what, number, program, report) {
            if interrupted() {
                return Err(error);
            }
            // The others may be there.
            report.add(series, "-", BASIC[0].0, Err(error), begin.elapsed())?;
        }
    }
    Ok(())
}

fn try_kernel(
    qemu: &Qemu,
    found: &mut Kernels,
    series: &str,
    what: &What,
    number: usize,
    program: &Path,
    report: &mut Report,
) -> Result<()> {
    let kernel = found.newest(series)?;
    let tree = found.modules(&kernel)?;
    let modules = modules::collect(&kernel.release, &tree, &bench::MODULES)?;
    let file_system = bench::file_system(&kernel, &modules, program)?;
    let setup = Setup {
        qemu,
        kernel: &kernel,
        file_system: &file_system,
        mape_ctl: program,
    };
    for shape in shapes(&kernel, what.extent, number) {
        try_machine(&setup, shape, what, report)?;
    }
    // The next kernel has one of its own.
    let _ = fs::remove_file(&file_system);
    Ok(())
}

/// Whether everything is tried on it.
fn is_common(kernel: &Kernel) -> bool {
    matches!(kernel.version(), [6, 1 | 12]) || kernel.version() >= [7, 0]
}

/// The machines that a kernel is tried on.
fn shapes(kernel: &Kernel, extent: Extent, number: usize) -> Vec<Shape> {
    match (is_common(kernel), extent) {
        (true, Extent::Full) => vec![LARGE, SMALL],
        // Of two kernels each on another.
        (true, Extent::Quick) if number.is_multiple_of(2) => vec![SMALL],
        _ => vec![LARGE],
    }
}

fn try_machine(setup: &Setup<'_>, shape: Shape, what: &What, report: &mut Report) -> Result<()> {
    let mut tried = Tried {
        setup,
        shape,
        only: &what.only,
        kernel: setup.kernel.release.clone(),
        report,
    };
    if setup.kernel.version() < OLDEST {
        return tried.scenarios(plan::Shape::VirtualEdge, "", &OLD);
    }
    let scenarios = match what.extent {
        _ if !is_common(setup.kernel) => SMOKE.to_vec(),
        Extent::Quick if shape == SMALL => [&BASIC[..], &LAST].concat(),
        Extent::Quick => [&BASIC[..], &QUEUES, &LAST].concat(),
        // What takes long is done once a kernel: where each processor has queues of its own, more can happen at once; and
        // what virtio gets wrong is the same whatever the board.
        Extent::Full if shape == SMALL => [&BASIC[..], &LAST, &MTU].concat(),
        Extent::Full => [&BASIC[..], &QUEUES, &LONG, &LAST].concat(),
    };
    tried.scenarios(plan::Shape::VirtualEdge, "", &scenarios)?;
    if !is_common(setup.kernel) {
        return Ok(());
    }
    tried.scenarios(plan::Shape::VirtualRelay, "", &RELAY)?;
    if shape == LARGE {
        tried.shape = ONE_QUEUE;
        tried.scenarios(plan::Shape::VirtualEdge, "", &SHARED)?;
        tried.shape = shape;
    }
    if (shape, what.extent) != (SMALL, Extent::Full) {
        return Ok(());
    }
    for (properties, scenario) in TRAPS {
        tried.scenarios(plan::Shape::VirtualEdge, properties, &[scenario])?;
    }
    Ok(())
}

/// A scenario in a machine that has seen nothing yet: behind the first one, which all need.
fn again(bench: &mut Bench, scenarios: &[Scenario], (feature, scenario): Scenario) -> Result<Found> {
    if let Some((first, load)) = scenarios.first()
        && *first != feature
    {
        load(bench)?;
    }
    scenario(bench)
}

/// A machine that is tried.
struct Tried<'a> {
    setup: &'a Setup<'a>,
    shape: Shape,
    only: &'a str,
    kernel: String,
    report: &'a mut Report,
}

impl Tried<'_> {
    /// Does scenarios one after the other on a machine; where one fails that the rest needs, the rest is not tried. One that fails is
    /// tried once more: a machine that is emulated loses what another one would not, while others use this machine's processors.
    fn scenarios(&mut self, plan: plan::Shape, nic_properties: &str, scenarios: &[Scenario]) -> Result<()> {
        if !scenarios.iter().any(|(feature, _)| feature.contains(self.only)) {
            return Ok(());
        }
        let mut bench = match Bench::start(self.setup, self.shape, plan, nic_properties) {
            Ok(bench) => bench,
            Err(error) => return self.add(scenarios[0].0, Err(error), Instant::now()),
        };
        self.kernel.clone_from(&bench.kernel);
        let only = self.only;
        let wanted = |feature: &str| feature == BASIC[0].0 || feature.contains(only);
        for (feature, scenario) in scenarios.iter().filter(|(feature, _)| wanted(feature)) {
            let begin = Instant::now();
            let mut found = scenario(&mut bench);
            if let Err(error) = &found
                && !interrupted()
            {
                let first = format!("{error:#}");
                progress(&format!("{feature}: once more, in a machine of its own: {first}"));
                // The names are those of the lab that is there.
                drop(bench);
                bench = match Bench::start(self.setup, self.shape, plan, nic_properties) {
                    Ok(bench) => bench,
                    Err(error) => return self.add(feature, Err(error), begin),
                };
                found = again(&mut bench, scenarios, (feature, *scenario)).map(|found| found.after(&first));
            }
            let is_first = found.is_err() && *feature == scenarios[0].0;
            self.add(feature, found, begin)?;
            if is_first {
                progress("the rest needs that; not tried");
                break;
            }
        }
        Ok(())
    }

    fn add(&mut self, feature: &'static str, found: Result<Found>, begin: Instant) -> Result<()> {
        if interrupted() {
            bail!("interrupted");
        }
        self.report
            .add(&self.kernel, &self.shape.name(), feature, found, begin.elapsed())
    }
}
