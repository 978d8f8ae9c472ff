//! chitchat kept running, its living nodes made into a view, and this node's own word kept up.
//!
//! The engine is started again, under a later generation, when its task ends (a panic in it included) and when something came in that has others believe wrongly that this process is dead or
//! superseded ([`Alarm`]). The view stands meanwhile.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat,
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use rand::seq::IteratorRandom;
use stoq::hello::RoleRule;
use stoq::identity::{Identity, Role};
use stoq::peer::{DialConfig, Handler};
use stoq::pool::{Pool, PoolConfig};
use stoq::transport::PathStats;
use stoq_routing::membership::{
    Change, Due, Membership, NextView, Order, Roster, Statement, due, encode,
};
use stoq_routing::{NodeId, NodeState, View};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::gate::{CERTIFICATE, Gate, STATE, certificate_value, short, state_value};
use super::generation::{Generations, wall_ms};
use super::living::Living;
use super::metrics::GossipMetrics;
use super::papers::Papers;
use super::places::Places;
use super::transport::{Carrier, Inbox, Stoq};
use super::wire::{Id, Message, NodeDelta, Value};

/// Nodes that were seen and are not: their addresses are tried, so that a split heals whatever it split. 1,024 × some 200 B, for a day.
const GONE_MAX: usize = 1_024;
const GONE_FOR: Duration = Duration::from_secs(24 * 3600);
/// Addresses of nodes that are not in view that are tried each interval: so many while nobody is seen, otherwise one.
const TRIED_ALONE: usize = 3;
/// Nodes that are told at once when some come into view, so that a split heals as fast as messages go and not as fast as intervals end.
const TOLD_AT_ONCE: usize = 3;
/// Nodes that are told that this one drains; they tell the others.
const TOLD_AT_DRAIN: usize = 8;
/// What telling them may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often in an interval it is looked at who lives.
const LOOKS: u32 = 2;
/// Least time between two starts of the engine, but for the first.
const RESTART_EVERY: Duration = Duration::from_secs(10);
/// How long the engine may take to end.
const ENDING: Duration = Duration::from_secs(1);

/// How gossip behaves. The defaults have been measured: see [`GossipConfig::default`].
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// How often this node starts to gossip, with three others. Default 500 ms.
    pub interval: Duration,
    /// How unlikely a silence must be before a node counts as dead: this many times the mean interval between its heartbeats. Default 8.
    pub phi: f64,
    /// Least silence before a node leaves the view. In a small cluster heartbeats come so often that a process that was not scheduled for a second would
    /// count as dead otherwise. Default 2 s.
    pub silence_min: Duration,
    /// The silence after which it leaves in any case. Where heartbeats come seldom for a while, as right after a split, [`phi`](Self::phi) alone would let a dead one stay for 6 s.
    /// News of the last of them goes round for up to 2.5 s after its node is cut off (20 nodes, 2 % loss), so this is that much less than the 5 s in which it is to be gone. Default 2.25 s.
    pub silence_max: Duration,
    /// How long the dead are remembered by chitchat, and sent along in every digest for half of that. Default 2 min. After that their addresses are still tried.
    pub dead_for: Duration,
    /// Where the last generation is remembered. Default: nowhere.
    pub state_dir: Option<PathBuf>,
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(500),
            phi: 8.0,
            silence_min: Duration::from_secs(2),
            silence_max: Duration::from_millis(2250),
            dead_for: Duration::from_secs(120),
            state_dir: None,
        }
    }
}

/// The pool that gossip takes its connections from: its own, since it tries again sooner than those who wait for content should, and wants answers late or never.
#[must_use]
pub fn pool_config() -> PoolConfig {
    PoolConfig {
        dial: DialConfig {
            expect: RoleRule::AnyOf(vec![Role::Edge, Role::Shield]),
            connect_timeout: Duration::from_secs(2),
            hello_timeout: Duration::from_secs(2),
            stream_timeout: Duration::from_secs(2),
            idle_close: Duration::from_secs(60),
            ..DialConfig::default()
        },
        peers_max: 1_280,
        unanswered_max: 0,
        backoff_max: Duration::from_secs(1),
        ..PoolConfig::default()
    }
}

/// This node in the mesh. Cheap to clone; the clones are one.
#[derive(Clone)]
pub struct Gossip(Arc<Inner>);

struct Inner {
    papers: Papers,
    gate: Arc<Gate>,
    inbox: Arc<Inbox>,
    metrics: Arc<GossipMetrics>,
    config: GossipConfig,
    cluster: String,
    desk: Mutex<Desk>,
    view: watch::Sender<Arc<View>>,
    wake: Notify,
    generations: Mutex<Generations>,
    /// Of the run under way, or the last.
    pool: Mutex<Option<Pool>>,
    began: Instant,
}

/// What is known and wanted.
struct Desk {
    roster: Roster,
    /// What this node wants known of itself; in the view at once.
    own: Arc<NodeState>,
    gone: BTreeMap<NodeId, (Instant, Vec<SocketAddr>)>,
}

impl fmt::Debug for Gossip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gossip")
            .field("cluster", &self.0.cluster)
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

impl Gossip {
    /// A node that says `own` of itself, once [`run`](Self::run) runs. Id and name are those of the identity.
    #[must_use]
    pub fn new(identity: &Identity, own: NodeState, config: GossipConfig) -> Self {
        let papers = Papers::new(identity);
        if let Err(refusal) = papers.learn(identity.certificate()) {
            // Revoked, or the clock is wrong: others will say the same.
            tracing::warn!(%refusal, "this node would not believe itself");
        }
        let own = NodeState {
            id: super::papers::node_id(identity.node_id()),
            name: identity.name().to_owned(),
            ..own
        };
        let metrics = Arc::new(GossipMetrics::default());
        let gate = Arc::new(Gate::new(papers.clone(), Arc::clone(&metrics)));
        let roster = Roster::new(own.clone());
        metrics.nodes.set(1);
        Self(Arc::new(Inner {
            inbox: Arc::new(Inbox::new(Arc::clone(&gate), Arc::clone(&metrics))),
            view: watch::Sender::new(Arc::clone(roster.view())),
            desk: Mutex::new(Desk {
                roster,
                own: Arc::new(own),
                gone: BTreeMap::new(),
            }),
            generations: Mutex::new(Generations::new(config.state_dir.as_deref())),
            pool: Mutex::new(None),
            began: Instant::now(),
            cluster: identity.cluster().to_owned(),
            wake: Notify::new(),
            papers,
            gate,
            metrics,
            config,
        }))
    }

    /// What takes messages of kind [`GOSSIP`](super::GOSSIP), on any worker.
    #[must_use]
    pub fn handler(&self) -> Arc<dyn Handler> {
        Arc::clone(&self.0.inbox) as _
    }

    #[cfg(test)]
    pub(super) fn generation(&self) -> u64 {
        self.0.generations.lock().last()
    }

    #[cfg(test)]
    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.0.inbox
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<GossipMetrics> {
        &self.0.metrics
    }

    /// Whose key is whose, to sign as this node and to check what others signed.
    #[must_use]
    pub fn papers(&self) -> &Papers {
        &self.0.papers
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.0.cluster
    }

    /// How many changes there were since it began; [`changes`](Membership::changes) has the last of them.
    #[must_use]
    pub fn changes_total(&self) -> u64 {
        self.0.desk.lock().roster.log().total()
    }

    /// The path to a node on which gossip has a connection to it.
    #[must_use]
    pub fn path(&self, node: &NodeState) -> Option<PathStats> {
        let pool = self.0.pool.lock().clone()?;
        let mut paths = node.addresses.iter().map(|addr| pool.health(*addr));
        paths.find_map(|health| health?.path)
    }

    /// Takes part in the mesh, on the runtime of `pool`. Never ends; dropped, this node falls silent, and the view stays as it was. To be run once at a time.
    pub async fn run(&self, pool: Pool, places: &Places) {
        *self.0.pool.lock() = Some(pool.clone());
        let inbox = Arc::clone(&self.0.inbox);
        self.run_over(&Stoq { pool, inbox }, places).await;
    }

    /// As [`run`](Self::run), whatever carries the messages to others' [`Inbox`].
    pub(super) async fn run_over(&self, carrier: &dyn Carrier, places: &Places) {
        let engine = async {
            let mut above = 0;
            let mut living = Living::default();
            loop {
                let began = Instant::now();
                let generation = self.0.generations.lock().next(above, wall_ms());
                let ended = self.life(generation, carrier, places, &mut living);
                above = generation.max(ended.await);
                self.0.metrics.restarts.inc();
                sleep(RESTART_EVERY.saturating_sub(began.elapsed())).await;
            }
        };
        tokio::select! {
            // Neither ends.
            () = engine => {}
            () = places.run() => {}
        }
    }

    /// One life of the engine. Returns the generation that the next must be above.
    async fn life(
        &self,
        generation: u64,
        carrier: &dyn Carrier,
        places: &Places,
        living: &mut Living,
    ) -> u64 {
        let Some(listens) = self.0.desk.lock().own.addresses.first().copied() else {
            tracing::error!("no address is known at which others reach this node: it stays alone");
            return std::future::pending().await;
        };
        let (mut publisher, values) = match self.first_word(generation) {
            Ok(first) => first,
            Err(why) => {
                tracing::error!(why, "what this node would say of itself cannot be said");
                return std::future::pending().await;
            }
        };
        let id = ChitchatId::new(short(&self.me()), generation, listens);
        let config = self.chitchat_config(id.clone());
        let handle = match spawn_chitchat(config, values, carrier).await {
            Ok(handle) => handle,
            Err(error) => {
                tracing::error!(%error, "gossip cannot begin");
                return generation;
            }
        };
        tracing::info!(node = %id.node_id, generation, %listens, "gossip begins");
        living.begin_again(Instant::now());
        let ended = self
            .keep(&handle, &id, living, &mut publisher, places, carrier)
            .await;
        let _ = timeout(ENDING, handle.shutdown()).await;
        ended.max(generation)
    }

    async fn keep(
        &self,
        handle: &ChitchatHandle,
        id: &ChitchatId,
        living: &mut Living,
        publisher: &mut Publisher,
        places: &Places,
        carrier: &dyn Carrier,
    ) -> u64 {
        let chitchat = handle.chitchat();
        let mut watcher = chitchat.lock().await.live_nodes_watcher();
        let mut ticks = interval(self.0.config.interval / LOOKS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0u64;
        let ended = handle.termination_watcher();
        tokio::pin!(ended);
        loop {
            let mut ticked = false;
            tokio::select! {
                // Each may be cancelled: what it waited for is looked at anyway.
                end = &mut ended => {
                    tracing::error!(end = ?end.err(), "gossip ended by itself and begins again");
                    return id.generation_id;
                }
                _ = ticks.tick() => ticked = true,
                changed = watcher.changed() => if changed.is_err() {
                    return id.generation_id;
                },
                () = self.0.wake.notified() => {}
            }
            if self.look(&mut *chitchat.lock().await, id, living, places) {
                self.pass_on(handle);
            }
            let drained = publisher.published.draining;
            self.say(&mut *chitchat.lock().await, publisher);
            if publisher.published.draining && !drained {
                let word = last_word(&mut *chitchat.lock().await, id);
                self.farewell(carrier, id.gossip_advertise_addr, &word)
                    .await;
            }
            if ticked {
                if count.is_multiple_of(u64::from(LOOKS)) {
                    self.contact(handle, places);
                }
                count = count.wrapping_add(1);
            }
            if let Some(alarm) = self.0.gate.alarm() {
                tracing::error!(
                    why = alarm.why,
                    "gossip begins again under another generation"
                );
                return alarm.generation;
            }
        }
    }

    fn me(&self) -> NodeId {
        super::papers::node_id(self.0.papers.identity().node_id())
    }

    fn chitchat_config(&self, id: ChitchatId) -> ChitchatConfig {
        let GossipConfig {
            interval,
            phi,
            dead_for,
            ..
        } = &self.0.config;
        ChitchatConfig {
            cluster_id: self.0.cluster.clone(),
            gossip_interval: *interval,
            listen_addr: id.gossip_advertise_addr,
            chitchat_id: id,
            // Where others are is looked for here, not there.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: *phi,
                sampling_window_size: 1_000,
                max_interval: Duration::from_secs(10),
                // What counts as five intervals of a node before any is known. A beat comes by several ways, so it comes more often than each node sends.
                initial_interval: *interval / 2,
                dead_node_grace_period: *dead_for,
            },
            // Nothing is ever deleted.
            marked_for_deletion_grace_period: Duration::from_secs(3600),
            catchup_callback: None,
            extra_liveness_predicate: None,
        }
    }

    /// The values of a new process.
    fn first_word(&self, generation: u64) -> Result<(Publisher, Vec<(String, String)>), String> {
        let own = Arc::clone(&self.0.desk.lock().own);
        // chitchat counts each value that is set; the certificate's is the first.
        let order = Order {
            generation,
            revision: 2,
        };
        let statement =
            Statement::seal(&self.0.papers, order, &own).map_err(|error| error.to_string())?;
        let certificate = certificate_value(self.0.papers.identity().certificate());
        let values = vec![
            (CERTIFICATE.to_owned(), certificate),
            (STATE.to_owned(), state_value(&statement)),
        ];
        self.0.metrics.published.inc();
        let publisher = Publisher {
            generation,
            published: own,
            at: Instant::now(),
            began: Instant::now(),
        };
        Ok((publisher, values))
    }

    /// Takes in who lives, and what they say. Whether somebody came into view.
    fn look(
        &self,
        chitchat: &mut Chitchat,
        id: &ChitchatId,
        living: &mut Living,
        places: &Places,
    ) -> bool {
        let now = Instant::now();
        let heartbeat = u64::from(chitchat.self_node_state().heartbeat());
        let others = chitchat.node_states().keys().filter(|other| *other != id);
        let left_out = self
            .0
            .gate
            .look(known(id), heartbeat, others.map(known), now);
        living.look(chitchat, id, &self.0.gate, &self.0.config, now);
        // Alone as long as nobody was heard, if there is anybody to look for.
        let heard = self.0.inbox.has_heard() || places.is_empty();
        let statements = living.statements(&self.0.gate, now);
        let mut desk = self.0.desk.lock();
        let Desk { roster, own, gone } = &mut *desk;
        let before = Arc::clone(roster.view());
        let changes = roster.log().total();
        let since = now.duration_since(self.0.began);
        let looked = roster.look(own, statements, heard && !left_out, since, wall_ms());
        let outdated = i64::try_from(looked.outdated).unwrap_or(i64::MAX);
        self.0.metrics.outdated.set(outdated);
        if !looked.changed {
            return false;
        }
        let view = Arc::clone(roster.view());
        let has_come = view
            .nodes()
            .iter()
            .any(|node| before.get(&node.id).is_none());
        for node in before.nodes() {
            if view.get(&node.id).is_none() {
                gone.insert(node.id, (now, node.addresses.clone()));
            }
        }
        gone.retain(|id, (at, _)| now.duration_since(*at) < GONE_FOR && view.get(id).is_none());
        while gone.len() > GONE_MAX {
            let first = gone.iter().min_by_key(|(_, (at, _))| *at);
            let Some(first) = first.map(|(id, _)| *id) else {
                break;
            };
            gone.remove(&first);
        }
        let metrics = &self.0.metrics;
        let added = roster.log().total() - changes;
        metrics.changes.inc_by(added);
        let skip = roster
            .log()
            .iter()
            .count()
            .saturating_sub(usize::try_from(added).unwrap_or(usize::MAX));
        for change in roster.log().iter().skip(skip) {
            tracing::info!(node = %change.name, id = ?change.node, "mesh: {}", change.what);
        }
        metrics
            .nodes
            .set(i64::try_from(view.nodes().len()).unwrap_or(i64::MAX));
        metrics.complete.set(i64::from(view.complete));
        drop(desk);
        self.0.view.send_replace(view);
        has_come
    }

    /// Gossips at once with some who are in view, since there is news for them.
    fn pass_on(&self, handle: &ChitchatHandle) {
        let view = self.view();
        let others = view.nodes().iter().filter(|node| node.id != view.me);
        for node in others.choose_multiple(&mut rand::rng(), TOLD_AT_ONCE) {
            if let Some(addr) = node.addresses.first() {
                // As in `contact`.
                let _ = handle.gossip(*addr);
            }
        }
    }

    /// Says what this node wants known of itself, if it is time.
    fn say(&self, chitchat: &mut Chitchat, publisher: &mut Publisher) {
        let own = Arc::clone(&self.0.desk.lock().own);
        let since = |at: Instant| at.duration_since(publisher.began);
        match due(&publisher.published, &own, since(publisher.at)) {
            Due::At(at) if at <= since(Instant::now()) => {}
            Due::At(_) | Due::Never => return,
        }
        let node = chitchat.self_node_state();
        let order = Order {
            generation: publisher.generation,
            revision: node.max_version() + 1,
        };
        match Statement::seal(&self.0.papers, order, &own) {
            Ok(statement) => {
                node.set(STATE, state_value(&statement));
                self.0.metrics.published.inc();
            }
            Err(error) => tracing::error!(%error, "what this node says of itself is not published"),
        }
        publisher.published = own;
        publisher.at = Instant::now();
    }

    /// Tells some that this node drains. It takes no connection any more, so nobody's question for its word would reach it.
    async fn farewell(&self, carrier: &dyn Carrier, listens: SocketAddr, word: &[u8]) {
        let others: Vec<_> = {
            let view = self.view();
            let others = view.nodes().iter().filter(|node| node.id != view.me);
            let others = others.choose_multiple(&mut rand::rng(), TOLD_AT_DRAIN);
            let first = others.into_iter().filter_map(|node| node.addresses.first());
            first.copied().collect()
        };
        let telling = others.into_iter().map(|to| carrier.post(listens, to, word));
        let _ = timeout(FAREWELL, join_all(telling)).await;
    }

    /// Begins to gossip with some who are not in view.
    fn contact(&self, handle: &ChitchatHandle, places: &Places) {
        let tried = {
            let desk = self.0.desk.lock();
            let view = desk.roster.view();
            let mut others = places.current(&desk.own.addresses);
            others.extend(desk.gone.values().flat_map(|(_, addresses)| addresses));
            for node in view.nodes() {
                for addr in &node.addresses {
                    others.remove(addr);
                }
            }
            let wanted = match view.nodes().len() {
                0 | 1 => TRIED_ALONE,
                _ => 1,
            };
            others.into_iter().choose_multiple(&mut rand::rng(), wanted)
        };
        for addr in tried {
            // An error says that the engine has ended, which is noticed elsewhere.
            let _ = handle.gossip(addr);
        }
    }
}

impl Membership for Gossip {
    fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.view.borrow())
    }

    fn changed(&self, seen: u64) -> NextView<'_> {
        Box::pin(async move {
            let mut views = self.0.view.subscribe();
            let found = views.wait_for(|view| view.generation != seen).await;
            match found.map(|view| Arc::clone(&view)) {
                Ok(view) => view,
                // The sender is in `self`.
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn publish(&self, change: &mut dyn FnMut(&mut NodeState)) {
        let mut desk = self.0.desk.lock();
        let mut own = (*desk.own).clone();
        change(&mut own);
        own.id = desk.own.id;
        own.name.clone_from(&desk.own.name);
        if own == *desk.own {
            return;
        }
        if let Err(error) = encode(&own) {
            tracing::error!(%error, "what this node would say of itself cannot be said; what it said before stands");
            return;
        }
        desk.own = Arc::new(own);
        drop(desk);
        self.0.wake.notify_one();
    }

    fn changes(&self) -> Vec<Change> {
        self.0.desk.lock().roster.log().iter().cloned().collect()
    }
}

/// What this process says, as a message that nobody asked for.
fn last_word(chitchat: &mut Chitchat, id: &ChitchatId) -> Vec<u8> {
    let node = chitchat.self_node_state();
    let mut values: Vec<_> = node
        .key_values_including_deleted()
        .map(|(key, value)| Value {
            key: key.to_owned(),
            value: value.value.clone(),
            version: value.version,
            status: 0,
        })
        .collect();
    values.sort_by_key(|value| value.version);
    let delta = NodeDelta {
        id: known(id),
        last_gc_version: 0,
        from_version_excluded: 0,
        values,
        max_version: None,
    };
    Message::Ack { delta: vec![delta] }.write()
}

struct Publisher {
    generation: u64,
    published: Arc<NodeState>,
    at: Instant,
    began: Instant,
}

fn known(id: &ChitchatId) -> Id {
    Id {
        node: id.node_id.to_string(),
        generation: id.generation_id,
        addr: id.gossip_advertise_addr,
    }
}
