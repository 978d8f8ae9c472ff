//! Two nodes of a cluster made on the fly, in one process but over real UDP: one says back what the other says.
//!
//! ```text
//! cargo run --release -p stoq --example echo -- [MEBIBYTES]
//! ```
//!
//! Uses this crate and nothing else of the house. Prints what the path looked like; it is no benchmark, since both
//! ends share the machine and, here, one thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustls_pki_types::UnixTime;
use stoq::identity::{ClusterRoot, Identity, Role, Validity};
use stoq::peer::{
    Exchange, ExchangeError, Handler, IncomingRequest, Part, PeerInfo, PeerServer, RecvHalf,
    SendHalf, ServeConfig,
};
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::{
    CidKeys, Endpoint, EndpointConfig, PathStats, SocketGroup, SocketOptions, TransportConfig,
};

const ECHO: u16 = 1;
const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mebibytes: usize = std::env::args()
        .nth(1)
        .map_or(Ok(16), |arg| arg.parse())
        .context("MEBIBYTES")?;

    // What the operator does once, on a machine of theirs.
    let root = ClusterRoot::generate("demo", valid(ClusterRoot::LIFETIME))?;
    let node = |name: &str, role: Role| -> anyhow::Result<Identity> {
        let file = root.issue(name, &[role], valid(ClusterRoot::IDENTITY_LIFETIME))?;
        Ok(Identity::new(file, root.certificate().clone())?)
    };

    // The node that answers.
    let shield = node("shield-1", Role::Shield)?;
    let group = SocketGroup::bind(LOOPBACK, 1, &SocketOptions::default())?;
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(shield.server_tls()?);
    let endpoint = Endpoint::new(group.take(0).context("one worker has a socket")?, config)?;
    let server = PeerServer::new(
        endpoint.clone(),
        shield,
        Arc::new(Echo),
        ServeConfig::default(),
    );

    // The node that asks.
    let edge = node("edge-1", Role::Edge)?;
    let pool = Pool::new(
        Endpoint::client(LOOPBACK, TransportConfig::default())?,
        edge,
        PoolConfig::default(),
    );
    let ask = async {
        let result = ask(&pool, group.local_addr(), mebibytes).await;
        server.drain(Duration::from_secs(1));
        result
    };
    let (result, ()) = tokio::join!(ask, server.serve());
    endpoint.close(0, b"");
    result
}

async fn ask(pool: &Pool, addr: SocketAddr, mebibytes: usize) -> anyhow::Result<()> {
    let conn = pool.get(addr).await?;
    let peer = &conn.peer().identity;
    println!(
        "peer    {} {} {:?}",
        peer.name,
        peer.node_id.short(),
        peer.roles
    );

    let start = Instant::now();
    let Exchange { send, recv } = conn
        .exchange(ECHO, Bytes::new(), Some(Duration::from_secs(60)))
        .await?;
    let (said, heard) = tokio::try_join!(say(send, mebibytes), hear(recv))?;
    let took = start.elapsed();
    ensure!(said == heard, "what came back is not what was said");
    println!(
        "echoed  {mebibytes} MiB in {took:.1?}, BLAKE3 {}",
        heard.to_hex().get(..16).unwrap_or_default()
    );
    print_path(&conn.path());
    Ok(())
}

async fn say(mut send: SendHalf, mebibytes: usize) -> anyhow::Result<blake3::Hash> {
    let (block, mut hasher) = (Bytes::from(vec![0x5a; 1 << 20]), blake3::Hasher::new());
    for _ in 0..mebibytes {
        hasher.update(&block);
        send.data(block.clone()).await?;
    }
    send.finish().await?;
    Ok(hasher.finalize())
}

async fn hear(mut recv: RecvHalf) -> anyhow::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    while let Some(part) = recv.next().await? {
        if let Part::Data(bytes) = part {
            hasher.update(&bytes);
        }
    }
    Ok(hasher.finalize())
}

fn print_path(path: &PathStats) {
    println!("rtt     {:?}, least {:?}", path.rtt, path.rtt_min);
    println!("mtu     {} bytes, window {} KiB", path.mtu, path.cwnd >> 10);
    println!(
        "packets {} sent, {} lost",
        path.sent_packets, path.lost_packets
    );
    println!(
        "bytes   {} sent, {} received",
        path.sent_bytes, path.received_bytes
    );
}

struct Echo;

impl Handler for Echo {
    fn handle<'a>(&'a self, _peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // An error means that the other side knows already: dropping the halves resets what is unfinished.
            let _ = echo(request).await;
        })
    }
}

async fn echo(request: IncomingRequest) -> Result<(), ExchangeError> {
    let IncomingRequest {
        mut body,
        mut reply,
        ..
    } = request;
    while let Some(part) = body.next().await? {
        if let Part::Data(bytes) = part {
            reply.data(bytes).await?;
        }
    }
    reply.finish().await
}

fn valid(length: Duration) -> Validity {
    Validity::starting(UnixTime::now(), length)
}
