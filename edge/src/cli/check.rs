//! `check`: all that `run` does short of binding, and a connection to each origin.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use stoq_node::report::{Exit, Output};

use super::run::prepare;
use crate::prepared::Prepared;
use crate::xdp::{self, Forecast};

/// What a check found in a file that is valid.
#[derive(Debug, Serialize)]
struct Checked {
    ok: bool,
    file: String,
    /// What works but may not be meant.
    warnings: Vec<String>,
    /// Origins that do not answer, each placed at its entry in the file.
    unreachable: Vec<String>,
    /// Where packets would be judged, where `[xdp]` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    xdp: Option<String>,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.warnings.iter().chain(&self.xdp);
        for line in lines.chain(&self.unreachable) {
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
    let config = prepared.config();
    let forecast = xdp::forecast(&config.xdp, &config.node.state_dir);
    let is_had = match &forecast {
        None => true,
        Some(forecast) => matches!(forecast, Ok(Forecast { wish, would, .. }) if wish == would),
    };
    let forecast = forecast.map(|forecast| match forecast {
        Ok(forecast) => forecast.to_string(),
        Err(why) => config.error("xdp.interface", why).to_string(),
    });
    let exit = if unreachable.is_empty() && is_had {
        Exit::Done
    } else {
        Exit::Degraded
    };
    output.result(&Checked {
        ok: unreachable.is_empty(),
        file: path.display().to_string(),
        warnings: prepared.warnings().to_vec(),
        unreachable,
        xdp: forecast,
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
