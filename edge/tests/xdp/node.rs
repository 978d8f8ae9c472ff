//! The program under test as a process, and clients of it.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use stoq::quic::{Endpoint, TlsClient, TransportConfig};

use crate::lab::{PATIENCE, wait_for};

/// The binary.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_stoq-edge"))
}

/// Runs it to its end.
pub(crate) fn output(mut command: Command, arguments: &[&str], config: &Path) -> Output {
    command.args(arguments).arg("--config").arg(config);
    command.output().unwrap()
}

/// A node with a site of one file, and how it is started.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// With these `[listen]` addresses and whole tables.
    pub(crate) fn new(https: &str, http: &str, admin: &str, tables: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("site")).unwrap();
        std::fs::write(dir.path().join("site/a.txt"), "all of it").unwrap();
        let node = Self {
            config: dir.path().join("edge.toml"),
            dir,
            child: None,
        };
        node.write(https, http, admin, tables);
        node
    }

    pub(crate) fn write(&self, https: &str, http: &str, admin: &str, tables: &str) {
        let text = format!(
            "[node]\nname = \"edge-1\"\nstate_dir = \"state\"\nworkers = 2\ndrain = \"1s\"\n\
             [listen]\nhttps = [\"{https}\"]\nhttp = [\"{http}\"]\nadmin = \"{admin}\"\n[log]\naccess = false\n{tables}\n\
             [[site]]\nhosts = [\"*\"]\norigins = [\"./site\"]\ndefault_ttl = \"1h\"\n"
        );
        std::fs::write(&self.config, text).unwrap();
    }

    /// Starts it and waits until it serves; `answers` asks it.
    pub(crate) fn start(&mut self, mut command: Command, answers: impl Fn() -> bool) {
        command.arg("run").arg("--config").arg(&self.config);
        let child = command.stderr(Stdio::inherit()).spawn().unwrap();
        self.child = Some(child);
        wait_for("the edge to serve", answers);
    }

    /// The process. Under `ip netns exec` it is that one, which becomes it.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn kill(&mut self) {
        self.signal("-KILL");
        self.child.take().unwrap().wait().unwrap();
    }

    /// The answer of `xdp top --json`.
    pub(crate) fn top(&self, command: Command) -> Value {
        let output = output(command, &["xdp", "top", "--json"], &self.config);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let file = self.dir.path().join("state/dev-ca/ca.pem");
        roots
            .add(CertificateDer::from_pem_file(file).unwrap())
            .unwrap();
        roots
    }

    fn tls(&self, protocol: &[u8]) -> ClientConfig {
        let mut config = ClientConfig::builder()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        config
    }

    /// Whether a QUIC handshake completes within that time.
    pub(crate) fn shakes_hands_over_quic(&self, at: SocketAddr, within: Duration) -> bool {
        let tls = TlsClient::new(Arc::new(self.tls(b"h3"))).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let any = SocketAddr::from(([0, 0, 0, 0], 0));
            let endpoint = Endpoint::client(any, TransportConfig::default()).unwrap();
            let connecting = endpoint.connect(at, "localhost", &tls);
            let connected = tokio::time::timeout(within, connecting).await;
            matches!(connected, Ok(Ok(_)))
        })
    }

    /// Begins TLS for a protocol that nobody speaks. It fails.
    pub(crate) fn asks_for_a_foreign_protocol(&self, at: SocketAddr) {
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::new(self.tls(b"gopher")), name).unwrap();
        let stream = TcpStream::connect_timeout(&at, PATIENCE).unwrap();
        let mut stream = StreamOwned::new(tls, stream);
        let mut nothing = [0; 1];
        assert!(stream.read(&mut nothing).is_err());
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

/// Whether plain HTTP at that address answers with the file, in that time.
pub(crate) fn serves(at: SocketAddr, within: Duration) -> bool {
    let get = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&at, within)?;
        stream.set_read_timeout(Some(within))?;
        stream.write_all(b"GET /a.txt HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    get().is_ok_and(|answer| answer.ends_with("all of it"))
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port)
}

/// A port that is free on UDP and TCP at loopback now.
pub(crate) fn free_port() -> u16 {
    for _ in 0..100 {
        let udp = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let port = udp.local_addr().unwrap().port();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free on UDP and TCP");
}
