//! `check`: all that `run` does short of binding, and a connection to each origin.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use stoq_node::report::{Exit, Output};

use super::run::prepare;
use crate::edge::Prepared;

/// What a check found in a file that is valid.
#[derive(Debug, Serialize)]
struct Checked {
    ok: bool,
    file: String,
    /// What works but may not be meant.
    warnings: Vec<String>,
    /// Origins that do not answer, each placed at its entry in the file.
    unreachable: Vec<String>,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.warnings.iter().chain(&self.unreachable) {
            writeln!(f, "{line}")?;
        }
        match self.unreachable.len() {
            0 => write!(f, "{}: ok", self.file),
            1 => write!(f, "{}: valid, but an origin does not answer", self.file),
            n => write!(f, "{}: valid, but {n} origins do not answer", self.file),
        }
    }
}

pub(super) fn check(path: &Path, output: &Output) -> anyhow::Result<Exit> {
    let prepared = prepare(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let unreachable = runtime.block_on(unreachable(&prepared));
    let exit = if unreachable.is_empty() {
        Exit::Done
    } else {
        Exit::Degraded
    };
    output.result(&Checked {
        ok: unreachable.is_empty(),
        file: path.display().to_string(),
        warnings: prepared.warnings().to_vec(),
        unreachable,
    })?;
    Ok(exit)
}

/// Warnings where no result is printed.
pub(super) fn print_warnings(prepared: &Prepared) {
    prepared
        .warnings()
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
}

async fn unreachable(prepared: &Prepared) -> Vec<String> {
    let mut lines = Vec::new();
    for (site, probes) in prepared.origins().probe().await.into_iter().enumerate() {
        for (index, probe) in probes.into_iter().enumerate() {
            if let Err(error) = probe.outcome {
                let key = format!("site[{site}].origins[{index}]");
                lines.push(
                    prepared
                        .config()
                        .error(&key, format!("{}: {error}", probe.origin))
                        .to_string(),
                );
            }
        }
    }
    lines
}
