//! The thread that keeps the marks: it writes them to their file, syncs that, and drops those that the disk itself reflects by now.
//!
//! A mark of a URL is of use until what was stored under it has been rewritten or forgotten on disk for good; after a flush that began later it
//! is dropped. So the file stays short, however much is invalidated, while the disk works.

use std::{io, sync::Arc, thread, time::Duration};

use tokio::time::Instant;

use super::{Journal, Ledger, PersistMetrics, Records};
use crate::{engine::marks::Marks, store::disk::DiskTier};

/// How often the file is synced while marks arrive, and how soon a failed write is repeated.
const PACE: Duration = Duration::from_secs(1);

/// The longest the tier's flush is waited for before the marks are looked at again.
const FLUSH_WAIT: Duration = Duration::from_secs(5);

/// Bytes of the file beyond twice what is needed before it is rewritten.
const SLACK_BYTES: u64 = 256 << 10;

/// The thread's owner. Dropping it ends the thread after a last write.
#[derive(Debug)]
pub(in crate::engine) struct Keeper {
    ledger: Arc<Ledger>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is no room for one more.
    pub(in crate::engine) fn start(
        journal: Journal,
        marks: Arc<Marks>,
        ledger: Arc<Ledger>,
        records: Option<(Arc<Records>, Arc<dyn DiskTier>)>,
        metrics: PersistMetrics,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let keeping = Keeping {
            journal,
            marks,
            ledger: Arc::clone(&ledger),
            records,
            metrics,
            synced: Instant::now(),
            is_dirty: false,
        };
        thread::Builder::new()
            .name("marks".to_owned())
            .spawn(move || runtime.block_on(keeping.run()))?;
        Ok(Self { ledger })
    }

    /// Ends the thread and waits until all marks are in the file and synced. Cancel safe.
    pub(in crate::engine) async fn stop(&self) {
        self.ledger.stop();
        self.ledger.stopped().await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.ledger.stop();
    }
}

/// What the thread works on.
struct Keeping {
    journal: Journal,
    marks: Arc<Marks>,
    ledger: Arc<Ledger>,
    records: Option<(Arc<Records>, Arc<dyn DiskTier>)>,
    metrics: PersistMetrics,
    synced: Instant,
    /// Whether something was written since the last sync.
    is_dirty: bool,
}

impl Keeping {
    async fn run(mut self) {
        // What an earlier process marked and did not come to rewrite.
        let (inherited, records) = (self.ledger.urls(), self.records.clone());
        let settling = tokio::spawn(async move {
            for key in inherited {
                if let Some((records, _)) = &records {
                    records.settle(&key).await;
                }
            }
        });
        loop {
            let is_ending = self.ledger.is_stopping();
            let is_written = self.write();
            if is_ending || self.synced.elapsed() >= PACE {
                self.sync();
            }
            if is_ending {
                break;
            }
            if self.synced.elapsed() < PACE
                && (self.is_dirty || !is_written || self.ledger.has_urls())
            {
                // There is more to do soon, whether or not marks arrive.
                let soon = self.synced + PACE;
                let _ = tokio::time::timeout_at(soon, self.ledger.work()).await;
                continue;
            }
            if settling.is_finished() {
                self.drop_reflected().await;
            }
            self.compact();
            if !self.is_dirty && is_written && !self.ledger.has_urls() {
                self.ledger.work().await;
            }
        }
        self.ledger.has_stopped();
    }

    /// Writes what was marked. Whether all of it is in the file.
    fn write(&mut self) -> bool {
        let point = self.marks.stamp().point;
        if let Some(ceiling) = self.journal.next_ceiling(point) {
            let raised = self.journal.raise(ceiling);
            self.succeeded(&raised);
        }
        let pending = self.ledger.take();
        let written = if pending.is_overfull {
            self.journal.compact(&self.marks.snapshot())
        } else if pending.entries.is_empty() {
            return true;
        } else {
            self.is_dirty = true;
            self.journal.append(&pending.entries)
        };
        let is_written = self.succeeded(&written);
        if is_written {
            let count = pending.entries.len() as u64;
            self.metrics.marks_written.inc_by(count);
            self.ledger.has_written(&pending);
        } else {
            self.ledger.put_back(pending);
        }
        is_written
    }

    fn sync(&mut self) {
        self.synced = Instant::now();
        if self.is_dirty {
            let synced = self.journal.sync();
            self.is_dirty = !self.succeeded(&synced);
        }
    }

    /// Drops marks of URLs whose records on disk have been dealt with for good.
    async fn drop_reflected(&self) {
        let Some((_, disk)) = &self.records else {
            return;
        };
        if !self.ledger.has_urls() {
            return;
        }
        let point = self.marks.stamp().point;
        self.ledger.settle();
        if let Ok(Ok(())) = tokio::time::timeout(FLUSH_WAIT, disk.flush()).await {
            self.ledger.drop_urls(point);
        }
    }

    fn compact(&mut self) {
        if self.journal.len() <= SLACK_BYTES {
            return;
        }
        let state = self.marks.snapshot();
        let needed = Journal::bytes_of(state.entries().count());
        if self.journal.len() > 2 * needed + SLACK_BYTES {
            let compacted = self.journal.compact(&state);
            self.succeeded(&compacted);
        }
    }

    fn succeeded(&self, done: &io::Result<()>) -> bool {
        if let Err(error) = done {
            tracing::warn!(%error, "the file of marks cannot be written; trying again");
            self.metrics.marks_failed.inc();
        }
        done.is_ok()
    }
}
