//! `stoq-bench stoq-server`: the other end of a STOQ load, a node that answers the bench exchanges and nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use stoq::identity::Identity;
use stoq::quic::{CidKeys, SocketGroup, SocketOptions, WorkerSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::node::load;
use crate::lane::stoq::server::serve;

/// Answers STOQ bulk and RPC exchanges with a verifiable pattern, until SIGINT or SIGTERM.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// UDP address to listen on; port 0 for one of the system's choice, which is printed.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// This node's identity, as the cluster's root issued it.
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// The cluster's root certificate.
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// Threads, each with its own socket and runtime.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// Largest UDP payload to send and to take, bytes [default: what nodes use].
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1200..=9000))]
    mtu: Option<u16>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let identity = load(&args.identity, &args.root)?;
    let group = SocketGroup::bind(
        args.listen,
        usize::from(args.workers),
        &SocketOptions::default(),
    )
    .with_context(|| format!("listening on {}", args.listen))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before the address is printed: who reads it may send a signal at once.
    let (mut int, mut term) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    let (stop, stopped) = watch::channel(false);
    let keys = CidKeys::random();
    let mut threads = Vec::new();
    for worker in 0..usize::from(args.workers) {
        // Where the kernel does not steer there is one socket only.
        let Some(socket) = group.take(worker) else {
            continue;
        };
        let (identity, keys, stopped) = (identity.clone(), keys.clone(), stopped.clone());
        let mtu = args.mtu;
        let thread = std::thread::Builder::new()
            .name(format!("worker-{worker}"))
            .spawn(move || work(socket, identity, keys, mtu, stopped))?;
        threads.push(thread);
    }
    println!(
        "{} of cluster {} listens on {} with {} workers",
        identity.name(),
        identity.cluster(),
        group.local_addr(),
        threads.len()
    );
    runtime.block_on(async {
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
        }
    });
    stop.send_replace(true);
    for thread in threads {
        let ended = thread.join();
        ended.map_err(|_| anyhow::anyhow!("a worker panicked"))??;
    }
    Ok(ExitCode::SUCCESS)
}

fn work(
    socket: WorkerSocket,
    identity: Identity,
    keys: CidKeys,
    mtu: Option<u16>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let stop = async move {
        // The sender lives until the process ends; were it gone, that would be a stop too.
        drop(stopped.wait_for(|stop| *stop).await);
    };
    Ok(runtime.block_on(Box::pin(serve(socket, identity, keys, mtu, stop)))?)
}
