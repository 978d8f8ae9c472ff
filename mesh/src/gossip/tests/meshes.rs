//! Who sees whom, and how soon.

use std::sync::atomic::Ordering;
use std::time::Duration;

use stoq_routing::membership::Membership;
use tokio::time::sleep;

use super::bus::{Bus, Founder, Node, Weather, addr, until, zone};

const S: fn(u64) -> Duration = Duration::from_secs;
const FAIR: Weather = Weather {
    delay: Duration::from_millis(20),
    lost: 0.0,
};
const ROUGH: Weather = Weather {
    delay: Duration::from_millis(60),
    lost: 0.02,
};

fn seed() -> u64 {
    std::env::var("STOQ_SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap())
}

fn nodes(bus: &Bus, founder: &Founder, count: usize) -> Vec<Node> {
    (0..count)
        .map(|number| Node::start(bus, founder.identity(&format!("n{number}")), number))
        .collect()
}

async fn all_see(nodes: &[Node], count: usize) -> Duration {
    until(&format!("everybody sees {count}"), || {
        nodes.iter().all(|node| node.sees() == count)
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn three_nodes_see_each_other_and_a_dead_one_is_gone_within_five_seconds() {
    let (bus, founder) = (Bus::new(seed(), FAIR), Founder::new());
    let mut mesh = nodes(&bus, &founder, 3);
    let together = all_see(&mesh, 3).await;
    assert!(together < S(5), "{together:?}");
    assert!(mesh.iter().all(|node| node.gossip.view().complete));
    // At once, when least is known of its pace, and later.
    for calm in [0, 60] {
        sleep(S(calm)).await;
        let dead = mesh.pop().unwrap();
        dead.kill(&bus);
        let gone = all_see(&mesh, 2).await;
        println!("dead after {calm} s of calm: out of every view in {gone:?}");
        assert!(gone <= S(5), "{gone:?}");
        let number = mesh.len();
        mesh.push(Node::start(
            &bus,
            founder.identity(&format!("again-{calm}")),
            number,
        ));
        all_see(&mesh, 3).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_nodes_cost_each_ten_kilobytes_a_second_at_most_and_none_dies_wrongly() {
    let (bus, founder) = (Bus::new(seed(), ROUGH), Founder::new());
    let mut mesh = nodes(&bus, &founder, 50);
    let together = all_see(&mesh, 50).await;
    println!("50 nodes started at once see each other in {together:?}");
    sleep(S(15)).await;
    let changes: u64 = mesh.iter().map(|node| node.gossip.changes_total()).sum();
    let (bytes, messages) = (
        bus.bytes.load(Ordering::Relaxed),
        bus.messages.load(Ordering::Relaxed),
    );
    // Coordinates drift on each node, as often as they are told.
    for step in 0..60u32 {
        for (number, node) in mesh.iter().enumerate() {
            node.gossip.publish(&mut |state| {
                state.load = f64::from((step + u32::try_from(number).unwrap()) % 10) / 10.0;
            });
        }
        sleep(Duration::from_millis(500)).await;
    }
    let of = |before: u64, after: u64| (after - before) as f64 / 50.0 / 30.0;
    let sent = of(bytes, bus.bytes.load(Ordering::Relaxed));
    let messages = of(messages, bus.messages.load(Ordering::Relaxed));
    println!(
        "gossip: {:.2} KB/s and {messages:.1} messages/s sent by each of 50 nodes, each saying something new every 10 s",
        sent / 1e3
    );
    assert!(sent <= 10_000.0, "{sent}");
    let after: u64 = mesh.iter().map(|node| node.gossip.changes_total()).sum();
    assert_eq!(after, changes, "somebody was taken for dead");
    let dead = mesh.pop().unwrap();
    dead.kill(&bus);
    let gone = all_see(&mesh, 49).await;
    println!("one of 50 dies: out of every view in {gone:?}");
    assert!(gone <= S(5), "{gone:?}");
}

#[tokio::test(start_paused = true)]
async fn a_split_heals_within_two_seconds_however_long_it_was() {
    let (bus, founder) = (Bus::new(seed(), ROUGH), Founder::new());
    let mesh = nodes(&bus, &founder, 20);
    all_see(&mesh, 20).await;
    // The second is longer than chitchat remembers the dead.
    for split in [30, 400] {
        sleep(S(20)).await;
        for number in 0..10 {
            bus.put(addr(number), 1);
        }
        let apart = all_see(&mesh, 10).await;
        println!("split: the other side out of every view in {apart:?}");
        assert!(apart <= S(5), "{apart:?}");
        sleep(S(split)).await;
        bus.heal();
        let together = all_see(&mesh, 20).await;
        println!("split for {split} s: whole again in {together:?}");
        assert!(together <= S(2), "{together:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_node_says_anew_reaches_all_and_is_in_the_log() {
    let (bus, founder) = (Bus::new(seed(), FAIR), Founder::new());
    let mesh = nodes(&bus, &founder, 4);
    all_see(&mesh, 4).await;
    sleep(S(2)).await;
    let seen = mesh[3].gossip.view().generation;
    mesh[1].gossip.publish(&mut |state| {
        state.zone = zone("us-nyc");
        state.draining = true;
        state.name = "not mine to say".to_owned();
    });
    let next = mesh[3].gossip.changed(seen).await;
    let told = until("all know", || {
        mesh.iter().all(|node| {
            let view = node.gossip.view();
            view.get(&mesh[1].id()).is_some_and(|one| one.draining)
        })
    })
    .await;
    assert!(told < S(3), "{told:?}");
    assert!(next.generation > seen);
    let view = mesh[3].gossip.view();
    let one = view.get(&mesh[1].id()).unwrap();
    assert_eq!((one.name.as_str(), &one.zone), ("n1", &zone("us-nyc")));
    let changes = mesh[3].gossip.changes();
    let words: Vec<_> = changes
        .iter()
        .filter(|change| change.name == "n1")
        .map(|change| change.what.to_string())
        .collect();
    assert_eq!(words, ["joined", "zone eu-fra -> us-nyc", "drains"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_begins_again_takes_the_place_of_its_older_process() {
    let (bus, founder) = (Bus::new(seed(), FAIR), Founder::new());
    let mut mesh = nodes(&bus, &founder, 3);
    all_see(&mesh, 3).await;
    let old = mesh.pop().unwrap();
    old.kill(&bus);
    // Wall time goes on meanwhile.
    std::thread::park_timeout(Duration::from_millis(2));
    let again = Node::start(&bus, old.identity.clone(), 2);
    again.gossip.publish(&mut |state| state.capacity = 77);
    mesh.push(again);
    let seen = until("the new process is seen", || {
        mesh.iter().all(|node| {
            let view = node.gossip.view();
            view.get(&old.id()).is_some_and(|node| node.capacity == 77)
        })
    })
    .await;
    assert!(seen < S(5), "{seen:?}");
    sleep(S(10)).await;
    assert!(mesh.iter().all(|node| node.sees() == 3));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_node_leaves_the_view_at_once() {
    let (bus, founder) = (Bus::new(seed(), FAIR), Founder::new());
    let (judge, _, revocations) = founder.noting("judge");
    let mesh = vec![
        Node::start(&bus, judge, 0),
        Node::start(&bus, founder.identity("n1"), 1),
        Node::start(&bus, founder.identity("n2"), 2),
    ];
    all_see(&mesh, 3).await;
    revocations.replace([mesh[2].identity.node_id()]).unwrap();
    let gone = until("it is gone", || mesh[0].sees() == 2).await;
    assert!(gone <= S(1), "{gone:?}");
    sleep(S(10)).await;
    assert_eq!(mesh[0].sees(), 2);
    assert_eq!(mesh[1].sees(), 3);
}
