//! The index of a running node: drives lookups, the holder and the table over an [`Rpc`], with the clock and the disk.
//!
//! Everything that decides is in the values it drives. What is here: locks, time, waiting, and the bounds of how much goes on at once.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::Instant,
};

use super::{
    answer::answer,
    counts::{Counts, IndexTally},
    holder::{Holder, HolderStep, Provided},
    lookup::{Lookup, LookupLimits, Step},
    message::{Refusal, Reply, Request},
    owners::Owners,
    record::{Answer, Contact, Provider, Record},
    store::{Opened, Store, StoreError},
    table::Table,
    wire::Malformed,
};
use crate::{Key, NodeId, Signer, Verifier, View};

/// Lookups under way; one more is answered [`Finding::Unknown`]. 256 × some 4 KiB.
pub const LOOKUPS_MAX: usize = 256;

/// How often what has changed is written, lapsed leases are looked for and the alarm is.
const TICK: Duration = Duration::from_secs(1);

/// Records of ended leases cleared in one go.
const SWEPT_MAX: usize = 4_096;

/// How long a node may take to reply to what a holder says.
const REPLY_MAX: Duration = Duration::from_secs(5);

/// Steps of the holder before others may run.
const STEPS_MAX: usize = 64;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The node cannot be reached, or broke off.
    #[error("{0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("no reply in time")]
    Late,
    /// What it answered means nothing.
    #[error("its reply is malformed: {0}")]
    Malformed(#[from] Malformed),
}

/// Asks other nodes.
pub trait Rpc: Send + Sync + 'static {
    /// Asks a node and gives its reply. The connection is to hold the node to its identity. May be dropped at any time, which breaks it off.
    fn ask(
        &self,
        to: &Contact,
        request: Request,
    ) -> impl Future<Output = Result<Reply, RpcError>> + Send;
}

/// What was found out of who holds an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// These hold it, as an owner says: at least one, whole ones first.
    Found(Vec<Provider>),
    /// Nobody does, as the owners say.
    Nobody,
    /// Nobody could say within the bounds.
    Unknown,
}

/// Who holds what.
pub trait ProviderIndex: Send + Sync {
    /// Searches for the holders of an object, this node left out. May be dropped at any time.
    fn find(&self, key: Key) -> Pin<Box<dyn Future<Output = Finding> + Send + '_>>;

    /// Announces that this node holds an object, or what has changed of that: `fraction` in 255ths. Owners hear of it within a second.
    fn provide(&self, key: Key, manifest: [u8; 32], fraction: u8) -> Provided;

    /// Takes it back. Whether it was announced.
    fn withdraw(&self, key: &Key) -> bool;
}

/// The expected round trip to a node.
pub type Rtt = Box<dyn Fn(&NodeId) -> Option<Duration> + Send + Sync>;

/// What an [`Index`] is made of.
pub struct Parts<R> {
    /// How other nodes are asked.
    pub rpc: R,
    /// This node's signature.
    pub signer: Arc<dyn Signer>,
    /// Whom to believe.
    pub verifier: Arc<dyn Verifier>,
    /// How far others are.
    pub rtt: Rtt,
    /// What lookups may cost.
    pub lookups: LookupLimits,
    /// The members as they are seen now.
    pub view: Arc<View>,
    /// What is kept for others.
    pub table: Table,
    /// What is announced.
    pub holder: Holder,
    /// Where both are written; None keeps them in memory alone.
    pub store: Option<Store>,
}

impl<R> std::fmt::Debug for Parts<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// The index of a running node.
pub struct Index<R> {
    me: NodeId,
    rpc: R,
    signer: Arc<dyn Signer>,
    verifier: Arc<dyn Verifier>,
    rtt: Rtt,
    lookups: LookupLimits,
    owners: RwLock<Arc<Owners>>,
    table: Mutex<Table>,
    holder: Mutex<Holder>,
    /// None where there is none, or none any more.
    store: Mutex<Option<Arc<Store>>>,
    counts: Counts,
    /// Something happened that the holder may act on.
    wake: Notify,
    searches: Semaphore,
    began: Instant,
}

impl<R> std::fmt::Debug for Index<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index")
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

/// The wall clock in unix milliseconds.
fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Says what was found on disk, once.
pub fn report(opened: &Opened) {
    if let Some((aside, why)) = &opened.set_aside {
        tracing::warn!(
            "the provider index on disk could not be used ({why}): it is kept as {}, and the index begins empty",
            aside.display()
        );
    }
    let tally = opened.table.tally();
    tracing::info!(
        "provider index: {} records of {} holders, {} objects of its own",
        tally.records,
        tally.leases,
        opened.holder.lag(Duration::ZERO).held,
    );
}

impl<R: Rpc> Index<R> {
    /// Begins. Nothing is announced before [`Self::run`] runs; times in `parts` count from now.
    #[must_use]
    pub fn new(parts: Parts<R>) -> Self {
        let owners = Arc::new(Owners::of(parts.view));
        let mut holder = parts.holder;
        holder.follow(Arc::clone(&owners), Duration::ZERO);
        Self {
            me: owners.view().me,
            rpc: parts.rpc,
            signer: parts.signer,
            verifier: parts.verifier,
            rtt: parts.rtt,
            lookups: parts.lookups,
            owners: RwLock::new(owners),
            table: Mutex::new(parts.table),
            holder: Mutex::new(holder),
            store: Mutex::new(parts.store.map(Arc::new)),
            counts: Counts::default(),
            wake: Notify::new(),
            searches: Semaphore::new(LOOKUPS_MAX),
            began: Instant::now(),
        }
    }

    /// The members have changed.
    pub fn follow(&self, view: Arc<View>) {
        let owners = Arc::new(Owners::of(view));
        *self.owners.write() = Arc::clone(&owners);
        self.holder.lock().follow(owners, self.now());
        self.wake.notify_one();
    }

    /// A node is not to be believed any more: what it announced is forgotten.
    pub fn revoked(&self, node: &NodeId) {
        self.table.lock().forget(node);
    }

    /// A node may have lost what it knew, such as one that has started again: what it has of this node is compared soon rather than within a third of a lease.
    pub fn doubt(&self, node: &NodeId) {
        self.holder.lock().doubt(node);
        self.wake.notify_one();
    }

    /// What to reply to a node whose identity its connection has proved. Takes microseconds: at most 512 changes, one signature.
    #[must_use]
    pub fn serve(&self, from: &NodeId, request: &Request) -> Reply {
        let reply = self.reply(from, request);
        self.counts.served(&reply);
        if let Reply::Refused(refusal) = &reply {
            tracing::debug!(?from, "refused: {refusal}");
        }
        reply
    }

    /// The same for bytes, which may be anything. Gives what was refused beside the reply, for an audit.
    #[must_use]
    pub fn serve_bytes(&self, from: &NodeId, request: &[u8]) -> (Vec<u8>, Option<Refusal>) {
        let reply = match Request::decode(request) {
            Ok(request) => self.serve(from, &request),
            Err(malformed) => {
                tracing::debug!(?from, "refused: {malformed}");
                let reply = Reply::Refused(Refusal::Malformed);
                self.counts.served(&reply);
                reply
            }
        };
        let refusal = match &reply {
            Reply::Refused(refusal) => Some(*refusal),
            Reply::Providers(_)
            | Reply::Accepted { .. }
            | Reply::Kept { .. }
            | Reply::Differs { .. } => None,
        };
        (reply.encode(), refusal)
    }

    /// What this node announces of an object.
    #[must_use]
    pub fn held(&self, key: &Key) -> Option<Record> {
        self.holder.lock().held(key)
    }

    /// Lets go of the file, once [`Self::run`] has ended: what comes after is in memory alone.
    pub fn close(&self) {
        *self.store.lock() = None;
        self.table.lock().stop_journal();
        self.holder.lock().stop_journal();
    }

    /// As [`ProviderIndex::find`], with other nodes asked over `rpc`: each worker of a process has its own connections.
    pub async fn find_by(&self, rpc: &R, key: Key) -> Finding {
        let began = self.now();
        let finding = self.search(rpc, key).await;
        self.counts
            .found(&finding, self.now().saturating_sub(began));
        finding
    }

    /// What this node announces, a page at a time: at most `count` records of a bucket after a key, to compare with what it really holds.
    #[must_use]
    pub fn announced(&self, bucket: u8, after: Option<&Key>, count: usize) -> Vec<Record> {
        self.holder.lock().page(bucket, after, count)
    }

    /// What it has counted and how it is.
    #[must_use]
    pub fn tally(&self) -> IndexTally {
        let now = self.now();
        let (lag, holder) = {
            let holder = self.holder.lock();
            (holder.lag(now), holder.tally())
        };
        self.counts.tally(lag, holder, self.table.lock().tally())
    }

    /// Announces, renews, sweeps and writes until `stop` is ready; then writes once more. One at a time.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut asks = FuturesUnordered::new();
        let mut writing: Option<JoinHandle<Result<(), StoreError>>> = None;
        let mut tick = self.now() + TICK;
        let mut alarm = false;
        loop {
            let mut wait = tick;
            for _ in 0..STEPS_MAX {
                let now = self.now();
                let step = self.holder.lock().step(now, wall(), &*self.signer);
                match step {
                    HolderStep::Send { to, request } => asks.push(self.tell(to, request)),
                    HolderStep::Wait(until) if until <= now => wait = now,
                    HolderStep::Wait(until) => {
                        wait = until.min(tick);
                        break;
                    }
                    HolderStep::Idle => {
                        wait = tick;
                        break;
                    }
                }
            }
            // Each branch may be dropped and waited for anew: what is under way is kept outside of them.
            tokio::select! {
                () = &mut stop => break,
                Some((to, reply)) = asks.next(), if !asks.is_empty() => {
                    let now = self.now();
                    let mut holder = self.holder.lock();
                    match reply {
                        Ok(reply) => holder.replied(&to, reply, now),
                        Err(error) => {
                            tracing::debug!(?to, "not announced: {error}");
                            holder.failed(&to, now);
                        }
                    }
                }
                written = joined(&mut writing) => {
                    writing = None;
                    self.written(written);
                }
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(self.began + wait) => {}
            }
            let now = self.now();
            if now >= tick {
                tick = now + TICK;
                self.table.lock().sweep(now, SWEPT_MAX);
                alarm = self.watch(alarm, now);
                if writing.is_none() {
                    writing = self.write();
                }
            }
        }
        if let Some(writing) = &mut writing {
            self.written(flat(writing.await));
        }
        if let Some(writing) = self.write() {
            self.written(flat(writing.await));
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn reply(&self, from: &NodeId, request: &Request) -> Reply {
        let now = self.now();
        match request {
            Request::Find { key, wide } => Reply::Providers(self.answer(from, key, *wide, now)),
            Request::Announce(signed) => {
                let checked = signed.check(&self.me, from, &*self.verifier);
                let announced = checked.and_then(|()| {
                    let announcement = &signed.statement;
                    let mut table = self.table.lock();
                    table.announce(&announcement.terms, &announcement.changes, now)
                });
                announced.map_or_else(Reply::Refused, |refused| Reply::Accepted { refused })
            }
            Request::Renew(signed) => {
                let checked = signed.check(&self.me, from, &*self.verifier);
                let renewed = checked.and_then(|()| {
                    let mut table = self.table.lock();
                    let renewal = &signed.statement;
                    let digests = table.renew(&renewal.terms, renewal.root, now)?;
                    Ok((digests, table.has_room(from)))
                });
                match renewed {
                    Ok((None, room)) => Reply::Kept { room },
                    Ok((Some(digests), room)) => Reply::Differs { digests, room },
                    Err(refusal) => Reply::Refused(refusal),
                }
            }
        }
    }

    fn answer(&self, from: &NodeId, key: &Key, wide: bool, now: Duration) -> Answer {
        let owners = Arc::clone(&self.owners.read());
        let own = self.holder.lock().held(key);
        answer(&owners, own, &self.table.lock(), from, key, wide, now)
    }

    /// Asks a node, itself without a network.
    async fn ask(&self, rpc: &R, to: Contact, request: Request) -> Result<Reply, RpcError> {
        if to.id == self.me {
            // Not counted: these are what others have asked.
            return Ok(self.reply(&self.me, &request));
        }
        rpc.ask(&to, request).await
    }

    async fn tell(&self, to: NodeId, request: Request) -> (NodeId, Result<Reply, RpcError>) {
        let view = Arc::clone(self.owners.read().view());
        let addresses = view.get(&to).map(|node| node.addresses.clone());
        let Some(addresses) = addresses else {
            return (to, Err(RpcError::Unreachable("it has left".to_owned())));
        };
        let contact = Contact { id: to, addresses };
        let asked = tokio::time::timeout(REPLY_MAX, self.ask(&self.rpc, contact, request)).await;
        (to, asked.unwrap_or(Err(RpcError::Late)))
    }

    /// Says when announcements begin to be late, and when they no longer are.
    fn watch(&self, alarm: bool, now: Duration) -> bool {
        let lag = self.holder.lock().lag(now);
        match (alarm, lag.is_behind) {
            (false, true) => tracing::warn!(
                "announcements fall behind: {} changes wait, the oldest for {} s; {} of {} owners not renewed for two thirds of a lease",
                lag.waiting,
                lag.oldest.as_secs(),
                lag.lapsing,
                lag.owners,
            ),
            (true, false) => tracing::info!("announcements have caught up"),
            (true, true) | (false, false) => {}
        }
        lag.is_behind
    }

    /// Begins to write what has changed, where there is something and somewhere to write it.
    fn write(&self) -> Option<JoinHandle<Result<(), StoreError>>> {
        let store = self.store.lock().clone()?;
        let table = self.table.lock().take_journal();
        let held = self.holder.lock().take_journal();
        if table.is_empty() && held.is_empty() {
            return None;
        }
        Some(tokio::task::spawn_blocking(move || {
            store.write(&table, &held)
        }))
    }

    /// After a write that failed the file is left as it is: a state that was, a while ago, and that the digests of renewals bring up to
    /// date after the next start. Until then the index is in memory alone, and nothing waits for the disk.
    fn written(&self, written: Result<(), String>) {
        self.counts.written(written.is_ok());
        if let Err(error) = written {
            tracing::error!(
                "the provider index is kept in memory alone until the next start: {error}"
            );
            self.close();
        }
    }

    async fn search(&self, rpc: &R, key: Key) -> Finding {
        let Ok(_permit) = self.searches.try_acquire() else {
            return Finding::Unknown;
        };
        let owners = Arc::clone(&self.owners.read());
        let mut lookup = Lookup::new(&owners, &*self.rtt, key, self.lookups, self.now());
        let wide = lookup.is_wide();
        let mut asks = FuturesUnordered::new();
        loop {
            match lookup.step(self.now()) {
                Step::Ask(to) => {
                    let contact = Contact {
                        id: to,
                        addresses: lookup.addresses(&to),
                    };
                    let asked = self.ask(rpc, contact, Request::Find { key, wide });
                    asks.push(asked.map(move |reply| (to, reply)));
                }
                Step::Wait(until) => tokio::select! {
                    Some((from, reply)) = asks.next(), if !asks.is_empty() => match reply {
                        Ok(Reply::Providers(answer)) => lookup.answered(from, answer, self.now()),
                        Ok(Reply::Accepted { .. } | Reply::Kept { .. } | Reply::Differs { .. } | Reply::Refused(_)) | Err(_) => {
                            lookup.failed(from, self.now());
                        }
                    },
                    () = tokio::time::sleep_until(self.began + until) => {}
                },
                Step::Found(providers) => return Finding::Found(providers),
                Step::NotFound if lookup.tally().cut => return Finding::Unknown,
                Step::NotFound => return Finding::Nobody,
            }
        }
    }
}

impl<R: Rpc> ProviderIndex for Index<R> {
    fn find(&self, key: Key) -> Pin<Box<dyn Future<Output = Finding> + Send + '_>> {
        Box::pin(self.find_by(&self.rpc, key))
    }

    fn provide(&self, key: Key, manifest: [u8; 32], fraction: u8) -> Provided {
        let provided = self
            .holder
            .lock()
            .provide(key, manifest, fraction, self.now(), wall());
        if provided == Provided::Taken {
            self.wake.notify_one();
        }
        provided
    }

    fn withdraw(&self, key: &Key) -> bool {
        let withdrawn = self.holder.lock().withdraw(key, self.now());
        if withdrawn {
            self.wake.notify_one();
        }
        withdrawn
    }
}

/// What became of a write; waits for ever where none is under way.
async fn joined(writing: &mut Option<JoinHandle<Result<(), StoreError>>>) -> Result<(), String> {
    match writing {
        Some(writing) => flat(writing.await),
        None => std::future::pending().await,
    }
}

fn flat(written: Result<Result<(), StoreError>, tokio::task::JoinError>) -> Result<(), String> {
    match written {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
