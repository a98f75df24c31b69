//! `mape-ctl check`: looks the machine and a gateway over, says what is wrong, and mends what is safe to mend.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result, bail};

use crate::{
    check::{
        self, Finding, Level, Report, Subject,
        show::{self, Step},
    },
    cli::{CheckArgs, LoadArgs},
    config,
    instance::Instance,
    kernel,
    netlink::Netlink,
    view,
};

/// Something is wrong; all has been said on standard output.
#[derive(Debug, thiserror::Error)]
#[error("something is wrong: see the findings above")]
pub struct Unwell {
    /// There are errors, not only warnings.
    pub is_error: bool,
}

/// Looks, mends if that was asked for, looks again, and tells.
///
/// # Errors
/// [`Unwell`] with what was found; or why it could not be looked.
pub fn run(instance: &Instance, args: &CheckArgs) -> Result<()> {
    if kernel::check_root("check").is_err() {
        return tell(args, None, &check::look_at_kernel(instance), &[]);
    }
    let netlink = Netlink::open()?;
    let subject = subject(instance, args, &netlink)?;
    let Some(subject) = subject else {
        return tell(args, None, &check::look_at_kernel(instance), &[]);
    };
    let mut report = check::look(&subject, &netlink, args.passive)?;
    let mut steps = Vec::new();
    if args.fix {
        let _lock = instance.lock()?;
        steps = mend(&report, &netlink, args.dry_run);
        if !args.dry_run && !steps.is_empty() {
            report = check::look(&subject, &netlink, args.passive)?;
        }
    }
    tell(args, Some(&subject), &report, &steps)
}

/// What is configured, or else what is loaded. None where pins of another release are in the way: more cannot be said then.
fn subject(instance: &Instance, args: &CheckArgs, netlink: &Netlink) -> Result<Option<Subject>> {
    let is_loaded = check::is_loaded(instance);
    if args.gateway != LoadArgs::default() {
        let resolved = config::resolve(instance, &args.gateway)?;
        if !args.json {
            super::load::report(&[], &resolved.warnings)?;
        }
        return Ok(Some(Subject::planned(&resolved.gateway, instance, is_loaded)));
    }
    if is_loaded {
        let subject = Subject::loaded(instance, netlink).context("the loaded gateway cannot be read")?;
        return Ok(Some(subject));
    }
    match view::open("check", instance) {
        Err(view::NotLoaded::OtherLayout(_)) => Ok(None),
        Err(error) => bail!("{error}; to look before loading, give the configuration: mape-ctl check --config FILE"),
        Ok(_) => bail!("instance {instance} has just been loaded; try again"),
    }
}

fn mend(report: &Report, netlink: &Netlink, is_dry: bool) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let wrong = report.findings.iter().filter(|finding| finding.level > Level::Ok);
    for Finding { kind, fix, .. } in wrong {
        let Some(fix) = fix else { continue };
        let command = fix.to_string();
        if steps.iter().any(|step| step.command == command) {
            continue;
        }
        let outcome = if is_dry { Ok(()) } else { fix.apply(netlink) };
        steps.push(Step {
            id: kind.id,
            command,
            failure: outcome.err().map(|error| chain(&error)),
        });
    }
    steps
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn tell(args: &CheckArgs, subject: Option<&Subject>, report: &Report, steps: &[Step]) -> Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", show::json(subject, report, steps, args.dry_run))?;
    } else {
        if let Some(subject) = subject {
            writeln!(out, "{}", show::head(subject))?;
        }
        write!(out, "{}", show::steps(steps, args.dry_run))?;
        write!(out, "{}", show::text(report, args.all)?)?;
    }
    out.flush()?;
    let worst = report.worst();
    if worst > Level::Note {
        let is_error = worst == Level::Error;
        return Err(Unwell { is_error }.into());
    }
    Ok(())
}
