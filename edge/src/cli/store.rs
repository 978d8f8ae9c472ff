//! `store stats`, `store verify`, `store gc`: what is kept on disk.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use stoq::identity::Identity;
use stoq_mesh::StoreVerb;
use stoq_node::config::{Config, Env, Role};
use stoq_node::report::{Exit, Output};

use crate::state;

#[derive(Debug, Subcommand)]
pub(super) enum StoreArgs {
    /// What there is and what it is worth. Reads what is known of each stored response.
    Stats {
        #[command(flatten)]
        file: StoreFile,
        /// Leave out what it is worth, for which the disk is read.
        #[arg(long)]
        quick: bool,
    },
    /// Read everything, drop what is not what was written. Exit code 3 when there was any.
    Verify(StoreFile),
    /// Drop chunks that no stored response names any more and that are older than an hour.
    Gc(StoreFile),
}

#[derive(Debug, Args)]
pub(super) struct StoreFile {
    /// The configuration file (TOML).
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn store(args: &StoreArgs, output: &Output) -> anyhow::Result<Exit> {
    let (verb, file) = match args {
        StoreArgs::Stats { file, quick } => (StoreVerb::Stats { census: !quick }, file),
        StoreArgs::Verify(file) => (StoreVerb::Verify, file),
        StoreArgs::Gc(file) => (StoreVerb::Gc, file),
    };
    let config = load(&file.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(stoq_mesh::store(verb, &config, || secret(&config)))?;
    output.result(&report)?;
    Ok(if report.is_ok() {
        Exit::Done
    } else {
        Exit::Degraded
    })
}

fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(path, &Env::from_process(), Role::Edge)?)
}

/// The secret under which the node stores. None is made: it would be another.
fn secret(config: &Config) -> Result<[u8; 32], String> {
    if let Some(cluster) = &config.cluster {
        let identity = Identity::load(&cluster.identity, &cluster.root, &cluster.name);
        let identity =
            identity.map_err(|error| format!("cluster.identity, cluster.root: {error}"))?;
        return Ok(*identity.cluster_secret());
    }
    let dir = &config.node.state_dir;
    match state::read_secret(dir) {
        Ok(Some(secret)) => Ok(secret),
        Ok(None) => Err(format!(
            "node.state_dir: there is no secret in {}: the node makes it at its first start",
            dir.display()
        )),
        Err(error) => Err(format!("node.state_dir: {error}")),
    }
}
