//! `config`: a new file, or the configuration in force.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use serde::Serialize;
use stoq_node::config::{Config, EDGE_REFERENCE, Env, Role};
use stoq_node::report::{Exit, Output};

/// The verbs under `config`.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigVerb {
    /// Write a commented file with every key. Refuses to overwrite.
    Init {
        /// Where to.
        #[arg(value_name = "FILE", default_value = "edge.toml")]
        path: PathBuf,
    },
    /// Print the configuration in force: the file, what it includes, the environment, the defaults.
    Show(super::ConfigFile),
}

#[derive(Debug, Serialize)]
struct Written {
    ok: bool,
    file: String,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{0} written; next: stoq-edge check --config {0}",
            self.file
        )
    }
}

#[derive(Debug, Serialize)]
struct Shown {
    ok: bool,
    toml: String,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.toml)
    }
}

pub(super) fn config(verb: &ConfigVerb, output: &Output) -> anyhow::Result<Exit> {
    match verb {
        ConfigVerb::Init { path } => {
            let file = OpenOptions::new().write(true).create_new(true).open(path);
            let mut file = file.with_context(|| format!("{}: not written", path.display()))?;
            file.write_all(EDGE_REFERENCE.as_bytes())
                .with_context(|| path.display().to_string())?;
            output.result(&Written {
                ok: true,
                file: path.display().to_string(),
            })?;
        }
        ConfigVerb::Show(file) => {
            let config = Config::load(&file.config, &Env::from_process(), Role::Edge)?;
            output.result(&Shown {
                ok: true,
                toml: config.to_toml(),
            })?;
        }
    }
    Ok(Exit::Done)
}
