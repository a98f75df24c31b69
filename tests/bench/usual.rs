//! Owns the figures that the targets hold for: 64 bytes, 1,000 sessions, both directions, beside the ceiling and the kernel.

use anyhow::{Result, bail};

use crate::{
    bed::Way,
    cases::{Bench, By, Load},
    report::Report,
};

/// What the user had before: Mbit/s.
const BASELINE: f64 = 85.0;
/// The largest frame that the tunnel takes, about: its payload is what a download is made of.
const LARGE: usize = 1_400;

pub(crate) fn measure(bench: &mut Bench<'_>, report: &mut Report) -> Result<()> {
    let [up, down] = [Way::Up, Way::Down].map(Load::usual);
    let large = Load { size: LARGE, ..down };
    let readings = bench.turns(&[
        (By::Nothing, up),
        (By::Nothing, down),
        (By::Bare, up),
        (By::Bare, down),
        (By::Encapsulating, up),
        (By::Least, up),
        (By::Ours, up),
        (By::Ours, down),
        (By::Kernel, up),
        (By::KernelNat, up),
        (By::Ours, large),
    ])?;
    let [
        made_up,
        made_down,
        bare_up,
        bare_down,
        encapsulating,
        least,
        ours_up,
        ours_down,
        forward,
        nat,
        large,
    ] = &readings[..]
    else {
        bail!("eleven cases");
    };
    report.figure("generator_ns", made_up);
    report.figure("generator_down_ns", made_down);
    report.figure("redirect_ns", bare_up);
    report.figure("redirect_down_ns", bare_down);
    report.figure("encapsulate_ns", encapsulating);
    report.figure("least_ns", least);
    report.figure("up_ns", ours_up);
    report.figure("down_ns", ours_down);
    report.figure("up_added_ns", &ours_up.minus(bare_up));
    report.figure("encapsulate_added_ns", &encapsulating.minus(bare_up));
    report.figure("least_added_ns", &least.minus(bare_up));
    report.figure("down_added_ns", &ours_down.minus(bare_down));
    report.figure("kernel_forward_ns", forward);
    report.figure("kernel_snat_ns", nat);
    let made = report.get("generator_ns");
    let of_kernel = report.get("kernel_snat_ns") - made;
    report.single("ratio_up_to_kernel_snat", of_kernel / (report.get("up_ns") - made));
    #[expect(clippy::cast_precision_loss, reason = "a frame's bits")]
    let bits = (LARGE * 8) as f64;
    let megabits = bits * 1e3 / large.summary().median;
    report.single("down_1400_mbps", megabits);
    report.single("baseline_multiple_85mbps", megabits / BASELINE);
    Ok(())
}
