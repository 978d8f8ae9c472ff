//! Loads of records under way: one of a name at a time, and none that brings back what was changed meanwhile.
//!
//! Who loads looks at [`Loading::is_outdated`] under the lock under which it puts what it found into memory; who changes an entry calls
//! [`Loads::outdate`] under the same lock. So either the change finds what was loaded, or the load finds that there was a change.

use std::{
    fmt,
    hash::{BuildHasher, Hash},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use dashmap::DashMap;
use moka::{ops::compute::Op, sync::Cache};
use tokio::sync::OnceCell;

use crate::store::disk::Name;

/// A load is begun again after a change, but not for ever: the change's author has the entry in memory.
const TRIES_MAX: usize = 3;

/// One load.
pub(in crate::engine) struct Loading<T> {
    outdated: AtomicBool,
    found: OnceCell<Option<T>>,
}

impl<T> Loading<T> {
    /// Whether what is loaded was changed since the load began.
    pub(in crate::engine) fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::SeqCst)
    }
}

impl<V: Send + Sync + 'static> Loading<Arc<V>> {
    /// Puts what was read into memory, unless something is there by now or what was read is outdated; gives what is there then.
    pub(in crate::engine) fn settle<K, S>(
        &self,
        memory: &Cache<K, Arc<V>, S>,
        key: K,
        read: Arc<V>,
    ) -> Option<Arc<V>>
    where
        K: Hash + Eq + Send + Sync + 'static,
        S: BuildHasher + Clone + Send + Sync + 'static,
    {
        let mut found = None;
        memory.entry(key).and_compute_with(|present| {
            found = present.map(|present| present.into_value());
            if found.is_some() || self.is_outdated() {
                return Op::Nop;
            }
            found = Some(Arc::clone(&read));
            Op::Put(read)
        });
        found
    }
}

/// The loads under way: as many as requests wait for them.
pub(in crate::engine) struct Loads<T> {
    under_way: DashMap<Name, Arc<Loading<T>>>,
}

impl<T> Default for Loads<T> {
    fn default() -> Self {
        Self {
            under_way: DashMap::new(),
        }
    }
}

impl<T> fmt::Debug for Loads<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loads")
            .field("under_way", &self.under_way.len())
            .finish()
    }
}

impl<T: Clone> Loads<T> {
    /// What is under `name` was changed: a load that began before is of no use.
    pub(in crate::engine) fn outdate(&self, name: &Name) {
        if let Some((_, loading)) = self.under_way.remove(name) {
            loading.outdated.store(true, Ordering::SeqCst);
        }
    }

    /// What `memory` has, or else what `load` finds, by whoever began it first. `load` answers `None` where nothing was found, and
    /// where it is outdated.
    ///
    /// Cancel safe: who waits for a load whose caller left goes on with it.
    pub(in crate::engine) async fn find<F>(
        &self,
        name: &Name,
        memory: impl Fn() -> Option<T>,
        load: impl Fn(Arc<Loading<T>>) -> F,
    ) -> Option<T>
    where
        F: Future<Output = Option<T>>,
    {
        for _ in 0..TRIES_MAX {
            let waiting = self.wait_for(name);
            // After the load is on the table: a change from here on outdates it, one from before is seen.
            if let Some(found) = memory() {
                return Some(found);
            }
            let loading = &waiting.loading;
            let found = loading
                .found
                .get_or_init(|| load(Arc::clone(loading)))
                .await
                .clone();
            if found.is_some() || !loading.is_outdated() {
                return found;
            }
        }
        memory()
    }

    fn wait_for(&self, name: &Name) -> Waiting<'_, T> {
        let entry = self.under_way.entry(*name);
        let loading = entry.or_insert_with(|| {
            Arc::new(Loading {
                outdated: AtomicBool::new(false),
                found: OnceCell::new(),
            })
        });
        Waiting {
            loads: self,
            name: *name,
            loading: Arc::clone(&loading),
        }
    }
}

/// One who waits for a load. The last to leave takes it off the table: were it taken off earlier, a change would not outdate it.
struct Waiting<'a, T> {
    loads: &'a Loads<T>,
    name: Name,
    loading: Arc<Loading<T>>,
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        // The table's and this one's. Others are made from the table's alone, and that is locked.
        self.loads.under_way.remove_if(&self.name, |_, known| {
            Arc::ptr_eq(known, &self.loading) && Arc::strong_count(known) <= 2
        });
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::sync::Notify;

    use super::*;

    const NAME: Name = [1; 32];

    /// A load that puts what it read into memory once it is let go, unless it is outdated.
    struct Scene {
        loads: Loads<u32>,
        memory: Mutex<Option<u32>>,
        disk: Mutex<Option<u32>>,
        go: Notify,
        reads: Mutex<usize>,
    }

    impl Scene {
        fn new(disk: u32) -> Arc<Self> {
            Arc::new(Self {
                loads: Loads::default(),
                memory: Mutex::new(None),
                disk: Mutex::new(Some(disk)),
                go: Notify::new(),
                reads: Mutex::new(0),
            })
        }

        async fn find(self: Arc<Self>) -> Option<u32> {
            let scene = &self;
            let load = |loading: Arc<Loading<u32>>| async move {
                let read = *scene.disk.lock();
                *scene.reads.lock() += 1;
                scene.go.notified().await;
                let mut memory = scene.memory.lock();
                if loading.is_outdated() {
                    return None;
                }
                *memory = read;
                read
            };
            self.loads.find(&NAME, || *self.memory.lock(), load).await
        }

        fn change(&self, to: Option<u32>) {
            let mut memory = self.memory.lock();
            (*memory, *self.disk.lock()) = (to, to);
            self.loads.outdate(&NAME);
        }
    }

    #[tokio::test]
    async fn many_who_want_a_record_read_it_once() {
        let scene = Scene::new(7);
        let found: Vec<_> = (0..20)
            .map(|_| tokio::spawn(Arc::clone(&scene).find()))
            .collect();
        tokio::task::yield_now().await;
        scene.go.notify_one();
        for found in found {
            assert_eq!(found.await.unwrap(), Some(7));
        }
        assert_eq!(*scene.reads.lock(), 1);
        assert!(scene.loads.under_way.is_empty());
    }

    #[tokio::test]
    async fn a_load_never_brings_back_what_was_changed_meanwhile() {
        for change in [None, Some(8)] {
            let scene = Scene::new(7);
            let found = tokio::spawn(Arc::clone(&scene).find());
            tokio::task::yield_now().await;
            scene.change(change);
            scene.go.notify_one();
            scene.go.notify_waiters();
            tokio::task::yield_now().await;
            scene.go.notify_one();
            assert_eq!(found.await.unwrap(), change);
            assert_eq!(*scene.memory.lock(), change);
        }
    }

    #[tokio::test]
    async fn who_leaves_hands_the_load_on_and_the_last_leaves_nothing() {
        let scene = Scene::new(7);
        let first = tokio::spawn(Arc::clone(&scene).find());
        tokio::task::yield_now().await;
        let second = tokio::spawn(Arc::clone(&scene).find());
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.is_err());
        assert_eq!(scene.loads.under_way.len(), 1, "the second still waits");
        tokio::task::yield_now().await;
        scene.go.notify_one();
        assert_eq!(second.await.unwrap(), Some(7));
        assert!(scene.loads.under_way.is_empty());
    }
}
