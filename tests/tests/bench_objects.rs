//! `stoq-bench` as an edge that holds nothing, against a real shield: what its STOQ lane asks for is answered, whole, and
//! the origin is asked once.

use std::sync::Arc;
use std::time::Duration;

use integration::{Answer, Cluster, Origin, body};
use stoq_loadtest::lane::stoq::StoqDialer;
use stoq_loadtest::lane::{Conn, Dialer, Failure, Lane, Sink};
use stoq_loadtest::plan::{Plan, Protocol, Session, Shape, Stop};
use stoq_loadtest::workload::{Ask, Known, Object, Verb, Workload};
use stoq_loadtest::{Site, Target};

fn plan(target: Target) -> Plan {
    Plan {
        target,
        protocol: Protocol::Stoq,
        shape: Shape::Closed,
        connections: 1,
        streams: 8,
        threads: 1,
        sources: Vec::new(),
        stop: Stop {
            duration: Duration::from_secs(1),
            requests: None,
        },
        warmup: Duration::ZERO,
        timeout: Duration::from_secs(10),
        workload: Arc::new(Workload::one("/a")),
        fields: Vec::new(),
        session: Session::Kept,
        read_rate: None,
        zeros: false,
        idle: None,
        seed: 1,
    }
}

fn ask(verb: Verb, path: &str, known: Known) -> Ask {
    let object = Object {
        path: path.into(),
        authority: Some("localhost".into()),
        known,
    };
    Ask {
        verb,
        object: Arc::new(object),
    }
}

async fn exchange(lane: &mut impl Lane, ask: &Ask) -> Result<u64, Failure> {
    let mut sink = Sink::new(ask);
    lane.exchange(ask, &mut sink).await?;
    Ok(sink.received())
}

#[tokio::test]
async fn a_load_of_object_exchanges_gets_whole_objects_from_a_shield() {
    let whole = body::random(7, 3 << 20);
    let origin = Origin::start({
        let whole = whole.clone();
        move |seen| {
            let whole = whole.clone();
            async move {
                if seen.uri.path() == "/missing" {
                    Answer::status(404)
                } else {
                    Answer::ok(whole).fresh(60).header("etag", "\"v\"")
                }
            }
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).shield().start().await;
    let url = format!("stoq://{}", cluster.shield().addr());
    let site = |name: &str| Site {
        name: name.to_owned(),
        dedupe_domain: None,
        https: true,
    };
    let target = Target::node(&url, cluster.identity("edge-1")).unwrap();
    let dialer = StoqDialer::new(&plan(target.clone().of_site(site("site"))), 0).unwrap();
    let conn = dialer.dial(0).await.unwrap();
    let known = Known::Body(whole.clone());
    let lanes = (0..8).map(|_| {
        let mut lane = conn.lane();
        let asked = ask(Verb::Get, "/a", known.clone());
        async move {
            for _ in 0..3 {
                assert_eq!(exchange(&mut lane, &asked).await, Ok(3 << 20));
            }
        }
    });
    futures_util::future::join_all(lanes).await;
    assert_eq!(origin.requests("/a"), 1);
    let mut lane = conn.lane();
    let head = ask(Verb::Head, "/a", Known::Length(3 << 20));
    assert_eq!(exchange(&mut lane, &head).await, Ok(0));
    let missing = ask(Verb::Get, "/missing", Known::Nothing);
    assert_eq!(
        exchange(&mut lane, &missing).await,
        Err(Failure::Status(404))
    );
    let range = Verb::Range {
        first: 10,
        last: 1_000_000,
    };
    let ranged = exchange(&mut lane, &ask(range, "/a", known)).await;
    assert!(matches!(ranged, Ok(999_991 | 3_145_728)), "{ranged:?}");
    drop(lane);
    conn.close().await;

    let dialer = StoqDialer::new(&plan(target.of_site(site("elsewhere"))), 0).unwrap();
    let conn = dialer.dial(0).await.unwrap();
    let refused = exchange(&mut conn.lane(), &ask(Verb::Get, "/a", Known::Nothing)).await;
    assert!(
        matches!(refused, Err(Failure::Refused { .. })),
        "{refused:?}"
    );
}
