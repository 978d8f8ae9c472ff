//! Digests of stored representations for those who want one (RFC 9530): made once from the stored chunks, remembered by the manifest.
//!
//! A request that wants none pays for one look at its fields. One that does waits for a digest that is not known yet, but not for long, and
//! not for holes to be refilled: a digest is a wish, and an answer without one is right too. A body that still arrives has none.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use moka::sync::Cache as Table;
use tokio::{sync::Semaphore, time::timeout};

use super::{Cache, deliver::Shape};
use crate::{
    content::{ChunkKey, Manifest, ManifestId},
    http::{
        digest::{Algorithm, REPR_DIGEST, WANT_REPR_DIGEST},
        facts::RequestFacts,
    },
    object::Object,
    store::Read,
};

/// Digests that are remembered, about 300 bytes each: 1.2 MiB. The least used are forgotten, and made again.
const DIGESTS_MAX: u64 = 4096;

/// A longer representation has no digest made: this much takes a core about a tenth of a second.
const BYTES_MAX: u64 = 64 << 20;

/// How long a request waits for a digest, its turn included.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// What is known, and whose turn it is.
#[derive(Debug)]
pub(super) struct Digests {
    known: Table<(ManifestId, Algorithm), HeaderValue>,
    /// One is made at a time, so none is made twice and no crowd of them takes more than a core's part.
    turn: Semaphore,
}

impl Digests {
    pub(super) fn new() -> Self {
        Self {
            known: Table::new(DIGESTS_MAX),
            turn: Semaphore::new(1),
        }
    }
}

/// What digest of an object a request wants. The upstream's own, where it sent one, goes out as it is.
pub(super) fn wanted(facts: &RequestFacts<'_>, object: &Object) -> Option<Algorithm> {
    if !facts.headers.contains_key(&WANT_REPR_DIGEST)
        || object.head.headers.contains_key(&REPR_DIGEST)
        || object.manifest.total_len() > BYTES_MAX
    {
        return None;
    }
    Algorithm::wanted(facts.headers)
}

impl Cache {
    /// The field for a reply of this shape, where one is wanted and known.
    ///
    //= https://www.rfc-editor.org/rfc/rfc9530#section-3
    //# The Repr-Digest HTTP field can be used in requests and responses to
    //# communicate digests that are calculated using a hashing algorithm
    //# applied to the entire selected representation data
    ///
    /// So a part and an answer to HEAD have that of the whole. A 304 has none: its client has the representation, and its digest or not.
    pub(super) fn digest_field(
        &self,
        wanted: Option<Algorithm>,
        object: &Object,
        shape: &Shape,
    ) -> Option<(HeaderName, HeaderValue)> {
        let algorithm = wanted.filter(|_| shape.is_of_representation())?;
        let value = self.digest(&object.manifest, algorithm)?;
        Some((REPR_DIGEST.clone(), value))
    }

    /// Whether a digest is wanted that would have to be made first.
    pub(super) fn lacks_digest(&self, wanted: Option<Algorithm>, object: &Object) -> bool {
        wanted.is_some_and(|algorithm| self.digest(&object.manifest, algorithm).is_none())
    }

    /// Makes the digest that is wanted of an object, if there is time and every byte is at hand.
    pub(super) async fn prepare_digest(
        &self,
        key: &ChunkKey,
        wanted: Option<Algorithm>,
        object: &Object,
    ) {
        if let Some(algorithm) = wanted
            && self.digest(&object.manifest, algorithm).is_none()
        {
            // Where it does not come to an end the answer has none.
            let _late = timeout(WAIT_MAX, self.make_digest(key, &object.manifest, algorithm)).await;
        }
    }

    fn digest(&self, manifest: &Manifest, algorithm: Algorithm) -> Option<HeaderValue> {
        self.inner.digests.known.get(&(manifest.root(), algorithm))
    }

    async fn make_digest(
        &self,
        key: &ChunkKey,
        manifest: &Manifest,
        algorithm: Algorithm,
    ) -> Option<()> {
        let digests = &self.inner.digests;
        let _turn = digests.turn.acquire().await.ok()?;
        if self.digest(manifest, algorithm).is_some() {
            return Some(());
        }
        let mut hash = algorithm.hash();
        for entry in manifest.entries_from(0) {
            let Read::Hit(bytes) = self.inner.depot.store.read(key, &entry.id).await else {
                return None;
            };
            hash.update(&bytes);
            // The worker's other connections go between.
            tokio::task::yield_now().await;
        }
        self.inner.metrics.digests_made.inc();
        digests
            .known
            .insert((manifest.root(), algorithm), hash.into_field()?);
        Some(())
    }
}
