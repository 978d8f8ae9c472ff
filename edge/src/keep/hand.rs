//! At a drain: the neighbours are asked to keep what is asked for most, before this edge stops answering them.
//!
//! Each URL goes to one edge of the metro, its home once this one is gone, so that no two fetch the same. They pull, at the shaping class `replicate`, for two thirds of the drain's
//! time at the most; what is not kept by then is missed once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use stoq::pool::Pool;
use stoq_mesh::gossip::Gossip;
use stoq_node::Drain;
use stoq_routing::{Key, Membership, handover};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::tell::Teller;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Hand {
    teller: Arc<Teller>,
    over: CancellationToken,
}

impl Hand {
    /// By this teller. `over` is cancelled when it is done.
    pub(super) const fn new(teller: Arc<Teller>, over: CancellationToken) -> Self {
        Self { teller, over }
    }

    /// Waits for the drain, and hands over.
    pub(crate) async fn run(&self, gossip: &Gossip, pool: &Pool, drain: &Drain) {
        // However this ends, it is not waited for any longer.
        let _over = self.over.clone().drop_guard();
        drain.begun().await;
        let left = drain.deadline().map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(Instant::now())
        });
        let until = Instant::now() + left * 2 / 3;
        let view = gossip.view();
        let objects = self.teller.hot().await;
        let keyed = objects
            .into_iter()
            .map(|hot| (Key(*hot.key.as_bytes()), hot.object));
        let (keys, objects): (Vec<_>, Vec<_>) = keyed.unzip();
        let objects: HashMap<_, _> = keys.iter().copied().zip(objects).collect();
        let homes = handover(&view, &view.me, keys);
        let lists = homes.into_iter().map(|(home, keys)| {
            let objects = keys.iter().filter_map(|key| objects.get(key).cloned());
            (home, objects.collect())
        });
        tokio::select! {
            () = self.teller.tell_all(&view, lists, pool, until) => {}
            () = drain.ended() => {}
        }
    }
}
