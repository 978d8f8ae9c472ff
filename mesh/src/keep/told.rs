//! Holders that said so themselves, before those that are found.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use stoq_cache::key::CacheKey;

use crate::fill::{Candidate, Holders, Sought};

/// Objects of which a holder is known so: 256. What is said beyond that is not remembered, and found as anything is.
const TOLD_MAX: usize = 256;

/// Knows who said to hold what, for as long as it is being fetched; asks others for all else.
#[derive(Debug, Clone)]
pub struct Told(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    said: Mutex<HashMap<CacheKey, Candidate>>,
    others: Arc<dyn Holders>,
}

/// What somebody said. Dropped, it is forgotten.
#[derive(Debug)]
pub struct Word {
    told: Told,
    key: CacheKey,
}

impl Told {
    /// Before these.
    #[must_use]
    pub fn before(others: Arc<dyn Holders>) -> Self {
        Self(Arc::new(Inner {
            said: Mutex::default(),
            others,
        }))
    }

    /// Remembers a holder until what this gives is dropped; `None` where no more are remembered, or another is already.
    #[must_use]
    pub fn hear(&self, key: CacheKey, holder: Candidate) -> Option<Word> {
        let mut said = self.0.said.lock();
        if said.len() >= TOLD_MAX || said.contains_key(&key) {
            return None;
        }
        said.insert(key, holder);
        Some(Word {
            told: self.clone(),
            key,
        })
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        self.told.0.said.lock().remove(&self.key);
    }
}

impl Holders for Told {
    fn find<'a>(&'a self, sought: Sought<'a>) -> BoxFuture<'a, Vec<Candidate>> {
        let said = self.0.said.lock().get(&sought.key).cloned();
        match said {
            Some(holder) => Box::pin(std::future::ready(vec![holder])),
            None => self.0.others.find(sought),
        }
    }

    fn is_for_later(&self, key: &CacheKey) -> bool {
        self.0.said.lock().contains_key(key)
    }
}
