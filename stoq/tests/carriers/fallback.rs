//! Two networks in memory as the two carriers of a fallback, each with troubles of its own.

use std::sync::Arc;
use std::time::Duration;

use stoq::identity::{Identity, Refusal, Role};
use stoq::peer::{DialConfig, PeerConn, PeerError, PeerServer};
use stoq::transport::fallback::{Fallback, FallbackConfig};
use stoq::transport::memory::Network;
use tokio::task::JoinHandle;

use crate::cluster::{echo, node, pattern, root};
use crate::memory::{ask, edge_addr, far, serve, shield_addr};

struct Carrier {
    network: Network,
    peers: Arc<PeerServer>,
    _task: JoinHandle<()>,
}

impl Carrier {
    fn new(shield: &Identity) -> Self {
        let network = Network::new(1);
        network.set_default(far(10));
        let (peers, task) = serve(&network, shield, echo());
        Self {
            network,
            peers,
            _task: task,
        }
    }

    fn cut(&self) {
        self.network.partition(edge_addr().ip(), shield_addr().ip());
    }

    fn heal(&self) {
        self.network.heal(edge_addr().ip(), shield_addr().ip());
    }
}

/// An edge, and a shield that it reaches by either carrier.
struct Ways {
    first: Carrier,
    second: Carrier,
    both: Fallback,
    edge: Identity,
}

impl Ways {
    fn new() -> Self {
        let root = root("demo");
        let shield = node(&root, "shield-1", &[Role::Shield]);
        let edge = node(&root, "edge-1", &[Role::Edge]);
        Self::of(&shield, &shield, edge)
    }

    fn of(first: &Identity, second: &Identity, edge: Identity) -> Self {
        let (first, second) = (Carrier::new(first), Carrier::new(second));
        let client = |carrier: &Carrier| carrier.network.client(edge_addr()).unwrap();
        let config = FallbackConfig::default();
        let both = Fallback::new(client(&first), client(&second), config);
        Self {
            first,
            second,
            both,
            edge,
        }
    }

    async fn dial_for(&self, connect_timeout: Duration) -> Result<PeerConn, PeerError> {
        let config = DialConfig {
            connect_timeout,
            ..DialConfig::default()
        };
        let conn = PeerConn::dial(&self.both, &self.edge, shield_addr(), &config).await?;
        assert_eq!(ask(&conn, pattern(10)).await.unwrap().0, 10);
        Ok(conn)
    }

    async fn dial(&self) -> Result<PeerConn, PeerError> {
        self.dial_for(DialConfig::default().connect_timeout).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_remembered_address_that_falls_silent_is_reached_by_the_first_again() {
    let ways = Ways::new();
    let counters = ways.both.counters().clone();
    ways.first.cut();
    ways.dial().await.unwrap();
    ways.dial().await.unwrap();
    assert_eq!(
        (counters.fell_back.get(), counters.remembered.get()),
        (1, 1)
    );

    ways.first.heal();
    ways.second.cut();
    ways.dial().await.unwrap();
    assert_eq!((counters.first_carrier.get(), counters.raced.get()), (1, 2));
    // And is not remembered any more.
    ways.dial().await.unwrap();
    assert_eq!((counters.first_carrier.get(), counters.raced.get()), (2, 2));

    // The same where the second is full and says so.
    ways.first.cut();
    ways.second.heal();
    ways.dial().await.unwrap();
    assert_eq!(counters.fell_back.get(), 2);
    ways.first.heal();
    ways.second.peers.drain(Duration::from_secs(60));
    ways.dial().await.unwrap();
    assert_eq!(counters.first_carrier.get(), 3);
    assert_eq!(counters.both_failed.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_full_for_the_second_is_still_reached_by_the_first() {
    let ways = Ways::new();
    // Longer than the first is alone.
    ways.first.network.set_default(far(2000));
    ways.second.peers.drain(Duration::from_secs(60));
    let patience = Duration::from_secs(60);
    ways.dial_for(patience).await.unwrap();
    assert_eq!(ways.both.counters().first_carrier.get(), 1);

    // Where the first does not come through, the refusal is what is told.
    ways.first.cut();
    let result = ways.dial_for(patience).await;
    let Err(PeerError::Connect { source, .. }) = &result else {
        panic!("{result:?}")
    };
    let stoq::transport::ConnectError::Connection(error) = source else {
        panic!("{source:?}")
    };
    assert!(error.is_refused(), "{error:?}");
    assert_eq!(ways.both.counters().both_failed.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_whom_we_refuse_by_either_is_refused() {
    let other = node(&root("demo"), "shield-9", &[Role::Shield]);
    let root = root("demo");
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let ways = Ways::of(&shield, &other, node(&root, "edge-1", &[Role::Edge]));
    ways.first.network.set_default(far(2000));
    let result = ways.dial_for(Duration::from_secs(60)).await;
    assert!(
        matches!(
            result,
            Err(PeerError::Refused {
                refusal: Refusal::Foreign(_),
                ..
            })
        ),
        "{result:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn dials_that_are_given_up_are_counted_where_both_were_silent() {
    let ways = Ways::new();
    ways.first.cut();
    ways.second.cut();
    for dials in 1..=3 {
        let result = ways.dial().await;
        assert!(
            matches!(result, Err(PeerError::Timeout { .. })),
            "{result:?}"
        );
        assert_eq!(ways.both.counters().both_failed.get(), dials);
    }
}
