//! `stoq-bench compare`: two results side by side.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Usage;
use crate::compare::{compare, sides};
use crate::results::Results;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The first result; a file that `ab` wrote holds both.
    a: PathBuf,
    /// The second.
    b: Option<PathBuf>,
    /// Compare results of unlike machines or loads, and INVALID ones, too.
    #[arg(long)]
    anyway: bool,
    /// Print the comparison as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the comparison. Exit code 1 when it was refused.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let second = args.b.as_deref().map(Results::load).transpose()?;
    let sides = sides(Results::load(&args.a)?, second).map_err(Usage)?;
    let mut comparison = compare(&sides.a, &sides.b);
    comparison.set_aside = sides.set_aside;
    // Of a pair the load is what was asked for, on both sides, in one command.
    let loads = comparison.loads.iter().filter(|_| args.b.is_some());
    let doubtful = !comparison.unlike.is_empty()
        || !comparison.invalid.is_empty()
        || loads.clone().next().is_some();
    if doubtful && !args.anyway {
        for line in &comparison.unlike {
            eprintln!("the machines differ: {line}");
        }
        for line in loads {
            eprintln!("the loads differ: {line}");
        }
        for line in &comparison.invalid {
            eprintln!("INVALID: {line}");
        }
        eprintln!("stoq-bench: these say little about the servers; --anyway compares them");
        return Ok(ExitCode::FAILURE);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        print!("{}", comparison.table());
    }
    Ok(ExitCode::SUCCESS)
}
