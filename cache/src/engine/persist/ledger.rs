//! The marks that are on their way into the file, and those of URLs that the disk does not reflect yet.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::{Notify, watch};

use super::journal::{Entry, Recovered};
use crate::key::CacheKey;

/// Marks of URLs that are remembered one by one: 65,536 × about 56 B = 3.6 MiB. With one more all of them become one floor, and everything stored before is
/// validated once after a restart. They leave with each flush of the disk, so that takes as many invalidations in a second, or a disk that fails.
const URLS_MAX: usize = 1 << 16;

/// Marks that wait to be written: 65,536 × 56 B = 3.6 MiB. With one more the file is written anew from what is in memory instead.
const PENDING_MAX: usize = 1 << 16;

/// The longest an answer waits for the mark of what it invalidated to be in the file: 1 s.
const WRITE_WAIT: Duration = Duration::from_secs(1);

/// What is to be written next.
#[derive(Debug)]
pub(in crate::engine) struct Pending {
    pub(in crate::engine) entries: Vec<Entry>,
    /// The entries are too many: the file is to be written anew.
    pub(in crate::engine) is_overfull: bool,
    /// What to say when it is done.
    pub(super) count: u64,
}

#[derive(Debug, Default)]
struct State {
    urls: HashMap<CacheKey, u64>,
    floor: u64,
    entries: Vec<Entry>,
    is_overfull: bool,
    /// Marks added since the start.
    added: u64,
}

/// The ledger.
#[derive(Debug)]
pub(in crate::engine) struct Ledger {
    state: Mutex<State>,
    /// Held for reading from a URL's mark until what is stored is rewritten.
    applying: RwLock<()>,
    work: Notify,
    written: watch::Sender<u64>,
    /// Whether the file could not be written lately: answers do not wait for it then.
    is_failing: AtomicBool,
    is_stopping: AtomicBool,
    stopped: watch::Sender<bool>,
}

impl Ledger {
    /// Of what an earlier process left.
    pub(in crate::engine) fn new(recovered: &Recovered) -> Self {
        Self {
            state: Mutex::new(State {
                urls: recovered.urls.clone(),
                floor: recovered.floor,
                ..State::default()
            }),
            applying: RwLock::new(()),
            work: Notify::new(),
            written: watch::Sender::new(0),
            is_failing: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            stopped: watch::Sender::new(false),
        }
    }

    /// Marks a URL. What is stored of it is to be rewritten while the guard is held. `next` gives out a point.
    pub(in crate::engine) fn mark_url(
        &self,
        key: CacheKey,
        next: impl FnOnce() -> u64,
    ) -> RwLockReadGuard<'_, ()> {
        let applying = self.applying.read();
        {
            let mut state = self.state.lock();
            let point = next();
            state.urls.insert(key, point);
            if state.urls.len() > URLS_MAX {
                state.urls = HashMap::new();
                state.floor = point;
                state.add(Entry::Floor(point));
            } else {
                state.add(Entry::Url(key, point));
            }
        }
        self.work.notify_one();
        applying
    }

    /// Adds marks of groups, which are in memory by now.
    pub(in crate::engine) fn mark_slots(&self, slots: &[u32], point: u64) {
        {
            let mut state = self.state.lock();
            for slot in slots {
                state.add(Entry::Slot(*slot, point));
            }
        }
        self.work.notify_one();
    }

    /// What a record of this URL must not be older than.
    pub(in crate::engine) fn url_mark(&self, key: &CacheKey) -> u64 {
        let state = self.state.lock();
        state.urls.get(key).copied().unwrap_or(0).max(state.floor)
    }

    /// Waits until all that was marked so far is in the file, at most a second, and not at all while that fails. Whether it is. Cancel safe.
    pub(in crate::engine) async fn written(&self) -> bool {
        if self.is_failing.load(Ordering::Relaxed) {
            return false;
        }
        let added = self.state.lock().added;
        let mut written = self.written.subscribe();
        let all = written.wait_for(|written| *written >= added);
        let is_written = matches!(tokio::time::timeout(WRITE_WAIT, all).await, Ok(Ok(_)));
        if !is_written {
            self.is_failing.store(true, Ordering::Relaxed);
        }
        is_written
    }

    // What the keeper does.

    /// Waits for something to do. Cancel safe.
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    /// Takes what is to be written.
    pub(super) fn take(&self) -> Pending {
        let mut state = self.state.lock();
        Pending {
            entries: std::mem::take(&mut state.entries),
            is_overfull: std::mem::take(&mut state.is_overfull),
            count: state.added,
        }
    }

    /// It is written.
    pub(super) fn has_written(&self, pending: &Pending) {
        self.is_failing.store(false, Ordering::Relaxed);
        self.written.send_replace(pending.count);
    }

    /// It could not be written.
    pub(super) fn put_back(&self, pending: Pending) {
        self.is_failing.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        let newer = std::mem::replace(&mut state.entries, pending.entries);
        state.is_overfull |= pending.is_overfull;
        let added = state.added;
        for entry in newer {
            state.add(entry);
        }
        state.added = added;
    }

    /// Whether there are marks of URLs.
    pub(super) fn has_urls(&self) -> bool {
        !self.state.lock().urls.is_empty()
    }

    /// URLs with marks.
    pub(super) fn urls(&self) -> Vec<CacheKey> {
        self.state.lock().urls.keys().copied().collect()
    }

    /// Waits for those who rewrite what is stored; what was marked before has then been.
    pub(super) fn settle(&self) {
        drop(self.applying.write());
    }

    /// Drops the marks of URLs up to a point.
    pub(super) fn drop_urls(&self, up_to: u64) {
        self.state.lock().urls.retain(|_, point| *point > up_to);
    }

    /// The marks of URLs, and the floor.
    pub(in crate::engine) fn marked(&self) -> (HashMap<CacheKey, u64>, u64) {
        let state = self.state.lock();
        (state.urls.clone(), state.floor)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.work.notify_one();
    }

    pub(super) fn has_stopped(&self) {
        self.stopped.send_replace(true);
    }

    pub(super) async fn stopped(&self) {
        // Only an end of the sender is an error, and it is owned here.
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }
}

impl State {
    fn add(&mut self, entry: Entry) {
        self.added += 1;
        if self.is_overfull {
            return;
        }
        if self.entries.len() < PENDING_MAX {
            self.entries.push(entry);
        } else {
            self.entries = Vec::new();
            self.is_overfull = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> CacheKey {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        CacheKey::from_bytes(bytes)
    }

    #[test]
    fn more_marks_than_are_remembered_become_a_floor() {
        let ledger = Ledger::new(&Recovered::new());
        for n in 0..=URLS_MAX {
            drop(ledger.mark_url(key(n), || n as u64 + 1));
        }
        let all = URLS_MAX as u64 + 1;
        assert_eq!(ledger.url_mark(&key(0)), all);
        assert_eq!(ledger.url_mark(&key(usize::MAX)), all, "of any URL");
        assert!(!ledger.has_urls());
        assert!(ledger.take().is_overfull, "as none was written meanwhile");
    }

    #[test]
    fn what_could_not_be_written_stays_first() {
        let ledger = Ledger::new(&Recovered::new());
        drop(ledger.mark_url(key(1), || 1));
        let taken = ledger.take();
        ledger.mark_slots(&[4], 2);
        ledger.put_back(taken);
        let again = ledger.take();
        let want = [Entry::Url(key(1), 1), Entry::Slot(4, 2)];
        assert_eq!((again.entries.as_slice(), again.count), (&want[..], 2));
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_waits_for_a_file_that_cannot_be_written_and_no_other() {
        let ledger = Ledger::new(&Recovered::new());
        drop(ledger.mark_url(key(1), || 1));
        for waits in [WRITE_WAIT, Duration::ZERO] {
            let began = tokio::time::Instant::now();
            assert!(!ledger.written().await);
            let took = began.elapsed();
            assert!(
                (waits..=waits + Duration::from_millis(2)).contains(&took),
                "{took:?}"
            );
        }
        let pending = ledger.take();
        ledger.has_written(&pending);
        assert!(ledger.written().await);
        drop(ledger.mark_url(key(2), || 2));
        let pending = ledger.take();
        ledger.put_back(pending);
        let began = tokio::time::Instant::now();
        assert!(!ledger.written().await);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_mark_is_dropped_once_what_it_marked_is_dealt_with() {
        let ledger = Ledger::new(&Recovered::new());
        drop(ledger.mark_url(key(1), || 1));
        drop(ledger.mark_url(key(2), || 2));
        ledger.drop_urls(1);
        assert_eq!((ledger.url_mark(&key(1)), ledger.url_mark(&key(2))), (0, 2));
    }
}
