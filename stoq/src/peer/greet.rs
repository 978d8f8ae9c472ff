//! From an established link to a peer that both sides agree to talk to.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::error::{ExchangeError, PeerError};
use super::frames::{FrameReader, FrameWriter};
use crate::hello::{Agreement, CAPABILITIES, HelloRefusal, RoleRule, agree};
use crate::identity::{Identity, PeerIdentity};
use crate::transport::{BiStream, ConnectionError, Link};
use crate::wire::{CloseCode, Frame, Hello, VERSION};

/// A peer that was let in, or lets us in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Who it is; its roles are those its certificate gives it.
    pub identity: PeerIdentity,
    /// Its address when the connection was made.
    pub addr: SocketAddr,
    /// The version of the protocol on this connection.
    pub version: u8,
    /// The capabilities that both have.
    pub capabilities: u64,
}

/// A connection past its hello. The control stream lives as long as the connection.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) info: PeerInfo,
    pub(super) control_in: FrameReader,
    pub(super) control_out: FrameWriter,
}

enum Failure {
    Refuse(HelloRefusal),
    Ended(ConnectionError),
}

/// Judges the peer by its certificates, then exchanges hellos. When it fails the connection is closed with the code
/// that says why.
pub(super) async fn greet(
    conn: &dyn Link,
    identity: &Identity,
    rule: &RoleRule,
    limit: Duration,
) -> Result<Greeted, PeerError> {
    let addr = conn.remote_addr();
    let certs = conn.peer_certificates().unwrap_or_default();
    // Once more after the handshake: a resumed session has not passed the verifier.
    let peer = identity.check_peer(&certs).map_err(|refusal| {
        close(conn, refusal.code(), &refusal.to_string());
        PeerError::Refused { addr, refusal }
    })?;
    let ours = Hello {
        capabilities: CAPABILITIES,
        ..Hello::new(identity.name(), identity.roles())
    };
    let greeted = timeout(limit, hellos(conn, &ours, &peer, rule)).await;
    match greeted.unwrap_or(Err(Failure::Refuse(HelloRefusal::Timeout(limit)))) {
        Ok((agreement, control_out, control_in)) => {
            let Agreement {
                version,
                capabilities,
            } = agreement;
            let info = PeerInfo {
                identity: peer,
                addr,
                version,
                capabilities,
            };
            Ok(Greeted {
                info,
                control_in,
                control_out,
            })
        }
        Err(Failure::Refuse(refusal)) => {
            tracing::warn!(%addr, peer = %peer.name, %refusal, "peer refused");
            close(conn, refusal.code(), &refusal.to_string());
            Err(PeerError::Hello { addr, refusal })
        }
        Err(Failure::Ended(error)) => Err(PeerError::ended(addr, error)),
    }
}

async fn hellos(
    conn: &dyn Link,
    ours: &Hello,
    peer: &PeerIdentity,
    rule: &RoleRule,
) -> Result<(Agreement, FrameWriter, FrameReader), Failure> {
    let (send, recv) = control_stream(conn).await.map_err(Failure::Ended)?;
    let (mut writer, mut reader) = (
        FrameWriter::new(send, VERSION),
        FrameReader::new(recv, VERSION),
    );
    if conn.is_client() {
        writer
            .write(&Frame::Hello(ours.clone()))
            .await
            .map_err(failure)?;
    }
    let theirs = match reader.next().await.map_err(failure)? {
        Some(Frame::Hello(hello)) => hello,
        // Not its content, which is the peer's to choose.
        other => {
            let name = other.map_or("the end of the stream", |frame| frame.name());
            let refusal = HelloRefusal::Malformed(format!("{name} came in its place"));
            return Err(Failure::Refuse(refusal));
        }
    };
    let agreement = agree(ours, &theirs, peer, rule).map_err(Failure::Refuse)?;
    if !conn.is_client() {
        writer
            .write(&Frame::Hello(ours.clone()))
            .await
            .map_err(failure)?;
    }
    Ok((
        agreement,
        writer.with_version(agreement.version),
        reader.under(agreement.version),
    ))
}

async fn control_stream(conn: &dyn Link) -> Result<BiStream, ConnectionError> {
    if conn.is_client() {
        conn.open_bi().await
    } else {
        conn.accept_bi().await
    }
}

fn failure(error: ExchangeError) -> Failure {
    match error {
        ExchangeError::Connection(error) => Failure::Ended(error),
        other => Failure::Refuse(HelloRefusal::Malformed(other.to_string())),
    }
}

pub(super) fn close(conn: &dyn Link, code: CloseCode, reason: &str) {
    conn.close(code.code(), reason.as_bytes());
}
