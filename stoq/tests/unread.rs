//! One exchange of a hundred that nobody reads costs the others nothing, and memory stays within the windows. Alone in its
//! process, which is measured. Each claim for `STOQ_UNREAD_SECONDS`, 5 by default.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

#[expect(
    dead_code,
    reason = "the cluster is that of the other tests, which use more of it"
)]
#[path = "peer/cluster.rs"]
mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use stoq::identity::{Identity, Role};
use stoq::peer::{Exchange, IncomingRequest, Part, PeerConn, RecvHalf, ServeConfig};
use stoq::quic::TransportConfig;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use cluster::{Act, Server, loopback, node, pattern, pool, root, soon};

/// Exchanges on each connection.
const EXCHANGES: usize = 100;

/// The tests measure the machine and the process: one at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Until windows are open and buffers have their size.
const WARM: Duration = Duration::from_secs(1);

/// `VmRSS` of this process: the memory it has resident, bytes.
fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Exchange kind: as fast as the network takes it.
const FLOOD: u16 = 1;
/// Exchange kind: [`TICK_BYTES`] each [`TICK`], 160 KB/s.
const PACED: u16 = 2;

const TICK: Duration = Duration::from_millis(50);
const TICK_BYTES: usize = 32 * 251;

/// The pattern over and over, until nobody wants it any more.
async fn send_for_ever(mut request: IncomingRequest) {
    let block = pattern(251 * 256);
    if request.kind == FLOOD {
        while request.reply.data(block.clone()).await.is_ok() {}
        return;
    }
    // One that is late makes up for it.
    let mut ticks = interval(TICK);
    let block = block.slice(..TICK_BYTES);
    while request.reply.data(block.clone()).await.is_ok() {
        ticks.tick().await;
    }
}

async fn exchanges(conn: &PeerConn, kind: u16, count: usize) -> Vec<Exchange> {
    let mut begun = Vec::new();
    for _ in 0..count {
        begun.push(conn.exchange(kind, Bytes::new(), None).await.unwrap());
    }
    begun
}

/// A node that sends for ever, and one to ask it.
fn nodes() -> (Server, Identity) {
    let root = root("demo");
    let server = Server::with(
        &node(&root, "shield-1", &[Role::Shield]),
        Arc::new(Act(send_for_ever)),
        ServeConfig {
            exchanges: 2 * EXCHANGES,
            ..ServeConfig::default()
        },
        transport(),
        loopback(),
    );
    (server, node(&root, "edge-1", &[Role::Edge]))
}

fn transport() -> TransportConfig {
    TransportConfig {
        max_bidi_streams: 2 * u32::try_from(EXCHANGES).unwrap(),
        ..TransportConfig::default()
    }
}

/// Of its rate each keeps at least so much.
const SHARE: f64 = 0.95;

/// A measurement goes on, all of it counted, while it has not shown that, up to so many times its length: what else the machine does
/// weighs less the longer it lasts, what an unread exchange costs does not.
const LENGTHS_MAX: u32 = 6;

fn seconds() -> u64 {
    std::env::var("STOQ_UNREAD_SECONDS")
        .map_or(5, |seconds| seconds.parse().expect("STOQ_UNREAD_SECONDS"))
}

/// What was left unread is there from its beginning, and goes on beyond all windows.
async fn assert_still_there(mut unread: Exchange) {
    let (expected, mut at) = (pattern(251), 0);
    while at < 4 << 20 {
        let part = soon("the unread exchange", unread.recv.next()).await;
        let Some(Part::Data(bytes)) = part.unwrap() else {
            panic!("no data at {at}");
        };
        for byte in bytes {
            assert_eq!(byte, expected[at % expected.len()], "at {at}");
            at += 1;
        }
    }
}

async fn dial(identity: &Identity, server: &Server) -> PeerConn {
    soon("dial", pool(identity).get(server.addr)).await.unwrap()
}

async fn read(mut recv: RecvHalf, count: Arc<AtomicU64>) {
    while let Ok(Some(Part::Data(bytes))) = recv.next().await {
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Bytes of each exchange of a connection that is read.
struct Readers {
    counts: Vec<Arc<AtomicU64>>,
    /// Held open: what this side says has no end.
    _sends: Vec<stoq::peer::SendHalf>,
}

impl Readers {
    fn start(exchanges: Vec<Exchange>, tasks: &mut JoinSet<()>) -> Self {
        let (mut counts, mut sends) = (Vec::new(), Vec::new());
        for Exchange { send, recv } in exchanges {
            let count = Arc::new(AtomicU64::new(0));
            tasks.spawn(read(recv, count.clone()));
            counts.push(count);
            sends.push(send);
        }
        Self {
            counts,
            _sends: sends,
        }
    }

    fn read(&self) -> Vec<u64> {
        let counts = self.counts.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

/// What each read since.
fn since(readers: &Readers, before: &[u64]) -> Vec<u64> {
    let now = readers.read();
    now.iter()
        .zip(before)
        .map(|(now, then)| now - then)
        .collect()
}

#[tokio::test]
#[expect(clippy::cast_precision_loss, reason = "shares of bytes")]
async fn each_of_99_keeps_its_rate_while_one_is_not_read() {
    let _alone = ALONE.lock().await;
    let seconds = seconds();
    let (server, edge) = nodes();
    let conn = dial(&edge, &server).await;
    let unread = exchanges(&conn, FLOOD, 1).await.remove(0);
    let mut tasks = JoinSet::new();
    let readers = Readers::start(exchanges(&conn, PACED, EXCHANGES - 1).await, &mut tasks);
    sleep(WARM).await;
    let (before, begun) = (readers.read(), Instant::now());
    let (mut least, mut offered) = (0_u64, 0_u64);
    for _ in 0..LENGTHS_MAX {
        sleep(Duration::from_secs(seconds)).await;
        least = since(&readers, &before).into_iter().min().unwrap();
        let ticks = begun.elapsed().as_millis() / TICK.as_millis();
        offered = u64::try_from(ticks).unwrap() * TICK_BYTES as u64;
        println!(
            "each was offered {offered} bytes in {:?}; least read {least}",
            begun.elapsed()
        );
        if least as f64 >= offered as f64 * SHARE {
            break;
        }
    }
    assert!(
        least as f64 >= offered as f64 * SHARE,
        "{least} of {offered}"
    );
    assert_still_there(unread).await;
    tasks.shutdown().await;
}

/// Two connections between the same two nodes send as fast as they can at the same time; on one of them an exchange is left
/// unread. What else the machine does slows both alike, so the other connection is the measure.
///
/// Of the connections as a whole: how the QUIC implementation below shares a full send window among the streams of one is
/// not even, with or without an unread one. It wakes the writers that wait for the window last come, first served, so some
/// stand still for seconds while all want more than there is. How many is printed.
#[tokio::test]
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn a_flooded_connection_keeps_its_rate_and_memory_while_one_is_not_read() {
    let _alone = ALONE.lock().await;
    let seconds = seconds();
    let (server, edge) = nodes();
    let (conn, control) = (dial(&edge, &server).await, dial(&edge, &server).await);
    let unread = exchanges(&conn, FLOOD, 1).await.remove(0);
    let ours = exchanges(&conn, FLOOD, EXCHANGES - 1).await;
    let controls = exchanges(&control, FLOOD, EXCHANGES).await;
    let before = rss();
    let mut tasks = JoinSet::new();
    let ours = Readers::start(ours, &mut tasks);
    let controls = Readers::start(controls, &mut tasks);

    sleep(WARM).await;
    let (warm, of_ours, of_controls) = (rss(), ours.read(), controls.read());
    let begun = Instant::now();
    let still = |read: &[u64]| read.iter().filter(|read| **read == 0).count();
    let (mut ours_read, mut controls_read) = (0_u64, 0_u64);
    for _ in 0..LENGTHS_MAX {
        sleep(Duration::from_secs(seconds)).await;
        let (ours, controls) = (since(&ours, &of_ours), since(&controls, &of_controls));
        (ours_read, controls_read) = (ours.iter().sum(), controls.iter().sum());
        println!(
            "in {:?} beside the unread one {ours_read} bytes, {} stood still; without one {controls_read} bytes, {} stood still",
            begun.elapsed(),
            still(&ours),
            still(&controls),
        );
        if ours_read as f64 >= SHARE * controls_read as f64 {
            break;
        }
    }
    let after = rss();
    println!(
        "memory: {} KiB more when warm, {} KiB more at the end",
        warm.saturating_sub(before) >> 10,
        after.saturating_sub(before) >> 10
    );
    assert!(
        ours_read as f64 >= SHARE * controls_read as f64,
        "{ours_read} bytes beside the unread one, {controls_read} without one"
    );
    // The windows of both connections, at both ends, and the sockets' receive buffers (2 MiB each), touched late.
    let transport = transport();
    let windows = u64::from(transport.connection_window) + u64::from(transport.send_window);
    let grown = after.saturating_sub(before);
    assert!(
        grown < 2 * windows + (8 << 20),
        "grew by {} KiB",
        grown >> 10
    );
    // The others first: while they want more than the window, it may be kept from its turn.
    tasks.shutdown().await;
    assert_still_there(unread).await;
}
