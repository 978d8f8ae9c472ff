//! `cert list`, `cert rotate`, `cert log verify`: certificates, and the log of those that the root signed.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use stoq::identity::{Head, IssueLog, Issued, RootCertificate};
use stoq_mesh::CertVerb;
use stoq_node::config::{Config, Env, Role};
use stoq_node::report::{Exit, Output};

/// The verbs under `cert`.
#[derive(Debug, Subcommand)]
pub(super) enum CertArgs {
    /// Who this node is to its cluster, and until when its certificates hold. Exit code 3 when it is revoked.
    List(File),
    /// Have the running node issue itself another leaf now, and replace its connections.
    Rotate(File),
    /// The log of the identities that a root has signed.
    #[command(subcommand)]
    Log(LogArgs),
}

#[derive(Debug, Args)]
pub(super) struct File {
    /// The configuration file (TOML).
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum LogArgs {
    /// Check every line of a log, and show what it says.
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The log, such as state/issued.log.
    log: PathBuf,
    /// The root's certificate.
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// Another copy, of which one must be the beginning of the other: a copy that was cut short is found in no other way.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Verified {
    ok: bool,
    cluster: String,
    /// Hash of the last line: written down elsewhere, it tells a copy that was cut short.
    head: String,
    issued: Vec<Issued>,
    /// Lines of the other copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<u64>,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.issued {
            let [_, until] = &entry.valid;
            let roles = entry.roles.join(",");
            let (time, node) = (&entry.time, &entry.node);
            writeln!(
                f,
                "{}  {time}  {node}  {} ({roles})  until {until}  by {}",
                entry.seq, entry.name, entry.via
            )?;
        }
        let lines = self.issued.len() as u64;
        writeln!(
            f,
            "cluster {}: {lines} lines, as the root signed them",
            self.cluster
        )?;
        match self.against {
            Some(other) if other > lines => {
                writeln!(
                    f,
                    "the other copy goes on to line {other}: this one was cut short"
                )?;
            }
            Some(other) if other < lines => {
                writeln!(f, "the other copy ends at line {other}")?;
            }
            Some(_) => writeln!(f, "the other copy is the same")?,
            None => {}
        }
        write!(f, "head {}", self.head)
    }
}

pub(super) fn cert(args: &CertArgs, output: &Output) -> anyhow::Result<Exit> {
    let (verb, file) = match args {
        CertArgs::List(file) => (CertVerb::List, file),
        CertArgs::Rotate(file) => (CertVerb::Rotate, file),
        CertArgs::Log(LogArgs::Verify(args)) => return verify(args, output),
    };
    let config = Config::load(&file.config, &Env::from_process(), Role::Edge)?;
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

fn verify(args: &Verify, output: &Output) -> anyhow::Result<Exit> {
    let root = RootCertificate::load(&args.root)?;
    let mut issued = Vec::new();
    let head: Head = IssueLog::verify(&args.log, &root, &mut |entry| issued.push(entry.clone()))?;
    let against = match &args.against {
        Some(other) => Some(IssueLog::compare(&args.log, other, &root)?.1.entries),
        None => None,
    };
    let cut_short = against.is_some_and(|other| other > head.entries);
    output.result(&Verified {
        ok: !cut_short,
        cluster: root.cluster().to_owned(),
        head: head.hash_hex(),
        issued,
        against,
    })?;
    Ok(if cut_short { Exit::Failed } else { Exit::Done })
}
