//! What every contender does, and the run that measures it.

use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::cpu::{self, Thread};
use crate::papers::{Papers, Tls};
use crate::work::{
    RPC_ANSWER, SMALL_ANSWER, Tickets, WARM_BULK, WARM_CONNECTIONS, WARM_RPCS, Work,
};

/// A transport: its server answers questions with as many bytes as they ask for, its client asks.
pub(crate) trait Contender: Sized {
    /// A client's connection.
    type Conn;

    /// Tells its address and answers, until it is dropped.
    async fn serve(work: Work, tls: Tls, ready: oneshot::Sender<SocketAddr>);

    /// A client, which may keep tickets.
    fn client(work: Work, tls: Tls) -> Self;

    /// A new connection; with early data one whose handshake may not be over.
    async fn connect(&self, addr: SocketAddr) -> Self::Conn;

    /// Asks for `length` bytes and reads them all.
    async fn ask(conn: &mut Self::Conn, length: u64);

    /// Asks for [`RPC_ANSWER`] bytes so many times, `at_once` of them outstanding.
    async fn ask_many(conn: &mut Self::Conn, count: usize, at_once: usize);

    /// Waits for the handshake's end, and whether early data was taken.
    async fn settled(conn: &mut Self::Conn) -> bool;

    /// The UDP payload in use, where there is one.
    fn mtu(conn: &Self::Conn) -> Option<u16>;

    /// Ends it.
    async fn close(conn: Self::Conn);
}

/// What one round took.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    Done {
        /// CPU of the server's and the client's thread, and time.
        server: Duration,
        client: Duration,
        wall: Duration,
    },
    /// No end within the limit.
    Stalled,
}

impl Outcome {
    pub(crate) const fn is_stalled(&self) -> bool {
        matches!(self, Self::Stalled)
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// One round of one contender.
pub(crate) fn measure<C: Contender>(work: Work, papers: &Papers, limit: Duration) -> Outcome {
    let tls = papers.tls(work);
    let shown = tls.clone();
    let (tell, told) = sync_channel(1);
    let (stop, stopped) = oneshot::channel();
    let outcome = thread::scope(|scope| {
        let of_server = tls.clone();
        scope.spawn(move || serve::<C>(work, of_server, tell, stopped));
        // A thread of its own: pinned threads pass their core on to those they begin.
        let client = scope.spawn(move || {
            cpu::pin(1);
            let (addr, server) = told.recv().unwrap();
            let client = drive::<C>(work, tls, addr, server);
            let done = runtime().block_on(async { tokio::time::timeout(limit, client).await });
            drop(stop);
            done.unwrap_or(Outcome::Stalled)
        });
        client.join().unwrap()
    });
    if let Work::Handshakes { tickets, count, .. } = work {
        let wanted = if tickets == Tickets::None {
            0
        } else {
            count + WARM_CONNECTIONS - 1
        };
        assert_eq!(shown.resumed(), wanted, "resumed in {}", work.name());
    }
    outcome
}

fn serve<C: Contender>(
    work: Work,
    tls: Tls,
    tell: SyncSender<(SocketAddr, Thread)>,
    stopped: oneshot::Receiver<()>,
) {
    cpu::pin(0);
    runtime().block_on(async move {
        let (ready, addr) = oneshot::channel();
        let told = async move {
            tell.send((addr.await.unwrap(), Thread::this())).unwrap();
            // Dropped is told as well.
            drop(stopped.await);
        };
        tokio::select! {
            () = C::serve(work, tls, ready) => panic!("the server ended by itself"),
            () = told => {}
        }
    });
}

/// The client's side of a round.
async fn drive<C: Contender>(work: Work, tls: Tls, addr: SocketAddr, server: Thread) -> Outcome {
    let client = C::client(work, tls);
    match work {
        Work::Bulk { mtu, bytes } => {
            let mut conn = client.connect(addr).await;
            C::ask(&mut conn, WARM_BULK.min(4 * bytes)).await;
            let meter = Meter::begin(server);
            C::ask(&mut conn, bytes).await;
            let outcome = meter.end().await;
            if let Some(reached) = C::mtu(&conn)
                && bytes > WARM_BULK
            {
                let least = u32::from(mtu) * 97 / 100;
                assert!(
                    u32::from(reached) >= least,
                    "MTU {reached} instead of {mtu}"
                );
            }
            C::close(conn).await;
            outcome
        }
        Work::Rpc { count, at_once } => {
            let mut conn = client.connect(addr).await;
            C::ask_many(&mut conn, WARM_RPCS.min(count), at_once).await;
            let meter = Meter::begin(server);
            C::ask_many(&mut conn, count, at_once).await;
            let outcome = meter.end().await;
            C::close(conn).await;
            outcome
        }
        Work::Handshakes { count, tickets, .. } => {
            let mut meter = None;
            for number in 0..WARM_CONNECTIONS + count {
                if number == WARM_CONNECTIONS {
                    meter = Some(Meter::begin(server));
                }
                let mut conn = client.connect(addr).await;
                C::ask(&mut conn, SMALL_ANSWER).await;
                let early = C::settled(&mut conn).await;
                assert_eq!(early, tickets == Tickets::Early && number > 0, "early data");
                C::ask(&mut conn, SMALL_ANSWER).await;
                C::close(conn).await;
            }
            // There is at least one that is measured.
            meter.unwrap().end().await
        }
    }
}

struct Meter {
    server: (Thread, Duration),
    client: Duration,
    begun: Instant,
}

impl Meter {
    fn begin(server: Thread) -> Self {
        Self {
            server: (server, server.cpu()),
            client: Thread::this().cpu(),
            begun: Instant::now(),
        }
    }

    async fn end(self) -> Outcome {
        let wall = self.begun.elapsed();
        let client = Thread::this().cpu() - self.client;
        // What the server still does for the last answer; then it sleeps, and the kernel's account is up to date.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let (server, before) = self.server;
        Outcome::Done {
            server: server.cpu() - before,
            client,
            wall,
        }
    }
}

/// Whether this many bytes answer a question for an RPC.
pub(crate) fn assert_rpc(received: usize) {
    assert_eq!(received as u64, RPC_ANSWER);
}
