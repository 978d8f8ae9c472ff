//! What outlives a process in tests: a tier on disk that is a map and does as it is told, a directory for the marks, and the time.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use stoq_cache::{
    engine::{Cache, CacheConfig, Journal},
    http::policy::SitePolicy,
    store::{
        RamTier, Store,
        disk::{BODY_BYTES_MAX, Check, DiskFuture, DiskRead, DiskTier, Kind, Name, Put, Refused},
    },
    time::Timestamp,
};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::script::{Forgetful, House};

type Records = HashMap<Name, (Kind, Bytes)>;

#[derive(Debug, Default)]
struct Log {
    /// What is there for good.
    flushed: Records,
    /// What happened since, in order.
    since: Vec<(Name, Option<(Kind, Bytes)>)>,
    now: Records,
}

impl Log {
    fn change(&mut self, name: Name, to: Option<(Kind, Bytes)>) {
        match &to {
            Some(record) => self.now.insert(name, record.clone()),
            None => self.now.remove(&name),
        };
        self.since.push((name, to));
    }
}

/// A tier on disk without a disk.
#[derive(Debug, Default)]
pub(crate) struct MapTier {
    log: Mutex<Log>,
    refuses: Mutex<Option<Refused>>,
    pub(crate) is_throttled: AtomicBool,
    /// Chunks that are taken before the next has to wait; all of them without.
    room: Mutex<Option<usize>>,
    has_room: Notify,
    pub(crate) reads: AtomicUsize,
    pub(crate) runs: AtomicUsize,
}

impl MapTier {
    /// Takes so many chunks, or all again.
    pub(crate) fn make_room(&self, for_chunks: Option<usize>) {
        *self.room.lock() = for_chunks;
        self.has_room.notify_waiters();
    }

    /// Takes nothing from now on, for this reason, or everything again.
    pub(crate) fn refuse(&self, why: Option<Refused>) {
        *self.refuses.lock() = why;
    }

    /// Loses what was put since the last flush, but for the first `kept` of it.
    pub(crate) fn lose_all_but(&self, kept: impl FnOnce(usize) -> usize) {
        let mut log = self.log.lock();
        let since = std::mem::take(&mut log.since);
        log.now = log.flushed.clone();
        let kept = kept(since.len());
        for (name, to) in since.into_iter().take(kept) {
            log.change(name, to);
        }
    }

    /// Flips a bit of every record of this kind.
    pub(crate) fn damage(&self, kind: Kind) {
        for (is, bytes) in self.log.lock().now.values_mut() {
            if *is == kind {
                let mut damaged = bytes.to_vec();
                damaged[0] ^= 0x10;
                *bytes = damaged.into();
            }
        }
    }

    /// Loses every record of this kind.
    pub(crate) fn lose(&self, kind: Kind) {
        self.log.lock().now.retain(|_, (is, _)| *is != kind);
    }

    /// Records of this kind.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        let log = self.log.lock();
        log.now.values().filter(|(is, _)| *is == kind).count()
    }

    fn find(&self, name: &Name, check: impl FnOnce(&[u8]) -> bool) -> DiskRead {
        if self.is_throttled.load(Ordering::Relaxed) {
            return DiskRead::Throttled;
        }
        let mut log = self.log.lock();
        match log.now.get(name) {
            None => DiskRead::Miss,
            Some((_, bytes)) if check(bytes) => DiskRead::Hit(bytes.clone()),
            Some(_) => {
                log.change(*name, None);
                DiskRead::Corrupt
            }
        }
    }
}

impl DiskTier for MapTier {
    fn put(&self, kind: Kind, name: Name, body: &[u8]) -> Put {
        if body.len() > BODY_BYTES_MAX {
            return Put::Refused(Refused::TooLarge);
        }
        if let Some(why) = *self.refuses.lock() {
            return Put::Refused(why);
        }
        match &mut *self.room.lock() {
            Some(0) if kind == Kind::Chunk => return Put::Refused(Refused::Busy),
            Some(left) if kind == Kind::Chunk => *left -= 1,
            _ => {}
        }
        let mut log = self.log.lock();
        if kind != Kind::Head && log.now.contains_key(&name) {
            return Put::Present;
        }
        log.change(name, Some((kind, Bytes::copy_from_slice(body))));
        Put::Queued
    }

    fn forget(&self, name: &Name) {
        self.log.lock().change(*name, None);
    }

    fn contains(&self, name: &Name) -> bool {
        self.log.lock().now.contains_key(name)
    }

    fn read<'a>(&'a self, _: Kind, name: &'a Name, check: Check<'a>) -> DiskFuture<'a, DiskRead> {
        async move {
            tokio::task::yield_now().await;
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.find(name, check)
        }
        .boxed()
    }

    fn read_run<'a>(
        &'a self,
        names: &'a [Name],
        check: &'a (dyn Fn(usize, &[u8]) -> bool + Send + Sync),
    ) -> DiskFuture<'a, Vec<DiskRead>> {
        async move {
            tokio::task::yield_now().await;
            self.runs.fetch_add(1, Ordering::Relaxed);
            let reads = names.iter().enumerate();
            let reads: Vec<_> = reads
                .map(|(place, name)| self.find(name, |bytes| check(place, bytes)))
                .collect();
            let hit = |read: &DiskRead| match read {
                DiskRead::Hit(bytes) => bytes.len(),
                _ => 0,
            };
            assert!(reads.iter().map(hit).sum::<usize>() <= 1 << 20);
            reads
        }
        .boxed()
    }

    fn room(&self) -> DiskFuture<'_, ()> {
        let room = async {
            loop {
                let made = self.has_room.notified();
                if *self.room.lock() != Some(0) {
                    return;
                }
                made.await;
            }
        };
        // Whether there is room by then or not.
        tokio::time::timeout(Duration::from_secs(1), room)
            .map(|_| ())
            .boxed()
    }

    fn flush(&self) -> DiskFuture<'_, std::io::Result<()>> {
        let mut log = self.log.lock();
        log.flushed = log.now.clone();
        log.since.clear();
        std::future::ready(Ok(())).boxed()
    }
}

/// What outlives a process.
pub(crate) struct Kept {
    pub(crate) tier: Arc<MapTier>,
    pub(crate) directory: TempDir,
    now: Arc<AtomicU64>,
    pub(crate) ram_bytes: usize,
    pub(crate) heads_bytes: u64,
    pub(crate) policy: SitePolicy,
}

impl Kept {
    pub(crate) fn new() -> Self {
        Self {
            tier: Arc::default(),
            directory: tempfile::tempdir().unwrap(),
            now: Arc::new(AtomicU64::new(1_800_000_000_000)),
            ram_bytes: 64 << 20,
            heads_bytes: 32 << 20,
            policy: SitePolicy::default(),
        }
    }

    /// A process over what is kept.
    pub(crate) fn start(&self) -> House {
        let secret = [7; 32];
        let clock = Arc::clone(&self.now);
        let mut config = CacheConfig::new(secret);
        config.name = "edge".to_owned();
        config.ram_bytes = self.ram_bytes;
        config.disk_bytes = 1 << 30;
        config.heads_bytes = self.heads_bytes;
        config.clock = Arc::new(move || Timestamp(clock.load(Ordering::Relaxed)));
        let tier = Arc::new(Forgetful::default());
        let ram = Arc::clone(&tier) as Arc<dyn RamTier>;
        let store = Store::with_disk(ram, Arc::clone(&self.tier) as Arc<dyn DiskTier>);
        let journal = Journal::open(&self.directory.path().join("marks"), &secret).unwrap();
        let cache = Cache::open(config, store, journal).unwrap();
        let site = cache.site("site", None, self.policy.clone());
        House {
            cache,
            site,
            tier,
            now: Arc::clone(&self.now),
        }
    }

    /// The end of a process without a word: nothing of it is dropped, so nothing is written on the way out.
    pub(crate) fn kill(&self, house: House) {
        std::mem::forget(house);
    }

    /// The end of one process as by kill -9, and the next.
    pub(crate) fn restart(&self, house: House) -> House {
        self.kill(house);
        self.start()
    }
}
