//! The short way of plain hits, by a client that writes its own frames: each way a request can arrive, windows too
//! small for an answer, and what a farewell says of streams the HTTP/3 library never saw.

use std::net::SocketAddr;

use bytes::Bytes;
use stoq::h3::{frame, qpack};
use stoq::quic::{
    Connection, Endpoint, ReadError, RecvStream, SendStream, TlsClient, TransportConfig,
};
use stoq_edge::service::End;

use crate::client::tls;
use crate::rig::{Rig, until, within};
use crate::scripted::HIT;

struct Bare {
    connection: Connection,
    _endpoint: Endpoint,
    _control: SendStream,
}

impl Bare {
    async fn connect(rig: &Rig, transport: TransportConfig) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = Endpoint::client(any, transport).unwrap();
        let tls = TlsClient::new(tls(rig, b"h3")).unwrap();
        let connection = endpoint
            .connect(rig.https, "localhost", &tls)
            .await
            .unwrap();
        let mut control = connection.open_uni().await.unwrap();
        control
            .write_all(&[
                u8::try_from(frame::CONTROL_STREAM).unwrap(),
                u8::try_from(frame::SETTINGS).unwrap(),
                0,
            ])
            .await
            .unwrap();
        Self {
            connection,
            _endpoint: endpoint,
            _control: control,
        }
    }

    /// Sends `parts` one after the other, each read by the server before the next is sent, and reads the answer.
    async fn ask(&self, parts: &[&[u8]]) -> Vec<u8> {
        let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
        for (nth, part) in parts.iter().enumerate() {
            if nth > 0 {
                // Another exchange, begun later, is over: so what came before was delivered.
                Box::pin(self.ask(&[&request("/hit")])).await;
            }
            send.write_all(part).await.unwrap();
        }
        send.finish().unwrap();
        within(recv.read_to_end(1 << 20)).await.unwrap()
    }

    /// Sends a request whole, and reads until the server has broken it off both ways.
    async fn refused(&self, request: &[u8]) -> (Option<u64>, Option<u64>) {
        let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
        send.write_all(request).await.unwrap();
        // Unfinished, so that its own side can be stopped.
        let reset = match within(recv.read_to_end(1 << 20)).await {
            Err(ReadError::Reset(code)) => Some(code),
            _ => None,
        };
        (reset, within(send.stopped()).await.unwrap())
    }

    /// The server's control stream.
    async fn control(&self) -> RecvStream {
        loop {
            let mut stream = within(self.connection.accept_uni()).await.unwrap();
            let kind = within(stream.read_chunk(1)).await.unwrap().unwrap();
            if kind[..] == [0] {
                return stream;
            }
        }
    }
}

fn request(path: &str) -> Vec<u8> {
    request_with(path, &[])
}

/// A request with these lines at the end of its head.
fn request_with(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let head = [
        (":method", &b"GET"[..]),
        (":scheme", b"https"),
        (":authority", b"localhost"),
        (":path", path.as_bytes()),
    ];
    let more = more.iter().map(|(name, value)| (*name, value.as_bytes()));
    let section = qpack::section(head.into_iter().chain(more));
    let mut out = Vec::new();
    frame::put_head(&mut out, frame::HEADERS, section.len() as u64);
    out.extend(section);
    out
}

/// Status and body of an answer of whole frames.
fn answer(mut bytes: &[u8]) -> (String, Vec<u8>) {
    let (mut status, mut body) = (String::new(), Vec::new());
    while !bytes.is_empty() {
        let (kind, len, used) = frame::head(bytes).unwrap();
        let (payload, rest) = bytes[used..].split_at(usize::try_from(len).unwrap());
        match kind {
            frame::HEADERS => {
                let mut section = qpack::Section::new(payload).unwrap();
                let mut scratch = Vec::new();
                let line = section.next_line().unwrap().unwrap();
                assert_eq!(line.name, qpack::Text::Static(":status"));
                status =
                    String::from_utf8(line.value.bytes(&mut scratch).unwrap().to_vec()).unwrap();
            }
            frame::DATA => body.extend(payload),
            other => panic!("frame of type {other:#x}"),
        }
        bytes = rest;
    }
    (status, body)
}

#[tokio::test]
async fn a_stored_hit_is_the_same_however_its_request_arrives() {
    let rig = Rig::start();
    let client = Bare::connect(&rig, TransportConfig::default()).await;
    let whole = request("/stored-hit");
    let unknown_frame = [&[0x21, 2, 7, 7][..], &whole].concat();
    let trailing_frame = [&whole[..], &[0x21, 1, 7]].concat();
    let arrivals: [&[&[u8]]; 7] = [
        // The first of a connection goes the long way, the second the short one.
        &[&whole],
        &[&whole],
        &[&whole[..5], &whole[5..]],
        &[&whole, &[]],
        &[&unknown_frame],
        &[&trailing_frame],
        &[&whole],
    ];
    for (nth, parts) in arrivals.iter().enumerate() {
        let (status, body) = answer(&client.ask(parts).await);
        assert_eq!(status, "200", "{nth}");
        assert_eq!(body, HIT, "{nth}");
    }
    until("all accounts are closed", || {
        rig.service.done_with("/stored-hit").len() == arrivals.len()
    })
    .await;
    for done in rig.service.done_with("/stored-hit") {
        assert_eq!((done.sent.end, done.sent.body_bytes), (End::Complete, 1024));
    }
}

/// What comes twice is refused, on the first stream of a connection as on those that may take the short way.
#[tokio::test]
async fn a_repeated_pseudo_field_is_malformed() {
    const MESSAGE_ERROR: u64 = 0x10e;
    let rig = Rig::start();
    for first in [true, false] {
        let client = Bare::connect(&rig, TransportConfig::default()).await;
        if !first {
            let whole = client.ask(&[&request("/stored-hit")]).await;
            assert_eq!(answer(&whole).0, "200");
        }
        for more in [
            &[(":path", "/never")][..],
            &[(":path", "/stored-hit")],
            &[(":authority", "other.test")],
            &[(":method", "POST")],
            &[(":scheme", "https")],
            &[("accept", "*/*"), (":path", "/never")],
            &[(":status", "200")],
        ] {
            let refused = client.refused(&request_with("/stored-hit", more)).await;
            assert_eq!(
                refused,
                (Some(MESSAGE_ERROR), Some(MESSAGE_ERROR)),
                "{more:?} {first}"
            );
        }
        // And the connection goes on.
        let whole = client.ask(&[&request("/stored-hit")]).await;
        assert_eq!(answer(&whole).1, HIT);
    }
    assert_eq!(rig.service.done_with("/never").len(), 0);
}

#[tokio::test]
async fn an_answer_larger_than_the_window_is_finished_from_a_task() {
    let rig = Rig::start();
    let narrow = TransportConfig {
        stream_window: 300,
        ..TransportConfig::default()
    };
    let client = Bare::connect(&rig, narrow).await;
    for _ in 0..3 {
        let (status, body) = answer(&client.ask(&[&request("/stored-hit")]).await);
        assert_eq!((status.as_str(), &body[..]), ("200", HIT));
    }
    until("all accounts are closed", || {
        rig.service.done_with("/stored-hit").len() == 3
    })
    .await;
    for done in rig.service.done_with("/stored-hit") {
        assert_eq!((done.sent.end, done.sent.body_bytes), (End::Complete, 1024));
        assert!(!done.sent.inline);
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_stored_hit_is_accounted_for() {
    let rig = Rig::start();
    let narrow = TransportConfig {
        stream_window: 300,
        ..TransportConfig::default()
    };
    let client = Bare::connect(&rig, narrow).await;
    client.ask(&[&request("/hit")]).await;
    let (mut send, mut recv) = client.connection.open_bi().await.unwrap();
    send.write_all(&request("/stored-hit")).await.unwrap();
    send.finish().unwrap();
    let first: Bytes = within(recv.read_chunk(100)).await.unwrap().unwrap();
    assert!(!first.is_empty());
    recv.stop(0x10c);
    until("the account is closed", || {
        rig.service.done_with("/stored-hit").len() == 1
    })
    .await;
    assert_eq!(
        rig.service.done_with("/stored-hit")[0].sent.end,
        End::ClientLeft
    );
}

//= https://www.rfc-editor.org/rfc/rfc9114#section-5.2
//= type=test
//# The GOAWAY frame contains an identifier that indicates to the receiver the range of requests or pushes that were or
//# might be processed in this connection.
#[tokio::test]
async fn a_farewell_covers_the_streams_that_went_the_short_way() {
    const ASKED: u64 = 150;
    let rig = Rig::start();
    let client = Bare::connect(&rig, TransportConfig::default()).await;
    let mut control = client.control().await;
    for _ in 0..ASKED {
        client.ask(&[&request("/stored-hit")]).await;
    }
    rig.drain.begin();
    let mut bytes = Vec::new();
    let last = loop {
        let piece = within(control.read_chunk(4096)).await.unwrap().unwrap();
        bytes.extend_from_slice(&piece);
        let mut rest = &bytes[..];
        let mut found = None;
        while let Some((kind, len, used)) = frame::head(rest) {
            let Some(payload) = rest.get(used..used + usize::try_from(len).unwrap()) else {
                break;
            };
            if kind == frame::GOAWAY {
                found = frame::varint(payload);
            }
            rest = &rest[used + payload.len()..];
        }
        if let Some((id, _)) = found {
            break id;
        }
    };
    assert!(last >= 4 * ASKED, "{last}: {ASKED} requests were answered");
    // What was under way when the farewell was sent is still answered.
    let (status, _) = answer(&client.ask(&[&request("/stored-hit")]).await);
    assert_eq!(status, "200");
}
