//! How much memory bodies under way may take, over all fills.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A fill's window is never larger: how far the fastest reader may lag behind the upstream, and a slow one behind
/// the fastest before it reads from the store.
pub(crate) const WINDOW_BYTES_MAX: usize = 8 << 20;

/// A fill's window is never smaller, however many are open.
pub(crate) const WINDOW_BYTES_MIN: usize = 64 << 10;

/// The bound. A window may grow to `total / open fills`, at least [`WINDOW_BYTES_MIN`] and at most [`WINDOW_BYTES_MAX`], for as long
/// as all windows together hold less than `total`; from then on to [`WINDOW_BYTES_MIN`]. At most
/// `total / WINDOW_BYTES_MIN` fills are open. 64 MiB: 8 fills of 8 MiB, 64 of 1 MiB, 1,024 of 64 KiB; the next is
/// streamed past the cache.
///
/// So windows hold at most `2 × total`, for those that had grown before many more opened, and on top of that each fill
/// the one piece that crossed its line and the part of its open chunk (≤ 256 KiB) that was read already.
#[derive(Debug)]
pub(crate) struct Budget {
    total_bytes: usize,
    open: AtomicUsize,
    held_bytes: AtomicUsize,
}

/// One fill's part of the budget, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    held_bytes: usize,
}

impl Budget {
    pub(crate) fn new(total_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            total_bytes: total_bytes.max(WINDOW_BYTES_MIN),
            open: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
        })
    }

    /// A share, or `None` where as many fills are open as the budget has room for.
    pub(crate) fn open(self: &Arc<Self>) -> Option<Share> {
        let fills_max = self.total_bytes / WINDOW_BYTES_MIN;
        let grow = |open: usize| (open < fills_max).then_some(open + 1);
        self.open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, grow)
            .ok()?;
        Some(Share {
            budget: Arc::clone(self),
            held_bytes: 0,
        })
    }
}

impl Share {
    /// Bytes the window of this fill may hold now.
    pub(crate) fn window_bytes(&self) -> usize {
        if self.budget.held_bytes.load(Ordering::Relaxed) >= self.budget.total_bytes {
            return WINDOW_BYTES_MIN;
        }
        let open = self.budget.open.load(Ordering::Relaxed).max(1);
        (self.budget.total_bytes / open).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
    }

    /// Says what the window holds.
    pub(crate) fn hold(&mut self, bytes: usize) {
        let held = &self.budget.held_bytes;
        if bytes >= self.held_bytes {
            held.fetch_add(bytes - self.held_bytes, Ordering::Relaxed);
        } else {
            held.fetch_sub(self.held_bytes - bytes, Ordering::Relaxed);
        }
        self.held_bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
        self.budget.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_shrink_as_fills_open_and_the_number_of_fills_is_bounded() {
        let budget = Budget::new(16 << 20);
        let first = budget.open().unwrap();
        assert_eq!(first.window_bytes(), WINDOW_BYTES_MAX);
        let mut shares: Vec<_> = (0..15).map(|_| budget.open().unwrap()).collect();
        assert_eq!(first.window_bytes(), 1 << 20);
        shares.extend(std::iter::from_fn(|| budget.open()));
        assert_eq!(
            (1 + shares.len(), first.window_bytes()),
            (256, WINDOW_BYTES_MIN)
        );
        drop(shares);
        assert_eq!(first.window_bytes(), WINDOW_BYTES_MAX);
    }

    #[test]
    fn what_stalled_fills_hold_is_missing_to_the_others() {
        let budget = Budget::new(16 << 20);
        let (mut stalled, other) = (budget.open().unwrap(), budget.open().unwrap());
        stalled.hold(16 << 20);
        assert_eq!(other.window_bytes(), WINDOW_BYTES_MIN);
        stalled.hold(1 << 20);
        assert_eq!(other.window_bytes(), WINDOW_BYTES_MAX);
        stalled.hold(16 << 20);
        drop(stalled);
        assert_eq!(other.window_bytes(), WINDOW_BYTES_MAX);
    }
}
