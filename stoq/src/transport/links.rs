//! The links of a transport that drives them itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::TransportStats;
use super::mux::Mux;
use crate::counter::Counter;

/// Who is open, so that all can be closed and waited for. Each entry is held by the task that drives it.
#[derive(Debug, Default)]
pub(super) struct Links {
    open: Mutex<Open>,
    emptied: Notify,
    pub(super) started: Counter,
    pub(super) completed: Counter,
    pub(super) failed: Counter,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    links: BTreeMap<u64, Arc<Mux>>,
    /// The code and reason with which whoever comes now is closed.
    closed: Option<(u64, Vec<u8>)>,
}

/// A link's place among the others, left when dropped.
#[derive(Debug)]
pub(super) struct Place {
    links: Arc<Links>,
    number: u64,
}

impl Links {
    /// Takes note of a link. Where all were closed, it is closed as well.
    pub(super) fn enter(self: &Arc<Self>, mux: &Arc<Mux>) -> Place {
        let mut open = self.open.lock();
        let number = open.next;
        open.next += 1;
        open.links.insert(number, mux.clone());
        if let Some((code, reason)) = &open.closed {
            mux.core.lock().close(*code, reason);
        }
        Place {
            links: self.clone(),
            number,
        }
    }

    pub(super) fn close(&self, code: u64, reason: &[u8]) {
        let mut open = self.open.lock();
        open.closed.get_or_insert_with(|| (code, reason.to_vec()));
        for mux in open.links.values() {
            mux.core.lock().close(code, reason);
        }
    }

    pub(super) async fn wait_idle(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.open.lock().links.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.open.lock().links.len()
    }

    pub(super) fn stats(&self) -> TransportStats {
        TransportStats {
            links: self.len() as u64,
            connects_started: self.started.get(),
            connects_completed: self.completed.get(),
            connects_failed: self.failed.get(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = {
            let mut open = self.links.open.lock();
            let left = open.links.remove(&self.number);
            if open.links.is_empty() {
                self.links.emptied.notify_waiters();
            }
            left
        };
        // Outside the lock: it may be the last that knew of the link.
        drop(left);
    }
}
