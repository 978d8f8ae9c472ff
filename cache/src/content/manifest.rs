//! Manifests: which chunks, in order, make up an object.
//!
//! Entries lie in pages of [`PAGE_ENTRIES`], all full but the last. A manifest grows by one entry
//! at a time while its object is being received, and is sealed when the object is whole: the seal
//! computes the root, and only a sealed manifest says that the object is complete.
//!
//! A manifest says which bytes belong to an object, not that anyone has them: a chunk that was
//! evicted is a hole to fill. Nor does a matching root say that the manifest may be believed; who
//! vouched for it does.

use std::sync::Arc;

use http::HeaderValue;

use super::{
    id::{ChunkId, ManifestId},
    profile::{CHUNK_BYTES_MAX, PROFILE_VERSION, Profile},
    wire,
};

/// Entries in each page but the last.
pub const PAGE_ENTRIES: usize = 1024;

/// A manifest names at most this many chunks: 4 Mi × 36 bytes = 144 MiB of manifest, for 64 GiB of
/// fine, 256 GiB of coarse or 1 TiB of fixed chunks. A longer object is not stored.
pub const ENTRIES_MAX: usize = 4 * 1024 * 1024;

/// Domain separation of the root.
const ROOT_CONTEXT: &str = "stoq 2026-11-21 manifest root v1";

/// One chunk of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name of its bytes.
    pub id: ChunkId,
    /// Their number, 1 to [`CHUNK_BYTES_MAX`].
    pub len: u32,
}

/// Where a byte of the object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The index of the chunk that holds it.
    pub index: usize,
    /// Its place in that chunk.
    pub within: u32,
}

/// What a manifest refuses to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The caller passed a chunk that no profile makes.
    #[error("a chunk of {len} bytes, allowed are 1 to {CHUNK_BYTES_MAX}")]
    ChunkLength {
        /// The length that was passed.
        len: u32,
    },
    /// The object has more chunks than a manifest may name.
    #[error("more than {ENTRIES_MAX} chunks in an object")]
    TooManyChunks,
}

/// The response fields by which an origin tells this object's versions apart, as they were sent.
/// Not part of the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`, with its quotes and `W/` if it is weak.
    pub etag: Option<HeaderValue>,
    /// `Last-Modified`, unparsed.
    pub last_modified: Option<HeaderValue>,
}

/// Up to [`PAGE_ENTRIES`] entries in a row. 36 bytes each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    ids: Vec<ChunkId>,
    /// Where each chunk ends, from the page's first byte. 1,024 × 256 KiB fits with room.
    ends: Vec<u32>,
}

impl Page {
    /// The number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the page has no entry. No page of a manifest is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The entry at `i` of this page.
    #[must_use]
    pub fn entry(&self, i: usize) -> Option<Entry> {
        let (id, end) = (*self.ids.get(i)?, *self.ends.get(i)?);
        Some(Entry {
            id,
            len: end - self.start(i)?,
        })
    }

    /// All entries, in order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> + '_ {
        let mut start = 0;
        self.ids.iter().zip(&self.ends).map(move |(&id, &end)| {
            let len = end - start;
            start = end;
            Entry { id, len }
        })
    }

    /// The sum of the chunks' lengths.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn start(&self, i: usize) -> Option<u32> {
        match i.checked_sub(1) {
            None => Some(0),
            Some(previous) => self.ends.get(previous).copied(),
        }
    }

    /// Adds an entry to a page that is not full.
    pub(super) fn push(&mut self, entry: Entry) -> Result<(), ManifestError> {
        let Entry { id, len } = entry;
        if len == 0 || len as usize > CHUNK_BYTES_MAX {
            return Err(ManifestError::ChunkLength { len });
        }
        debug_assert!(self.len() < PAGE_ENTRIES);
        self.ends.push(self.bytes() + len);
        self.ids.push(id);
        Ok(())
    }
}

/// The pages of a manifest with what is needed to find a byte in them.
#[derive(Clone, Debug, Default)]
struct Pages {
    /// All full but the last, none empty.
    pages: Vec<Arc<Page>>,
    /// Where each page starts in the object.
    starts: Vec<u64>,
    total_len: u64,
}

impl Pages {
    fn len(&self) -> usize {
        match self.pages.split_last() {
            Some((last, full)) => full.len() * PAGE_ENTRIES + last.len(),
            None => 0,
        }
    }

    fn entry(&self, index: usize) -> Option<Entry> {
        self.pages
            .get(index / PAGE_ENTRIES)?
            .entry(index % PAGE_ENTRIES)
    }

    fn start_of(&self, index: usize) -> Option<u64> {
        if index >= self.len() {
            return None;
        }
        let page = index / PAGE_ENTRIES;
        let within = self.pages.get(page)?.start(index % PAGE_ENTRIES)?;
        Some(self.starts.get(page)? + u64::from(within))
    }

    fn locate(&self, offset: u64) -> Option<Location> {
        if offset >= self.total_len {
            return None;
        }
        // The first page starts at 0, so there is one at or before every offset.
        let page = self.starts.partition_point(|&start| start <= offset) - 1;
        let entries = self.pages.get(page)?;
        let in_page = u32::try_from(offset - self.starts.get(page)?).ok()?;
        let i = entries.ends.partition_point(|&end| end <= in_page);
        Some(Location {
            index: page * PAGE_ENTRIES + i,
            within: in_page - entries.start(i)?,
        })
    }

    fn push(&mut self, entry: Entry) -> Result<(), ManifestError> {
        if self.len() >= ENTRIES_MAX {
            return Err(ManifestError::TooManyChunks);
        }
        match self.pages.last_mut() {
            // A snapshot that shares the open page keeps its own copy of it.
            Some(open) if open.len() < PAGE_ENTRIES => Arc::make_mut(open).push(entry)?,
            _ => {
                let mut page = Page::default();
                page.push(entry)?;
                self.pages.push(Arc::new(page));
                self.starts.push(self.total_len);
            }
        }
        self.total_len += u64::from(entry.len);
        Ok(())
    }
}

/// The manifest of an object that is being received.
///
/// It names what has arrived and says nothing of what has not.
#[derive(Clone, Debug)]
pub struct GrowingManifest {
    profile: Profile,
    pages: Pages,
}

impl GrowingManifest {
    /// A manifest without entries.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self {
            profile,
            pages: Pages::default(),
        }
    }

    /// Adds the object's next chunk. Store its bytes first: a reader takes the entry's word.
    ///
    /// # Errors
    /// [`ManifestError::ChunkLength`] if no profile makes such a chunk, and
    /// [`ManifestError::TooManyChunks`] beyond [`ENTRIES_MAX`]; nothing is then added.
    pub fn push(&mut self, id: ChunkId, len: u32) -> Result<(), ManifestError> {
        self.pages.push(Entry { id, len })
    }

    /// The complete manifest. Only the end of the body, as its framing tells it, justifies this.
    #[must_use]
    pub fn seal(self, validators: Validators) -> Manifest {
        let digests: Vec<_> = self
            .pages
            .pages
            .iter()
            .map(|page| wire::digest(page))
            .collect();
        Manifest {
            root: root(self.profile, &self.pages, &digests),
            profile: self.profile,
            pages: self.pages,
            digests,
            validators,
        }
    }
}

/// The manifest of a whole object. Immutable; 36 bytes a chunk.
#[derive(Clone, Debug)]
pub struct Manifest {
    profile: Profile,
    pages: Pages,
    /// BLAKE3 of each encoded page, so that a page can be checked alone.
    digests: Vec<[u8; 32]>,
    root: ManifestId,
    validators: Validators,
}

impl Manifest {
    /// The root over profile, length and pages.
    #[must_use]
    pub const fn root(&self) -> ManifestId {
        self.root
    }

    /// The origin's validators for this version.
    #[must_use]
    pub const fn validators(&self) -> &Validators {
        &self.validators
    }

    /// The pages, in order.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = &Arc<Page>> {
        self.pages.pages.iter()
    }

    /// BLAKE3 of each page as encoded, in order.
    #[must_use]
    pub fn page_digests(&self) -> &[[u8; 32]] {
        &self.digests
    }
}

macro_rules! reads {
    ($name:ident) => {
        impl $name {
            /// How the object is cut.
            #[must_use]
            pub const fn profile(&self) -> Profile {
                self.profile
            }

            /// The sum of the chunks' lengths.
            #[must_use]
            pub const fn total_len(&self) -> u64 {
                self.pages.total_len
            }

            /// The number of chunks.
            #[must_use]
            pub fn len(&self) -> usize {
                self.pages.len()
            }

            /// Whether there is no chunk.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.pages.pages.is_empty()
            }

            /// The chunk at `index`. O(1).
            #[must_use]
            pub fn entry(&self, index: usize) -> Option<Entry> {
                self.pages.entry(index)
            }

            /// The offset in the object at which chunk `index` starts. O(1).
            #[must_use]
            pub fn start_of(&self, index: usize) -> Option<u64> {
                self.pages.start_of(index)
            }

            /// The chunk that holds the byte at `offset`, and where in it; `None` at the end and
            /// beyond. O(log of the number of chunks).
            #[must_use]
            pub fn locate(&self, offset: u64) -> Option<Location> {
                self.pages.locate(offset)
            }

            /// The chunks from `index` on.
            pub fn entries_from(&self, index: usize) -> impl Iterator<Item = Entry> + '_ {
                (index..self.len()).map_while(|i| self.entry(i))
            }
        }
    };
}

reads!(GrowingManifest);
reads!(Manifest);

fn root(profile: Profile, pages: &Pages, digests: &[[u8; 32]]) -> ManifestId {
    let mut hasher = blake3::Hasher::new_derive_key(ROOT_CONTEXT);
    hasher.update(&[PROFILE_VERSION, profile.code()]);
    hasher.update(&pages.total_len.to_le_bytes());
    hasher.update(&(pages.len() as u64).to_le_bytes());
    for digest in digests {
        hasher.update(digest);
    }
    ManifestId::from_bytes(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// [`CHUNK_BYTES_MAX`], in the type of lengths.
    const CHUNK_MAX: u32 = 256 * 1024;

    fn id(n: usize) -> ChunkId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        ChunkId::from_bytes(bytes)
    }

    fn grown(lens: &[u32]) -> GrowingManifest {
        let mut growing = GrowingManifest::new(Profile::Fine);
        for (n, &len) in lens.iter().enumerate() {
            growing.push(id(n), len).unwrap();
        }
        growing
    }

    proptest! {
        #[test]
        fn every_byte_is_where_a_plain_scan_finds_it(
            lens in prop::collection::vec(1..=CHUNK_MAX, 1..3_000),
            at in prop::collection::vec(any::<prop::sample::Index>(), 50),
        ) {
            let manifest = grown(&lens).seal(Validators::default());
            let mut starts = vec![0u64];
            starts.extend(lens.iter().scan(0, |sum, &len| {
                *sum += u64::from(len);
                Some(*sum)
            }));
            let total = *starts.last().unwrap();
            prop_assert_eq!(manifest.total_len(), total);
            prop_assert_eq!(manifest.len(), lens.len());
            for at in at {
                let index = at.index(lens.len());
                prop_assert_eq!(manifest.start_of(index), Some(starts[index]));
                let entry = Entry { id: id(index), len: lens[index] };
                prop_assert_eq!(manifest.entry(index), Some(entry));
                prop_assert_eq!(manifest.entries_from(index).next(), Some(entry));
                // The chunk's first and last byte, and the byte before it.
                for offset in [starts[index], starts[index + 1] - 1] {
                    let within = u32::try_from(offset - starts[index]).unwrap();
                    prop_assert_eq!(manifest.locate(offset), Some(Location { index, within }));
                }
            }
            prop_assert_eq!(manifest.locate(total), None);
            prop_assert_eq!(manifest.entry(lens.len()), None);
            prop_assert_eq!(manifest.start_of(lens.len()), None);
        }

        #[test]
        fn a_growing_manifest_answers_like_the_sealed_one(
            lens in prop::collection::vec(1..9u32, 1..2_100), offset in 0..20_000u64
        ) {
            let growing = grown(&lens);
            let sealed = growing.clone().seal(Validators::default());
            prop_assert_eq!(growing.locate(offset), sealed.locate(offset));
            prop_assert_eq!(growing.total_len(), sealed.total_len());
        }
    }

    #[test]
    fn root_covers_profile_order_and_length_and_not_validators() {
        let base = grown(&[5, 7]).seal(Validators::default()).root();
        let seal = |profile, entries: &[(usize, u32)]| {
            let mut growing = GrowingManifest::new(profile);
            for &(n, len) in entries {
                growing.push(id(n), len).unwrap();
            }
            growing.seal(Validators::default()).root()
        };
        let etag = Validators {
            etag: Some(HeaderValue::from_static("\"v2\"")),
            last_modified: None,
        };
        assert_eq!(grown(&[5, 7]).seal(etag).root(), base);
        for other in [
            seal(Profile::Coarse, &[(0, 5), (1, 7)]),
            seal(Profile::Fine, &[(1, 5), (0, 7)]),
            seal(Profile::Fine, &[(0, 7), (1, 5)]),
            seal(Profile::Fine, &[(0, 5)]),
            seal(Profile::Fine, &[(0, 5), (1, 7), (1, 7)]),
        ] {
            assert_ne!(other, base);
        }
    }

    // Computed with another implementation of BLAKE3.
    #[test]
    fn root_matches_the_golden_vector() {
        let mut growing = GrowingManifest::new(Profile::Fine);
        growing.push(ChunkId::from_bytes([1; 32]), 5).unwrap();
        growing.push(ChunkId::from_bytes([2; 32]), 7).unwrap();
        assert_eq!(
            growing.seal(Validators::default()).root().to_string(),
            "cc4cbce8933578b2d0b7e6aa5c603c0824f0714bcbe2b4bd3e4e678c40b9fc54"
        );
    }

    #[test]
    fn chunks_no_profile_makes_are_refused_and_change_nothing() {
        assert_eq!(CHUNK_MAX as usize, CHUNK_BYTES_MAX);
        let mut growing = grown(&[5]);
        for len in [0, CHUNK_MAX + 1, u32::MAX] {
            assert_eq!(
                growing.push(id(9), len),
                Err(ManifestError::ChunkLength { len })
            );
        }
        assert_eq!((growing.len(), growing.total_len()), (1, 5));
        // Also where the refused chunk would have opened a page.
        let mut full = grown(&[1; PAGE_ENTRIES]);
        assert!(full.push(id(9), 0).is_err());
        assert_eq!(full.seal(Validators::default()).pages().len(), 1);
    }

    #[test]
    fn an_object_with_too_many_chunks_is_refused() {
        let mut growing = grown(&[1; PAGE_ENTRIES]);
        let page = Arc::clone(&growing.pages.pages[0]);
        growing.pages.pages = vec![page; ENTRIES_MAX / PAGE_ENTRIES];
        assert_eq!(growing.push(id(0), 1), Err(ManifestError::TooManyChunks));
    }

    #[test]
    fn a_snapshot_does_not_grow_with_the_original() {
        let mut growing = grown(&[5]);
        let snapshot = growing.clone();
        growing.push(id(1), 7).unwrap();
        assert_eq!((snapshot.len(), snapshot.total_len()), (1, 5));
        assert_eq!((growing.len(), growing.total_len()), (2, 12));
    }
}
