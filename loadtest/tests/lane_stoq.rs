//! The STOQ lane against nodes of a cluster made on the fly, on real UDP.

#![expect(
    clippy::unwrap_used,
    reason = "a test's server that cannot start has failed the test"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rustls_pki_types::UnixTime;
use stoq::identity::{ClusterRoot, Identity, Role, Validity};
use stoq::peer::{Handler, IncomingRequest, PeerInfo, PeerServer, ServeConfig};
use stoq::quic::{CidKeys, Endpoint, EndpointConfig, SocketGroup, SocketOptions};
use stoq_loadtest::lane::stoq::StoqDialer;
use stoq_loadtest::lane::stoq::server::serve;
use stoq_loadtest::lane::{Conn, Dialer, Failure, Lane, Sink};
use stoq_loadtest::plan::{Handshake, Plan, Protocol, Session, Shape, Stop};
use stoq_loadtest::workload::{Ask, Known, Object, Verb, Workload};
use stoq_loadtest::{Site, Target};
use stoq_mesh::{EXCHANGES_MAX, ObjectRequest, Provenance, SiteNames, wire};
use tokio::sync::oneshot;

struct Cluster(ClusterRoot);

impl Cluster {
    fn new() -> Self {
        let valid = Validity::starting(UnixTime::now(), ClusterRoot::LIFETIME);
        Self(ClusterRoot::generate("bench", valid).unwrap())
    }

    fn node(&self, name: &str, role: Role) -> Identity {
        let valid = Validity::starting(UnixTime::now(), ClusterRoot::IDENTITY_LIFETIME);
        let file = self.0.issue(name, &[role], valid).unwrap();
        Identity::new(file, self.0.certificate().clone()).unwrap()
    }
}

fn group() -> SocketGroup {
    let any = "127.0.0.1:0".parse().unwrap();
    SocketGroup::bind(any, 1, &SocketOptions::default()).unwrap()
}

/// The bench's own server; it stops when the sender is dropped.
fn bench(cluster: &Cluster) -> (SocketAddr, oneshot::Sender<()>) {
    let group = group();
    let identity = cluster.node("server-1", Role::Shield);
    let (stop, stopped) = oneshot::channel::<()>();
    let socket = group.take(0).unwrap();
    let stopped = async move { drop(stopped.await) };
    tokio::spawn(Box::pin(serve(
        socket,
        identity,
        CidKeys::random(),
        None,
        stopped,
    )));
    (group.local_addr(), stop)
}

/// Another node, that answers as `handler` does.
fn node(cluster: &Cluster, handler: impl Handler) -> SocketAddr {
    let group = group();
    let identity = cluster.node("shield-1", Role::Shield);
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(identity.server_tls().unwrap());
    let endpoint = Endpoint::new(group.take(0).unwrap(), config).unwrap();
    let server = PeerServer::new(
        endpoint,
        identity,
        Arc::new(handler),
        ServeConfig::default(),
    );
    tokio::spawn(async move { server.serve().await });
    group.local_addr()
}

fn target(cluster: &Cluster, address: SocketAddr) -> Target {
    let identity = cluster.node("edge-1", Role::Edge);
    Target::node(&format!("stoq://{address}"), identity).unwrap()
}

fn plan(target: Target) -> Plan {
    Plan {
        target,
        protocol: Protocol::Stoq,
        shape: Shape::Closed,
        connections: 1,
        streams: 4,
        threads: 1,
        sources: Vec::new(),
        stop: Stop {
            duration: Duration::from_secs(1),
            requests: None,
        },
        warmup: Duration::ZERO,
        timeout: Duration::from_secs(10),
        workload: Arc::new(Workload::one("/rpc")),
        fields: Vec::new(),
        session: Session::Kept,
        read_rate: None,
        zeros: false,
        idle: None,
        seed: 7,
    }
}

fn ask(verb: Verb, path: &str, known: Known) -> Ask {
    let object = Object {
        path: path.into(),
        authority: None,
        known,
    };
    Ask {
        verb,
        object: Arc::new(object),
    }
}

fn get(path: &str) -> Ask {
    ask(Verb::Get, path, Known::Nothing)
}

async fn exchange(lane: &mut impl Lane, ask: &Ask) -> Result<u64, Failure> {
    let mut sink = Sink::new(ask);
    let asked = lane.exchange(ask, &mut sink);
    tokio::time::timeout(Duration::from_secs(20), asked)
        .await
        .expect("an answer or a failure in time")?;
    Ok(sink.received())
}

#[tokio::test]
async fn calls_and_bulk_are_answered_and_verified_on_one_connection() {
    let cluster = Cluster::new();
    let (address, _stop) = bench(&cluster);
    let dialer = StoqDialer::new(&plan(target(&cluster, address)), 0).unwrap();
    let conn = dialer.dial(0).await.unwrap();
    let mut lane = conn.lane();
    for (path, length) in [
        ("/rpc", 1024),
        ("/rpc/12/0", 0),
        ("/rpc/65528/65536", 65_536),
        ("/bulk/0", 0),
        ("/bulk/1", 1),
        ("/bulk/1048577", 1_048_577),
        ("/bulk/20000000", 20_000_000),
    ] {
        assert_eq!(exchange(&mut lane, &get(path)).await, Ok(length), "{path}");
        let known = ask(Verb::Get, path, Known::Length(length + 1));
        let other = exchange(&mut lane, &known).await;
        assert!(matches!(other, Err(Failure::Truncated { .. })), "{other:?}");
    }
    let lanes = (0..64u32).map(|_| {
        let mut lane = conn.lane();
        async move {
            for _ in 0..20 {
                assert_eq!(exchange(&mut lane, &get("/rpc")).await, Ok(1024));
            }
            assert_eq!(exchange(&mut lane, &get("/bulk/300000")).await, Ok(300_000));
        }
    });
    futures_util::future::join_all(lanes).await;
    let opened = conn.opened();
    assert!(opened.started <= opened.ready && !opened.resumed);
    conn.close().await;
}

#[tokio::test]
async fn a_cancelled_exchange_leaves_the_lane_usable_and_a_slow_one_takes_its_time() {
    let cluster = Cluster::new();
    let (address, _stop) = bench(&cluster);
    let dialer = StoqDialer::new(&plan(target(&cluster, address)), 0).unwrap();
    let conn = dialer.dial(0).await.unwrap();
    let mut lane = conn.lane();
    for _ in 0..100 {
        let asked = get("/bulk/5000000");
        let mut sink = Sink::new(&asked);
        // Polled a few times, then dropped.
        tokio::select! {
            biased;
            _ = lane.exchange(&asked, &mut sink) => {}
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(exchange(&mut lane, &get("/bulk/77")).await, Ok(77));
    let asked = get("/bulk/200000");
    let mut sink = Sink::new(&asked).paced(Some(400_000));
    let started = std::time::Instant::now();
    lane.exchange(&asked, &mut sink).await.unwrap();
    assert!(
        started.elapsed() >= Duration::from_millis(300),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_server_that_ends_fails_what_is_under_way_and_leaves_the_rest_unsent() {
    let cluster = Cluster::new();
    let (address, stop) = bench(&cluster);
    let dialer = StoqDialer::new(&plan(target(&cluster, address)), 0).unwrap();
    let conn = dialer.dial(0).await.unwrap();
    let mut lane = conn.lane();
    let endless = get("/bulk/1099511627776");
    let (ended, ()) = tokio::join!(exchange(&mut lane, &endless), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(stop);
    });
    let told = matches!(ended, Err(Failure::Closed(_) | Failure::Reset(_)));
    assert!(told, "{ended:?}");
    conn.closed().await;
    let next = exchange(&mut lane, &get("/rpc")).await;
    assert!(matches!(next, Err(Failure::Unsent(_))), "{next:?}");
}

/// Answers bench exchanges wrong: each a way of its own, by the length asked for.
struct Liar;

impl Handler for Liar {
    fn handle<'a>(&'a self, _peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let length = request.control.slice(8..16);
            let asked = u64::from_be_bytes(length.as_ref().try_into().unwrap());
            let mut reply = request.reply;
            reply.head(length).await.unwrap();
            let size = usize::try_from(asked).unwrap();
            match asked {
                // Zeros.
                100 => {
                    reply.data(Bytes::from(vec![0; size])).await.unwrap();
                    reply.finish().await.unwrap();
                }
                // Ends well and short.
                200 => reply.finish().await.unwrap(),
                // Ends without an end: reset.
                300 => {}
                // Says why there is no more.
                _ => reply.abort(9, "no more").await.unwrap(),
            }
        })
    }
}

#[tokio::test]
async fn a_wrong_answer_is_a_failure_of_its_kind_and_the_connection_goes_on() {
    let cluster = Cluster::new();
    let address = node(&cluster, Liar);
    let dialer = StoqDialer::new(&plan(target(&cluster, address)), 0).unwrap();
    let conn = dialer.dial(0).await.unwrap();
    let mut lane = conn.lane();
    for _ in 0..2 {
        let zeros = exchange(&mut lane, &get("/bulk/100")).await;
        assert!(matches!(zeros, Err(Failure::Wrong(_))), "{zeros:?}");
        let short = exchange(&mut lane, &get("/bulk/200")).await;
        let want = Failure::Truncated {
            got: 0,
            want: Some(200),
        };
        assert_eq!(short, Err(want));
        assert_eq!(
            exchange(&mut lane, &get("/bulk/300")).await,
            Err(Failure::Reset(3))
        );
        let refused = exchange(&mut lane, &get("/bulk/400")).await;
        let want = Failure::Refused {
            code: 9,
            text: "no more".to_owned(),
        };
        assert_eq!(refused, Err(want));
    }
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let (address, _stop) = bench(&theirs);
    let dialer = StoqDialer::new(&plan(target(&ours, address)), 0).unwrap();
    let failure = dialer.dial(0).await.map(drop);
    assert!(matches!(failure, Err(Failure::Handshake(_))), "{failure:?}");
}

#[tokio::test]
async fn what_stoq_cannot_do_is_refused_before_the_run() {
    let cluster = Cluster::new();
    let target = target(&cluster, "127.0.0.1:9".parse().unwrap());
    let refused = |plan: &Plan| StoqDialer::new(plan, 0).unwrap_err().to_string();
    let mut wrong = plan(target.clone());
    wrong.session = Session::PerRequest(Handshake::Resumed);
    assert!(refused(&wrong).contains("no resumed sessions"));
    let mut wrong = plan(target.clone());
    wrong.streams = EXCHANGES_MAX + 1;
    assert!(refused(&wrong).contains(&EXCHANGES_MAX.to_string()));
    let mut wrong = plan(target);
    wrong.workload = Arc::new(Workload::one("/index.html"));
    assert!(refused(&wrong).contains("/bulk/BYTES"));
    let wrong = plan(Target::new("https://127.0.0.1").unwrap());
    assert!(refused(&wrong).contains("stoq://host:port"));
    assert!(Target::node("stoq://shield-1", cluster.node("a", Role::Edge)).is_err());
}

/// Answers object exchanges as a shield does: `/N` with N bytes in two chunks, `/unsealed` without the commit record,
/// `/missing` with a 404, and nothing for a request that an edge would not have made.
struct Shield(SiteNames);

impl Handler for Shield {
    fn handle<'a>(&'a self, _peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let asked = ObjectRequest::decode(&request.control).unwrap();
            let mut reply = request.reply;
            let path = asked.path_and_query.clone();
            let fields = asked.headers.clone();
            let right =
                self.0
                    .request(asked.method.clone(), true, "www.example.com", &path, fields);
            if request.kind != wire::OBJECT || asked != right {
                reply.abort(3, "key-mismatch").await.unwrap();
                return;
            }
            let size: u32 = path.trim_start_matches('/').parse().unwrap_or(10);
            let head = wire::Head {
                status: if path == "/missing" {
                    http::StatusCode::NOT_FOUND
                } else {
                    http::StatusCode::OK
                },
                provenance: Provenance::Store,
                body: wire::BodyMode::Chunked,
                cache_status: String::new(),
                headers: http::HeaderMap::new(),
            };
            reply.head(head.encode().unwrap()).await.unwrap();
            let profile = Bytes::from_static(&[1]);
            reply.frame(wire::PROFILE, profile).await.unwrap();
            let first = size / 3;
            for (byte, length) in [(1, first), (2, size - first)] {
                let bytes = vec![byte; length as usize];
                reply.data(bytes.into()).await.unwrap();
                let chunk = wire::encode_chunk(&[byte; 32], length);
                reply.frame(wire::CHUNK, chunk).await.unwrap();
            }
            if path != "/unsealed" {
                let sealed = wire::encode_sealed(&[3; 32], u64::from(size));
                reply.frame(wire::SEALED, sealed).await.unwrap();
            }
            reply.finish().await.unwrap();
        })
    }
}

#[tokio::test]
async fn objects_of_a_site_are_asked_for_as_an_edge_asks_and_must_be_sealed() {
    let cluster = Cluster::new();
    let site = Site {
        name: "site".to_owned(),
        dedupe_domain: Some("shared".to_owned()),
        https: true,
    };
    let identity = cluster.node("edge-1", Role::Edge);
    let names = SiteNames::new(identity.cluster_secret(), "site", Some("shared"));
    let address = node(&cluster, Shield(names));
    let mut plan = plan(target(&cluster, address).of_site(site.clone()));
    let host = http::HeaderValue::from_static("www.example.com");
    plan.fields = vec![(http::header::HOST, host)];
    let dialer = StoqDialer::new(&plan, 0).unwrap();
    let conn = dialer.dial(0).await.unwrap();
    let mut lane = conn.lane();
    let body = [vec![1; 1_000_000], vec![2; 2_000_000]].concat();
    let known = ask(Verb::Get, "/3000000", Known::Body(body.into()));
    assert_eq!(exchange(&mut lane, &known).await, Ok(3_000_000));
    let unsealed = exchange(&mut lane, &get("/unsealed")).await;
    let want = Failure::Truncated {
        got: 10,
        want: None,
    };
    assert_eq!(unsealed, Err(want));
    assert_eq!(
        exchange(&mut lane, &get("/missing")).await,
        Err(Failure::Status(404))
    );
    let mut other = plan.clone();
    other.target = target(&cluster, address).of_site(Site {
        name: "other".to_owned(),
        ..site
    });
    let dialer = StoqDialer::new(&other, 0).unwrap();
    let conn = dialer.dial(0).await.unwrap();
    let refused = exchange(&mut conn.lane(), &get("/10")).await;
    let want = Failure::Refused {
        code: 3,
        text: "key-mismatch".to_owned(),
    };
    assert_eq!(refused, Err(want));
}

#[tokio::test]
async fn the_servers_verb_says_where_it_listens_answers_and_ends_with_a_signal() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let cluster = Cluster::new();
    let papers = tempfile::tempdir().unwrap();
    let file = |name: &str| papers.path().join(name);
    let valid = Validity::starting(UnixTime::now(), ClusterRoot::IDENTITY_LIFETIME);
    let identity = cluster.0.issue("server-1", &[Role::Shield], valid).unwrap();
    identity.save(&file("server.pem")).unwrap();
    cluster
        .0
        .save(&file("root-key.pem"), &file("root.pem"))
        .unwrap();
    let mut server = tokio::process::Command::new(env!("CARGO_BIN_EXE_stoq-bench"))
        .args([
            "stoq-server",
            "--listen",
            "127.0.0.1:0",
            "--workers",
            "2",
            "--identity",
        ])
        .arg(file("server.pem"))
        .arg("--root")
        .arg(file("root.pem"))
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let words: Vec<_> = line.split(' ').collect();
    let [name, .., address, "with", "2", "workers"] = words[..] else {
        panic!("{line}");
    };
    assert_eq!(name, "server-1");
    let dialer = StoqDialer::new(&plan(target(&cluster, address.parse().unwrap())), 0).unwrap();
    for number in 0..8 {
        let conn = dialer.dial(number).await.unwrap();
        assert_eq!(exchange(&mut conn.lane(), &get("/rpc")).await, Ok(1024));
    }
    let id = i32::try_from(server.id().unwrap()).unwrap();
    let process = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), server.wait()).await;
    assert!(ended.unwrap().unwrap().success());
}
