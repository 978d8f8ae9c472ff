//! Whole indexes on a network in memory, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use tokio::{sync::oneshot, task::JoinHandle};

use super::*;
use crate::index::{
    holder::HolderLimits,
    message::{Announcement, Change, Signed, Terms},
    record::WHOLE,
    store::StoreTerms,
    table::TableLimits,
    testing::{Pen, Trust, node, view},
};

fn id(n: u8) -> NodeId {
    NodeId(*blake3::hash(&[n]).as_bytes())
}

fn key(n: u16) -> Key {
    Key(*blake3::hash(&n.to_be_bytes()).as_bytes())
}

/// Who is where, and who is cut off: 20 ms each way.
#[derive(Default)]
struct Net {
    nodes: Mutex<BTreeMap<NodeId, Arc<Index<Line>>>>,
    dead: Mutex<BTreeSet<NodeId>>,
}

/// A node's own line into the network.
struct Line {
    from: NodeId,
    net: Arc<Net>,
}

impl Rpc for Line {
    async fn ask(&self, to: &Contact, request: Request) -> Result<Reply, RpcError> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let is_dead = |id: &NodeId| self.net.dead.lock().contains(id);
        if is_dead(&to.id) || is_dead(&self.from) {
            std::future::pending::<()>().await;
        }
        let node = self.net.nodes.lock().get(&to.id).cloned();
        let node = node.ok_or_else(|| RpcError::Unreachable("nobody there".to_owned()))?;
        let (reply, _) = node.serve_bytes(&self.from, &request.encode());
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(Reply::decode(&reply)?)
    }
}

fn zone(n: u8) -> (&'static str, &'static str) {
    [("eu", "fra"), ("eu", "ams"), ("us", "nyc")][usize::from(n % 3)]
}

fn seen(me: u8, all: &[u8]) -> Arc<View> {
    let nodes = all.iter().map(|n| node(id(*n), zone(*n).0, zone(*n).1));
    view(id(me), true, nodes)
}

struct Running {
    index: Arc<Index<Line>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    async fn end(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap();
    }
}

/// Starts a node with what its directory has.
fn start(net: &Arc<Net>, n: u8, all: &[u8], directory: Option<&std::path::Path>) -> Running {
    let (table, holder, store) = match directory {
        Some(directory) => {
            let terms = StoreTerms {
                me: id(n),
                table: TableLimits::default(),
                holder: HolderLimits::default(),
                now: Duration::ZERO,
                wall: wall(),
            };
            let opened = Store::open(&directory.join(format!("{n}.redb")), &terms).unwrap();
            report(&opened);
            (opened.table, opened.holder, Some(opened.store))
        }
        None => {
            let table = Table::new(TableLimits::default(), false);
            let holder = Holder::new(id(n), wall(), HolderLimits::default(), false);
            (table, holder, None)
        }
    };
    let index = Arc::new(Index::new(Parts {
        rpc: Line {
            from: id(n),
            net: Arc::clone(net),
        },
        signer: Arc::new(Pen(id(n))),
        verifier: Arc::new(Trust::default()),
        rtt: Box::new(|_| Some(Duration::from_millis(40))),
        lookups: LookupLimits::default(),
        view: seen(n, all),
        table,
        holder,
        store,
    }));
    net.nodes.lock().insert(id(n), Arc::clone(&index));
    let (stop, stopped) = oneshot::channel();
    let runs = Arc::clone(&index);
    let task = tokio::spawn(async move {
        runs.run(async {
            let _ = stopped.await;
        })
        .await;
    });
    Running { index, stop, task }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn holders(finding: &Finding) -> BTreeSet<NodeId> {
    match finding {
        Finding::Found(providers) => providers.iter().map(|provider| provider.holder).collect(),
        Finding::Nobody | Finding::Unknown => BTreeSet::new(),
    }
}

const ALL: [u8; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 8];

#[tokio::test(start_paused = true)]
async fn what_one_provides_all_others_find_in_a_round_trip_until_it_is_withdrawn() {
    let net = Arc::default();
    let nodes: Vec<Running> = ALL.iter().map(|n| start(&net, *n, &ALL, None)).collect();
    pass(3).await;
    for n in 0..50 {
        assert_eq!(
            nodes[2].index.provide(key(n), [7; 32], WHOLE),
            Provided::Taken
        );
    }
    pass(2).await;
    for seeker in [0, 1, 3, 4, 5, 6, 7, 8] {
        for n in 0..50 {
            let began = Instant::now();
            let finding = nodes[seeker].index.find(key(n)).await;
            assert_eq!(holders(&finding), [id(2)].into(), "{seeker} {n}");
            assert!(
                began.elapsed() <= Duration::from_millis(85),
                "{:?}",
                began.elapsed()
            );
        }
    }
    assert!(nodes[2].index.withdraw(&key(3)));
    pass(2).await;
    assert_eq!(nodes[4].index.find(key(3)).await, Finding::Nobody);
    let tally = nodes[4].index.tally();
    assert_eq!((tally.found, tally.nobody, tally.unknown), (50, 1, 0));
    assert_eq!(nodes[2].index.tally().lag.waiting, 0);
    for node in nodes {
        node.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn dead_owners_cost_a_hedge_and_dead_holders_are_not_named() {
    let net: Arc<Net> = Arc::default();
    let nodes: Vec<Running> = ALL.iter().map(|n| start(&net, *n, &ALL, None)).collect();
    pass(3).await;
    for n in 0..100 {
        nodes[2].index.provide(key(n), [7; 32], WHOLE);
        nodes[5].index.provide(key(n), [7; 32], WHOLE);
    }
    pass(2).await;
    // Nobody has noticed yet.
    net.dead.lock().insert(id(8));
    for n in 0..100 {
        let began = Instant::now();
        let finding = nodes[0].index.find(key(n)).await;
        assert_eq!(holders(&finding), [id(2), id(5)].into(), "{n}");
        assert!(
            began.elapsed() <= Duration::from_millis(125),
            "{:?}",
            began.elapsed()
        );
    }
    // A holder dies and is noticed.
    net.dead.lock().insert(id(5));
    for n in [0, 1, 2, 3, 4, 6, 7] {
        nodes[usize::from(n)]
            .index
            .follow(seen(n, &[0, 1, 2, 3, 4, 6, 7]));
    }
    for n in 0..100 {
        let finding = nodes[0].index.find(key(n)).await;
        assert_eq!(holders(&finding), [id(2)].into(), "{n}");
    }
}

/// It sees one other node, and knows that there are more.
#[tokio::test(start_paused = true)]
async fn a_node_that_sees_few_others_finds_through_them() {
    let net: Arc<Net> = Arc::default();
    let nodes: Vec<Running> = ALL.iter().map(|n| start(&net, *n, &ALL, None)).collect();
    pass(3).await;
    for n in 0..60 {
        nodes[2].index.provide(key(n), [7; 32], WHOLE);
    }
    pass(2).await;
    let newcomer = start(&net, 9, &[9], None);
    let few = [9, 4].map(|n| node(id(n), zone(n).0, zone(n).1));
    newcomer.index.follow(view(id(9), false, few));
    for n in 0..60 {
        let began = Instant::now();
        let finding = newcomer.index.find(key(n)).await;
        assert_eq!(holders(&finding), [id(2)].into(), "{n}");
        let Finding::Found(providers) = finding else {
            continue;
        };
        assert!(!providers[0].addresses.is_empty(), "nowhere to fetch it");
        assert!(
            began.elapsed() <= Duration::from_millis(250),
            "{:?}",
            began.elapsed()
        );
    }
    assert_eq!(newcomer.index.find(key(999)).await, Finding::Nobody);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_doubted_is_told_again_at_once() {
    let net: Arc<Net> = Arc::default();
    let nodes: Vec<Running> = [0, 1]
        .iter()
        .map(|n| start(&net, *n, &[0, 1], None))
        .collect();
    pass(3).await;
    nodes[0].index.provide(key(1), [7; 32], WHOLE);
    pass(2).await;
    nodes[1].index.table.lock().forget(&id(0));
    assert_eq!(nodes[1].index.tally().table.leases, 0);
    nodes[0].index.doubt(&id(1));
    pass(1).await;
    assert_eq!(
        nodes[1]
            .index
            .table
            .lock()
            .holders(&key(1), Duration::ZERO)
            .count(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn after_all_start_again_all_is_found_and_nothing_was_announced() {
    let directory = tempfile::tempdir().unwrap();
    let net = Arc::default();
    let mut nodes: Vec<Running> = Vec::new();
    for n in ALL {
        nodes.push(start(&net, n, &ALL, Some(directory.path())));
    }
    pass(3).await;
    for n in 0..200 {
        nodes[usize::from(n % 4)]
            .index
            .provide(key(n), [7; 32], WHOLE);
    }
    pass(3).await;
    for node in nodes {
        node.end().await;
    }
    net.nodes.lock().clear();
    let nodes: Vec<Running> = ALL
        .iter()
        .map(|n| start(&net, *n, &ALL, Some(directory.path())))
        .collect();
    pass(5).await;
    for n in 0..200 {
        let seeker = usize::from((n + 1) % 4);
        let finding = nodes[seeker].index.find(key(n)).await;
        assert_eq!(
            holders(&finding),
            [id(u8::try_from(n % 4).unwrap())].into(),
            "{n}"
        );
    }
    pass(300).await;
    for node in nodes {
        let tally = node.index.tally();
        assert_eq!(
            (tally.holder.announcements, tally.holder.differed),
            (0, 0),
            "{tally:?}"
        );
        assert_eq!(tally.unwritten, 0);
        node.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn forged_and_foreign_announcements_are_refused_and_counted() {
    let net = Arc::default();
    let node = start(&net, 0, &ALL, None);
    let announce = |holder: u8, owner: u8, signer: u8| {
        let terms = Terms {
            holder: id(holder),
            owner: id(owner),
            generation: 1,
            sequence: 1,
        };
        let record = Record {
            key: key(1),
            manifest: [1; 32],
            fraction: WHOLE,
            generation: 1,
        };
        let changes = vec![Change::Add(record)];
        Request::Announce(Signed::by(
            &Pen(id(signer)),
            Announcement { terms, changes },
        ))
    };
    let refused = |from: u8, request: &Request| match node.index.serve(&id(from), request) {
        Reply::Refused(refusal) => refusal,
        reply => panic!("{reply:?}"),
    };
    assert_eq!(refused(1, &announce(2, 0, 1)), Refusal::ForAnother);
    assert_eq!(refused(2, &announce(2, 0, 1)), Refusal::Forged);
    assert_eq!(refused(2, &announce(2, 3, 2)), Refusal::NotForMe);
    let (malformed, refusal) = node.index.serve_bytes(&id(2), &[1, 2, 3]);
    assert_eq!(refusal, Some(Refusal::Malformed));
    assert_eq!(
        Reply::decode(&malformed),
        Ok(Reply::Refused(Refusal::Malformed))
    );
    let tally = node.index.tally();
    assert_eq!(tally.refused, [1, 1, 1, 0, 0, 1, 0, 0, 0]);
    assert_eq!(tally.table.records, 0);
    // Its own is taken, once.
    assert_eq!(
        node.index.serve(&id(2), &announce(2, 0, 2)),
        Reply::Accepted { refused: vec![] }
    );
    assert!(matches!(
        refused(2, &announce(2, 0, 2)),
        Refusal::Stale { .. }
    ));
    // Until it is revoked.
    node.index.revoked(&id(2));
    let find = Request::Find {
        key: key(1),
        wide: false,
    };
    assert_eq!(
        node.index.serve(&id(3), &find),
        Reply::Providers(Answer::default())
    );
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn more_lookups_than_may_be_under_way_are_told_so_at_once() {
    let net: Arc<Net> = Arc::default();
    let node = start(&net, 0, &ALL, None);
    net.dead.lock().extend(ALL.iter().skip(1).map(|n| id(*n)));
    let began = Instant::now();
    let mut finds: FuturesUnordered<_> = (0..300).map(|n| node.index.find(key(n))).collect();
    let mut at_once = 0;
    while let Some(finding) = finds.next().await {
        assert_eq!(finding, Finding::Unknown);
        at_once += usize::from(began.elapsed() < Duration::from_millis(10));
    }
    drop(finds);
    assert_eq!(at_once, 300 - LOOKUPS_MAX);
    assert!(began.elapsed() <= LookupLimits::default().time);
    node.end().await;
}
