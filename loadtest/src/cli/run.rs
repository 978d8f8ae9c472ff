//! `stoq-bench run`: makes a run and says what came of it.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::flags::Flags;
use super::summary::Summary;
use super::{INVALID, Usage};
use crate::bundle::Bundle;
use crate::plan::Plan;
use crate::run::{Options, RunError};

/// Share of failed requests above which a run has failed.
const FAILED_SHARE_MAX: f64 = 0.01;
/// The exit code of a process that an interrupt ended.
const INTERRUPTED: i32 = 130;

/// What `run` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    report: Report,
}

/// Whose CPU is read, and where the result goes.
#[derive(Debug, clap::Args)]
pub(crate) struct Report {
    /// The server's process on this machine: its CPU and memory are reported.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Write the whole result here, as JSON.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the whole result as JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// Show nothing while running, and print no table.
    #[arg(short, long)]
    quiet: bool,
}

/// Exit code 0: a run that can be believed, with at most 1 % of failed requests.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (plan, name) = args.flags.plan()?;
    make(plan, name, &args.report)
}

/// Makes the run of `plan`.
pub(crate) fn make(plan: Plan, name: String, report: &Report) -> anyhow::Result<ExitCode> {
    let options = Options {
        name,
        server_pid: report.server_pid,
        progress: !report.json && !report.quiet,
        interrupt: on_ctrl_c()?,
    };
    // Before the run: a file that cannot be written must not cost its result.
    let output = report.output.as_deref().map(create).transpose()?;
    let bundle = match crate::run::run(plan, &options) {
        Err(RunError::Plan(why)) => return Err(Usage(why).into()),
        made => made?,
    };
    if let (Some(file), Some(path)) = (output, &report.output) {
        let mut file = io::BufWriter::new(file);
        serde_json::to_writer(&mut file, &bundle)
            .map_err(io::Error::from)
            .and_then(|()| file.flush())
            .with_context(|| format!("writing {}", path.display()))?;
    }
    let mut stdout = io::stdout().lock();
    if report.json {
        serde_json::to_writer_pretty(&mut stdout, &bundle)?;
        writeln!(stdout)?;
    } else if !report.quiet {
        write!(stdout, "{}", Summary(&bundle))?;
    }
    Ok(exit_code(&bundle))
}

fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("creating {}", path.display()))
}

fn exit_code(bundle: &Bundle) -> ExitCode {
    if !bundle.verdict.valid {
        return ExitCode::from(INVALID);
    }
    let outcome = &bundle.outcome;
    let idle = outcome
        .idle
        .as_ref()
        .is_some_and(|idle| too_many(idle.errors.values().sum(), idle.wanted));
    if outcome.due == 0 || too_many(outcome.failures(), outcome.due) || idle {
        return ExitCode::from(1);
    }
    ExitCode::SUCCESS
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of requests have fewer than 53 bits"
)]
fn too_many(failed: u64, all: u64) -> bool {
    failed as f64 > all as f64 * FAILED_SHARE_MAX
}

/// Cancelled by the first Ctrl-C; a second one ends the process.
pub(super) fn on_ctrl_c() -> anyhow::Result<CancellationToken> {
    let interrupt = CancellationToken::new();
    let cancel = interrupt.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let listen = async move {
        if tokio::signal::ctrl_c().await.is_err() {
            return;
        }
        cancel.cancel();
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(INTERRUPTED);
        }
    };
    std::thread::Builder::new()
        .name("ctrl-c".to_owned())
        .spawn(move || runtime.block_on(listen))?;
    Ok(interrupt)
}
