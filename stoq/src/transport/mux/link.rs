//! A link over a [`Mux`], whatever drives it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;

use super::core::{Core, Mux};
use super::stream::{MuxRecv, MuxSend};
use crate::quic::{ConnectionError, DatagramError, Handshake, PathStats};
use crate::transport::{BiStream, Carrier, Link, RecvStream, SendStream};

/// What the handshake found out.
#[derive(Debug, Clone)]
pub(in crate::transport) struct Facts {
    pub(in crate::transport) carrier: Carrier,
    pub(in crate::transport) remote: SocketAddr,
    pub(in crate::transport) client: bool,
    pub(in crate::transport) alpn: Option<Vec<u8>>,
    pub(in crate::transport) certificates: Option<Vec<CertificateDer<'static>>>,
}

/// Held by a link and its streams. When the last is gone, the link is closed.
pub(super) struct Held {
    pub(super) mux: Arc<Mux>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.mux.core.lock().close(0, b"");
    }
}

/// See the [module](super).
#[derive(Debug)]
pub(in crate::transport) struct MuxLink {
    held: Arc<Held>,
    facts: Facts,
}

impl MuxLink {
    pub(in crate::transport) fn new(mux: Arc<Mux>, facts: Facts) -> Self {
        Self {
            held: Arc::new(Held { mux }),
            facts,
        }
    }

    /// Waits until `look` has found something, looking whenever `signal` is given.
    async fn until<T>(
        &self,
        signal: &Notify,
        mut look: impl FnMut(&mut Core) -> Result<Option<T>, ConnectionError>,
    ) -> Result<T, ConnectionError> {
        loop {
            let notified = signal.notified();
            tokio::pin!(notified);
            // From here on no signal is missed.
            notified.as_mut().enable();
            if let Some(found) = look(&mut self.held.mux.core.lock())? {
                return Ok(found);
            }
            notified.await;
        }
    }

    fn both(&self, id: u64) -> BiStream {
        (self.send(id), self.recv(id))
    }

    fn send(&self, id: u64) -> Box<dyn SendStream> {
        Box::new(MuxSend::new(self.held.clone(), id))
    }

    fn recv(&self, id: u64) -> Box<dyn RecvStream> {
        Box::new(MuxRecv::new(self.held.clone(), id))
    }
}

impl Link for MuxLink {
    fn open_bi(&self) -> BoxFuture<'_, Result<BiStream, ConnectionError>> {
        Box::pin(async move {
            let id = self.until(&self.held.mux.signals.opened, |core| core.open(false));
            Ok(self.both(id.await?))
        })
    }

    fn open_uni(&self) -> BoxFuture<'_, Result<Box<dyn SendStream>, ConnectionError>> {
        Box::pin(async move {
            let id = self.until(&self.held.mux.signals.opened, |core| core.open(true));
            Ok(self.send(id.await?))
        })
    }

    fn accept_bi(&self) -> BoxFuture<'_, Result<BiStream, ConnectionError>> {
        Box::pin(async move {
            let id = self.until(&self.held.mux.signals.bidi, |core| core.accept(false));
            Ok(self.both(id.await?))
        })
    }

    fn accept_uni(&self) -> BoxFuture<'_, Result<Box<dyn RecvStream>, ConnectionError>> {
        Box::pin(async move {
            let id = self.until(&self.held.mux.signals.uni, |core| core.accept(true));
            Ok(self.recv(id.await?))
        })
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        self.held.mux.core.lock().send_datagram(data)
    }

    fn read_datagram(&self) -> BoxFuture<'_, Result<Bytes, ConnectionError>> {
        Box::pin(self.until(&self.held.mux.signals.datagram, Core::read_datagram))
    }

    fn max_datagram_size(&self) -> Option<usize> {
        self.held.mux.core.lock().datagram_max()
    }

    fn takes_datagrams(&self) -> bool {
        self.held.mux.core.lock().takes_datagrams()
    }

    fn alpn(&self) -> Option<Vec<u8>> {
        self.facts.alpn.clone()
    }

    fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.facts.certificates.clone()
    }

    fn handshake(&self) -> Option<Handshake> {
        self.facts.client.then_some(Handshake {
            resumed: false,
            early_data: false,
        })
    }

    fn remote_addr(&self) -> SocketAddr {
        self.facts.remote
    }

    fn is_client(&self) -> bool {
        self.facts.client
    }

    fn carrier(&self) -> Carrier {
        self.facts.carrier
    }

    fn path(&self) -> PathStats {
        self.held.mux.core.lock().path()
    }

    fn close(&self, code: u64, reason: &[u8]) {
        self.held.mux.core.lock().close(code, reason);
    }

    fn closed(&self) -> BoxFuture<'_, ConnectionError> {
        Box::pin(async move {
            let ended = self.until(&self.held.mux.signals.ended, |core| {
                core.ended()
                    .cloned()
                    .map_or(Ok(None), |error| Ok(Some(error)))
            });
            ended.await.unwrap_or_else(|error| error)
        })
    }

    fn close_reason(&self) -> Option<ConnectionError> {
        self.held.mux.core.lock().ended().cloned()
    }
}
