//! Connections, streams and their ends, over real sockets.

mod pair;

use std::{future::poll_fn, sync::Arc, task::Poll};

use bytes::Bytes;
use pair::Pair;
use stoq::quic::{
    CidKeys, ConnectError, ConnectionError, DatagramError, EndpointConfig, ReadError, TlsClient,
    TlsError, TransportConfig, WriteError,
};

#[tokio::test]
async fn bytes_come_back_over_a_bidirectional_stream() {
    let pair = Pair::connect().await;
    let (mut send, mut recv) = pair.client.open_bi().await.unwrap();
    let mut chunks = [
        Bytes::from_static(b"one "),
        Bytes::new(),
        Bytes::from(vec![7; 3_000_000]),
        Bytes::from_static(b" end"),
    ];
    let sent: Vec<u8> = chunks.concat();

    let server = pair.server.clone();
    let echo = tokio::spawn(async move {
        let (mut send, mut recv) = server.accept_bi().await.unwrap();
        while let Some(chunk) = recv.read_chunk(usize::MAX).await.unwrap() {
            send.write_all_chunks(&mut [chunk]).await.unwrap();
        }
        send.finish().unwrap();
        send.stopped().await.unwrap()
    });

    let write = async {
        send.write_all_chunks(&mut chunks).await.unwrap();
        send.finish().unwrap();
    };
    let ((), received) = tokio::join!(write, recv.read_to_end(sent.len()));
    assert!(received.unwrap() == sent);
    assert!(chunks.iter().all(Bytes::is_empty));
    assert_eq!(
        echo.await.unwrap(),
        None,
        "the echo was acknowledged, not stopped"
    );
    assert_eq!(pair.client.alpn().as_deref(), Some(&b"test"[..]));
    assert_eq!(pair.server.server_name().as_deref(), Some("localhost"));
    assert!(pair.client.is_client() && !pair.server.is_client());
}

#[tokio::test]
async fn reset_code_arrives_at_the_reader() {
    let pair = Pair::connect().await;
    let mut send = pair.client.open_uni().await.unwrap();
    send.write_all(b"begun").await.unwrap();
    let mut recv = pair.server.accept_uni().await.unwrap();
    send.reset(0x77);
    let error = loop {
        match recv.read_chunk(usize::MAX).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a reset stream has no end"),
            Err(error) => break error,
        }
    };
    assert_eq!(error, ReadError::Reset(0x77));
}

#[tokio::test]
async fn dropped_unfinished_stream_is_reset_not_ended() {
    let pair = Pair::connect().await;
    let mut send = pair.client.open_uni().await.unwrap();
    send.set_drop_code(9);
    send.write_all(b"half").await.unwrap();
    drop(send);
    let mut recv = pair.server.accept_uni().await.unwrap();
    assert_eq!(recv.read_to_end(100).await, Err(ReadError::Reset(9)));
}

#[tokio::test]
async fn stop_code_arrives_at_the_writer() {
    let pair = Pair::connect().await;
    let mut send = pair.client.open_uni().await.unwrap();
    send.write_all(b"begun").await.unwrap();
    let mut recv = pair.server.accept_uni().await.unwrap();
    recv.stop(0x99);
    assert_eq!(send.stopped().await, Ok(Some(0x99)));
    assert_eq!(
        send.write_all(b"more").await,
        Err(WriteError::Stopped(0x99))
    );
}

#[tokio::test]
async fn reader_dropped_when_the_end_has_arrived_does_not_stop_the_writer() {
    let pair = Pair::connect().await;
    let mut send = pair.client.open_uni().await.unwrap();
    send.write_all(b"all").await.unwrap();
    send.finish().unwrap();
    let mut recv = pair.server.accept_uni().await.unwrap();
    let mut got = 0;
    while got < 3 {
        got += recv.read_chunk(3 - got).await.unwrap().unwrap().len();
    }
    drop(recv);
    assert_eq!(send.stopped().await, Ok(None));
}

#[tokio::test]
async fn too_long_a_stream_is_refused_and_stopped() {
    let pair = Pair::connect().await;
    let mut send = pair.client.open_uni().await.unwrap();
    send.write_all(&[0; 1000]).await.unwrap();
    let mut recv = pair.server.accept_uni().await.unwrap();
    recv.set_drop_code(5);
    assert_eq!(
        recv.read_to_end(999).await,
        Err(ReadError::TooLong { limit: 999 })
    );
    assert_eq!(send.stopped().await, Ok(Some(5)));
}

#[tokio::test]
async fn close_code_and_reason_arrive() {
    let pair = Pair::connect().await;
    pair.client.close(0x1234, b"that was all");
    let expected = ConnectionError::Closed {
        code: 0x1234,
        reason: Bytes::from_static(b"that was all"),
    };
    assert_eq!(pair.server.closed().await, expected);
    assert_eq!(pair.server.close_reason(), Some(expected));
    assert_eq!(pair.client.closed().await, ConnectionError::LocallyClosed);
    assert_eq!(
        pair.server.accept_bi().await.unwrap_err(),
        pair.server.close_reason().unwrap()
    );
}

#[tokio::test]
async fn path_statistics_count_what_moved() {
    let pair = Pair::connect().await;
    let mut send = pair.client.open_uni().await.unwrap();
    send.write_all(&[0; 100_000]).await.unwrap();
    send.finish().unwrap();
    pair.server
        .accept_uni()
        .await
        .unwrap()
        .read_to_end(100_000)
        .await
        .unwrap();
    let path = pair.client.path();
    assert!(
        path.sent_bytes > 100_000 && path.sent_packets > 60,
        "{path:?}"
    );
    assert!(
        path.rtt >= path.rtt_min && !path.rtt_min.is_zero(),
        "{path:?}"
    );
    assert!(pair.client_endpoint.counters().bytes_sent.get() >= path.sent_bytes);
    assert!(pair.server_endpoint.counters().bytes_received.get() > 100_000);
}

#[tokio::test]
async fn connecting_to_a_wrong_name_or_address_says_which() {
    let pair = Pair::connect().await;
    let addr = pair.server_endpoint.local_addr().unwrap();
    let result = pair
        .client_endpoint
        .connect(addr, "not a name", &pair.tls_client)
        .await;
    assert_eq!(
        result.unwrap_err(),
        ConnectError::ServerName("not a name".into())
    );
    let nowhere = "127.0.0.1:0".parse().unwrap();
    let result = pair
        .client_endpoint
        .connect(nowhere, "localhost", &pair.tls_client)
        .await;
    assert_eq!(result.unwrap_err(), ConnectError::Address(nowhere));
    let result = pair
        .client_endpoint
        .connect(addr, "elsewhere.example", &pair.tls_client)
        .await;
    assert!(
        matches!(
            result,
            Err(ConnectError::Connection(ConnectionError::TransportClosed {
                by_peer: false,
                ..
            }))
        ),
        "the certificate is for another name: {result:?}"
    );
}

#[tokio::test]
async fn endpoint_closed_accepts_and_connects_no_more() {
    let pair = Pair::connect().await;
    pair.server_endpoint.close(3, b"bye");
    assert!(pair.server_endpoint.accept().await.is_none());
    pair.client.closed().await;
    pair.server_endpoint.wait_idle().await;
    assert_eq!(pair.server_endpoint.connection_count(), 0);
    pair.client_endpoint.close(0, b"");
    let addr = pair.server_endpoint.local_addr().unwrap();
    let result = pair
        .client_endpoint
        .connect(addr, "localhost", &pair.tls_client)
        .await;
    assert_eq!(result.unwrap_err(), ConnectError::EndpointClosed);
    assert!(pair.client_endpoint.accept().await.is_none());
}

#[tokio::test]
async fn datagrams_travel_when_both_sides_take_them_and_are_refused_otherwise() {
    let pair = Pair::connect().await;
    assert_eq!(pair.client.max_datagram_size(), None);
    assert_eq!(
        pair.client.send_datagram(Bytes::from_static(b"x")),
        Err(DatagramError::Unsupported)
    );

    let pair = Pair::with(TransportConfig {
        datagrams: true,
        ..TransportConfig::default()
    })
    .await;
    let size = pair.client.max_datagram_size().unwrap();
    pair.client
        .send_datagram(Bytes::from(vec![3; size]))
        .unwrap();
    assert_eq!(pair.server.read_datagram().await.unwrap(), vec![3; size]);
    assert_eq!(
        pair.client.send_datagram(Bytes::from(vec![3; 65_000])),
        Err(DatagramError::TooLarge)
    );
}

#[tokio::test]
async fn peer_may_not_open_more_streams_than_allowed_until_one_ends() {
    let pair = Pair::with(TransportConfig {
        max_uni_streams: 1,
        ..TransportConfig::default()
    })
    .await;
    let mut first = pair.client.open_uni().await.unwrap();
    let mut opener = pair.client.uni_opener();
    let opened = poll_fn(|cx| Poll::Ready(opener.poll_open(cx).is_ready())).await;
    assert!(!opened, "the second must wait");
    first.write_all(b"only one").await.unwrap();
    first.finish().unwrap();
    let server = pair.server.clone();
    let body = async {
        server
            .accept_uni()
            .await
            .unwrap()
            .read_to_end(100)
            .await
            .unwrap()
    };
    let (second, body) = tokio::join!(poll_fn(|cx| opener.poll_open(cx)), body);
    assert_eq!(body, b"only one");
    assert_ne!(second.unwrap().id(), first.id());
}

#[test]
fn tls_without_alpn_is_refused() {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    assert_eq!(
        TlsClient::new(Arc::new(config)).unwrap_err(),
        TlsError::NoAlpn
    );
}

#[tokio::test]
async fn rebinding_is_for_clients() {
    let pair = Pair::connect().await;
    let anywhere = "127.0.0.1:0".parse().unwrap();
    assert_eq!(
        pair.server_endpoint.rebind(anywhere).unwrap_err().kind(),
        std::io::ErrorKind::Unsupported
    );
    pair.client_endpoint.rebind(anywhere).unwrap();
    assert!(pair.client_endpoint.kernel_drops().is_some());
}

#[tokio::test]
async fn who_is_accepted_is_where_the_handshake_was_also_after_a_move() {
    let (tls_server, tls_client) = pair::tls(b"test");
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(tls_server);
    let server = pair::server(config);
    let client = pair::client(TransportConfig::default());
    let at = client.local_addr().unwrap();
    // The handshake needs nobody who accepts.
    let connection = client
        .connect(server.local_addr().unwrap(), "localhost", &tls_client)
        .await
        .unwrap();
    client.rebind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut send = connection.open_uni().await.unwrap();
    send.write_all(b"from elsewhere").await.unwrap();
    send.finish().unwrap();
    assert_eq!(send.stopped().await.unwrap(), None, "the server has it");
    let connecting = server.accept().await.unwrap();
    assert_eq!(connecting.remote_addr(), at);
    let moved = connecting.establish().await.unwrap().remote_addr();
    assert_eq!(moved.ip().to_string(), "127.0.0.2");
}
