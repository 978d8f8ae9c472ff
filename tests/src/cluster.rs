//! A cluster in this process, on real sockets with ports of the system's choice: edges, a shield before the origin, clients.
//!
//! Configurations are TOML text that goes through the same loader as an operator's file.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use stoq::identity::{ClusterRoot, Identity, Role as NodeRole, Validity};
use stoq_edge::Edge;
use stoq_loadtest::{Client, Target, Trust, Version};
use stoq_mesh::Patience;
use stoq_node::config::{Config, Env, Role};
use stoq_origin_shield::Shield;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::Origin;

/// What to start. Built like `Cluster::new().origin(&o).shield().edges(3).start()`.
#[derive(Debug)]
pub struct Cluster {
    origin: String,
    shields: usize,
    shield_at: Option<SocketAddr>,
    peers: bool,
    edges: usize,
    edge_roles: Vec<NodeRole>,
    workers: usize,
    ram: String,
    disk: Option<String>,
    node: String,
    site: String,
    edge_site: String,
    tables: String,
    zones: Vec<String>,
    shield_zone: Option<String>,
    edge_cluster: String,
    hosts: String,
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Cluster {
    /// One edge with two workers and 64 MiB of RAM tier, no shield, no origin yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            origin: String::new(),
            shields: 0,
            shield_at: None,
            peers: false,
            edges: 1,
            edge_roles: vec![NodeRole::Edge],
            workers: 2,
            ram: "64MiB".to_owned(),
            disk: None,
            node: String::new(),
            site: String::new(),
            edge_site: String::new(),
            tables: String::new(),
            hosts: "[\"*\"]".to_owned(),
            zones: Vec::new(),
            shield_zone: None,
            edge_cluster: String::new(),
        }
    }

    /// Fills from this origin.
    #[must_use]
    pub fn origin(mut self, origin: &Origin) -> Self {
        self.origin = origin.url();
        self
    }

    /// Fills from this entry of `origins`: a URL or a directory.
    #[must_use]
    pub fn origin_at(mut self, origin: impl Into<String>) -> Self {
        self.origin = origin.into();
        self
    }

    /// Puts a shield between edges and origin.
    #[must_use]
    pub fn shield(self) -> Self {
        self.shields(1)
    }

    /// Puts a shield of so many nodes between edges and origin.
    #[must_use]
    pub fn shields(mut self, nodes: usize) -> Self {
        self.shields = nodes;
        self
    }

    /// Puts a shield between edges and origin, which they are told is at `addr`: whoever is there stands in between.
    #[must_use]
    pub fn shield_at(mut self, addr: SocketAddr) -> Self {
        self.shield_at = Some(addr);
        self.shield()
    }

    /// Edges find each other through the first of them, and each asks the others for what they hold.
    #[must_use]
    pub fn peers(mut self) -> Self {
        self.peers = true;
        self
    }

    /// So many edges.
    #[must_use]
    pub fn edges(mut self, edges: usize) -> Self {
        self.edges = edges;
        self
    }

    /// `node.zone` of the edges, in their order.
    #[must_use]
    pub fn zones(mut self, zones: &[&str]) -> Self {
        self.zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
        self
    }

    /// With these lines in the table `[cluster]` of each edge.
    #[must_use]
    pub fn edge_cluster(mut self, lines: &str) -> Self {
        self.edge_cluster = format!("{lines}\n");
        self
    }

    /// `node.zone` of the shield, through which edges find each other then, so that it is one of the mesh.
    #[must_use]
    pub fn shield_zone(mut self, zone: &str) -> Self {
        self.shield_zone = Some(zone.to_owned());
        self
    }

    /// A role of the edges' certificates beside `edge`.
    #[must_use]
    pub fn edge_role(mut self, role: NodeRole) -> Self {
        self.edge_roles.push(role);
        self
    }

    /// So many workers in each process.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// `cache.ram` of each node.
    #[must_use]
    pub fn ram(mut self, ram: &str) -> Self {
        ram.clone_into(&mut self.ram);
        self
    }

    /// A directory of each node's own for `cache.disk`, of this size. Default: none.
    #[must_use]
    pub fn disk(mut self, size: &str) -> Self {
        self.disk = Some(size.to_owned());
        self
    }

    /// Lines for each `[node]` table.
    #[must_use]
    pub fn node(mut self, lines: &str) -> Self {
        self.node.push_str(lines);
        self.node.push('\n');
        self
    }

    /// Lines for each `[[site]]` table.
    #[must_use]
    pub fn site(mut self, lines: &str) -> Self {
        self.site.push_str(lines);
        self.site.push('\n');
        self
    }

    /// Lines for the `[[site]]` table of edges alone, so that the shield's is another.
    #[must_use]
    pub fn edge_site(mut self, lines: &str) -> Self {
        self.edge_site.push_str(lines);
        self.edge_site.push('\n');
        self
    }

    /// The site's `hosts`, as TOML. All hosts unless it is said.
    #[must_use]
    pub fn hosts(mut self, hosts: &str) -> Self {
        hosts.clone_into(&mut self.hosts);
        self
    }

    /// Whole tables for each file, such as `[limits.timeouts]`.
    #[must_use]
    pub fn tables(mut self, tables: &str) -> Self {
        self.tables.push_str(tables);
        self.tables.push('\n');
        self
    }

    /// Starts everything; returns when all of it listens.
    ///
    /// # Panics
    /// When anything does not start: the reason is in the message.
    pub async fn start(self) -> Running {
        let dir = tempfile::tempdir().expect("a temporary directory");
        if self.shields > 0 || self.peers {
            self.identities(dir.path());
        }
        let shields = (1..=self.shields).map(|number| {
            let name = format!("shield-{number}");
            let text = format!(
                "{}[listen]\nstoq = [\"127.0.0.1:0\"]\n{}{}",
                self.head(&name, self.shield_zone.as_ref()),
                Self::cluster(&name),
                self.tail()
            );
            let config =
                Config::parse("shield.toml", &text, dir.path(), &Env::none(), Role::Shield);
            let config =
                config.unwrap_or_else(|errors| panic!("shield configuration:\n{errors}\n{text}"));
            let prepared = stoq_origin_shield::Prepared::new(config)
                .expect("the shield's configuration is usable");
            ShieldNode::new(Shield::start(prepared).expect("the shield starts"))
        });
        let shields: Vec<_> = shields.collect();
        let addrs: Vec<_> = match self.shield_at {
            Some(addr) => vec![addr],
            None => shields.iter().map(ShieldNode::addr).collect(),
        };
        let nodes: Vec<_> = addrs.iter().map(|addr| format!("\"{addr}\"")).collect();
        let nodes = nodes.join(", ");
        let meets = self.shield_zone.is_some();
        let mut seed: Option<SocketAddr> = addrs.first().copied().filter(|_| meets);
        let edges = (1..=self.edges).map(|number| {
            let name = format!("edge-{number}");
            let mut behind = String::new();
            if self.peers || !nodes.is_empty() {
                behind = Self::cluster(&name) + &self.edge_cluster;
                if let Some(seed) = seed {
                    behind += &format!("seeds = [\"{seed}\"]\n");
                }
            }
            if !nodes.is_empty() {
                behind += &format!("[shield]\nnodes = [{nodes}]\n");
            }
            let listen = "[listen]\nhttps = [\"127.0.0.1:0\"]\nhttp = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n";
            let stoq = if self.peers { "stoq = [\"127.0.0.1:0\"]\n" } else { "" };
            let text = format!("{}{listen}{stoq}{behind}{}{}", self.head(&name, self.zones.get(number - 1)), self.tail(), self.edge_site);
            let edge = start_edge(dir.path(), text);
            seed = seed.or_else(|| edge.stoq());
            edge
        });
        let edges: Vec<_> = edges.collect();
        if self.peers {
            let all = edges.len() + if meets { shields.len() } else { 0 };
            see_all(&edges, all).await;
            if meets {
                // To whom it gives what may not be everywhere a shield sees in its own view.
                for shield in &shields {
                    let found = || shield.metric("stoq_gossip_nodes", &[]) >= all as f64;
                    until("a shield sees all", found).await;
                }
            }
        }
        Running {
            edges,
            shields,
            dir,
        }
    }

    fn head(&self, name: &str, zone: Option<&String>) -> String {
        let zone = zone.map_or_else(String::new, |zone| format!("zone = \"{zone}\"\n"));
        let disk = self.disk.as_ref().map_or_else(String::new, |size| {
            format!("disk = [{{ path = \"disk-{name}\", size = \"{size}\" }}]\n")
        });
        format!(
            "[node]\nname = \"{name}\"\nstate_dir = \"state-{name}\"\nworkers = {}\ncdn_id = \"test-cdn\"\n{zone}{}[cache]\nram = \"{}\"\n{disk}",
            self.workers, self.node, self.ram
        )
    }

    fn cluster(name: &str) -> String {
        format!("[cluster]\nname = \"test\"\nidentity = \"{name}.pem\"\nroot = \"root.pem\"\n")
    }

    fn tail(&self) -> String {
        let origin = toml_string(&self.origin);
        format!(
            "{}[[site]]\nname = \"site\"\nhosts = {}\norigins = [{origin}]\n{}",
            self.tables, self.hosts, self.site
        )
    }

    fn identities(&self, dir: &Path) {
        let validity = || Validity::starting(UnixTime::now(), Duration::from_secs(24 * 3600));
        let root = ClusterRoot::generate("test", validity()).expect("a root");
        std::fs::write(dir.join("root.pem"), root.to_pem_cert()).expect("root.pem is written");
        let edges =
            (1..=self.edges).map(|number| (format!("edge-{number}"), self.edge_roles.clone()));
        let shields =
            (1..=self.shields).map(|number| (format!("shield-{number}"), vec![NodeRole::Shield]));
        for (name, roles) in edges.chain(shields) {
            let file = root.issue(&name, &roles, validity()).expect("an identity");
            file.save(&dir.join(format!("{name}.pem")))
                .expect("an identity is written");
        }
    }
}

/// Starts an edge of this configuration.
fn start_edge(dir: &Path, text: String) -> EdgeNode {
    let config = Config::parse("edge.toml", &text, dir, &Env::none(), Role::Edge);
    let config = config.unwrap_or_else(|errors| panic!("edge configuration:\n{errors}\n{text}"));
    let prepared = stoq_edge::Prepared::new(config).expect("the edge's configuration is usable");
    // Where tests share a machine with other work, silence says nothing of who is silent.
    let long = Duration::from_secs(20);
    let patience = Patience {
        found_within: long * 2,
        first: long,
        least: long,
        most: long,
        held_up: long,
        floor: long * 3,
    };
    let running = Edge::start(prepared.patient(patience)).expect("the edge starts");
    EdgeNode::new(running, text)
}

/// Waits until each of these edges knows of all.
async fn see_each_other(edges: &[EdgeNode]) {
    see_all(edges, edges.len()).await;
}

/// Waits until each of these edges knows of so many nodes.
async fn see_all(edges: &[EdgeNode], all: usize) {
    for (place, edge) in edges.iter().enumerate() {
        let all = all as f64;
        let found = || edge.metric("stoq_gossip_nodes", &[]) >= all;
        until(&format!("edge {place} sees all"), found).await;
    }
}

fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A started cluster. Dropped, its nodes end at once.
#[derive(Debug)]
pub struct Running {
    /// The edges, first to last.
    pub edges: Vec<EdgeNode>,
    /// The nodes of the shield, first to last.
    pub shields: Vec<ShieldNode>,
    dir: TempDir,
}

impl Running {
    /// The first edge.
    ///
    /// # Panics
    /// In a cluster without edges.
    #[must_use]
    pub fn edge(&self) -> &EdgeNode {
        self.edges.first().expect("a cluster has an edge")
    }

    /// Ends all edges of a cluster of [peers](Cluster::peers), and starts them again with what they keep on disk, where the others reach them. Returns when they know of
    /// each other.
    ///
    /// # Panics
    /// When one does not end or start: another process may have taken its port meanwhile.
    pub async fn restart_edges(&mut self) {
        let ends = self.edges.iter_mut().map(EdgeNode::kill);
        futures_util::future::join_all(ends).await;
        let start = |edge: &EdgeNode| {
            let listens = edge.stoq().expect("a peer listens for others");
            let nowhere = "stoq = [\"127.0.0.1:0\"]";
            let there = edge
                .text
                .replace(nowhere, &format!("stoq = [\"{listens}\"]"));
            start_edge(self.dir.path(), there)
        };
        self.edges = self.edges.iter().map(start).collect();
        see_each_other(&self.edges).await;
    }

    /// The identity of the node called `name`, to speak STOQ in its place.
    ///
    /// # Panics
    /// In a cluster without a shield, whose nodes have none.
    #[must_use]
    pub fn identity(&self, name: &str) -> Identity {
        let dir = self.dir.path();
        let identity = Identity::load(
            &dir.join(format!("{name}.pem")),
            &dir.join("root.pem"),
            "test",
        );
        identity.expect("the node has an identity")
    }

    /// The shield.
    ///
    /// # Panics
    /// In a cluster without one.
    #[must_use]
    pub fn shield(&self) -> &ShieldNode {
        self.shields.first().expect("this cluster has a shield")
    }
}

/// A running edge.
#[derive(Debug)]
pub struct EdgeNode {
    https: SocketAddr,
    http: SocketAddr,
    stoq: Option<SocketAddr>,
    ca: Vec<u8>,
    spki: String,
    /// Its configuration.
    text: String,
    registry: stoq_node::Registry,
    drain: stoq_node::Drain,
    ended: Option<JoinHandle<Result<(), stoq_node::WorkerError>>>,
}

impl EdgeNode {
    fn new(running: stoq_edge::Running, text: String) -> Self {
        let dev = running
            .dev_tls()
            .expect("a test edge makes its own certificates");
        Self {
            https: running.https_addrs()[0],
            http: running.http_addrs()[0],
            stoq: running.stoq_addrs().first().copied(),
            ca: std::fs::read(&dev.ca).expect("the development CA is readable"),
            spki: dev.spki_sha256.clone(),
            text,
            registry: running.registry().clone(),
            drain: running.drain().clone(),
            ended: Some(tokio::spawn(running.wait())),
        }
    }

    /// Where it serves HTTP/3, HTTP/2 and HTTP/1.1.
    #[must_use]
    pub const fn https(&self) -> SocketAddr {
        self.https
    }

    /// Where it serves plain HTTP/1.1.
    #[must_use]
    pub const fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where it listens for other nodes, if it does.
    #[must_use]
    pub const fn stoq(&self) -> Option<SocketAddr> {
        self.stoq
    }

    /// PEM of the CA to trust.
    #[must_use]
    pub fn ca(&self) -> &[u8] {
        &self.ca
    }

    /// The leaf's SPKI hash, as Chromium takes it.
    #[must_use]
    pub fn spki(&self) -> &str {
        &self.spki
    }

    /// The handle that drains it.
    #[must_use]
    pub const fn drain(&self) -> &stoq_node::Drain {
        &self.drain
    }

    /// A client on a connection of its own, under the host name `host`.
    ///
    /// # Panics
    /// When the edge does not take it.
    pub async fn client_for(&self, host: &str, version: Version) -> Client {
        let connected = Client::connect(&self.target(host), version).await;
        connected.unwrap_or_else(|error| panic!("{version:?} to {}: {error}", self.https))
    }

    /// A client on a connection of its own, under the host name `localhost`.
    ///
    /// # Panics
    /// As [`EdgeNode::client_for`].
    pub async fn client(&self, version: Version) -> Client {
        self.client_for("localhost", version).await
    }

    /// What a client connects to.
    ///
    /// # Panics
    /// When `host` is no host name.
    #[must_use]
    pub fn target(&self, host: &str) -> Target {
        // Without the port, so that all edges are asked for the same URLs.
        Target::new(&format!("https://{host}"))
            .expect("a URL")
            .at(self.https)
            .trusting(Trust::Pem(self.ca.clone()))
    }

    /// The sum of all samples named `name` whose labels contain each of `labels`, such as `source="origin"`.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.registry, name, labels)
    }

    /// A bound below which this share of a histogram's values lies, 0–1: the upper bound of the bucket in which the quantile is.
    /// `None` for an empty histogram, and beyond the last bound.
    #[must_use]
    pub fn quantile(&self, name: &str, share: f64) -> Option<f64> {
        quantile(&self.registry, name, share)
    }

    /// Ends it at once, as if it had been killed, and waits until its sockets are gone.
    ///
    /// # Panics
    /// When it was stopped before.
    pub async fn kill(&mut self) {
        self.drain.end();
        let ended = self.ended.take().expect("an edge is stopped once").await;
        ended
            .expect("the waiting task does not panic")
            .expect("the edge's workers end");
    }

    /// Drains it and waits for its end.
    ///
    /// # Errors
    /// What a worker died of.
    ///
    /// # Panics
    /// When it was stopped before.
    pub async fn stop(&mut self) -> Result<(), stoq_node::WorkerError> {
        self.drain.begin();
        self.ended
            .take()
            .expect("an edge is stopped once")
            .await
            .expect("the waiting task does not panic")
    }
}

impl Drop for EdgeNode {
    fn drop(&mut self) {
        self.drain.end();
    }
}

/// A running shield.
#[derive(Debug)]
pub struct ShieldNode {
    addr: SocketAddr,
    registry: stoq_node::Registry,
    drain: stoq_node::Drain,
    ended: Option<JoinHandle<Result<(), stoq_node::WorkerError>>>,
}

impl ShieldNode {
    fn new(running: stoq_origin_shield::Running) -> Self {
        Self {
            addr: running.stoq_addrs()[0],
            registry: running.registry().clone(),
            drain: running.drain().clone(),
            ended: Some(tokio::spawn(running.wait())),
        }
    }

    /// Where it listens for nodes.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// As [`EdgeNode::metric`].
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.registry, name, labels)
    }

    /// Ends it at once, as if it had been killed, and waits until its sockets are gone.
    ///
    /// # Panics
    /// When it was killed before.
    pub async fn kill(&mut self) {
        self.drain.end();
        let ended = self.ended.take().expect("a shield is killed once").await;
        ended
            .expect("the waiting task does not panic")
            .expect("the shield's workers end");
    }
}

impl Drop for ShieldNode {
    fn drop(&mut self) {
        self.drain.end();
    }
}

/// As [`metric_in`] what the registry says now.
fn metric(registry: &stoq_node::Registry, name: &str, labels: &[&str]) -> f64 {
    metric_in(&registry.render().expect("metrics render"), name, labels)
}

/// The sum of all samples named `name` in this text of metrics whose labels contain each of `labels`.
///
/// # Panics
/// When no metric has that name: a misspelt one would read as zero and prove anything.
#[must_use]
pub fn metric_in(text: &str, name: &str, labels: &[&str]) -> f64 {
    let family = ["_total", "_count"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name);
    let declared = format!("# TYPE {family} ");
    assert!(
        text.lines().any(|line| line.starts_with(&declared)),
        "there is no metric {name}"
    );
    let samples = text.lines().filter(|line| {
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        &line[..end] == name && labels.iter().all(|label| line.contains(label))
    });
    samples
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .sum()
}

fn quantile(registry: &stoq_node::Registry, name: &str, share: f64) -> Option<f64> {
    let wanted = metric(registry, &format!("{name}_count"), &[]) * share;
    let text = registry.render().expect("metrics render");
    let bucket = format!("{name}_bucket{{");
    text.lines()
        .filter(|line| line.starts_with(&bucket))
        .filter_map(|line| {
            let (_, rest) = line.split_once("le=\"")?;
            let (bound, _) = rest.split_once('"')?;
            let (_, below) = line.rsplit_once(' ')?;
            Some((bound.parse::<f64>().ok()?, below.parse::<f64>().ok()?))
        })
        .find(|(_, below)| wanted > 0.0 && *below >= wanted)
        .map(|(bound, _)| bound)
        .filter(|bound| bound.is_finite())
}

/// Waits until `condition` holds.
///
/// # Panics
/// After 30 s, naming `what`.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited 30 s in vain: {what}");
}
