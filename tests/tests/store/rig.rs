//! Nodes as processes: configured, started, asked, stopped, killed and started again over what they left on disk.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use integration::{Answer, Client, Origin, Payload, Version, tools};
use parking_lot::Mutex;
use stoq_loadtest::{ClientError, Target};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    process::{Child, Command},
    sync::oneshot,
    task::JoinHandle,
};

/// A node that does not say within this time that it serves does not start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// An answer that is not whole after this time is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Lines of a node's log that are kept.
const LINES_MAX: usize = 1_000;

pub(crate) const MIB: u64 = 1 << 20;

/// A node that is to run, again and again: its program and its configuration. What it keeps lies in `dir`.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    program: PathBuf,
    dir: PathBuf,
    name: String,
    listen: &'static str,
    /// The volume's directory.
    pub(crate) disk: PathBuf,
    /// The volume's `size`.
    pub(crate) size: &'static str,
    /// Lines of `[cache]`, without the disk.
    pub(crate) cache: &'static str,
    /// Whole tables.
    pub(crate) tables: String,
    /// The `[[site]]` tables.
    pub(crate) sites: String,
}

impl Setup {
    /// An edge with 16 MiB of memory and a volume of 256 MiB before `origin`, an entry of `origins`. None, said loudly, where it is not built.
    pub(crate) fn edge(test: &str, dir: &Path, origin: &str) -> Option<Self> {
        Self::new(test, "stoq-edge", "edge-1", "http", dir, origin)
    }

    /// A shield likewise; it needs a `[cluster]` in its tables.
    pub(crate) fn shield(test: &str, dir: &Path, origin: &str) -> Option<Self> {
        Self::new(test, "stoq-shield", "shield-1", "stoq", dir, origin)
    }

    fn new(
        test: &str,
        program: &str,
        name: &str,
        listen: &'static str,
        dir: &Path,
        origin: &str,
    ) -> Option<Self> {
        let Some(built) = tools::built(program) else {
            let why = format!(
                "{program} is not built beside the tests: `cargo build -p stoq-edge -p stoq-origin-shield`"
            );
            tools::skipped(test, &why);
            return None;
        };
        Some(Self {
            program: built,
            dir: dir.to_owned(),
            name: name.to_owned(),
            listen,
            disk: dir.join(format!("{name}-disk")),
            size: "256MiB",
            cache: "ram = \"16MiB\"",
            tables: String::new(),
            sites: format!("[[site]]\nhosts = [\"*\"]\norigins = [\"{origin}\"]\n"),
        })
    }

    /// Another node of the same kind, with a directory of state and a socket of its own.
    pub(crate) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    fn admin(&self) -> PathBuf {
        self.dir.join(format!("{}.sock", self.name))
    }

    /// The configuration, written to its file.
    fn config(&self) -> PathBuf {
        let text = format!(
            "[node]\nname = \"{name}\"\nstate_dir = \"state-{name}\"\nworkers = 2\ndrain = \"5s\"\n\
             [listen]\n{listen} = [\"127.0.0.1:0\"]\nadmin = \"unix:{admin}\"\n\
             [cache]\n{cache}\ndisk = [{{ path = \"{disk}\", size = \"{size}\" }}]\n\
             [log]\naccess = false\n{tables}{sites}",
            name = self.name,
            listen = self.listen,
            admin = self.admin().display(),
            cache = self.cache,
            disk = self.disk.display(),
            size = self.size,
            tables = self.tables,
            sites = self.sites,
        );
        let path = self.dir.join(format!("{}.toml", self.name));
        std::fs::write(&path, text).expect("a configuration is written");
        path
    }

    /// Runs a verb that is expected to end by itself.
    pub(crate) async fn ends(&self, verb: &str) -> Output {
        let config = self.config();
        let config = config.to_str().expect("a temporary path is text");
        tools::run(&self.program, &[verb, "--config", config], START_TIMEOUT).await
    }

    /// Starts it; returns when it serves.
    pub(crate) async fn start(&self) -> Node {
        self.start_in(None).await
    }

    /// As [`Setup::start`]; the process first joins the group of processes whose file of members this is.
    pub(crate) async fn start_in(&self, members: Option<&Path>) -> Node {
        let config = self.config();
        let mut command = match members {
            None => Command::new(&self.program),
            Some(members) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", "echo $$ >\"$0\" && exec \"$@\""])
                    .arg(members)
                    .arg(&self.program);
                shell
            }
        };
        let started = Instant::now();
        let mut child = command
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the node's program can be run");
        let stderr = child.stderr.take().expect("it is a pipe");
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let (tell, told) = oneshot::channel();
        let reader = tokio::spawn(read_log(BufReader::new(stderr), Arc::clone(&log), tell));
        let addr = match tokio::time::timeout(START_TIMEOUT, told).await {
            Ok(Ok(addr)) => addr,
            Ok(Err(_)) => panic!("{} ended at once: {:#?}", self.name, log.lock()),
            Err(_) => panic!("{} does not serve: {:#?}", self.name, log.lock()),
        };
        Node {
            child,
            addr,
            admin: self.admin(),
            started,
            log,
            reader,
        }
    }

    /// Bytes that the files of the volume take on their filesystem.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let Ok(files) = std::fs::read_dir(&self.disk) else {
            return 0;
        };
        files
            .filter_map(|file| file.ok()?.metadata().ok())
            .map(|metadata| metadata.blocks() * 512)
            .sum()
    }
}

/// Keeps the last lines, and tells the address in the first that has one.
async fn read_log(
    stderr: BufReader<tokio::process::ChildStderr>,
    log: Arc<Mutex<VecDeque<String>>>,
    tell: oneshot::Sender<SocketAddr>,
) {
    let mut tell = Some(tell);
    let mut lines = stderr.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let addr = line
            .split_once("addr=")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        if let Some(addr) = addr
            && let Some(tell) = tell.take()
        {
            // Nobody waits any more if the start took too long.
            let _late = tell.send(addr);
        }
        let mut log = log.lock();
        if log.len() == LINES_MAX {
            log.pop_front();
        }
        log.push_back(line);
    }
}

/// A running process. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    admin: PathBuf,
    /// When it was started.
    pub(crate) started: Instant,
    log: Arc<Mutex<VecDeque<String>>>,
    reader: JoinHandle<()>,
}

impl Node {
    /// A client on a connection of its own, under the host name `localhost`.
    pub(crate) async fn client(&self) -> Client {
        self.client_for("localhost").await
    }

    /// A client on a connection of its own, under this host name, the same on whichever port the node listens.
    pub(crate) async fn client_for(&self, host: &str) -> Client {
        let target = Target::new(&format!("http://{host}")).expect("a URL");
        Client::connect(&target.at(self.addr), Version::Http1)
            .await
            .expect("a node that serves takes a connection")
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it was not waited for")
    }

    /// Kills it as `kill -9` does and waits until it is gone.
    pub(crate) async fn kill(mut self) {
        self.child.start_kill().expect("it still runs");
        let status = self.child.wait().await.expect("a child can be waited for");
        assert!(
            status.code().is_none(),
            "it ended before it was killed, with {status}: {:#?}",
            self.log.lock()
        );
    }

    /// Has it drain and end.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        let id = self.id().to_string();
        let signalled = Command::new("kill").args(["-TERM", &id]).status().await;
        assert!(signalled.is_ok_and(|status| status.success()));
        let ended = tokio::time::timeout(START_TIMEOUT, self.child.wait()).await;
        ended.expect("it ends").expect("a child can be waited for")
    }

    /// Whether the process has not ended.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines of its log, for whoever reads of a failure.
    pub(crate) fn log(&self) -> String {
        let log = self.log.lock();
        let skipped = log.len().saturating_sub(20);
        log.iter()
            .skip(skipped)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Whether a line of its log has all of these.
    pub(crate) fn logged(&self, parts: &[&str]) -> bool {
        let log = self.log.lock();
        log.iter()
            .any(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// The sum of all samples named `name` whose labels contain each of `labels`. A name that is not there fails: it would prove anything.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.metrics().await;
        let mut samples = text
            .lines()
            .filter(|line| {
                let end = line.find(['{', ' ']).unwrap_or(line.len());
                &line[..end] == name && labels.iter().all(|label| line.contains(label))
            })
            .peekable();
        assert!(
            samples.peek().is_some(),
            "there is no metric {name}{labels:?}"
        );
        samples
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    pub(crate) async fn metrics(&self) -> String {
        let mut stream = UnixStream::connect(&self.admin)
            .await
            .expect("the admin listener answers");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .await
            .expect("it takes a request");
        let mut text = String::new();
        stream
            .read_to_string(&mut text)
            .await
            .expect("it answers with text");
        text
    }

    /// Waits until a metric is what is wanted.
    pub(crate) async fn until(&self, name: &str, labels: &[&str], wanted: impl Fn(f64) -> bool) {
        let begun = Instant::now();
        loop {
            let value = self.metric(name, labels).await;
            if wanted(value) {
                return;
            }
            assert!(
                begun.elapsed() < ANSWER_TIMEOUT,
                "waited {ANSWER_TIMEOUT:?} in vain for {name}, which is {value}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// An answer read to its end.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) cache_status: String,
    pub(crate) hash: blake3::Hash,
    pub(crate) length: u64,
}

/// Sends a request and reads the answer to its end.
pub(crate) async fn send(client: &Client, request: Request<Payload>) -> Result<Got, ClientError> {
    let path = request.uri().path().to_owned();
    let exchange = async {
        let answer = client.send(request).await?;
        let cache_status = answer.header("cache-status").unwrap_or_default().to_owned();
        let whole = answer.whole().await?;
        Ok(Got {
            status: whole.status.as_u16(),
            cache_status,
            hash: whole.hash,
            length: whole.length,
        })
    };
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await;
    answered.unwrap_or_else(|_| panic!("{path}: no whole answer within {ANSWER_TIMEOUT:?}"))
}

/// A GET of `path`.
pub(crate) async fn get(client: &Client, path: &str) -> Result<Got, ClientError> {
    let request = Request::get(path).body(Payload::empty());
    send(client, request.expect("a request")).await
}

/// The number in an environment variable, or `default`.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number"))
    })
}

/// What lies under `path` at the origin of this seed: mostly small, one in sixteen of 1 to 4 MiB, incompressible.
pub(crate) fn content(seed: u64, path: &str) -> Bytes {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(path.as_bytes());
    let mut bytes = hasher.finalize_xof();
    let mut draw = [0; 4];
    bytes.fill(&mut draw);
    let draw = u32::from_le_bytes(draw);
    let length = match draw % 16 {
        0 => (1 << 20) + (draw >> 4) % (3 << 20),
        1..6 => 16_384 + (draw >> 4) % 262_144,
        _ => 100 + (draw >> 4) % 16_384,
    };
    let mut body = vec![0; usize::try_from(length).expect("a length that fits")];
    bytes.fill(&mut body);
    body.into()
}

/// An origin that has [`content`] under every path, fresh for a day, and counts what it is asked.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) origin: Origin,
    seed: u64,
    asked: Arc<Mutex<HashMap<String, u64>>>,
}

impl Shelf {
    pub(crate) async fn start(seed: u64) -> Self {
        let asked = Arc::new(Mutex::new(HashMap::new()));
        let counted = Arc::clone(&asked);
        let origin = Origin::start(move |seen| {
            let path = seen.uri.path().to_owned();
            let body = content(seed, &path);
            *counted.lock().entry(path).or_default() += 1;
            async move { Answer::ok(body).fresh(86_400) }
        })
        .await;
        Self {
            origin,
            seed,
            asked,
        }
    }

    /// How often it was asked for `path`.
    pub(crate) fn asked(&self, path: &str) -> u64 {
        self.asked.lock().get(path).copied().unwrap_or(0)
    }

    /// Fails unless this is what lies under `path`, whole.
    pub(crate) fn judge(&self, path: &str, got: &Got) {
        let wanted = content(self.seed, path);
        assert!(
            got.status == 200 && got.hash == blake3::hash(&wanted),
            "seed {}: {path}: {} bytes are wanted, this came: {got:?}",
            self.seed,
            wanted.len()
        );
    }
}
