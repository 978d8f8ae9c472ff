//! What idle connections cost the server, and that they are there when needed. Alone in its process, which is measured; the
//! clients live in a child process, which is this same binary.
//!
//! `STOQ_IDLE_CONNECTIONS` says how many, 5,000 by default; 100,000 need about 8 GiB for both processes:
//!
//! ```text
//! STOQ_IDLE_CONNECTIONS=100000 cargo test --release -p stoq --test idle_memory -- --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod pair;

use std::{
    fs,
    io::{Read, stdin},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use pair::{client, server, tls, tls_client};
use stoq::quic::{AdmissionLimits, CidKeys, Connection, EndpointConfig, TransportConfig};
use tokio::time::{interval, timeout};

/// Connections before the first measurement, so that tables and pools have their size.
const WARM: usize = 300;

/// Handshakes under way at once: below what makes newcomers prove their address.
const DIALS: usize = 64;

/// Connections that are asked at once.
const POKES: usize = 256;

/// What one connection may take on a slow and busy machine: nothing of this test takes longer than so many of them.
const PATIENCE_EACH: Duration = Duration::from_millis(40);

const SERVER: &str = "STOQ_IDLE_SERVER";
const CERTIFICATE: &str = "STOQ_IDLE_CERTIFICATE";

/// Those that are measured, with the warm ones.
fn connections() -> usize {
    std::env::var("STOQ_IDLE_CONNECTIONS").map_or(5_000, |count| {
        let count = count.parse().expect("STOQ_IDLE_CONNECTIONS");
        assert!(count > WARM, "more than {WARM} connections");
        count
    })
}

/// Nothing is to end by itself while others are still dialled.
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

/// Says back the byte of each stream.
async fn echo(connection: Connection) {
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        let byte = recv.read_to_end(1).await.unwrap();
        send.write_all(&byte).await.unwrap();
        send.finish().unwrap();
    }
}

/// The child: connects, answers, and ends when its input does. Does nothing when run as a test.
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
    let endpoint = client(transport());
    let dialling = stream::iter(0..connections())
        .map(|_| endpoint.connect(addr, "localhost", &tls))
        .buffer_unordered(DIALS)
        .for_each(async |connection| drop(tokio::spawn(echo(connection.unwrap()))));
    dialling.await;
    tokio::task::spawn_blocking(|| stdin().read_to_end(&mut Vec::new()))
        .await
        .unwrap()
        .unwrap();
}

/// The child process. Ended when dropped.
struct Clients(Child);

impl Clients {
    fn start(addr: &str, certificate: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "clients_of_the_child_process", "--nocapture"])
            .env(SERVER, addr)
            .env(CERTIFICATE, certificate)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// Ends with the process, which ends by itself only when something failed; what it was, it has said. Cancel-safe.
    async fn ended(&mut self) -> ExitStatus {
        let mut look = interval(Duration::from_secs(1));
        loop {
            look.tick().await;
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks on a new stream, and is told the same.
async fn poke(connection: &Connection, byte: u8) -> bool {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[byte]).await.unwrap();
    send.finish().unwrap();
    recv.read_to_end(1)
        .await
        .is_ok_and(|answer| answer == [byte])
}

#[tokio::test]
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn idle_connections_cost_40_kib_each_and_answer_when_poked() {
    if std::env::var_os(SERVER).is_some() {
        return;
    }
    let count = connections();
    let patience = Duration::from_secs(30) + PATIENCE_EACH * u32::try_from(count).unwrap();
    let (tls_server, tls_client) = tls(b"test");
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(tls_server);
    config.transport = transport();
    config.limits = AdmissionLimits {
        max_connections: count + 1,
        // They all come from one address.
        max_per_prefix: count + 1,
        ..AdmissionLimits::default()
    };
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

    let mut clients = Clients::start(&addr.to_string(), file.path());
    let mut held = Vec::with_capacity(count);
    let ramp = async {
        let mut warm = None;
        while held.len() < count {
            if held.len() == WARM {
                warm = Some((rss(), Instant::now()));
            }
            held.push(endpoint.accept().await.unwrap().establish().await.unwrap());
        }
        warm.unwrap()
    };
    let (before, begun) = tokio::select! {
        ramp = timeout(patience, ramp) => ramp.expect("all connect"),
        status = clients.ended() => panic!("the clients ended: {status}"),
    };
    let (ramp, measured) = (begun.elapsed(), (count - WARM) as f64);
    let each = (rss() - before) as f64 / measured;

    let begun = Instant::now();
    let poking = stream::iter(held.iter().zip((0..=u8::MAX).cycle()))
        .map(|(connection, byte)| poke(connection, byte))
        .buffer_unordered(POKES)
        .filter(|answered| std::future::ready(*answered))
        .count();
    let answered = timeout(patience, poking).await.expect("all are asked");
    println!(
        "{count} connections: {each:.1} KiB each, ramp {ramp:.1?} ({:.0}/s), poked in {:.1?}, {answered} answered",
        measured / ramp.as_secs_f64(),
        begun.elapsed()
    );
    drop(clients);
    assert_eq!(answered, count);
    // Of them the 108 streams that the client may open are 5 and the send buffer of ten segments is 4.
    assert!(each <= 40.0, "{each:.1} KiB");
}
