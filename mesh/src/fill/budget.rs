//! The memory of fills from several holders: what they asked for and have not handed on.

use std::sync::Arc;

use parking_lot::Mutex;

/// For all fills of a process: 64 MiB.
const ALL_BYTES: u64 = 64 << 20;
/// The least and the most for one: 8 MiB carry 1 Gbit/s from holders as far as 60 ms; 512 KiB are two of the largest chunks.
const SHARE_BYTES: [u64; 2] = [512 << 10, 8 << 20];

/// What is left.
#[derive(Debug)]
pub(super) struct Budget(Mutex<u64>);

impl Default for Budget {
    fn default() -> Self {
        Self(Mutex::new(ALL_BYTES))
    }
}

/// A fill's part, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A part for one fill: an eighth of what is left, within bounds, so that some 28 fit. `None` where too little is left.
    pub(super) fn share(self: &Arc<Self>) -> Option<Share> {
        let mut left = self.0.lock();
        let bytes = (*left / 8).clamp(SHARE_BYTES[0], SHARE_BYTES[1]);
        *left = left.checked_sub(bytes)?;
        Some(Share {
            budget: Arc::clone(self),
            bytes,
        })
    }
}

impl Share {
    /// Its size.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.budget.0.lock() += self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_whole_and_come_back() {
        let budget = Arc::new(Budget::default());
        let mut shares = Vec::new();
        while let Some(share) = budget.share() {
            shares.push(share);
        }
        let taken: u64 = shares.iter().map(Share::bytes).sum();
        assert_eq!((shares[0].bytes(), shares.len()), (8 << 20, 28));
        assert!(taken <= ALL_BYTES && ALL_BYTES - taken < SHARE_BYTES[0]);
        drop(shares);
        assert_eq!(*budget.0.lock(), ALL_BYTES);
    }
}
