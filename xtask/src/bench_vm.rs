//! Owns `cargo xtask bench-vm`: how many instructions a packet's way takes, in virtual machines whose clock counts them, beside the kernel's
//! tunnel and the usual rules of source NAT. Nothing there depends on how busy this machine is.

pub(crate) mod budget;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use mape_tests::process::interrupted;
use serde_json::{Value, json};

use crate::{
    build::build,
    cargo::{release_program, root},
    document,
    setup::progress,
    vm::{
        self, guest,
        kernel::{Kernel, Kernels, debian_version},
        live::{Live, Parts, Shape},
        modules,
        qemu::Qemu,
    },
};

/// What the chains and the kernel's NAT and tunnel are made of.
const MODULES: [&str; 15] = [
    "virtio_pci",
    "virtio_console",
    // libcrc32c asks for it by a name that no module has.
    "crc32c_generic",
    "veth",
    "ip6_tunnel",
    "sch_ingress",
    "cls_bpf",
    "nf_tables",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nft_chain_nat",
    "nft_nat",
    "nft_ct",
    "nft_numgen",
];
const PROGRAMS: [&str; 5] = ["conntrack", "ethtool", "ip", "nft", "tc"];
const MEMORY_MIB: u32 = 1_536;
/// The machine switches itself off after this of its own time, which is another one than ours.
const LIFE: Duration = Duration::from_hours(1);
/// One emulated processor does about a hundred million instructions a second, and less on a busy machine.
const LIMIT: Duration = Duration::from_mins(25);
const SHAPE: Shape = Shape {
    board: "q35",
    processors: 1,
    queues: 0,
};
const DOCUMENT: &str = "docs/performance.md";
/// The kernel that every test run counts on.
const IN_TESTS: &str = "6.12";

/// What to count, and where to write it.
#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct BenchVm {
    /// Series of Debian cloud kernels: the newest of each is taken.
    #[arg(value_name = "KERNEL", default_values_t = ["6.1", "6.12", "6.18", "7"].map(str::to_owned))]
    kernels: Vec<String>,
    /// Frames in one run by XDP; a kernel path gets a fifth. With half a million figures repeat to about a hundredth.
    #[arg(long, default_value_t = 500_000)]
    frames: u32,
    /// Runs of each case.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Write all figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the table into docs/performance.md.
    #[arg(long)]
    document: bool,
    /// Fail where a way takes more than its budget (mape-ebpf/budget.json).
    #[arg(long, conflicts_with = "keep")]
    check: bool,
    /// Make what was counted the budget.
    #[arg(long)]
    keep: bool,
    /// Look for newer kernels than those fetched earlier.
    #[arg(long)]
    refresh: bool,
}

/// One kernel's figures.
struct Counted {
    series: String,
    /// Debian's version, which tells more than the release.
    version: String,
    figures: Value,
}

/// Counts on all kernels, one after the other.
pub(crate) fn bench_vm(arguments: &BenchVm) -> Result<()> {
    let qemu = Qemu::provide()?;
    let mut kernels = Kernels::new(arguments.refresh);
    let programs = [build()?, release_program("mape-tests", "mape-bench")?];
    let mut counted = Vec::new();
    for series in &arguments.kernels {
        counted.push(count(
            &qemu,
            &mut kernels,
            series,
            &programs,
            arguments.frames,
            arguments.rounds,
        )?);
    }
    let table = table(&counted);
    println!("\n{table}");
    if let Some(file) = &arguments.json {
        let rows: Vec<Value> = counted.iter().map(row).collect();
        fs::write(file, format!("{:#}\n", Value::Array(rows)))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if arguments.document {
        document::write_between_marks(&root().join(DOCUMENT), "bench-vm", &table)?;
    }
    if arguments.keep {
        for kernel in &counted {
            budget::keep(&kernel.series, &kernel.figures)?;
        }
    }
    if arguments.check {
        let over: Vec<String> = counted
            .iter()
            .map(|kernel| budget::over(&kernel.series, &kernel.figures))
            .collect::<Result<Vec<_>>>()?
            .concat();
        ensure!(over.is_empty(), "over the budget:\n{}", over.join("\n"));
    }
    Ok(())
}

/// The part that belongs to every test run: what is over its budget, in words; or why nothing was counted.
pub(crate) fn in_tests(mape_ctl: &Path) -> Result<Result<Vec<String>, String>> {
    let mut kernels = Kernels::new(false);
    let qemu = match kernels.newest(IN_TESTS).and_then(|_| Qemu::provide()) {
        Ok(qemu) => qemu,
        Err(error) => return Ok(Err(format!("counting instructions: {error:#}"))),
    };
    let programs = [mape_ctl.to_owned(), release_program("mape-tests", "mape-bench")?];
    let counted = count(&qemu, &mut kernels, IN_TESTS, &programs, 200_000, 1)?;
    println!("{}", table(std::slice::from_ref(&counted)));
    budget::over(IN_TESTS, &counted.figures).map(Ok)
}

fn count(
    qemu: &Qemu,
    kernels: &mut Kernels,
    series: &str,
    [mape_ctl, bench]: &[PathBuf; 2],
    frames: u32,
    rounds: usize,
) -> Result<Counted> {
    let begin = Instant::now();
    let kernel = kernels.newest(series)?;
    let tree = kernels.modules(&kernel)?;
    let modules = modules::collect(&kernel.release, &tree, &MODULES)?;
    let mut files = guest::agent_file_system(&modules, &PROGRAMS, LIFE)?;
    files.program("bin/mape-ctl", mape_ctl)?;
    files.program("bin/mape-bench", bench)?;
    let archive = vm::folder().join(format!("bench-{}.cpio", kernel.release));
    files.write(&archive)?;
    let counted = count_in(qemu, &kernel, &archive, frames, rounds);
    // The next kernel has one of its own.
    let _ = fs::remove_file(&archive);
    let (version, figures) = counted.with_context(|| format!("Linux {series}"))?;
    progress(&format!("Linux {version}: counted in {} s", begin.elapsed().as_secs()));
    Ok(Counted {
        series: series.to_owned(),
        version,
        figures,
    })
}

fn count_in(qemu: &Qemu, kernel: &Kernel, file_system: &Path, frames: u32, rounds: usize) -> Result<(String, Value)> {
    let mut machine = Live::start(Parts {
        qemu,
        kernel,
        file_system,
        memory_mib: MEMORY_MIB,
        shape: SHAPE,
        nics: Vec::new(),
        nic_properties: "",
        counts_instructions: true,
    })?;
    let said = machine.must("uname -v")?;
    let version = debian_version(&said).unwrap_or(&kernel.release).to_owned();
    let answer = machine.script(
        &format!("mape-bench --count --frames {frames} --rounds {rounds}"),
        LIMIT,
    )?;
    if interrupted() {
        bail!("interrupted");
    }
    ensure!(
        answer.exit_code == 0,
        "mape-bench ended with {}: {}",
        answer.exit_code,
        answer.stderr
    );
    Ok((
        version,
        serde_json::from_str(&answer.stdout).context("mape-bench printed no JSON")?,
    ))
}

fn row(kernel: &Counted) -> Value {
    let mut row = kernel.figures.clone();
    row["kernel"] = json!(kernel.version);
    row
}

/// What the table has: a figure's name, what it is, and how many digits behind the point.
const ROWS: [(&str, &str, usize); 16] = [
    ("generator", "generator alone", 0),
    ("redirect", "bare redirect, the ceiling", 0),
    ("up", "gateway, LAN to WAN", 0),
    ("down", "gateway, WAN to LAN", 0),
    ("kernel_forward", "kernel forwarding", 0),
    ("kernel_snat", "kernel forwarding with source NAT, no tunnel", 0),
    ("kernel_tunnel", "ip6tnl and the usual rules of source NAT", 0),
    ("up_added", "added over the bare redirect, LAN to WAN", 0),
    ("down_added", "added over the bare redirect, WAN to LAN", 0),
    (
        "encapsulate_added",
        "of that, reading, writing and making room alone",
        0,
    ),
    ("least_added", "the same with the look-ups: the least it can take", 0),
    (
        "kernel_snat_to_up",
        "source NAT without a tunnel: times the gateway, generator subtracted",
        1,
    ),
    (
        "kernel_tunnel_to_up",
        "**ip6tnl and source NAT: times the gateway, generator subtracted**",
        1,
    ),
    ("gateway_new_session", "a new session's first packet", 0),
    ("kernel_snat_new_session", "the kernel's, no tunnel", 0),
    ("kernel_tunnel_new_session", "the kernel's, with ip6tnl", 0),
];

fn table(counted: &[Counted]) -> String {
    let head = ["| instructions a packet |", "|---|"].map(str::to_owned);
    let rows = ROWS.iter().map(|(_, what, _)| format!("| {what} |"));
    let mut lines: Vec<String> = head.into_iter().chain(rows).collect();
    for kernel in counted {
        let figures = ROWS.iter().map(|(key, _, digits)| match kernel.figures[*key].as_f64() {
            Some(figure) => format!(" {figure:.digits$} |"),
            None => " |".to_owned(),
        });
        let column = [format!(" {} |", kernel.version), "---:|".to_owned()];
        for (line, cell) in lines.iter_mut().zip(column.into_iter().chain(figures)) {
            line.push_str(&cell);
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_a_column() {
        let kernel = |version: &str, up: f64| Counted {
            series: "6.1".to_owned(),
            version: version.to_owned(),
            figures: json!({"up": up, "kernel_tunnel_to_up": 10.25}),
        };
        let table = table(&[kernel("6.1.1-1", 1_800.4), kernel("6.2.2-2", 2.0)]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "| instructions a packet | 6.1.1-1 | 6.2.2-2 |");
        assert_eq!(lines[1], "|---|---:|---:|");
        assert!(lines.contains(&"| gateway, LAN to WAN | 1800 | 2 |"));
        assert!(table.contains("subtracted** | 10.2 | 10.2 |"), "{table}");
        assert!(lines.contains(&"| gateway, WAN to LAN | | |"));
    }
}
