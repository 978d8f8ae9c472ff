//! From an established link to a peer that both sides agree to talk to.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::error::{ExchangeError, PeerError};
use super::frames::{FrameReader, FrameWriter};
use crate::hello::{Agreement, CAPABILITIES, HelloRefusal, RoleRule, agree};
use crate::identity::{AuditWhat, Identity, PeerIdentity, Refusal};
use crate::transport::{BiStream, ConnectionError, HandshakeEnd, Link};
use crate::wire::{CloseCode, Frame, Hello, MESSAGES_SINCE, VERSION, Versions};

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

impl PeerInfo {
    pub(super) fn agreement(&self) -> Agreement {
        Agreement {
            version: self.version,
            capabilities: self.capabilities,
        }
    }
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

/// How this side greets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manners<'a> {
    pub(super) identity: &'a Identity,
    /// Which peers are let in.
    pub(super) rule: &'a RoleRule,
    pub(super) versions: Versions,
    /// For the hello.
    pub(super) limit: Duration,
}

/// What there is of the control stream when the greeting begins.
#[derive(Debug)]
pub(super) enum Control {
    /// Nothing.
    None,
    /// The client's, which came before the handshake's end.
    Accepted(BiStream),
    /// Ours, with our hello on it, sent before the handshake's end.
    Begun(FrameWriter, FrameReader),
}

impl Manners<'_> {
    fn hello(&self, conn: &dyn Link) -> Hello {
        // By what this side takes alone: over some carriers the other's word comes later than the hello.
        let datagrams = match conn.takes_datagrams() && self.versions.max() >= MESSAGES_SINCE {
            true => Hello::DATAGRAMS,
            false => 0,
        };
        Hello {
            capabilities: CAPABILITIES & datagrams,
            ..Hello::new(self.identity.name(), self.identity.roles(), self.versions)
        }
    }

    /// Opens the control stream and says hello, before anything is known of the peer.
    pub(super) async fn begin(&self, conn: &dyn Link) -> Result<Control, ExchangeError> {
        let (send, recv) = conn.open_bi().await?;
        let mut writer = FrameWriter::new(send, VERSION);
        writer.write(&Frame::Hello(self.hello(conn))).await?;
        Ok(Control::Begun(writer, FrameReader::new(recv, VERSION)))
    }

    /// Judges the peer by its certificates, then exchanges hellos. When it fails the connection is closed with the code
    /// that says why.
    pub(super) async fn greet(
        &self,
        conn: &dyn Link,
        control: Control,
        end: &mut HandshakeEnd,
    ) -> Result<Greeted, PeerError> {
        let addr = conn.remote_addr();
        let certs = conn.peer_certificates().unwrap_or_default();
        // Once more after the handshake: a resumed session has not passed the verifier.
        let peer = match self.identity.check_peer(&certs, addr) {
            Ok(peer) => peer,
            Err(refusal) => {
                refuse(conn, end, refusal.code(), &refusal.to_string()).await;
                return Err(PeerError::Refused { addr, refusal });
            }
        };
        let greeted = timeout(self.limit, self.hellos(conn, control, &peer)).await;
        let slow = Err(Failure::Refuse(HelloRefusal::Timeout(self.limit)));
        match greeted.unwrap_or(slow) {
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
                let what = AuditWhat::Hello(refusal.code());
                self.identity.audit(what, &peer, addr, &refusal.to_string());
                refuse(conn, end, refusal.code(), &refusal.to_string()).await;
                Err(PeerError::Hello { addr, refusal })
            }
            Err(Failure::Ended(error)) => Err(PeerError::ended(addr, error)),
        }
    }

    async fn hellos(
        &self,
        conn: &dyn Link,
        control: Control,
        peer: &PeerIdentity,
    ) -> Result<(Agreement, FrameWriter, FrameReader), Failure> {
        let ours = self.hello(conn);
        let control = match control {
            Control::None if conn.is_client() => self.begin(conn).await.map_err(failure)?,
            Control::None => Control::Accepted(conn.accept_bi().await.map_err(Failure::Ended)?),
            some => some,
        };
        let (mut writer, mut reader, said) = match control {
            Control::Begun(writer, reader) => (writer, reader, true),
            Control::Accepted((send, recv)) => (
                FrameWriter::new(send, VERSION),
                FrameReader::new(recv, VERSION),
                false,
            ),
            Control::None => return Err(Failure::Ended(ConnectionError::LocallyClosed)),
        };
        let theirs = match reader.next().await.map_err(failure)? {
            Some(Frame::Hello(hello)) => hello,
            // Not its content, which is the peer's to choose.
            other => {
                let name = other.map_or("the end of the stream", |frame| frame.name());
                let refusal = HelloRefusal::Malformed(format!("{name} came in its place"));
                return Err(Failure::Refuse(refusal));
            }
        };
        let agreement = agree(&ours, &theirs, peer, self.rule).map_err(Failure::Refuse)?;
        if !said {
            writer.write(&Frame::Hello(ours)).await.map_err(failure)?;
        }
        Ok((
            agreement,
            writer.with_version(agreement.version),
            reader.under(agreement.version),
        ))
    }
}

fn failure(error: ExchangeError) -> Failure {
    match error {
        ExchangeError::Connection(error) => Failure::Ended(error),
        other => Failure::Refuse(HelloRefusal::Malformed(other.to_string())),
    }
}

/// Closes a living connection whose peer is not trusted any more, and has it in the audit.
pub(super) fn distrust(conn: &dyn Link, identity: &Identity, info: &PeerInfo, refusal: &Refusal) {
    let (code, detail) = (refusal.code(), refusal.to_string());
    tracing::warn!(addr = %info.addr, %refusal, "connection closed");
    let what = AuditWhat::Connection(code);
    identity.audit(what, &info.identity, info.addr, &detail);
    close(conn, code, &detail);
}

/// Closes with a code that the peer will hear: before the end of the handshake QUIC would say only that the application closed.
//= https://www.rfc-editor.org/rfc/rfc9000#section-10.2.3
//# A CONNECTION_CLOSE of type 0x1d MUST be replaced by a CONNECTION_CLOSE of type 0x1c when sending the frame in Initial or
//# Handshake packets.
async fn refuse(conn: &dyn Link, end: &mut HandshakeEnd, code: CloseCode, reason: &str) {
    // Bounded by the transport. Whoever cannot end the handshake hears nothing.
    let _ = end.reached().await;
    close(conn, code, reason);
}

pub(super) fn close(conn: &dyn Link, code: CloseCode, reason: &str) {
    conn.close(code.code(), reason.as_bytes());
}
