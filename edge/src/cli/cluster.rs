//! `cluster init`: a root, an identity for each node, and the log of what the root has signed. The other verbs have files of their own.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use rustls_pki_types::UnixTime;
use serde::Serialize;
use stoq::identity::{ClusterRoot, Registrar, Role, Validity};
use stoq_node::report::{Exit, Output};

use super::join::{JoinArgs, TokenArgs, join_cluster, token};
use super::peers::{PeersArgs, TopologyArgs, peers, topology};

/// The root's certificate, its key and its log, in the directory of `--dir`.
pub(super) const ROOT: &str = "root.pem";
pub(super) const ROOT_KEY: &str = "root-key.pem";
pub(super) const LOG: &str = "issued.log";

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a new root is valid: ten years.
const ROOT_VALIDITY: Duration = DAY.saturating_mul(3650);
/// How long a node's identity is valid: a year. Its leaves, which the node makes itself, live for hours.
const IDENTITY_VALIDITY: Duration = DAY.saturating_mul(365);

/// The verbs under `cluster`.
#[derive(Debug, Subcommand)]
pub(super) enum ClusterVerb {
    /// Make the cluster's root and secret, and an identity file for each node. Overwrites nothing.
    Init(Init),
    /// Let one machine in: print a token, and wait until it was used. Run where the root key is.
    Token(TokenArgs),
    /// Make this machine a node, with a token.
    Join(JoinArgs),
    /// Who is in the mesh, as the running node sees it.
    Peers(PeersArgs),
    /// Where they are: by region and metro, as text or as a graph.
    Topology(TopologyArgs),
}

#[derive(Debug, Args)]
pub(super) struct Init {
    /// The cluster's name, the same in every node's `[cluster]`.
    #[arg(long)]
    name: String,
    /// A node and its roles, such as `edge-1:edge`, `shield-1:shield`, or `edge-2:edge,fetch:example.com` for one that fetches from a site's origin itself. Repeat it
    /// for each node.
    #[arg(long = "node", value_name = "NAME:ROLE[,ROLE]", required = true)]
    nodes: Vec<String>,
    /// Where the files go.
    #[arg(long, default_value = "state", value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Serialize)]
struct Founded {
    ok: bool,
    name: String,
    root: String,
    root_key: String,
    log: String,
    nodes: Vec<Node>,
}

#[derive(Debug, Serialize)]
struct Node {
    name: String,
    roles: Vec<String>,
    identity: String,
}

impl fmt::Display for Founded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}  keep it offline: whoever has it can make nodes",
            self.root_key
        )?;
        writeln!(
            f,
            "{}  says what it signed: keep a copy elsewhere",
            self.log
        )?;
        writeln!(f, "{}  goes to every node", self.root)?;
        for node in &self.nodes {
            writeln!(
                f,
                "{}  goes to {} ({}) alone",
                node.identity,
                node.name,
                node.roles.join(", ")
            )?;
        }
        for node in &self.nodes {
            writeln!(f, "\n# in {}'s file", node.name)?;
            writeln!(f, "[cluster]\nname = \"{}\"", self.name)?;
            writeln!(
                f,
                "identity = \"{}\"\nroot = \"{}\"",
                node.identity, self.root
            )?;
        }
        Ok(())
    }
}

pub(super) fn cluster(verb: &ClusterVerb, output: &Output) -> anyhow::Result<Exit> {
    match verb {
        ClusterVerb::Init(init) => found(init, output),
        ClusterVerb::Token(args) => token(args, output),
        ClusterVerb::Join(args) => join_cluster(args, output),
        ClusterVerb::Peers(args) => peers(args, output),
        ClusterVerb::Topology(args) => topology(args, output),
    }
}

fn found(init: &Init, output: &Output) -> anyhow::Result<Exit> {
    let nodes = init
        .nodes
        .iter()
        .map(|text| parse(text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let (root_path, key_path) = (init.dir.join(ROOT), init.dir.join(ROOT_KEY));
    let log_path = init.dir.join(LOG);
    let identity_path = |name: &str| init.dir.join(name).join("identity.pem");
    for path in [&root_path, &key_path, &log_path]
        .into_iter()
        .cloned()
        .chain(nodes.iter().map(|(name, _)| identity_path(name)))
    {
        ensure!(
            !path.exists(),
            "{} exists: a cluster is founded once; choose another --dir",
            path.display()
        );
    }
    std::fs::create_dir_all(&init.dir).with_context(|| init.dir.display().to_string())?;

    let now = UnixTime::now();
    let root = ClusterRoot::generate(&init.name, Validity::starting(now, ROOT_VALIDITY))?;
    root.save(&key_path, &root_path)?;
    let mut registrar = Registrar::open(root, &log_path)?;
    let mut made = Vec::new();
    for (name, roles) in &nodes {
        let path = identity_path(name);
        if let Some(dir) = path.parent() {
            crate::state::create_dir(dir)?;
        }
        let validity = Validity::starting(now, IDENTITY_VALIDITY);
        registrar.issue(name, roles, validity, now)?.save(&path)?;
        made.push(Node {
            name: name.clone(),
            roles: roles.iter().map(ToString::to_string).collect(),
            identity: path.display().to_string(),
        });
    }
    output.result(&Founded {
        ok: true,
        name: init.name.clone(),
        root: root_path.display().to_string(),
        root_key: key_path.display().to_string(),
        log: log_path.display().to_string(),
        nodes: made,
    })?;
    Ok(Exit::Done)
}

pub(super) fn parse(text: &str) -> anyhow::Result<(String, Vec<Role>)> {
    let Some((name, roles)) = text.split_once(':') else {
        bail!("--node {text}: want NAME:ROLE, such as edge-1:edge");
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    ensure!(
        !name.is_empty() && name.chars().all(plain) && !name.starts_with('.'),
        "--node {text}: a name is made of letters, digits, `-`, `_` and `.`"
    );
    let roles = roles.split(',').map(|role| {
        role.parse::<Role>().map_err(|error| {
            anyhow::anyhow!(
                "--node {text}: {error}; roles are edge, shield, admin and fetch:<site>"
            )
        })
    });
    Ok((name.to_owned(), roles.collect::<anyhow::Result<_>>()?))
}
