//! Owns the choice of what to do; one file per subcommand.

pub mod bench;
pub mod calc;
pub mod check;
pub mod completions;
pub mod detach;
pub mod explain;
pub mod forward;
pub mod load;
pub mod man;
pub mod object;
pub mod ports;
pub mod run;
pub mod sessions;
pub mod stat;
pub mod trace;
pub mod tunnel;
pub mod unload;

use anyhow::Result;

use crate::cli::{Cli, Command};

/// Carries out what was asked for.
///
/// # Errors
/// Whatever stands in the way, with what to do about it.
pub fn run(cli: Cli) -> Result<()> {
    let Cli { instance, command } = cli;
    match command {
        Command::Calc(args) => calc::run(&args),
        Command::Load(args) => load::run(&instance, &args),
        Command::Check(args) => check::run(&instance, &args),
        Command::Run(args) => run::run(&instance, &args),
        Command::Unload => unload::run(&instance),
        Command::Detach { nics } => detach::run(&instance, &nics),
        Command::Stat(args) => stat::run(&instance, &args),
        Command::Bench(args) => bench::run(&instance, &args),
        Command::Sessions(args) => sessions::run(&instance, &args),
        Command::Ports(args) => ports::run(&instance, &args),
        Command::Forward(command) => forward::run(&instance, &command),
        Command::Explain(args) => explain::run(&instance, &args),
        Command::Trace(args) => trace::run(&instance, &args),
        Command::Tunnel(args) => tunnel::run(&instance, &args),
        Command::Object(args) => object::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}
