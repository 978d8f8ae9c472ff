//! The command line: `run`, `check`, `store` and `cert`. Results go to standard output, complaints and the log to standard error.
//!
//! Exit codes: 0 done, 1 failed, 2 usage, 3 works but degraded.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use stoq::identity::Identity;
use stoq_mesh::{CertVerb, Origins, StoreVerb};
use stoq_node::Signals;
use stoq_node::config::{Config, Env, Role};
use stoq_node::report::{Exit, Output};

use crate::shield::{Prepared, Running, Shield};

/// An origin shield: collapses the misses of all edges into one fetch.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 works but degraded (`check`: an origin does not answer;
/// `store`: damage, or a volume that ails; `cert`: the node is revoked).
#[derive(Debug, Parser)]
#[command(name = "stoq-shield", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,

    /// Print the result as one JSON object.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve as the configuration says, until SIGTERM; then finish what is under way.
    Run(ConfigFile),
    /// Do all that `run` does short of binding, and ask each origin for a connection.
    Check(ConfigFile),
    /// Look at what is kept on disk: of the node while it runs, else of its volumes.
    #[command(subcommand)]
    Store(StoreArgs),
    /// Look at this node's certificates, and renew its own.
    #[command(subcommand)]
    Cert(CertArgs),
}

#[derive(Debug, Subcommand)]
enum CertArgs {
    /// Who this node is to its cluster, and until when its certificates hold. Exit code 3 when it is revoked.
    List(ConfigFile),
    /// Have the running node issue itself another leaf now, and replace its connections.
    Rotate(ConfigFile),
}

#[derive(Debug, Subcommand)]
enum StoreArgs {
    /// What there is and what it is worth. Reads what is known of each stored response.
    Stats {
        #[command(flatten)]
        file: ConfigFile,
        /// Leave out what it is worth, for which the disk is read.
        #[arg(long)]
        quick: bool,
    },
    /// Read everything, drop what is not what was written. Exit code 3 when there was any.
    Verify(ConfigFile),
    /// Drop chunks that no stored response names any more and that are older than an hour.
    Gc(ConfigFile),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file (TOML).
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// What a verb found out.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    text: String,
}

const DEGRADED: u8 = 3;

/// Runs the program on the process's own arguments.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    let result = match &cli.verb {
        Verb::Store(args) => return ended(store(args, &output), &output),
        Verb::Cert(args) => return ended(cert(args, &output), &output),
        Verb::Run(file) => run(&file.config),
        Verb::Check(file) => check(&file.config),
    };
    match result {
        Ok(report) => {
            if cli.json {
                // A report is plain strings, which JSON can always hold.
                println!("{}", serde_json::to_string(&report).unwrap_or_default());
            } else {
                report
                    .problems
                    .iter()
                    .for_each(|problem| eprintln!("{problem}"));
                println!("{}", report.text);
            }
            if report.ok {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(DEGRADED)
            }
        }
        Err(error) => {
            output.failed(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn ended(result: anyhow::Result<Exit>, output: &Output) -> ExitCode {
    let exit = result.unwrap_or_else(|error| {
        output.failed(error.as_ref());
        Exit::Failed
    });
    exit.into()
}

fn cert(args: &CertArgs, output: &Output) -> anyhow::Result<Exit> {
    let (verb, file) = match args {
        CertArgs::List(file) => (CertVerb::List, file),
        CertArgs::Rotate(file) => (CertVerb::Rotate, file),
    };
    let config = Config::load(&file.config, &Env::from_process(), Role::Shield)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(stoq_mesh::cert(verb, &config))?;
    output.result(&report)?;
    Ok(if report.is_revoked {
        Exit::Degraded
    } else {
        Exit::Done
    })
}

fn store(args: &StoreArgs, output: &Output) -> anyhow::Result<Exit> {
    let (verb, file) = match args {
        StoreArgs::Stats { file, quick } => (StoreVerb::Stats { census: !quick }, file),
        StoreArgs::Verify(file) => (StoreVerb::Verify, file),
        StoreArgs::Gc(file) => (StoreVerb::Gc, file),
    };
    let config = Config::load(&file.config, &Env::from_process(), Role::Shield)?;
    let secret = || {
        let cluster = config.cluster.as_ref().ok_or("[cluster] is missing")?;
        Identity::load(&cluster.identity, &cluster.root, &cluster.name)
            .map(|identity| *identity.cluster_secret())
            .map_err(|error| format!("cluster.identity, cluster.root: {error}"))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(stoq_mesh::store(verb, &config, secret))?;
    output.result(&report)?;
    Ok(if report.is_ok() {
        Exit::Done
    } else {
        Exit::Degraded
    })
}

fn prepare(path: &Path) -> anyhow::Result<Prepared> {
    let config = Config::load(path, &Env::from_process(), Role::Shield)?;
    Ok(Prepared::new(config)?)
}

fn run(path: &Path) -> anyhow::Result<Report> {
    let prepared = prepare(path)?;
    stoq_node::telemetry::init(&prepared.config().log)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before anything serves: a signal that came in between would end the process without a drain.
    let signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    let running = Shield::start(prepared)?;
    runtime.block_on(until_signalled(running, signals))?;
    Ok(Report {
        ok: true,
        problems: Vec::new(),
        text: "stopped".to_owned(),
    })
}

async fn until_signalled(running: Running, signals: Signals) -> anyhow::Result<()> {
    for addr in running.stoq_addrs() {
        tracing::info!(%addr, "listening for nodes");
    }
    let drain = running.drain().clone();
    // Ends with the runtime: a signal after the end has nobody to tell.
    let following = tokio::spawn(async move { drain.follow_signals(signals).await });
    let ended = running.wait().await;
    following.abort();
    Ok(ended?)
}

fn check(path: &Path) -> anyhow::Result<Report> {
    let prepared = prepare(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let problems = runtime.block_on(unreachable(prepared.config(), prepared.origins()));
    let text = match problems.len() {
        0 => format!("{}: ok", path.display()),
        n => format!("{}: valid, but {n} origins do not answer", path.display()),
    };
    Ok(Report {
        ok: problems.is_empty(),
        problems,
        text,
    })
}

/// A line for each origin that does not answer, placed at its entry in the file.
async fn unreachable(config: &Config, origins: &Origins) -> Vec<String> {
    let mut problems = Vec::new();
    for (site, probes) in origins.probe().await.into_iter().enumerate() {
        for (index, probe) in probes.into_iter().enumerate() {
            if let Err(error) = probe.outcome {
                let key = format!("site[{site}].origins[{index}]");
                problems.push(config.error(&key, error.to_string()).to_string());
            }
        }
    }
    problems
}
