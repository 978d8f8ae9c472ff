//! The programs as processes on the hosts of a [`Network`]: edges that know each other by seeds, a shield and an origin for those who ask for one.
//!
//! Each is watched as an operator watches it, over its admin socket.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use integration::{Answer, Origin, Seen, metric_in, tools};
use rustls_pki_types::UnixTime;
use stoq::identity::{ClusterRoot, Identity, Role, Validity};
use stoq_mesh::gossip::report::ClusterReport;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::clock;
use crate::network::{Network, address_v6, at};

/// Where the origin is, and the shield, and the first of the edges.
pub(crate) const ORIGIN: usize = 0;
pub(crate) const SHIELD: usize = 1;
const FIRST: usize = 2;

/// Where edges and shield listen for nodes.
pub(crate) const STOQ: u16 = 7443;
/// Where edges serve plain HTTP.
pub(crate) const HTTP: u16 = 80;
/// Where the origin does.
const ORIGIN_PORT: u16 = 8000;

/// The cluster's name, and that of its only site.
pub(crate) const CLUSTER: &str = "test";
pub(crate) const SITE: &str = "site";

/// The ids of nodes that all refuse.
pub(crate) const REVOKED: &str = "revoked";

/// How long a process may take to be ready, on a machine with other work.
const READY: Duration = Duration::from_secs(60);
/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What a mesh is to be.
#[derive(Debug)]
pub(crate) struct Plan {
    edges: usize,
    /// Hosts behind those of the edges, for what the test puts there.
    more: usize,
    zones: Vec<String>,
    tables: String,
    cache: String,
    cluster: String,
    has_shield: bool,
    meets: Meets,
}

/// How edges find each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meets {
    /// The first two are the seeds of all.
    Seeds,
    /// By multicast DNS alone.
    Mdns,
    /// Likewise, and they listen for each other on IPv6 alone.
    MdnsV6,
}

impl Plan {
    /// So many edges, all in one metro, that nobody asks for content.
    pub(crate) fn edges(edges: usize) -> Self {
        Self {
            edges,
            more: 0,
            zones: vec!["eu-fra".to_owned()],
            tables: String::new(),
            cache: String::new(),
            cluster: String::new(),
            has_shield: false,
            meets: Meets::Seeds,
        }
    }

    /// That find each other so.
    pub(crate) fn meets(mut self, meets: Meets) -> Self {
        self.meets = meets;
        self
    }

    /// With a shield before the origin.
    pub(crate) fn shield(mut self) -> Self {
        self.has_shield = true;
        self
    }

    /// With so many hosts more.
    pub(crate) fn more(mut self, hosts: usize) -> Self {
        self.more = hosts;
        self
    }

    /// In these zones, in turn.
    pub(crate) fn zones(mut self, zones: Vec<String>) -> Self {
        self.zones = zones;
        self
    }

    /// With these lines in the table `[cluster]` of each edge.
    pub(crate) fn cluster(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.cluster);
        self
    }

    /// With these lines in the table `[cache]` of each node.
    pub(crate) fn cache(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.cache);
        self
    }

    /// Makes hosts, identities and files, and starts the shield. `None`, said aloud, where that cannot be.
    pub(crate) fn prepare(self, test: &str) -> Option<Mesh> {
        let mut programs = Vec::new();
        for name in ["stoq-edge", "stoq-shield"] {
            let Some(program) = tools::built(name) else {
                tools::skipped(
                    test,
                    "stoq-edge and stoq-shield are not built beside the tests: `cargo build -p stoq-edge -p stoq-origin-shield`, or test the workspace",
                );
                return None;
            };
            programs.push(program);
        }
        let network = Network::up(test, FIRST + self.edges + self.more)?;
        let directory = tempfile::tempdir().unwrap();
        let validity = || Validity::starting(UnixTime::now(), Duration::from_secs(24 * 3600));
        let root = ClusterRoot::generate(CLUSTER, validity()).unwrap();
        std::fs::write(directory.path().join("root.pem"), root.to_pem_cert()).unwrap();
        std::fs::write(directory.path().join(REVOKED), "").unwrap();
        let issue = |name: &str, role| {
            let file = root.issue(name, &[role], validity()).unwrap();
            let saved = file.save(&directory.path().join(format!("{name}.pem")));
            saved.unwrap();
        };
        let edges = (1..=self.edges).map(|number| {
            let name = format!("edge-{number}");
            issue(&name, Role::Edge);
            let host = FIRST + number - 1;
            let text = self.edge_file(&name, host);
            Node::new(directory.path(), name, host, &programs[0], &text)
        });
        let edges: Vec<_> = edges.collect();
        let shield = self.has_shield.then(|| {
            issue("shield-1", Role::Shield);
            let text = format!(
                "{}[listen]\nstoq = [\"{}\"]\nadmin = \"unix:shield-1.sock\"\n{}",
                self.head("shield-1"),
                at(SHIELD, STOQ),
                self.tail("shield-1")
            );
            let name = "shield-1".to_owned();
            Node::new(directory.path(), name, SHIELD, &programs[1], &text)
        });
        let mut mesh = Mesh {
            edges,
            shield,
            origin: None,
            root,
            directory,
            network,
        };
        if let Some(shield) = &mut mesh.shield {
            shield.start(&mesh.network);
            shield.ready();
        }
        Some(mesh)
    }

    /// As [`prepare`](Self::prepare), and starts the edges; returns when each sees all.
    pub(crate) fn start(self, test: &str) -> Option<Mesh> {
        let mut mesh = self.prepare(test)?;
        mesh.start();
        Some(mesh)
    }

    fn edge_file(&self, name: &str, host: usize) -> String {
        let zone = &self.zones[(host - FIRST) % self.zones.len()];
        let shield = match self.has_shield {
            true => format!("[shield]\nnodes = [\"{}\"]\n", at(SHIELD, STOQ)),
            false => String::new(),
        };
        let stoq = match self.meets {
            Meets::Seeds | Meets::Mdns => at(host, STOQ),
            Meets::MdnsV6 => SocketAddr::from((address_v6(host), STOQ)),
        };
        let others = match self.meets {
            Meets::Seeds => format!(
                "seeds = [\"{}\", \"{}\"]",
                at(FIRST, STOQ),
                at(FIRST + 1, STOQ)
            ),
            Meets::Mdns | Meets::MdnsV6 => "mdns = true".to_owned(),
        };
        format!(
            "{}zone = \"{zone}\"\n[listen]\nhttp = [\"{}\"]\nhttps = [\"{}\"]\nstoq = [\"{stoq}\"]\nadmin = \"unix:{name}.sock\"\n\
             {}{others}\n{}\n{shield}",
            self.head(name),
            at(host, HTTP),
            at(host, 443),
            self.tail(name),
            self.cluster,
        )
    }

    fn head(&self, name: &str) -> String {
        format!(
            "[log]\naccess = false\n{}\n[cache]\n{}\n\
             [[site]]\nname = \"{SITE}\"\nhosts = [\"*\"]\norigins = [\"http://{}\"]\n\
             [node]\nname = \"{name}\"\nstate_dir = \"state-{name}\"\nworkers = 1\n",
            self.tables,
            self.cache.replace("NAME", name),
            at(ORIGIN, ORIGIN_PORT),
        )
    }

    fn tail(&self, name: &str) -> String {
        format!(
            "[cluster]\nname = \"{CLUSTER}\"\nidentity = \"{name}.pem\"\nroot = \"root.pem\"\naudit = \"{name}.audit\"\nrevoked = \"{REVOKED}\"\n"
        )
    }
}

/// Processes on hosts. Dropped, they are killed.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) edges: Vec<Node>,
    pub(crate) shield: Option<Node>,
    origin: Option<Served>,
    root: ClusterRoot,
    directory: TempDir,
    pub(crate) network: Network,
}

/// An origin on its host.
#[derive(Debug)]
struct Served {
    origin: Origin,
    _end: oneshot::Sender<()>,
    _thread: JoinHandle<()>,
}

impl Mesh {
    /// Starts all edges; returns when each sees all.
    pub(crate) fn start(&mut self) {
        for edge in &mut self.edges {
            edge.start(&self.network);
        }
        for edge in &mut self.edges {
            edge.ready();
        }
        self.all_see_all(READY);
    }

    /// Has an origin answer by `script`, on its host.
    pub(crate) fn serve<F, A>(&mut self, script: F)
    where
        F: Fn(Seen) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let (end, ended) = oneshot::channel::<()>();
        let (started, start): (SyncSender<Origin>, _) = sync_channel(1);
        let thread = self.network.run(ORIGIN, move || async move {
            let origin = Origin::start_on(at(ORIGIN, ORIGIN_PORT), script).await;
            started.send(origin).unwrap();
            // Ends when the other end is dropped.
            let _ = ended.await;
        });
        self.origin = Some(Served {
            origin: start.recv().expect("the origin starts"),
            _end: end,
            _thread: thread,
        });
    }

    /// The origin that was [started](Self::serve).
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin.as_ref().expect("an origin").origin
    }

    /// The shield that was planned.
    pub(crate) fn shield(&self) -> &Node {
        self.shield.as_ref().expect("a shield")
    }

    /// The first of the hosts that were asked for beside those of the nodes.
    pub(crate) fn more(&self) -> usize {
        FIRST + self.edges.len()
    }

    /// A new identity of this cluster, and the file it is in.
    pub(crate) fn identity(&self, name: &str, role: Role) -> Identity {
        let validity = Validity::starting(UnixTime::now(), Duration::from_secs(24 * 3600));
        let file = self.root.issue(name, &[role], validity).unwrap();
        Identity::new(file, self.root.certificate().clone()).unwrap()
    }

    /// An edge of another cluster that has the same name, on a host of its own, which looks for others by multicast DNS.
    pub(crate) fn stranger(&self, host: usize) -> Node {
        let name = "stranger".to_owned();
        let validity = || Validity::starting(UnixTime::now(), Duration::from_secs(24 * 3600));
        let root = ClusterRoot::generate(CLUSTER, validity()).unwrap();
        let path = |end: &str| self.directory.path().join(end);
        std::fs::write(path("strange-root.pem"), root.to_pem_cert()).unwrap();
        let file = root.issue(&name, &[Role::Edge], validity()).unwrap();
        file.save(&path("stranger.pem")).unwrap();
        let text = Plan::edges(1).meets(Meets::Mdns).edge_file(&name, host);
        let text = text.replace("\"root.pem\"", "\"strange-root.pem\"");
        let program = &self.edges.first().expect("an edge").program;
        Node::new(self.directory.path(), name, host, program, &text)
    }

    /// Where the files are.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The hosts of these edges.
    pub(crate) fn hosts(&self, edges: impl IntoIterator<Item = usize>) -> Vec<usize> {
        edges
            .into_iter()
            .map(|edge| self.edges[edge].host)
            .collect()
    }

    /// Waits until each edge that runs sees all that run, and no others. How long that took.
    pub(crate) fn all_see_all(&self, limit: Duration) -> Duration {
        let running = self.edges.iter().filter(|edge| edge.runs());
        let names: Vec<_> = running.clone().map(|edge| edge.name.as_str()).collect();
        let places: Vec<_> = (0..self.edges.len())
            .filter(|place| self.edges[*place].runs())
            .collect();
        let took = self.until("each sees all", Instant::now(), limit, &places, |report| {
            sees(report) == sorted(&names)
        });
        took.into_iter().max().unwrap_or_default()
    }

    /// Waits until each of these edges sees what is looked for. How long after `began` each was first seen to.
    pub(crate) fn until(
        &self,
        what: &str,
        began: Instant,
        limit: Duration,
        edges: &[usize],
        holds: impl Fn(&ClusterReport) -> bool,
    ) -> Vec<Duration> {
        let mut took = vec![None; edges.len()];
        loop {
            for (place, took) in edges.iter().zip(&mut took) {
                if took.is_none() && holds(&self.edges[*place].cluster()) {
                    *took = Some(began.elapsed());
                }
            }
            if let Some(all) = took.iter().copied().collect() {
                return all;
            }
            assert!(
                began.elapsed() < limit,
                "{what}: not within {limit:?} at all of {edges:?}, but {took:?}; {}",
                self.views()
            );
            std::thread::park_timeout(LOOK);
        }
    }

    /// Whom each edge that runs sees.
    fn views(&self) -> String {
        let running = self.edges.iter().filter(|edge| edge.runs());
        let view = |edge: &Node| format!("{} sees {:?}", edge.name, sees(&edge.cluster()));
        running.map(view).collect::<Vec<_>>().join("; ")
    }

    /// A metric of all edges that run together.
    pub(crate) fn all(&self, name: &str, labels: &[&str]) -> f64 {
        let running = self.edges.iter().filter(|edge| edge.runs());
        running.map(|edge| edge.metric(name, labels)).sum()
    }
}

impl Drop for Mesh {
    /// What the processes of a test that fails said last; all of what they said is put into the directory `STOQ_MESH_LOGS`, where one is named.
    fn drop(&mut self) {
        let kept = std::env::var_os("STOQ_MESH_LOGS").map(PathBuf::from);
        for node in self.edges.iter().chain(&self.shield) {
            let said = std::fs::read_to_string(&node.log).unwrap_or_default();
            if let Some(kept) = &kept {
                let _ = std::fs::write(kept.join(&node.name).with_extension("log"), &said);
            }
            if !std::thread::panicking() {
                continue;
            }
            let lines: Vec<_> = said.lines().collect();
            let last = lines.len().saturating_sub(4);
            eprintln!(
                "{}, at the end:\n  {}",
                node.name,
                lines[last..].join("\n  ")
            );
        }
    }
}

/// Names of those in a report.
pub(crate) fn sees(report: &ClusterReport) -> Vec<String> {
    report.nodes.iter().map(|node| node.name.clone()).collect()
}

fn sorted(names: &[&str]) -> Vec<String> {
    let mut names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    names.sort();
    names
}

/// A program on a host.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) host: usize,
    program: PathBuf,
    file: PathBuf,
    admin: PathBuf,
    log: PathBuf,
    /// Seconds by which its wall clock is ahead, and what makes it so.
    clock: Option<(PathBuf, i32)>,
    child: Option<Child>,
}

impl Node {
    fn new(directory: &Path, name: String, host: usize, program: &Path, text: &str) -> Self {
        let path = |end: &str| directory.join(format!("{name}.{end}"));
        std::fs::write(path("toml"), text).unwrap();
        Self {
            host,
            program: program.to_owned(),
            file: path("toml"),
            admin: path("sock"),
            log: path("log"),
            clock: None,
            child: None,
            name,
        }
    }

    /// Where it listens for nodes.
    pub(crate) fn stoq(&self) -> SocketAddr {
        at(self.host, STOQ)
    }

    /// From its next start on its wall clock is ahead by so many seconds.
    pub(crate) fn set_clock(&mut self, library: &Path, ahead: i32) {
        self.clock = Some((library.to_owned(), ahead));
    }

    /// Starts it.
    pub(crate) fn start(&mut self, network: &Network) {
        assert!(!self.runs(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log);
        let mut command = Command::new(&self.program);
        command
            .args(["run", "--config"])
            .arg(&self.file)
            .stdin(Stdio::null())
            .stderr(log.unwrap());
        if let Some((library, ahead)) = &self.clock {
            command
                .env("LD_PRELOAD", library)
                .env(clock::SKEW, ahead.to_string());
        }
        let child = network.on(self.host, move || command.spawn().unwrap());
        self.child = Some(child.join().unwrap());
    }

    /// Whether it was started and not ended.
    pub(crate) const fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Waits until it says that it is ready.
    pub(crate) fn ready(&mut self) {
        let began = Instant::now();
        let is_ready = |(head, _): (String, String)| head.starts_with("HTTP/1.0 200");
        while !self.get("/readyz").is_ok_and(is_ready) {
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "{} ended: {ended:?}", self.name);
            assert!(began.elapsed() < READY, "{} is not ready", self.name);
            std::thread::park_timeout(LOOK);
        }
    }

    /// Its process's id.
    pub(crate) fn process(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends it a signal by its name, such as `STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("it runs");
        let sent = Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// `kill -9`. When it was sent.
    pub(crate) fn kill(&mut self) -> Instant {
        let mut child = self.child.take().expect("it runs");
        let at = Instant::now();
        child.kill().unwrap();
        child.wait().unwrap();
        at
    }

    /// Head and body of what its admin socket answers.
    pub(crate) fn get(&self, path: &str) -> io::Result<(String, String)> {
        let mut stream = UnixStream::connect(&self.admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let parts = answer.split_once("\r\n\r\n");
        let (head, body) = parts.ok_or_else(|| io::Error::other("no HTTP"))?;
        Ok((head.to_owned(), body.to_owned()))
    }

    /// The mesh as it sees it.
    pub(crate) fn cluster(&self) -> ClusterReport {
        let (_, body) = self.get("/v1/cluster").expect("it answers");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    /// The sum of all samples named `name` whose labels contain each of `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, body) = self.get("/metrics").expect("it answers");
        metric_in(&body, name, labels)
    }

    /// What a command of the program, asked of this node, prints.
    pub(crate) fn ask(&self, verb: &[&str]) -> String {
        let said = Command::new(&self.program)
            .args(verb)
            .arg("--config")
            .arg(&self.file)
            .output()
            .unwrap();
        assert!(said.status.success(), "{verb:?}: {said:?}");
        String::from_utf8(said.stdout).unwrap()
    }

    /// Lines of its audit file so far.
    pub(crate) fn audited(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.file.with_extension("audit"));
        text.unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
