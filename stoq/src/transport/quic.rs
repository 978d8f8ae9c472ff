//! QUIC as a transport: the endpoint, its connections and streams behind the seam. Adds nothing but boxes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;

use super::{
    BiStream, Carrier, EarlyLink, Incoming, Link, Target, Transport, TransportStats, UnprovenLink,
};
use crate::quic::{
    self, ConnectError, Connecting, Connection, ConnectionError, DatagramError, Endpoint,
    Handshake, PathSnapshot, PathStats, ReadError, TlsClient, TransportConfig, WriteError,
};

impl Transport for Endpoint {
    /// Where the endpoint's settings have no `keep_alive`, a third of their idle timeout is taken.
    fn connect(&self, target: Target) -> BoxFuture<'_, Result<Arc<dyn Link>, ConnectError>> {
        Box::pin(async move {
            let tls = TlsClient::new(target.tls).map_err(ConnectError::Tls)?;
            let connection = self
                .connect_with(target.addr, target.server_name, &tls, &kept_alive(self))
                .await?;
            Ok(Arc::new(connection) as Arc<dyn Link>)
        })
    }

    fn connect_early(&self, target: Target) -> BoxFuture<'_, Result<EarlyLink, ConnectError>> {
        Box::pin(async move {
            let tls = TlsClient::new(target.tls).map_err(ConnectError::Tls)?;
            let (connection, early) = self
                .connect_early_with(target.addr, target.server_name, &tls, &kept_alive(self))
                .await?;
            Ok((Arc::new(connection) as Arc<dyn Link>, early))
        })
    }

    fn accept(&self) -> BoxFuture<'_, Option<Box<dyn Incoming>>> {
        Box::pin(async move {
            let connecting = Self::accept(self).await?;
            Some(Box::new(connecting) as Box<dyn Incoming>)
        })
    }

    fn stop_accepting(&self) {
        self.set_server(None);
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }

    fn stats(&self) -> TransportStats {
        let counters = self.counters();
        TransportStats {
            links: self.connection_count() as u64,
            connects_started: counters.connects_started.get(),
            connects_completed: counters.connects_completed.get(),
            connects_failed: counters.connects_failed.get(),
        }
    }

    fn close(&self, code: u64, reason: &[u8]) {
        Self::close(self, code, reason);
    }

    fn wait_idle(&self) -> BoxFuture<'_, ()> {
        Box::pin(Self::wait_idle(self))
    }
}

/// The endpoint's settings for a link that does not end for being silent.
fn kept_alive(endpoint: &Endpoint) -> TransportConfig {
    let mut transport = endpoint.transport().clone();
    let third = transport.idle_timeout / 3;
    transport.keep_alive.get_or_insert(third);
    transport
}

impl Incoming for Connecting {
    fn remote_addr(&self) -> SocketAddr {
        Self::remote_addr(self)
    }

    fn establish(self: Box<Self>) -> BoxFuture<'static, Result<Arc<dyn Link>, ConnectError>> {
        Box::pin(async move {
            let connection = Self::establish(*self).await?;
            Ok(Arc::new(connection) as Arc<dyn Link>)
        })
    }

    fn establish_early(self: Box<Self>) -> BoxFuture<'static, Result<UnprovenLink, ConnectError>> {
        Box::pin(async move {
            let (connection, end) = Self::establish_early(*self);
            Ok((Arc::new(connection) as Arc<dyn Link>, end))
        })
    }
}

fn both((send, recv): (quic::SendStream, quic::RecvStream)) -> BiStream {
    (Box::new(send), Box::new(recv))
}

impl Link for Connection {
    fn open_bi(&self) -> BoxFuture<'_, Result<BiStream, ConnectionError>> {
        Box::pin(async move { Ok(both(Self::open_bi(self).await?)) })
    }

    fn open_uni(&self) -> BoxFuture<'_, Result<Box<dyn super::SendStream>, ConnectionError>> {
        Box::pin(async move {
            let send = Self::open_uni(self).await?;
            Ok(Box::new(send) as Box<dyn super::SendStream>)
        })
    }

    fn accept_bi(&self) -> BoxFuture<'_, Result<BiStream, ConnectionError>> {
        Box::pin(async move { Ok(both(Self::accept_bi(self).await?)) })
    }

    fn accept_uni(&self) -> BoxFuture<'_, Result<Box<dyn super::RecvStream>, ConnectionError>> {
        Box::pin(async move {
            let recv = Self::accept_uni(self).await?;
            Ok(Box::new(recv) as Box<dyn super::RecvStream>)
        })
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        Self::send_datagram(self, data)
    }

    fn read_datagram(&self) -> BoxFuture<'_, Result<Bytes, ConnectionError>> {
        Box::pin(Self::read_datagram(self))
    }

    fn max_datagram_size(&self) -> Option<usize> {
        Self::max_datagram_size(self)
    }

    fn takes_datagrams(&self) -> bool {
        // The handshake tells what the peer takes, and the peer what this side does.
        Self::max_datagram_size(self).is_some()
    }

    fn alpn(&self) -> Option<Vec<u8>> {
        Self::alpn(self)
    }

    fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
        Self::peer_certificates(self)
    }

    fn handshake(&self) -> Option<Handshake> {
        Self::handshake(self)
    }

    fn remote_addr(&self) -> SocketAddr {
        Self::remote_addr(self)
    }

    fn is_client(&self) -> bool {
        Self::is_client(self)
    }

    fn carrier(&self) -> Carrier {
        Carrier::Quic
    }

    fn path(&self) -> PathStats {
        Self::path(self)
    }

    fn snapshot(&self) -> Option<PathSnapshot> {
        Self::snapshot(self)
    }

    fn streams(&self) -> u16 {
        Self::streams(self)
    }

    fn close(&self, code: u64, reason: &[u8]) {
        Self::close(self, code, reason);
    }

    fn closed(&self) -> BoxFuture<'_, ConnectionError> {
        Box::pin(Self::closed(self))
    }

    fn close_reason(&self) -> Option<ConnectionError> {
        Self::close_reason(self)
    }
}

impl super::SendStream for quic::SendStream {
    fn poll_write_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<usize, WriteError>> {
        Self::poll_write_chunks(self, cx, chunks)
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        Self::finish(self)
    }

    fn reset(&mut self, code: u64) {
        Self::reset(self, code);
    }

    fn set_drop_code(&mut self, code: u64) {
        Self::set_drop_code(self, code);
    }

    fn stopped(&self) -> BoxFuture<'static, Result<Option<u64>, WriteError>> {
        Box::pin(Self::stopped(self))
    }

    fn set_priority(&self, priority: i32) {
        Self::set_priority(self, priority);
    }

    fn id(&self) -> u64 {
        Self::id(self)
    }
}

impl super::RecvStream for quic::RecvStream {
    fn poll_read_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        Self::poll_read_chunk(self, cx, max)
    }

    fn stop(&mut self, code: u64) {
        Self::stop(self, code);
    }

    fn set_drop_code(&mut self, code: u64) {
        Self::set_drop_code(self, code);
    }

    fn id(&self) -> u64 {
        Self::id(self)
    }

    fn is_0rtt(&self) -> bool {
        Self::is_0rtt(self)
    }
}
