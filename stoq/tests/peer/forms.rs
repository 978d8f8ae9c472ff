//! One for one, one for many, many for one, messages without an answer, datagrams, urgency.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use stoq::datagram::Datagram;
use stoq::identity::{Identity, LEAF_LIFETIME_MAX, Role, SERVER_NAME};
use stoq::peer::{
    Ask, Datagrams, DialConfig, ExchangeError, Handler, IncomingMessage, IncomingRequest,
    KindRules, Messages, Part, PeerConn, PeerInfo, SendDatagramError, ServeConfig,
};
use stoq::quic::{Connection, ConnectionError, Endpoint, SendStream, TransportConfig};
use stoq::wire::{
    CloseCode, Decoder, Frame, Hello, Urgency, VERSION, VERSION_MIN, Versions, WireError, encode,
};
use tokio::sync::mpsc;

use crate::cluster::{Server, Shifted, loopback, node, pattern, root, soon, until, year};

const COUNT: u16 = 1;
const SUM: u16 = 2;
const BULK: u16 = 3;
const MUDDLE: u16 = 4;

/// Of an answer to `BULK`: several windows of a stream.
const BULK_BYTES: usize = 4 << 20;

/// Counts up to what it is asked (`COUNT`), adds up what it is told (`SUM`), sends bytes (`BULK`) or parts in no form
/// (`MUDDLE`). Passes on messages and datagrams, and sends datagrams back.
struct Forms {
    told: mpsc::Sender<(u16, Bytes, u64)>,
    datagrams: Mutex<Vec<(u16, u64, Bytes)>>,
}

impl Forms {
    async fn answer(request: IncomingRequest) -> Result<(), ExchangeError> {
        let (mut body, mut reply) = (request.body, request.reply);
        let asked = request.control.first().copied().unwrap_or(0);
        match request.kind {
            COUNT => {
                for number in 0..asked {
                    reply.frame(number.into(), vec![number].into()).await?;
                }
                reply.finish().await
            }
            SUM => {
                let (mut messages, mut sum) = (Messages::from(body), 0u64);
                while let Some((kind, payload)) = messages.next().await? {
                    sum += u64::from(kind) + payload.len() as u64;
                    if sum > 1_000_000 {
                        break;
                    }
                }
                reply.answer(sum.to_be_bytes().to_vec().into()).await
            }
            BULK => {
                let block = pattern(16 * 1024);
                for _ in 0..BULK_BYTES / block.len() {
                    reply.data(block.clone()).await?;
                }
                reply.finish().await
            }
            MUDDLE => {
                reply.frame(1, Bytes::new()).await?;
                reply.data(Bytes::from_static(b"x")).await?;
                reply.finish().await
            }
            _ => {
                while body.next().await?.is_some() {}
                reply.answer(request.control).await
            }
        }
    }
}

impl Handler for Forms {
    fn handle<'a>(&'a self, _peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin(async move { drop(Self::answer(request).await) })
    }

    fn told<'a>(&'a self, _peer: &'a PeerInfo, message: IncomingMessage) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let (mut body, mut total) = (message.body, 0);
            loop {
                match body.next().await {
                    Ok(Some(Part::Data(bytes))) => total += bytes.len() as u64,
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            let _ = self.told.send((message.kind, message.control, total)).await;
        })
    }

    fn datagram(&self, _peer: &PeerInfo, datagram: Datagram, back: &Datagrams) {
        let Datagram {
            kind,
            sequence,
            payload,
        } = datagram;
        self.datagrams
            .lock()
            .push((kind, sequence, payload.clone()));
        let _ = back.send(kind + 1, payload);
    }
}

struct Scene {
    server: Server,
    /// Of the server.
    clock: Arc<Shifted>,
    forms: Arc<Forms>,
    told: mpsc::Receiver<(u16, Bytes, u64)>,
    edge: Identity,
    endpoint: Endpoint,
}

fn with_datagrams() -> TransportConfig {
    TransportConfig {
        datagrams: true,
        ..TransportConfig::default()
    }
}

fn scene(transport: TransportConfig) -> Scene {
    scene_with(transport, |_| {})
}

fn scene_with(transport: TransportConfig, change: impl FnOnce(&mut ServeConfig)) -> Scene {
    let root = root("demo");
    let clock = Arc::new(Shifted::default());
    let file = root.issue("shield-1", &[Role::Shield], year()).unwrap();
    let shield = Identity::with_clock(file, root.certificate().clone(), clock.clone()).unwrap();
    let (tell, told) = mpsc::channel(16);
    let forms = Arc::new(Forms {
        told: tell,
        datagrams: Mutex::default(),
    });
    let mut config = ServeConfig::default();
    change(&mut config);
    let server = Server::with(
        &shield,
        forms.clone(),
        config,
        transport.clone(),
        loopback(),
    );
    Scene {
        server,
        clock,
        forms,
        told,
        edge: node(&root, "edge-1", &[Role::Edge]),
        endpoint: Endpoint::client(loopback(), transport).unwrap(),
    }
}

impl Scene {
    async fn dial(&self, versions: Versions) -> PeerConn {
        let config = DialConfig {
            versions,
            ..DialConfig::default()
        };
        let dialling = PeerConn::dial(&self.endpoint, &self.edge, self.server.addr, &config);
        soon("dial", dialling).await.unwrap()
    }

    /// A connection past a hello that was said by hand in these versions.
    /// The control stream comes along, for its end would be the connection's.
    async fn raw(&self, versions: Versions) -> (Connection, SendStream) {
        let tls = self.edge.client_tls().unwrap();
        let connecting = self.endpoint.connect(self.server.addr, SERVER_NAME, &tls);
        let conn = soon("connect", connecting).await.unwrap();
        let (mut send, mut recv) = conn.open_bi().await.unwrap();
        let hello = Frame::Hello(Hello {
            capabilities: Hello::DATAGRAMS,
            ..Hello::new("edge-1", &[Role::Edge], versions)
        });
        send.write_all_chunks(&mut encode(VERSION, &hello).unwrap())
            .await
            .unwrap();
        soon("hello", recv.read_chunk(1000)).await.unwrap().unwrap();
        (conn, send)
    }
}

#[tokio::test]
async fn one_for_one_one_for_many_and_many_for_one() {
    let scene = scene(TransportConfig::default());
    let conn = scene.dial(Versions::default()).await;
    let limit = Duration::from_secs(10);

    let answer = conn.call(Ask::new(99, "what").within(limit));
    assert_eq!(soon("answer", answer).await.unwrap(), "what");

    let ask = Ask::new(COUNT, vec![200]).within(limit);
    let mut messages = conn.server_stream(ask).await.unwrap();
    for number in 0..200u8 {
        let next = soon("message", messages.next()).await.unwrap();
        assert_eq!(next, Some((number.into(), vec![number].into())));
    }
    assert_eq!(soon("end", messages.next()).await.unwrap(), None);

    let mut feed = conn
        .client_stream(Ask::new(SUM, "").within(limit))
        .await
        .unwrap();
    for number in 0..100 {
        feed.send(number, vec![0; 10].into()).await.unwrap();
    }
    let sum = soon("sum", feed.finish()).await.unwrap();
    assert_eq!(sum[..], (4950u64 + 1000).to_be_bytes());
}

#[tokio::test]
async fn a_feed_that_is_stopped_early_still_tells_the_answer() {
    let scene = scene(TransportConfig::default());
    let conn = scene.dial(Versions::default()).await;
    let mut feed = conn.client_stream(Ask::new(SUM, "")).await.unwrap();
    let stopped = async {
        loop {
            if let Err(error) = feed.send(0, vec![0; 60_000].into()).await {
                return error;
            }
        }
    };
    let error = soon("stop", stopped).await;
    assert!(matches!(error, ExchangeError::Cancelled { .. }), "{error}");
    let sum = soon("sum", feed.finish()).await.unwrap();
    assert_eq!(sum[..], 1_020_000u64.to_be_bytes());
}

#[tokio::test]
async fn parts_that_do_not_fit_the_form_are_errors_of_the_peer() {
    let scene = scene(TransportConfig::default());
    let conn = scene.dial(Versions::default()).await;
    let misplaced = |what| ExchangeError::Protocol(WireError::Unexpected(what));
    let called = soon("call", conn.call(Ask::new(MUDDLE, ""))).await;
    assert_eq!(called, Err(misplaced("MESSAGE")));
    let called = soon("call", conn.call(Ask::new(COUNT, ""))).await;
    assert_eq!(called, Err(misplaced("END")));
    let mut messages = conn.server_stream(Ask::new(MUDDLE, "")).await.unwrap();
    assert!(soon("message", messages.next()).await.is_ok());
    assert_eq!(soon("data", messages.next()).await, Err(misplaced("DATA")));
}

#[tokio::test]
async fn what_is_told_arrives_whole_or_is_seen_to_be_broken() {
    let mut scene = scene(TransportConfig::default());
    let conn = scene.dial(Versions::default()).await;
    let message = Ask::new(7, "news").urgency(Urgency::LAST);
    let mut telling = conn.tell(message).await.unwrap();
    telling.data(pattern(300_000)).await.unwrap();
    telling.finish().await.unwrap();
    let told = soon("message", scene.told.recv()).await;
    assert_eq!(told, Some((7, "news".into(), 300_000)));

    let mut broken = conn.tell(Ask::new(8, "")).await.unwrap();
    broken.data(pattern(10)).await.unwrap();
    drop(broken);
    let whole = conn.tell(Ask::new(9, "")).await.unwrap();
    whole.finish().await.unwrap();
    let told = soon("message", scene.told.recv()).await;
    assert_eq!(told, Some((9, Bytes::new(), 0)));
    let counters = scene.server.peers.counters();
    until("the handler is through", || {
        // A reset that came before the handler began has left nothing to hand over.
        let started = counters.messages_started.get();
        started >= 2 && counters.messages_returned.get() == started
    })
    .await;
    assert!(
        scene.told.try_recv().is_err(),
        "the broken one was passed on"
    );
}

#[tokio::test]
async fn nothing_is_told_to_version_1_and_its_streams_are_refused() {
    let scene = scene(with_datagrams());
    let old = Versions::up_to(VERSION_MIN).unwrap();
    let conn = scene.dial(old).await;
    let error = conn.tell(Ask::new(7, "news")).await.unwrap_err();
    assert!(matches!(error, ExchangeError::TooOld(_)) && error.not_sent());
    let sent = conn.datagrams().send(1, Bytes::new());
    assert_eq!(sent, Err(SendDatagramError::NotAgreed));
    // Nothing was opened for it, so the connection goes on.
    let answer = conn.call(Ask::new(99, "what"));
    assert_eq!(soon("answer", answer).await.unwrap(), "what");

    let (raw, _control) = scene.raw(old).await;
    let mut send = raw.open_uni().await.unwrap();
    send.write_all(&[1, 9, 0, 0]).await.unwrap();
    let ConnectionError::Closed { code, .. } = soon("end", raw.closed()).await else {
        panic!("not closed by the peer")
    };
    assert_eq!(CloseCode::of(code), Some(CloseCode::Protocol));
}

#[tokio::test]
async fn a_server_that_opens_a_stream_is_left() {
    for uni in [true, false] {
        a_server_that_opens(uni).await;
    }
}

async fn a_server_that_opens(uni: bool) {
    let root = root("demo");
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let edge = node(&root, "edge-1", &[Role::Edge]);
    let group = stoq::quic::SocketGroup::bind(loopback(), 1, &Default::default()).unwrap();
    let mut config = stoq::quic::EndpointConfig::new(stoq::quic::CidKeys::random());
    config.server = Some(shield.server_tls().unwrap());
    let server = Endpoint::new(group.take(0).unwrap(), config).unwrap();
    let addr = group.local_addr();
    let serving = tokio::spawn(async move {
        let conn = server.accept().await.unwrap().establish().await.unwrap();
        let (mut send, mut recv) = conn.accept_bi().await.unwrap();
        let mut said = recv.read_chunk(1000).await.unwrap().unwrap();
        assert!(Decoder::new(VERSION).next(&mut said).unwrap().is_some());
        let hello = Hello::new("shield-1", &[Role::Shield], Versions::default());
        let mut hello = encode(VERSION, &Frame::Hello(hello)).unwrap();
        send.write_all_chunks(&mut hello).await.unwrap();
        let mut wrong = match uni {
            true => conn.open_uni().await.unwrap(),
            false => conn.open_bi().await.unwrap().0,
        };
        wrong.write_all(&[0]).await.unwrap();
        conn.closed().await
    });
    let endpoint = Endpoint::client(loopback(), TransportConfig::default()).unwrap();
    let dialling = PeerConn::dial(&endpoint, &edge, addr, &DialConfig::default()).await;
    let _conn = dialling.unwrap();
    let ConnectionError::Closed { code, .. } = soon("end", serving).await.unwrap() else {
        panic!("not closed by the peer")
    };
    assert_eq!(CloseCode::of(code), Some(CloseCode::Protocol));
}

#[tokio::test]
async fn datagrams_go_both_ways_numbered_and_none_counts_twice() {
    let scene = scene(with_datagrams());
    let conn = scene.dial(Versions::default()).await;
    let datagrams = conn.datagrams();
    let max = datagrams.payload_max().unwrap();
    assert!((1000..1440).contains(&max), "{max}");
    let long = datagrams.send(1, vec![0; max + 1].into());
    assert_eq!(long, Err(SendDatagramError::TooLong { len: max + 1, max }));
    for number in 1..=3 {
        let payload = Bytes::from(vec![7; 100]);
        assert_eq!(datagrams.send(10, payload.clone()), Ok(number));
        let back = soon("datagram", datagrams.next()).await.unwrap();
        let want = Datagram {
            kind: 11,
            sequence: number,
            payload,
        };
        assert_eq!(back, want);
    }
    assert_eq!(datagrams.counters().datagrams_taken.get(), 3);

    // By hand: once more what was sent, and what nobody may send. The last comes after all of them, so it tells the end.
    let (raw, _control) = scene.raw(Versions::default()).await;
    scene.forms.datagrams.lock().clear();
    let datagram = |sequence: u64| Datagram {
        kind: 20,
        sequence,
        payload: Bytes::new(),
    };
    for sequence in [5, 5, 3, 5, 3, 0, 100, 30, 37, 37, 200] {
        raw.send_datagram(datagram(sequence).encode(VERSION))
            .unwrap();
    }
    raw.send_datagram(datagram(201).encode(VERSION_MIN))
        .unwrap();
    raw.send_datagram(Bytes::from_static(b"short")).unwrap();
    raw.send_datagram(datagram(202).encode(VERSION)).unwrap();
    let taken = || -> Vec<u64> {
        let taken = scene.forms.datagrams.lock();
        taken.iter().map(|(_, sequence, _)| *sequence).collect()
    };
    until("the last datagram", || taken().contains(&202)).await;
    assert_eq!(taken(), [5, 3, 100, 37, 200, 202]);
}

#[tokio::test]
async fn without_the_setting_there_are_no_datagrams() {
    let scene = scene(TransportConfig::default());
    let conn = scene.dial(Versions::default()).await;
    assert_eq!(conn.peer().capabilities, 0);
    assert_eq!(conn.datagrams().payload_max(), None);
    let sent = conn.datagrams().send(1, Bytes::new());
    assert_eq!(sent, Err(SendDatagramError::NotAgreed));
    let waiting = conn.clone();
    let waiting = tokio::spawn(async move { waiting.datagrams().next().await });
    conn.close();
    assert!(soon("end", waiting).await.unwrap().is_err());
}

/// Two answers of several stream windows, asked for at once: whatever the order of asking, the urgent one is through while much
/// of the other is to come; of equal ones, both are through together.
#[tokio::test]
async fn the_more_urgent_answer_comes_first() {
    let equal = Urgency::default();
    for (urgencies, first) in [
        ([Urgency::FIRST, Urgency::LAST], 0),
        ([Urgency::LAST, Urgency::FIRST], 1),
        ([equal, equal], 0),
    ] {
        let scene = scene(TransportConfig::default());
        let conn = scene.dial(Versions::default()).await;
        let got = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let mut readers = Vec::new();
        for (urgency, got) in urgencies.into_iter().zip(got.clone()) {
            let asking = conn.ask(Ask::new(BULK, "").urgency(urgency));
            let mut exchange = asking.await.unwrap();
            readers.push(tokio::spawn(async move {
                exchange.send.finish().await.unwrap();
                while let Some(part) = exchange.recv.next().await.unwrap() {
                    if let Part::Data(bytes) = part {
                        got.fetch_add(bytes.len(), Ordering::SeqCst);
                    }
                }
            }));
        }
        let reader = readers.swap_remove(first);
        soon("an answer", reader).await.unwrap();
        let other = got[1 - first].load(Ordering::SeqCst);
        println!("{urgencies:?}: the other had {other} of {BULK_BYTES} bytes by then");
        let much = other > BULK_BYTES / 8 * 7;
        assert_eq!(much, urgencies == [equal, equal]);
        for reader in readers {
            soon("the other answer", reader).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_kind_that_the_role_does_not_permit_is_not_told_either() {
    let mut scene = scene_with(TransportConfig::default(), |config| {
        config.kinds = Arc::new(KindRules::closed().permit(7, [Role::Edge]));
    });
    let conn = scene.dial(Versions::default()).await;
    for kind in [8, 7] {
        let telling = conn.tell(Ask::new(kind, "")).await.unwrap();
        // One that is stopped before its end arrives may notice.
        let _ = telling.finish().await;
    }
    let told = soon("message", scene.told.recv()).await;
    assert_eq!(told, Some((7, Bytes::new(), 0)));
    let counters = scene.server.peers.counters();
    until("the refusal", || counters.refused_request_role.get() == 1).await;
    assert_eq!(counters.messages_started.get(), 1);
}

#[tokio::test]
async fn datagrams_of_a_peer_whose_certificates_ended_are_not_acted_on() {
    let scene = scene(with_datagrams());
    let conn = scene.dial(Versions::default()).await;
    conn.datagrams().send(10, Bytes::new()).unwrap();
    soon("datagram", conn.datagrams().next()).await.unwrap();
    scene.clock.forward(2 * LEAF_LIFETIME_MAX);
    conn.datagrams().send(10, Bytes::new()).unwrap();
    let ConnectionError::Closed { code, .. } = soon("end", conn.closed()).await else {
        panic!("not closed by the peer")
    };
    assert_eq!(CloseCode::of(code), Some(CloseCode::Expired));
    assert_eq!(scene.forms.datagrams.lock().len(), 1);
}
