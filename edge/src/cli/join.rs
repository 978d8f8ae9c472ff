//! `cluster token` and `cluster join`: letting a machine into a cluster, from both ends.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::Serialize;
use stoq::identity::{AuditFile, AuditLimits, ClusterRoot, Registrar};
use stoq::join::{Desk, DeskConfig, JoinConfig, Token, Wish, join};
use stoq::quic::{
    AdmissionLimits, CidKeys, Endpoint, EndpointConfig, SocketGroup, SocketOptions, TransportConfig,
};
use stoq_node::config::parse_duration;
use stoq_node::report::{Exit, Output};

use super::cluster::{LOG, ROOT, ROOT_KEY, parse};

/// For what is on the way when the desk closes: a packet lost at the end is sent again after one second.
const CLOSING: Duration = Duration::from_secs(3);

/// What the desk did, line by line, beside the log of issued identities.
const AUDIT: &str = "join.log";
/// Joiners that may be there at once, in all and of one IPv4 address or IPv6 /64: who only holds connections keeps nobody out.
const JOINERS_MAX: usize = 256;
const JOINERS_OF_A_PREFIX_MAX: usize = 4;

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// The node that may join and its roles, such as `edge-7:edge` or `edge-7:edge,fetch:example.com`.
    #[arg(long, value_name = "NAME:ROLE[,ROLE]")]
    node: String,
    /// Where the node reaches this machine (UDP). Port 0: any that is free.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// The address in the token, where it is another than the one listened on.
    #[arg(long, value_name = "ADDR:PORT")]
    public: Option<SocketAddr>,
    /// How long the token is good, and this command waits: 24h at most.
    #[arg(long, default_value = "15m", value_name = "TIME", value_parser = valid)]
    valid: Duration,
    /// Where `cluster init` put the root and its key.
    #[arg(long, default_value = "state", value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct JoinArgs {
    /// What `cluster token` printed, or `-` to read it from standard input, where other users of this machine do not see it.
    token: String,
    /// Where identity.pem and root.pem go.
    #[arg(long, default_value = "state", value_name = "DIR")]
    dir: PathBuf,
}

fn valid(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).map_err(|error| error.to_string())?;
    let day = Duration::from_secs(24 * 3600);
    if time < Duration::from_secs(1) || time > day {
        return Err("1s to 24h are possible".into());
    }
    Ok(time)
}

#[derive(Debug, Serialize)]
struct Given {
    ok: bool,
    token: String,
    node: String,
    seconds: u64,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.token)?;
        write!(
            f,
            "\nOn {}: stoq-edge cluster join TOKEN. It is good once, for {} s, while this command runs.",
            self.node, self.seconds
        )
    }
}

#[derive(Debug, Serialize)]
struct LetIn {
    ok: bool,
    node: String,
    node_id: String,
    from: SocketAddr,
    /// Hash of the log's last line.
    log_head: String,
}

impl fmt::Display for LetIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} joined from {}", self.node, self.from)?;
        writeln!(f, "id {}", self.node_id)?;
        write!(f, "log head {}", self.log_head)
    }
}

#[derive(Debug, Serialize)]
struct IsIn {
    ok: bool,
    cluster: String,
    identity: String,
    root: String,
}

impl fmt::Display for IsIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# in this node's file")?;
        writeln!(f, "[cluster]\nname = \"{}\"", self.cluster)?;
        write!(
            f,
            "identity = \"{}\"\nroot = \"{}\"",
            self.identity, self.root
        )
    }
}

pub(super) fn token(args: &TokenArgs, output: &Output) -> anyhow::Result<Exit> {
    let (name, roles) = parse(&args.node)?;
    let file = |name: &str| args.dir.join(name);
    let root = ClusterRoot::load(&file(ROOT_KEY), &file(ROOT))?;
    let registrar = Registrar::open(root, &file(LOG))?;
    let audit = AuditFile::open(&file(AUDIT), AuditLimits::default())?;
    let settings = DeskConfig {
        audit: Arc::new(audit),
        ..DeskConfig::default()
    };
    let patience = settings.patience;
    let desk = Desk::new(registrar, settings);
    runtime()?.block_on(async {
        let group = SocketGroup::bind(args.listen, 1, &SocketOptions::default())
            .with_context(|| args.listen.to_string())?;
        let socket = group.take(0).context("no socket")?;
        let mut config = EndpointConfig::new(CidKeys::random());
        config.server = Some(desk.server_tls()?);
        config.limits = AdmissionLimits {
            max_connections: JOINERS_MAX,
            max_per_prefix: JOINERS_OF_A_PREFIX_MAX,
            ..AdmissionLimits::default()
        };
        let endpoint = Endpoint::new(socket, config)?;
        let addr = args.public.unwrap_or_else(|| group.local_addr());
        ensure!(
            !addr.ip().is_unspecified() && addr.port() != 0,
            "{addr}: a node cannot reach this address; give the one it can with --public"
        );
        let token = desk.token(Wish::new(&name, &roles), args.valid, addr)?;
        let mut enrolled = desk.last_enrolled();
        output.result(&Given {
            ok: true,
            token: token.to_string(),
            node: name.clone(),
            seconds: args.valid.as_secs(),
        })?;
        let joined = async {
            enrolled.wait_for(Option::is_some).await?;
            // Its answer may be under way for so long, and its word that it has it as well.
            let confirmed = enrolled.wait_for(|last| last.as_ref().is_some_and(|last| last.confirmed));
            let _ = tokio::time::timeout(2 * patience + CLOSING, confirmed).await;
            anyhow::Ok(())
        };
        tokio::select! {
            joined = joined => joined?,
            () = desk.serve(&endpoint) => {}
            () = tokio::time::sleep(args.valid) => {}
        };
        endpoint.close(0, b"");
        // Whoever still talks is told; nothing depends on it.
        let _ = tokio::time::timeout(CLOSING, endpoint.wait_idle()).await;
        let last = desk.last_enrolled().borrow().clone();
        let Some(enrolled) = last else {
            bail!("{name} did not join in time; the token is worth nothing any more");
        };
        ensure!(
            enrolled.confirmed,
            "{name} was given an identity, and has not said that it has it: its answer was lost, or somebody else used the token, from {}; put its id into the file of \
             cluster.revoked of all nodes and ask for another token: {}",
            enrolled.addr,
            enrolled.node_id
        );
        output.result(&LetIn {
            ok: true,
            node: enrolled.node,
            node_id: enrolled.node_id.to_string(),
            from: enrolled.addr,
            log_head: desk.log_head().hash_hex(),
        })?;
        Ok(Exit::Done)
    })
}

pub(super) fn join_cluster(args: &JoinArgs, output: &Output) -> anyhow::Result<Exit> {
    let text = match &*args.token {
        "-" => std::io::read_to_string(std::io::stdin())?,
        text => text.to_owned(),
    };
    let token: Token = text.parse()?;
    let (identity, root) = (args.dir.join("identity.pem"), args.dir.join("root.pem"));
    for path in [&identity, &root] {
        ensure!(
            !path.exists(),
            "{} exists: this node belongs to a cluster; choose another --dir",
            path.display()
        );
    }
    crate::state::create_dir(&args.dir)?;
    let joined = runtime()?.block_on(async {
        let any: IpAddr = match token.addr() {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let endpoint = Endpoint::client(SocketAddr::new(any, 0), TransportConfig::default())?;
        let joined = join(&endpoint, &token, &JoinConfig::default()).await;
        // The desk waits to hear that the papers arrived.
        let _ = tokio::time::timeout(CLOSING, endpoint.wait_idle()).await;
        anyhow::Ok(joined?)
    })?;
    joined.file.save(&identity)?;
    joined.root.save(&root)?;
    output.result(&IsIn {
        ok: true,
        cluster: joined.root.cluster().to_owned(),
        identity: identity.display().to_string(),
        root: root.display().to_string(),
    })?;
    Ok(Exit::Done)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
