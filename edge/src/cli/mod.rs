//! The command line: arguments in, one exit code out. A verb a file.
//!
//! Results go to standard output, as text or with `--json` as one JSON object; the log and all complaints go to
//! standard error. So a script reads the one and an operator the other.

mod cert;
mod check;
mod cluster;
mod config;
mod join;
mod peers;
mod quickstart;
mod run;
mod store;
mod xdp;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind};

use stoq_ebpf::helper::serve_stdin;
use stoq_node::report::{Exit, Output};

use crate::xdp::HELPER_VERB;

/// An edge server: HTTP/3, HTTP/2 and HTTP/1.1 in front of a chunked cache.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 works but degraded (`check`: an origin does not answer;
/// `store`: damage, or a volume that ails; `cert list`: the node is revoked; `xdp probe`, `enable`,
/// `top`: the mode asked for cannot be had).
#[derive(Debug, Parser)]
#[command(name = "stoq-edge", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// Check the configuration and exit: the same as `check`.
    #[arg(short = 't', requires = "config")]
    test: bool,

    /// The configuration file for `-t`.
    #[arg(short, long, value_name = "FILE", requires = "test")]
    config: Option<PathBuf>,

    /// Print the result as one JSON object.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve a directory or an origin at once, on loopback, with a certificate of its own.
    Quickstart(quickstart::Quickstart),
    /// Serve as the configuration says, until SIGTERM; then finish what is under way.
    Run(ConfigFile),
    /// Do all that `run` does short of binding, and ask each origin for a connection.
    Check(ConfigFile),
    /// Write a new configuration, or show the one in force.
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Look at what is kept on disk: of the node while it runs, else of its volumes.
    #[command(subcommand)]
    Store(store::StoreArgs),
    /// Found a cluster, let a machine into one, or look at who is in it.
    #[command(subcommand)]
    Cluster(cluster::ClusterVerb),
    /// Look at this node's certificates, or at the log of what a root has signed.
    #[command(subcommand)]
    Cert(cert::CertArgs),
    /// Load shed at the NIC: what it would do here, and what it does in a node that runs.
    #[command(subcommand)]
    Xdp(xdp::XdpVerb),
    /// Not for people: the process that keeps the privileges of a node that runs.
    #[command(name = HELPER_VERB, hide = true)]
    XdpHelper,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file (TOML).
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the program on the process's own arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    let result = match (cli.verb, cli.test, cli.config) {
        (Some(Verb::Quickstart(args)), false, _) => quickstart::quickstart(&args, &output),
        (Some(Verb::Run(file)), false, _) => run::run(&file.config, &output),
        (Some(Verb::Check(file)), false, _) => check::check(&file.config, &output),
        (Some(Verb::Config(verb)), false, _) => config::config(&verb, &output),
        (Some(Verb::Store(args)), false, _) => store::store(&args, &output),
        (Some(Verb::Cluster(verb)), false, _) => cluster::cluster(&verb, &output),
        (Some(Verb::Cert(args)), false, _) => cert::cert(&args, &output),
        (Some(Verb::Xdp(verb)), false, _) => xdp::xdp(&verb, cli.json, &output),
        (Some(Verb::XdpHelper), false, _) => serve_stdin()
            .map(|()| Exit::Done)
            .map_err(anyhow::Error::from),
        (None, true, Some(config)) => check::check(&config, &output),
        (Some(_), true, _) => usage("-t stands alone: `stoq-edge -t --config FILE`"),
        (None, ..) => usage("a verb is missing"),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            output.failed(error.as_ref());
            Exit::Failed.into()
        }
    }
}

fn usage(message: &str) -> anyhow::Result<Exit> {
    Cli::command()
        .error(ErrorKind::MissingSubcommand, message)
        .exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
