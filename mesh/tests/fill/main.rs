//! A body filled from several nodes on real sockets, some of which lie, stall or die.

#![expect(clippy::unwrap_used, reason = "a failed arrangement is a failed test")]

mod rig;
mod words;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use stoq::identity::Role;
use stoq_cache::content::ChunkId;
use stoq_cache::upstream::{Source, Upstream, UpstreamError};
use stoq_mesh::{Candidate, Holders, Neighbours, Sought};

use rig::*;

#[tokio::test]
async fn body_comes_whole_from_two_good_peers_of_five() {
    let place = Place::new(256);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let fates = [
        Fate::Lies(9),
        Fate::Stalls(7),
        Fate::Dies(12),
        Fate::Gives,
        Fate::Gives,
    ];
    let names = ["edge-1", "edge-2", "edge-3", "edge-4", "edge-5"];
    let peers: Vec<_> = names
        .into_iter()
        .zip(fates)
        .map(|(name, fate)| place.node(name, &Role::Edge, fate, all))
        .collect();
    let addresses = peers.iter().map(|peer| peer.addr).collect();
    let edge = place.edge(&shield, Arc::new(neighbours(addresses)), Role::Edge);

    let came = edge.fetch().await;

    assert!(came.body == place.object.body, "other bytes");
    assert_eq!((came.peer, came.shield), (256 * CHUNK, 0));
    // Who stalls is found by its silence, or before that by who waits for it.
    let silent = edge.faults("stalled") + edge.faults("slow");
    let faults = [edge.faults("lied"), silent, edge.faults("broke")];
    let wasted = edge.metrics.wasted_bytes.get();
    println!("lied, silent, broke: {faults:?}; {wasted} bytes came for nothing");
    assert!(faults.iter().all(|count| *count >= 1), "{faults:?}");
    let failures: u64 = faults.iter().sum();
    assert!(wasted <= failures * CHUNK as u64, "{wasted}");
    assert_eq!(
        (edge.metrics.whole.get(), edge.metrics.broken.get()),
        (1, 0)
    );

    // The liar is not asked again.
    let lied = edge.faults("lied");
    assert!(edge.fetch().await.body == place.object.body);
    assert_eq!(edge.faults("lied"), lied);
}

#[tokio::test]
async fn worker_that_is_late_itself_strikes_nobody() {
    let place = Place::new(256);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let good = place.node("edge-1", &Role::Edge, Fate::Gives, all);
    let blocks = place.node("edge-2", &Role::Edge, Fate::Blocks(10), all);
    let holders = Arc::new(neighbours(vec![good.addr, blocks.addr]));
    let edge = place.edge(&shield, holders, Role::Edge);

    let came = edge.fetch().await;

    assert!(came.body == place.object.body, "other bytes");
    assert_eq!((came.peer, came.shield), (256 * CHUNK, 0));
    assert_eq!((edge.faults("stalled"), edge.faults("slow")), (0, 0));
    assert_eq!(edge.metrics.wasted_bytes.get(), 0);
}

#[tokio::test]
async fn peers_give_the_parts_they_have_and_the_shield_what_none_has() {
    let place = Place::new(300);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let first = place.node("edge-1", &Role::Edge, Fate::Gives, |chunk| chunk % 3 == 0);
    let second = place.node("edge-2", &Role::Edge, Fate::Gives, |chunk| chunk % 3 == 1);
    let holders = Arc::new(neighbours(vec![first.addr, second.addr]));
    let edge = place.edge(&shield, holders, Role::Edge);

    let came = edge.fetch().await;

    assert!(came.body == place.object.body, "other bytes");
    assert_eq!((came.peer, came.shield), (200 * CHUNK, 100 * CHUNK));
    assert_eq!(edge.metrics.wasted_bytes.get(), 0);
    assert_eq!(shield.asked_for_objects.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn shield_gives_all_where_every_peer_is_gone() {
    let place = Place::new(100);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let peer = place.node("edge-1", &Role::Edge, Fate::Dies(10), all);
    let holders = Arc::new(neighbours(vec![peer.addr]));
    let edge = place.edge(&shield, holders, Role::Edge);

    let came = edge.fetch().await;

    assert!(came.body == place.object.body, "other bytes");
    assert_eq!(came.peer + came.shield, 100 * CHUNK);
    assert!(came.peer <= 10 * CHUNK && came.shield >= 90 * CHUNK);
    // Nobody answers the question what it has either, so that the shield is asked for the whole.
    peer.endpoint.close(0, b"");
    let came = edge.fetch().await;
    assert_eq!((came.peer, came.shield), (0, 100 * CHUNK));
}

#[tokio::test]
async fn chunks_by_name_come_from_peers_in_order() {
    let place = Place::new(20);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let peer = place.node("edge-1", &Role::Edge, Fate::Gives, |chunk| chunk != 5);
    let holders = Arc::new(neighbours(vec![peer.addr]));
    let edge = place.edge(&shield, holders, Role::Edge);
    let wanted = place.object.manifest.entries_from(3).take(10);
    let wanted: Vec<(ChunkId, u32)> = wanted.map(|entry| (entry.id, entry.len)).collect();

    let key = request().key;
    let pieces = edge.fill.chunks("site".into(), key, wanted).await.unwrap();
    let pieces: Vec<_> = pieces.try_collect().await.unwrap();

    let bytes: Vec<u8> = pieces
        .iter()
        .flat_map(|(bytes, _)| bytes.to_vec())
        .collect();
    assert!(
        bytes == place.object.body[3 * CHUNK..13 * CHUNK],
        "other bytes"
    );
    let shield = pieces.iter().filter(|(_, via)| *via == Source::Shield);
    assert_eq!(shield.count(), 1);
}

/// Says that this node holds the object.
#[derive(Debug)]
pub(crate) struct Says(pub(crate) Candidate);

impl Holders for Says {
    fn find<'a>(&'a self, _: Sought<'a>) -> BoxFuture<'a, Vec<Candidate>> {
        Box::pin(async { vec![self.0.clone()] })
    }
}

#[tokio::test]
async fn who_is_not_who_it_should_be_is_asked_for_nothing() {
    let place = Place::new(20);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let peer = place.node("edge-1", &Role::Edge, Fate::Gives, all);
    let said = |node| {
        Arc::new(Says(Candidate {
            node,
            addresses: vec![peer.addr],
            manifest: place.object.manifest.root(),
            whole: true,
            rtt: None,
        }))
    };
    let other = stoq::identity::NodeId([9; 32]);
    let edge = place.edge(&shield, said(Some(other)), Role::Edge);
    let came = edge.fetch().await;
    assert_eq!((came.peer, came.shield), (0, 20 * CHUNK));

    let edge = place.edge(&shield, said(None), Role::Edge);
    let came = edge.fetch().await;
    assert_eq!((came.peer, came.shield), (20 * CHUNK, 0));
}

#[tokio::test]
async fn who_cannot_be_asked_what_it_holds_is_not_waited_for() {
    let place = Place::new(20);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let (_open, addr) = nobody();
    let said = Arc::new(Says(Candidate {
        node: None,
        addresses: vec![addr],
        manifest: place.object.manifest.root(),
        whole: false,
        rtt: None,
    }));
    let edge = place.edge(&shield, said, Role::Edge);
    let came = soon(edge.fetch()).await;
    assert_eq!((came.peer, came.shield), (0, 20 * CHUNK));
    assert_eq!(edge.faults("broke"), 1);
}

#[tokio::test]
async fn who_holds_less_than_was_said_is_asked_what_it_holds() {
    let place = Place::new(300);
    let shield = place.node("shield-1", &Role::Shield, Fate::Gives, all);
    let peer = place.node("edge-1", &Role::Edge, Fate::Gives, |chunk| chunk % 3 == 0);
    let said = Arc::new(Says(Candidate {
        node: None,
        addresses: vec![peer.addr],
        manifest: place.object.manifest.root(),
        whole: true,
        rtt: None,
    }));
    let edge = place.edge(&shield, said, Role::Edge);

    let came = edge.fetch().await;

    assert!(came.body == place.object.body, "other bytes");
    assert_eq!((came.peer, came.shield), (100 * CHUNK, 200 * CHUNK));
    assert_eq!(edge.faults("lacked"), 1);
}

#[tokio::test]
async fn edge_answers_no_objects_and_nobody_without_a_role() {
    let place = Place::new(4);
    let peer = place.node("edge-1", &Role::Edge, Fate::Gives, all);
    let nobody: Arc<dyn Holders> = Arc::new(Neighbours::default());
    // Taken for a shield, an edge gives no objects.
    let edge = place.edge(&peer, Arc::clone(&nobody), Role::Edge);
    let refused = edge.fill.fetch(request()).await;
    assert!(
        matches!(refused, Err(UpstreamError::ShieldDown(_))),
        "{refused:?}"
    );
    // Nor chunks to one who is neither edge nor shield.
    let admin = place.edge(&peer, nobody, Role::Admin);
    let entry = place.object.manifest.entry(0).unwrap();
    let key = request().key;
    let asked = admin
        .fill
        .chunks("site".into(), key, vec![(entry.id, entry.len)]);
    let mut pieces = asked.await.unwrap();
    assert!(pieces.next().await.unwrap().is_err());
}
