//! Dialling a peer that is remembered: the hello, and a request that is safe to repeat, travel with the first packets.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout, timeout_at};

use super::ask::Ask;
use super::conn::{DialConfig, PeerConn, connect_failed};
use super::error::{ExchangeError, PeerError};
use super::exchange::RecvHalf;
use super::frames::FrameWriter;
use super::greet::{Control, Manners};
use crate::early::{Known, Sessions, Way};
use crate::identity::SERVER_NAME;
use crate::transport::{EarlyData, HandshakeEnd, Link, RecvStream, Target, Transport};
use crate::wire::{Frame, MESSAGES_SINCE};

/// The answer to a request that was sent, whole, before the handshake's end.
#[derive(Debug)]
pub(super) struct First {
    pub(super) recv: Box<dyn RecvStream>,
    /// The version it was written in: the one agreed on last time.
    pub(super) version: u8,
    pub(super) deadline: Option<Instant>,
}

impl PeerConn {
    /// As [`dial`](Self::dial), by the identity of `sessions`. Where they remember the peer, the hello travels with the first
    /// packets, so that the connection is ready after one round trip instead of two.
    ///
    /// # Errors
    /// As [`dial`](Self::dial).
    pub async fn dial_resuming(
        transport: &dyn Transport,
        sessions: &Sessions,
        addr: SocketAddr,
        config: &DialConfig,
    ) -> Result<Self, PeerError> {
        let (conn, _) = dial(transport, sessions, addr, config, None).await?;
        Ok(conn)
    }

    /// Dials and asks at once, without a body; what comes back is the answer. Where `sessions` remember the peer and `ask` is [replay-safe](Ask::replay_safe), it
    /// travels with the first packets, and a peer that holds it to be safe as well answers after one round trip. Else,
    /// and where the peer does not take the early data, it is asked when the connection is ready. Either way the peer
    /// acts on it once, unless somebody kept the first packets from it and sent them himself.
    ///
    /// # Errors
    /// Of the connection as [`dial`](Self::dial), of the exchange as [`ask`](Self::ask).
    pub async fn dial_asking(
        transport: &dyn Transport,
        sessions: &Sessions,
        addr: SocketAddr,
        config: &DialConfig,
        ask: Ask,
    ) -> Result<(Self, Result<RecvHalf, ExchangeError>), PeerError> {
        let early = ask.marks().replay_safe.then(|| ask.clone());
        let (conn, first) = dial(transport, sessions, addr, config, early).await?;
        let answer = match first {
            Some(first) => conn.adopt(first),
            None => conn.ask_whole(ask).await,
        };
        Ok((conn, answer))
    }
}

async fn dial(
    transport: &dyn Transport,
    sessions: &Sessions,
    addr: SocketAddr,
    config: &DialConfig,
    ask: Option<Ask>,
) -> Result<(PeerConn, Option<First>), PeerError> {
    let identity = sessions.identity();
    let unusable = |error| PeerError::Identity(Arc::new(error));
    // The leaf shown below is this one or a later one.
    let own_term = identity.term().map_err(unusable)?;
    let way = sessions.way(addr).map_err(unusable)?;
    let dialled = by(transport, sessions, &way, addr, config, ask).await;
    let (conn, greeted, first) = dialled.inspect_err(|error| {
        if matches!(
            error,
            PeerError::Refused { .. } | PeerError::Hello { .. } | PeerError::RefusedByPeer { .. }
        ) {
            sessions.forget(addr, &way);
        }
    })?;
    let resumed = conn.handshake().is_some_and(|handshake| handshake.resumed);
    let term = match way.known {
        // The certificates that the session stands for, not those that a full handshake would have shown.
        Some(known) if resumed => known.term,
        _ => {
            let now = identity.now().unwrap_or(own_term.end);
            own_term.with(&greeted.info.identity, now)
        }
    };
    let known = Known {
        node_id: greeted.info.identity.node_id,
        agreement: greeted.info.agreement(),
        term,
    };
    sessions.remember(addr, &way, known);
    let conn = PeerConn::start(conn, greeted, identity, config, term);
    // A peer that speaks another version than last time has refused the stream; nothing of it was acted on.
    let first = first.filter(|first| first.version == known.agreement.version);
    Ok((conn, first))
}

async fn by(
    transport: &dyn Transport,
    sessions: &Sessions,
    way: &Way,
    addr: SocketAddr,
    config: &DialConfig,
    ask: Option<Ask>,
) -> Result<(Arc<dyn Link>, super::greet::Greeted, Option<First>), PeerError> {
    let limit = config.connect_timeout;
    let until = Instant::now() + limit;
    let late = |_| PeerError::Timeout { addr, limit };
    let failed = |error| connect_failed(addr, &way.verdict, error);
    let connecting = transport.connect_early(Target {
        addr,
        server_name: SERVER_NAME,
        tls: way.tls.clone(),
    });
    let (conn, early) = timeout_at(until, connecting)
        .await
        .map_err(late)?
        .map_err(failed)?;
    let manners = Manners {
        identity: sessions.identity(),
        rule: &config.expect,
        versions: config.versions,
        limit: config.hello_timeout,
    };
    let saying = say_early(&*conn, &manners, way, early, ask);
    let (control, first) = timeout_at(until, saying).await.map_err(late)?;
    if let Some(error) = conn.close_reason() {
        return Err(failed(error.into()));
    }
    let greeted = manners
        .greet(&*conn, control, &mut HandshakeEnd::default())
        .await?;
    Ok((conn, greeted, first))
}

/// Says what may be said early, and waits for the handshake's end. What the peer did not take is as if it was never said.
async fn say_early(
    conn: &dyn Link,
    manners: &Manners<'_>,
    way: &Way,
    mut early: EarlyData,
    ask: Option<Ask>,
) -> (Control, Option<First>) {
    let Some(known) = way.known.filter(|_| early.is_offered()) else {
        early.accepted().await;
        return (Control::None, None);
    };
    let said = async {
        let control = manners.begin(conn).await?;
        let version = known.agreement.version;
        let first = match ask.filter(|_| version >= MESSAGES_SINCE) {
            Some(ask) => Some(ask_early(conn, version, ask).await?),
            None => None,
        };
        Ok::<_, ExchangeError>((control, first))
    };
    // Room for early data is what the peer gave last time. Where that is too little, the end of the handshake comes first.
    let said = timeout(manners.limit, said);
    let (said, taken) = tokio::join!(said, early.accepted());
    match said {
        Ok(Ok((control, first))) if taken => (control, first),
        _ => (Control::None, None),
    }
}

async fn ask_early(conn: &dyn Link, version: u8, ask: Ask) -> Result<First, ExchangeError> {
    let deadline = ask.deadline(Instant::now());
    let (send, recv) = conn.open_bi().await?;
    send.set_priority(ask.marks().urgency.priority());
    let mut send = FrameWriter::new(send, version);
    send.write(&ask.request(deadline)).await?;
    send.close(&Frame::End).await?;
    Ok(First {
        recv,
        version,
        deadline,
    })
}
