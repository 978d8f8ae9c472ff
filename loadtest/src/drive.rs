//! A closed loop: connections, streams on each, and on each stream one request after the other. It answers one
//! question, how much CPU a server spends on a request, so it checks every answer and keeps no latencies: in a
//! closed loop those would flatter the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::client::{Client, ClientError, Target, Version};

/// What to ask, how often, and how much at a time.
#[derive(Debug, Clone)]
pub struct Load {
    /// The server.
    pub target: Target,
    /// The version spoken.
    pub version: Version,
    /// What is asked for.
    pub path: String,
    /// Connections, opened before the first request.
    pub connections: usize,
    /// Requests under way on each connection.
    pub streams: usize,
    /// Requests in all.
    pub requests: u64,
    /// What every body must be.
    pub expected: Expected,
}

/// What makes an answer right: status 200, and this body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Its bytes.
    pub length: u64,
    /// Its BLAKE3, checked on the first answer of each stream; hashing all of them would make the client the
    /// bottleneck.
    pub hash: blake3::Hash,
}

/// What a load did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Driven {
    /// Right answers: all that were asked for.
    pub requests: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

/// Why a load is not a measurement.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// A request failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An answer is not the one expected.
    #[error("wrong answer: {0}")]
    Wrong(String),
    /// A load of nothing.
    #[error("connections, streams and requests must be at least 1")]
    Nothing,
}

/// Connects, then runs `load` until all its requests are answered. `begin` is called between the two: what the
/// server has spent by then is not the requests'.
///
/// # Errors
/// The first connect, request or answer that is not as it should be ends the load.
pub async fn drive(load: &Load, begin: impl FnOnce()) -> Result<Driven, DriveError> {
    if load.connections == 0 || load.streams == 0 || load.requests == 0 {
        return Err(DriveError::Nothing);
    }
    let mut clients = Vec::with_capacity(load.connections);
    for _ in 0..load.connections {
        clients.push(Client::connect(&load.target, load.version).await?);
    }
    let left = Arc::new(AtomicU64::new(load.requests));
    let mut streams = JoinSet::new();
    begin();
    let started = Instant::now();
    for client in &clients {
        for _ in 0..load.streams {
            let (client, path, expected) = (client.clone(), load.path.clone(), load.expected);
            let left = Arc::clone(&left);
            streams.spawn(async move { stream(&client, &path, expected, &left).await });
        }
    }
    let mut requests = 0;
    while let Some(done) = streams.join_next().await {
        // A stream that panicked is a bug here; its answers are not counted, so the load is refused.
        requests += done.map_err(|error| DriveError::Wrong(error.to_string()))??;
    }
    let elapsed = started.elapsed();
    if requests != load.requests {
        return Err(DriveError::Wrong(format!(
            "{requests} answers to {} requests",
            load.requests
        )));
    }
    for client in clients {
        client.close().await;
    }
    Ok(Driven {
        requests,
        body_bytes: requests * load.expected.length,
        elapsed,
    })
}

async fn stream(
    client: &Client,
    path: &str,
    expected: Expected,
    left: &AtomicU64,
) -> Result<u64, DriveError> {
    let mut answered = 0;
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    {
        let mut answer = client.get(path).await?;
        if answer.status != http::StatusCode::OK {
            return Err(DriveError::Wrong(format!("status {}", answer.status)));
        }
        if answered == 0 {
            let whole = answer.whole().await?;
            if whole.length != expected.length || whole.hash != expected.hash {
                return Err(DriveError::Wrong(format!(
                    "a body of {} bytes that is another",
                    whole.length
                )));
            }
        } else {
            while answer.body.chunk().await?.is_some() {}
            if answer.body.received() != expected.length {
                let got = answer.body.received();
                return Err(DriveError::Wrong(format!(
                    "{got} bytes instead of {}",
                    expected.length
                )));
            }
        }
        answered += 1;
    }
    Ok(answered)
}
