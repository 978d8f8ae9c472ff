//! The command line of `stoq-bench`: one file a verb, and the exit codes they share.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done, and what was asked holds |
//! | 1 | failed: no whole answer, too many errors, a file that cannot be read |
//! | 2 | the command line or a profile makes no sense; nothing was sent |
//! | 3 | the run was made and is INVALID: its figures say nothing about the server |

mod ab;
mod compare;
mod flags;
mod get;
mod netlab;
mod node;
mod report;
mod run;
mod stoq;
mod stoq_server;
mod summary;
mod tables;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The run was made and cannot be believed.
pub(crate) const INVALID: u8 = 3;

/// Measures and questions HTTP/3, HTTP/2, HTTP/1.1 and STOQ servers.
#[derive(Debug, Parser)]
#[command(name = "stoq-bench", version, about)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Puts a load on a server and prints what came: rates, latencies, failures, and whether it can be believed.
    Run(Box<run::Args>),
    /// Sends one request and prints status, fields, protocol, times, and length and BLAKE3 of the body.
    Get(Box<get::Args>),
    /// Answers STOQ bulk and RPC exchanges, for a load on the transport alone; ends with SIGINT or SIGTERM.
    StoqServer(stoq_server::Args),
    /// Measures STOQ between two processes on this machine: bulk at several MTUs, and questions with several outstanding.
    Stoq(stoq::Args),
    /// Builds hosts out of network namespaces, runs a load over the network between them, and removes everything. Needs root.
    Netlab(Box<netlab::Args>),
    /// Puts two results side by side: the ratio of each figure, and how far it can be trusted.
    Compare(compare::Args),
    /// Writes results as one HTML page that stands alone, with plots and tables.
    Report(report::Args),
    /// Makes the tables in Markdown documents out of result files, or checks that they are what those give.
    Tables(tables::Args),
    /// Measures two servers in turn, A B A B, and prints the ratio of medians with its range.
    Ab(Box<ab::Args>),
}

/// Reads the command line of the process, does what it says, and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    // clap prints its own errors and exits with 2.
    let done = match Command::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Get(args) => get::run(&args),
        Verb::Stoq(args) => stoq::run(&args),
        Verb::StoqServer(args) => stoq_server::run(&args),
        Verb::Netlab(args) => netlab::run(&args),
        Verb::Compare(args) => compare::run(&args),
        Verb::Report(args) => report::run(&args),
        Verb::Tables(args) => tables::run(&args),
        Verb::Ab(args) => ab::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("stoq-bench: {error:#}");
        ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
    })
}

/// A command line or profile that parses and still asks for what cannot be: exit code 2, wherever a verb returns it,
/// as long as no context was put around it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_table_holds_together() {
        Command::command().debug_assert();
    }
}
