//! What is stored on disk and not in memory, for those who can wait for it.

use super::{Cache, CacheRequest, Lookup};
use crate::key::CacheKey;

impl Cache {
    /// What is stored for a request of whose URL memory has nothing; `None` where the disk has nothing either. Cancel safe.
    pub(super) async fn recalled(&self, request: &CacheRequest) -> Option<Lookup> {
        let variants = self.inner.index.recall(&request.key).await?;
        if let Some(newest) = variants.newest() {
            self.inner.searches.learn(request, &newest.head.headers);
        }
        let (facts, policy) = (request.facts(), &request.site.policy);
        Some(self.select(&request.key, &variants, &facts, policy, self.now()))
    }

    /// Reads into memory what a request may invalidate: what is invalid there may still be found to hold, while what is on disk alone is
    /// forgotten.
    pub(super) async fn recall_changed(&self, key: &CacheKey) {
        self.inner.index.recall(key).await;
        self.inner.partials.recall(key).await;
    }

    /// Waits until what was invalidated stays so whatever becomes of this process.
    pub(super) async fn outlive(&self) {
        if !self.inner.marks.written().await {
            self.inner.metrics.persist.marks_late.inc();
        }
    }
}
