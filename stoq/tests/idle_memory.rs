//! What an idle connection costs the server. Alone in its process, which is measured; the clients live in a child
//! process, which is this same binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod pair;

use std::{
    fs,
    io::{Read, stdin},
    path::Path,
    process::{Command, Stdio},
};

use pair::{client, server, tls, tls_client};
use stoq::quic::{CidKeys, EndpointConfig, TransportConfig};

/// Connections before the first measurement, so that tables and pools have their size.
const WARM: u64 = 300;

/// Connections between the two measurements.
const MEASURED: u64 = 1000;

const SERVER: &str = "STOQ_IDLE_SERVER";
const CERTIFICATE: &str = "STOQ_IDLE_CERTIFICATE";

/// Memory of this process that is in use, in KiB.
fn rss() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The child: connects, holds, and ends when its input does. Does nothing when run as a test.
#[tokio::test]
async fn clients_of_the_child_process() {
    let Some(addr) = std::env::var_os(SERVER) else {
        return;
    };
    let certificate = fs::read(std::env::var_os(CERTIFICATE).unwrap()).unwrap();
    let (addr, tls) = (
        addr.to_str().unwrap().parse().unwrap(),
        tls_client(b"test", certificate.into()),
    );
    let endpoint = client(TransportConfig::default());
    let mut held = Vec::new();
    for _ in 0..WARM + MEASURED {
        held.push(endpoint.connect(addr, "localhost", &tls).await.unwrap());
    }
    tokio::task::spawn_blocking(|| stdin().read_to_end(&mut Vec::new()))
        .await
        .unwrap()
        .unwrap();
}

fn clients(addr: &str, certificate: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "clients_of_the_child_process"])
        .env(SERVER, addr)
        .env(CERTIFICATE, certificate)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    command
}

#[tokio::test]
async fn idle_connection_costs_about_40_kib() {
    if std::env::var_os(SERVER).is_some() {
        return;
    }
    let (tls_server, tls_client) = tls(b"test");
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(tls_server);
    let endpoint = server(config);
    let addr = endpoint.local_addr().unwrap();
    // The certificate, as the server shows it.
    let visitor = client(TransportConfig::default());
    let (shown, _) = tokio::join!(visitor.connect(addr, "localhost", &tls_client), async {
        endpoint.accept().await.unwrap().establish().await
    });
    let certificate = shown.unwrap().peer_certificates().unwrap().swap_remove(0);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &certificate).unwrap();

    let mut child = clients(&addr.to_string(), file.path()).spawn().unwrap();
    let mut held = Vec::new();
    let mut take = async |count: u64| {
        for _ in 0..count {
            held.push(endpoint.accept().await.unwrap().establish().await.unwrap());
        }
        rss()
    };
    let before = take(WARM).await;
    let after = take(MEASURED).await;
    drop(child.stdin.take());
    child.wait().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = (after - before) as f64 / MEASURED as f64;
    println!("{each:.1} KiB a connection");
    // A tenth more than measured, for what the allocator does. Of the 40, the 108 streams that the client may open
    // are 5 and the send buffer of ten segments is 4.
    assert!(each <= 44.0, "{each:.1} KiB");
}
