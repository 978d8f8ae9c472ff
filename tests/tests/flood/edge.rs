//! The edge as a process on the server's host, with the certificate that its clients believe.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use integration::{body, tools};
use stoq::quic::TlsClient;

use crate::lab::{Lab, SERVER, SERVER_LINK};

/// Where it listens, as the frames of the generator have it.
pub(crate) const PORT: u16 = 443;
/// How long a node, or anything of it that should come about, may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The object that is downloaded again and again.
pub(crate) const LARGE: &str = "/large";
const LARGE_BYTES: usize = 8 << 20;
/// What a newcomer asks for.
pub(crate) const SMALL: &str = "/small";
pub(crate) const SMALL_BYTES: usize = 1024;

/// What stands between a flood and the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defence {
    /// `[xdp] mode = "off"`: what QUIC itself does.
    Off,
    /// The limiter at the sockets: `[xdp]` configured, and never enabled.
    AtSocket,
    /// The program at the interface.
    Native,
}

#[derive(Debug)]
pub(crate) struct Edge {
    child: Child,
    program: PathBuf,
    dir: tempfile::TempDir,
    pub(crate) addr: SocketAddr,
    pub(crate) tls: TlsClient,
    pub(crate) large: Bytes,
}

impl Edge {
    /// One that serves. None, said aloud, where it is not built.
    pub(crate) fn start(test: &str, lab: &Lab, defence: Defence, workers: usize) -> Option<Self> {
        let Some(program) = tools::built("stoq-edge") else {
            tools::skipped(
                test,
                "stoq-edge is not built beside the tests: `cargo build -p stoq-edge`",
            );
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let site = dir.path().join("site");
        std::fs::create_dir(&site).unwrap();
        let large = body::random(body::seed(), LARGE_BYTES);
        std::fs::write(site.join(&LARGE[1..]), &large).unwrap();
        std::fs::write(site.join(&SMALL[1..]), &large[..SMALL_BYTES]).unwrap();
        let tls = certificate(dir.path());
        let xdp = match defence {
            Defence::Off => String::new(),
            Defence::AtSocket | Defence::Native => {
                format!("[xdp]\nmode = \"native\"\ninterface = \"{SERVER_LINK}\"\n")
            }
        };
        let config = dir.path().join("edge.toml");
        let text = format!(
            "[node]\nname = \"edge-1\"\nstate_dir = \"state\"\nworkers = {workers}\ndrain = \"1s\"\n\
             [listen]\nhttps = [\"{SERVER}:{PORT}\"]\nadmin = \"unix:{}\"\n[log]\naccess = false\n{xdp}\
             [[tls.certificates]]\nhosts = [\"localhost\"]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n\
             [[site]]\nhosts = [\"*\"]\norigins = [\"./site\"]\ndefault_ttl = \"1h\"\n",
            dir.path().join("admin.sock").display()
        );
        std::fs::write(&config, text).unwrap();
        let child = lab
            .on_server(&program)
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut edge = Self {
            child,
            program,
            dir,
            addr: (SERVER, PORT).into(),
            tls,
            large,
        };
        edge.wait_until_it_serves();
        if defence == Defence::Native {
            for verb in ["enable", "confirm"] {
                edge.tell(verb);
            }
        }
        Some(edge)
    }

    fn wait_until_it_serves(&mut self) {
        let begun = Instant::now();
        while self.scrape().is_none() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}\n{}", self.log());
            assert!(begun.elapsed() < PATIENCE, "no answer\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// `stoq-edge xdp VERB`, which must succeed.
    fn tell(&self, verb: &str) {
        let output = Command::new(&self.program)
            .args(["xdp", verb, "--config"])
            .arg(self.dir.path().join("edge.toml"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "xdp {verb}: {}{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn scrape(&self) -> Option<String> {
        let mut stream = UnixStream::connect(self.dir.path().join("admin.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let ask = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(ask).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The sum of the samples of a metric that have these labels, zero where there are none.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.scrape().expect("the admin listener answers");
        let samples = text.lines().filter(|line| {
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            &line[..end] == name && line.contains(label)
        });
        samples
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .fold(0.0, |sum, value| sum + value)
    }

    /// What all its threads have spent, the program that holds XDP not among them.
    pub(crate) fn cpu(&self) -> Duration {
        // The child is `ip`, which became it.
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let spent = tasks.filter_map(|task| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(spent.sum())
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a certificate for `localhost`, and gives the configuration of who believes it.
fn certificate(dir: &Path) -> TlsClient {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h3".to_vec()];
    TlsClient::new(Arc::new(config)).unwrap()
}
