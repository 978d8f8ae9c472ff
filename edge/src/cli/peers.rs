//! `cluster peers`, `cluster topology`: the mesh as a running node sees it.

use std::fmt;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;
use stoq_mesh::gossip::report::{ChangeReport, ClusterReport, cluster};
use stoq_node::config::{Config, Env, Role};
use stoq_node::report::{Exit, Output};

/// The flags that both verbs have.
#[derive(Debug, Args)]
pub(super) struct Look {
    /// The configuration file (TOML) of a node that runs on this machine.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Show instead what is otherwise than in an earlier answer, kept with `--json`.
    #[arg(long, value_name = "FILE")]
    diff: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct PeersArgs {
    #[command(flatten)]
    look: Look,
    /// Show instead the last 100 changes.
    #[arg(long, conflicts_with = "diff")]
    changes: bool,
}

#[derive(Debug, Args)]
pub(super) struct TopologyArgs {
    #[command(flatten)]
    look: Look,
    /// As what: `dot` is for Graphviz.
    #[arg(long, value_enum, default_value_t = Form::Text, conflicts_with = "diff")]
    format: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Dot,
}

pub(super) fn peers(args: &PeersArgs, output: &Output) -> anyhow::Result<Exit> {
    let report = ask(&args.look)?;
    if args.changes {
        output.result(&Changes {
            changes_total: report.changes_total,
            changes: report.changes,
        })?;
        return Ok(Exit::Done);
    }
    show(&args.look, &report, output, |report| output.result(report))
}

pub(super) fn topology(args: &TopologyArgs, output: &Output) -> anyhow::Result<Exit> {
    let report = ask(&args.look)?;
    show(&args.look, &report, output, |report| {
        output.result(&Topology {
            shown: match args.format {
                Form::Text => report.tree(),
                Form::Dot => report.dot(),
            },
            report,
        })
    })
}

fn ask(look: &Look) -> anyhow::Result<ClusterReport> {
    let config = Config::load(&look.config, &Env::from_process(), Role::Edge)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(cluster(&config))?)
}

/// The report, or what is otherwise than in an earlier one.
fn show(
    look: &Look,
    report: &ClusterReport,
    output: &Output,
    whole: impl FnOnce(&ClusterReport) -> std::io::Result<()>,
) -> anyhow::Result<Exit> {
    match &look.diff {
        None => whole(report)?,
        Some(path) => {
            let text = std::fs::read(path).with_context(|| path.display().to_string())?;
            let earlier: ClusterReport = serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{}: not what `cluster peers --json` answers",
                    path.display()
                )
            })?;
            output.result(&Difference {
                lines: report.since(&earlier),
            })?;
        }
    }
    Ok(Exit::Done)
}

#[derive(Debug, Serialize)]
struct Changes {
    changes_total: u64,
    changes: Vec<ChangeReport>,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(f, "{change}")?;
        }
        write!(
            f,
            "{} of {} changes since the node started",
            self.changes.len(),
            self.changes_total
        )
    }
}

/// The report as JSON, its picture as text.
#[derive(Debug, Serialize)]
struct Topology<'a> {
    #[serde(flatten)]
    report: &'a ClusterReport,
    #[serde(skip)]
    shown: String,
}

impl fmt::Display for Topology<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[derive(Debug, Serialize)]
struct Difference {
    #[serde(rename = "diff")]
    lines: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return f.write_str("nothing changed");
        }
        f.write_str(&self.lines.join("\n"))
    }
}
