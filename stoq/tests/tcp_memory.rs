//! What idle links over TCP cost the side that takes them. Alone in its process, which is measured; the side that makes them lives in
//! a child process, which is this same binary.
//!
//! `STOQ_TCP_LINKS` says how many, 500 by default.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::fs;
use std::io::{Read, stdin};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use rustls_pki_types::UnixTime;
use stoq::identity::{ALPN, ClusterRoot, Identity, Role, SERVER_NAME, Validity};
use stoq::quic::TransportConfig;
use stoq::transport::tcp::{Tcp, TcpLimits};
use stoq::transport::{Target, Transport};
use tokio::time::timeout;

/// Links before the first measurement, so that tables and pools have their size.
const WARM: usize = 100;

/// Handshakes under way at once.
const DIALS: usize = 32;

/// What one link may take on a slow and busy machine.
const PATIENCE_EACH: Duration = Duration::from_millis(200);

const SERVER: &str = "STOQ_TCP_SERVER";
const FOLDER: &str = "STOQ_TCP_FOLDER";

/// Those that are measured, with the warm ones.
fn links() -> usize {
    std::env::var("STOQ_TCP_LINKS").map_or(500, |count| {
        let count = count.parse().expect("STOQ_TCP_LINKS");
        assert!(count > WARM, "more than {WARM} links");
        count
    })
}

/// Nothing is to end or to be said while others are still dialled.
fn transport() -> TransportConfig {
    TransportConfig {
        idle_timeout: Duration::from_secs(3600),
        ..TransportConfig::default()
    }
}

/// Memory of this process that is in use, in KiB.
fn rss() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The child: connects, and ends when its input does. Does nothing when run as a test.
#[tokio::test]
async fn links_of_the_child_process() {
    let (Some(addr), Some(folder)) = (std::env::var_os(SERVER), std::env::var_os(FOLDER)) else {
        return;
    };
    let addr: SocketAddr = addr.to_str().unwrap().parse().unwrap();
    let folder = Path::new(&folder);
    let papers = ["edge.pem", "root.pem"].map(|name| folder.join(name));
    let identity = Identity::load(&papers[0], &papers[1], "demo").unwrap();
    let tls = identity.client_config(ALPN).unwrap();
    let tcp = Tcp::client(transport());
    let target = Target {
        addr,
        server_name: SERVER_NAME,
        tls,
    };
    let held: Vec<_> = stream::iter(0..links())
        .map(|_| tcp.connect(target.clone()))
        .buffer_unordered(DIALS)
        .collect()
        .await;
    assert!(held.iter().all(Result::is_ok));
    tokio::task::spawn_blocking(|| stdin().read_to_end(&mut Vec::new()))
        .await
        .unwrap()
        .unwrap();
}

/// The child process. Ended when dropped.
struct Clients(Child);

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn idle_links_over_tcp_cost_what_the_limit_says() {
    if std::env::var_os(SERVER).is_some() {
        return;
    }
    let count = links();
    let day = Duration::from_secs(24 * 3600);
    let validity = || Validity::starting(UnixTime::now(), day);
    let root = ClusterRoot::generate("demo", validity()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("root.pem"), root.to_pem_cert()).unwrap();
    let edge = root.issue("edge-1", &[Role::Edge], validity()).unwrap();
    edge.save(&folder.path().join("edge.pem")).unwrap();
    let shield = root.issue("shield-1", &[Role::Shield], validity()).unwrap();
    let shield = Identity::new(shield, root.certificate().clone()).unwrap();
    let limits = TcpLimits {
        links: count,
        ..TcpLimits::default()
    };
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let tls = shield.server_config(ALPN).unwrap();
    let tcp = Tcp::listen(addr, tls, transport(), limits).unwrap();

    let clients = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "links_of_the_child_process"])
        .env(SERVER, tcp.local_addr().unwrap().to_string())
        .env(FOLDER, folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let _clients = Clients(clients.unwrap());
    let mut held = Vec::with_capacity(count);
    let ramp = async {
        let mut warm = 0;
        while held.len() < count {
            if held.len() == WARM {
                warm = rss();
            }
            let incoming = Transport::accept(&tcp).await.unwrap();
            held.push(incoming.establish().await.unwrap());
        }
        warm
    };
    let patience = Duration::from_secs(30) + PATIENCE_EACH * u32::try_from(count).unwrap();
    let before = timeout(patience, ramp).await.expect("all connect");
    let each = (rss() - before) as f64 / (count - WARM) as f64;
    println!("{count} idle links over TCP: {each:.1} KiB each");
    assert!(held.iter().all(|link| link.close_reason().is_none()));
    assert_eq!(tcp.counters().handshakes_completed.get(), count as u64);
    assert!(each < LINK_KIB_MAX, "{each:.1} KiB each");
}

/// Twice of what [`TcpLimits::links`] says, for other allocators.
const LINK_KIB_MAX: f64 = 44.0;
