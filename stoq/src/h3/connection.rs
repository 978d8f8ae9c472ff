//! The connection as `h3` sees it.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming},
};

use super::{
    body::Body,
    stream::{BidiStream, RecvStream, SendStream},
};
use crate::quic::{BiAcceptor, BiOpener, ConnectionError, UniAcceptor, UniOpener};

/// A connection for `h3::server::Connection` or `h3::client`.
pub struct Connection {
    streams: OpenStreams,
    bi: BiAcceptor,
    uni: UniAcceptor,
}

impl Connection {
    /// Adapts a connection whose ALPN is `h3`.
    pub fn new(connection: crate::quic::Connection) -> Self {
        Self {
            bi: connection.bi_acceptor(),
            uni: connection.uni_acceptor(),
            streams: OpenStreams::new(connection),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("connection", &self.streams.connection)
            .finish_non_exhaustive()
    }
}

impl<B: Body> quic::Connection<B> for Connection {
    type RecvStream = RecvStream;
    type OpenStreams = OpenStreams;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::RecvStream, ConnectionErrorIncoming>> {
        let client = self.streams.client;
        self.uni
            .poll_accept(cx)
            .map_ok(|recv| RecvStream::new(recv, client))
            .map_err(closed)
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::BidiStream, ConnectionErrorIncoming>> {
        let client = self.streams.client;
        self.bi
            .poll_accept(cx)
            .map_ok(|(send, recv)| BidiStream::new(send, recv, client))
            .map_err(closed)
    }

    fn opener(&self) -> Self::OpenStreams {
        self.streams.clone()
    }
}

impl<B: Body> quic::OpenStreams<B> for Connection {
    type BidiStream = BidiStream<B>;
    type SendStream = SendStream<B>;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::BidiStream, StreamErrorIncoming>> {
        quic::OpenStreams::<B>::poll_open_bidi(&mut self.streams, cx)
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::SendStream, StreamErrorIncoming>> {
        quic::OpenStreams::<B>::poll_open_send(&mut self.streams, cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.streams.connection.close(code.value(), reason);
    }
}

/// Opens streams for `h3`. What waits for the peer's leave is made on first use.
pub struct OpenStreams {
    connection: crate::quic::Connection,
    /// Which side we are decides the codes of dropped streams.
    client: bool,
    bi: Option<BiOpener>,
    uni: Option<UniOpener>,
}

impl OpenStreams {
    fn new(connection: crate::quic::Connection) -> Self {
        let client = connection.is_client();
        Self {
            connection,
            client,
            bi: None,
            uni: None,
        }
    }
}

impl Clone for OpenStreams {
    fn clone(&self) -> Self {
        Self {
            connection: self.connection.clone(),
            client: self.client,
            bi: None,
            uni: None,
        }
    }
}

impl fmt::Debug for OpenStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStreams")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl<B: Body> quic::OpenStreams<B> for OpenStreams {
    type BidiStream = BidiStream<B>;
    type SendStream = SendStream<B>;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::BidiStream, StreamErrorIncoming>> {
        let client = self.client;
        self.bi
            .get_or_insert_with(|| self.connection.bi_opener())
            .poll_open(cx)
            .map_ok(|(send, recv)| BidiStream::new(send, recv, client))
            .map_err(on_stream)
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::SendStream, StreamErrorIncoming>> {
        let client = self.client;
        self.uni
            .get_or_insert_with(|| self.connection.uni_opener())
            .poll_open(cx)
            .map_ok(|send| SendStream::new(send, client))
            .map_err(on_stream)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(code.value(), reason);
    }
}

/// What `h3` is told when a connection has ended.
pub fn closed(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::Closed { code, .. } => {
            ConnectionErrorIncoming::ApplicationClose { error_code: code }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        error @ (ConnectionError::TransportClosed { .. }
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::Version
        | ConnectionError::Exhausted) => ConnectionErrorIncoming::Undefined(Arc::new(error)),
    }
}

pub(super) fn on_stream(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming {
        connection_error: closed(error),
    }
}
