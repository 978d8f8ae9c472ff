//! Manifests as bytes. Version 1; all integers little-endian.
//!
//! A **page** is self-contained, so that it can travel and be stored alone:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 2 | entries, 1 to 1,024 |
//! | 36 each | chunk id (32), length (4; 1 to 256 KiB) |
//!
//! A **head** says what the pages must add up to:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | profile version |
//! | 1 | profile |
//! | 8 | total length |
//! | 4 | entries, 0 to 4 Mi |
//! | 2 + n | `ETag`: length, 0xffff if absent, and value |
//! | 2 + n | `Last-Modified`, likewise |
//! | 32 each | BLAKE3 of each encoded page; one for each 1,024 entries or part of them |
//!
//! Decoding accepts exactly what encoding produces: one encoding for each value, nothing after the
//! end. What is decoded was checked for consistency, not for truth: compare the root.

use http::HeaderValue;

use super::{
    id::{ChunkId, ManifestId},
    manifest::{
        ENTRIES_MAX, Entry, GrowingManifest, Manifest, ManifestError, PAGE_ENTRIES, Page,
        Validators,
    },
    profile::{PROFILE_VERSION, Profile},
};

const VERSION: u8 = 1;
const ENTRY_BYTES: usize = 32 + 4;
/// A validator longer than this is treated as absent; the object then counts as having none.
const VALIDATOR_BYTES_MAX: usize = 1024;
const ABSENT: u16 = u16::MAX;

/// The longest encoded page: 3 + 1,024 × 36 bytes.
pub const PAGE_BYTES_MAX: usize = 3 + PAGE_ENTRIES * ENTRY_BYTES;

/// The longest encoded head: 128 KiB of page digests, two validators and 19 bytes.
pub const HEAD_BYTES_MAX: usize =
    15 + 2 * (2 + VALIDATOR_BYTES_MAX) + ENTRIES_MAX / PAGE_ENTRIES * 32;

/// Why bytes are no manifest. The sender is at fault, or the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The encoding is of a version this build does not read.
    #[error("manifest encoding version {0}, this build reads {VERSION}")]
    Version(u8),
    /// The object is cut by rules this build does not know.
    #[error(
        "chunk profile {profile} of version {version}, this build knows version {PROFILE_VERSION}"
    )]
    Profile {
        /// The version of the profiles.
        version: u8,
        /// The profile's number.
        profile: u8,
    },
    /// The bytes end too early.
    #[error("manifest ends early")]
    Truncated,
    /// The bytes go on after the end.
    #[error("{0} bytes after the end of a manifest")]
    Trailing(usize),
    /// A count is outside its bounds.
    #[error("{got} entries, allowed are {min} to {max}")]
    Entries {
        /// The count that was sent.
        got: u32,
        /// The least allowed.
        min: u32,
        /// The most allowed.
        max: u32,
    },
    /// A validator is no field value, or too long.
    #[error("a validator is no field value of at most {VALIDATOR_BYTES_MAX} bytes")]
    Validator,
    /// A chunk's length is outside its bounds.
    #[error(transparent)]
    Entry(#[from] ManifestError),
    /// A page is not the one the head announced.
    #[error("page {index} has not the digest the head announced")]
    PageDigest {
        /// The page's place.
        index: usize,
    },
    /// The pages do not add up to the head.
    #[error("pages add up to {got} bytes, the head says {want}")]
    TotalLength {
        /// The sum of the chunks' lengths.
        got: u64,
        /// What the head says.
        want: u64,
    },
    /// The head and its pages are not the manifest that was asked for.
    #[error("root is {got}, wanted {want}")]
    Root {
        /// The root of what was sent.
        got: ManifestId,
        /// The root asked for.
        want: ManifestId,
    },
}

/// The digest by which a head announces a page.
pub(super) fn digest(page: &Page) -> [u8; 32] {
    *blake3::hash(&page.encode()).as_bytes()
}

impl Page {
    /// The page as bytes, at most [`PAGE_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = u16::try_from(self.len()).expect("a page has at most 1,024 entries");
        let mut out = Vec::with_capacity(3 + self.len() * ENTRY_BYTES);
        out.push(VERSION);
        out.extend_from_slice(&count.to_le_bytes());
        for Entry { id, len } in self.entries() {
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(&len.to_le_bytes());
        }
        out
    }

    /// The page these bytes encode.
    ///
    /// # Errors
    /// [`WireError`] for anything that [`encode`](Self::encode) does not produce.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader(bytes);
        reader.version()?;
        let count = u32::from(u16::from_le_bytes(reader.array()?));
        bounded(count, 1, PAGE_ENTRIES)?;
        let mut page = Self::default();
        for _ in 0..count {
            let id = ChunkId::from_bytes(reader.array()?);
            let len = u32::from_le_bytes(reader.array()?);
            page.push(Entry { id, len })?;
        }
        reader.end()?;
        Ok(page)
    }
}

/// What a manifest says before its pages: enough to know its size and to check each page alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    /// How the object is cut.
    pub profile: Profile,
    /// The object's length in bytes.
    pub total_len: u64,
    /// The number of chunks.
    pub entries: u32,
    /// The origin's validators; those over 1 KiB are left out.
    pub validators: Validators,
    /// BLAKE3 of each encoded page.
    pub page_digests: Vec<[u8; 32]>,
}

impl ManifestHead {
    /// The head of a manifest.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        let short = |value: &Option<HeaderValue>| {
            value
                .clone()
                .filter(|value| value.len() <= VALIDATOR_BYTES_MAX)
        };
        let validators = manifest.validators();
        Self {
            profile: manifest.profile(),
            total_len: manifest.total_len(),
            entries: u32::try_from(manifest.len()).expect("at most ENTRIES_MAX entries"),
            validators: Validators {
                etag: short(&validators.etag),
                last_modified: short(&validators.last_modified),
            },
            page_digests: manifest.page_digests().to_vec(),
        }
    }

    /// The head as bytes, at most [`HEAD_BYTES_MAX`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.page_digests.len() * 32);
        out.extend_from_slice(&[VERSION, PROFILE_VERSION, self.profile.code()]);
        out.extend_from_slice(&self.total_len.to_le_bytes());
        out.extend_from_slice(&self.entries.to_le_bytes());
        for value in [&self.validators.etag, &self.validators.last_modified] {
            let value = value
                .as_ref()
                .map(HeaderValue::as_bytes)
                .and_then(|value| Some((u16::try_from(value.len()).ok()?, value)));
            let (len, value) = value.unwrap_or((ABSENT, &[]));
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(value);
        }
        for digest in &self.page_digests {
            out.extend_from_slice(digest);
        }
        out
    }

    /// The head these bytes encode.
    ///
    /// # Errors
    /// [`WireError`] for anything that [`encode`](Self::encode) does not produce.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader(bytes);
        reader.version()?;
        let [version, code] = reader.array()?;
        let profile = Profile::from_code(code)
            .filter(|_| version == PROFILE_VERSION)
            .ok_or(WireError::Profile {
                version,
                profile: code,
            })?;
        let total_len = u64::from_le_bytes(reader.array()?);
        let entries = u32::from_le_bytes(reader.array()?);
        bounded(entries, 0, ENTRIES_MAX)?;
        let etag = reader.validator()?;
        let last_modified = reader.validator()?;
        let mut page_digests = Vec::new();
        for _ in 0..(entries as usize).div_ceil(PAGE_ENTRIES) {
            page_digests.push(reader.array()?);
        }
        reader.end()?;
        Ok(Self {
            profile,
            total_len,
            entries,
            validators: Validators {
                etag,
                last_modified,
            },
            page_digests,
        })
    }

    /// The manifest of this head and these encoded pages, if it is the one named `want`.
    ///
    /// # Errors
    /// [`WireError`] as soon as a page is not the one announced, or the whole not the one named.
    pub fn assemble<'a>(
        &self,
        pages: impl IntoIterator<Item = &'a [u8]>,
        want: ManifestId,
    ) -> Result<Manifest, WireError> {
        let mut growing = GrowingManifest::new(self.profile);
        let mut pages = pages.into_iter();
        for (index, digest) in self.page_digests.iter().enumerate() {
            let bytes = pages.next().ok_or(WireError::Truncated)?;
            if blake3::hash(bytes).as_bytes() != digest {
                return Err(WireError::PageDigest { index });
            }
            for Entry { id, len } in Page::decode(bytes)?.entries() {
                growing.push(id, len)?;
            }
        }
        if growing.total_len() != self.total_len {
            return Err(WireError::TotalLength {
                got: growing.total_len(),
                want: self.total_len,
            });
        }
        if growing.len() != self.entries as usize {
            return Err(WireError::Entries {
                got: u32::try_from(growing.len()).unwrap_or(u32::MAX),
                min: self.entries,
                max: self.entries,
            });
        }
        let manifest = growing.seal(self.validators.clone());
        // Also refuses pages that are not full before the last: sealing packs them anew.
        if manifest.root() != want {
            return Err(WireError::Root {
                got: manifest.root(),
                want,
            });
        }
        Ok(manifest)
    }
}

fn bounded(got: u32, min: u32, max: usize) -> Result<(), WireError> {
    let max = u32::try_from(max).unwrap_or(u32::MAX);
    if (min..=max).contains(&got) {
        Ok(())
    } else {
        Err(WireError::Entries { got, min, max })
    }
}

/// Takes bytes off the front, or says that there are too few.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn slice(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    fn version(&mut self) -> Result<(), WireError> {
        match self.array()? {
            [VERSION] => Ok(()),
            [other] => Err(WireError::Version(other)),
        }
    }

    fn validator(&mut self) -> Result<Option<HeaderValue>, WireError> {
        let len = u16::from_le_bytes(self.array()?);
        if len == ABSENT {
            return Ok(None);
        }
        if usize::from(len) > VALIDATOR_BYTES_MAX {
            return Err(WireError::Validator);
        }
        let value = self.slice(usize::from(len))?;
        HeaderValue::from_bytes(value)
            .map(Some)
            .map_err(|_| WireError::Validator)
    }

    const fn end(&self) -> Result<(), WireError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(WireError::Trailing(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest(profile: Profile, lens: &[u32], validators: Validators) -> Manifest {
        let mut growing = GrowingManifest::new(profile);
        for (n, &len) in (0u64..).zip(lens) {
            let id = ChunkId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes());
            growing.push(id, len).unwrap();
        }
        growing.seal(validators)
    }

    fn validators() -> impl Strategy<Value = Validators> {
        let value = || {
            prop::option::of("[ -~]{0,40}")
                .prop_map(|text| text.map(|text| HeaderValue::from_str(&text).unwrap()))
        };
        (value(), value()).prop_map(|(etag, last_modified)| Validators {
            etag,
            last_modified,
        })
    }

    fn any_manifest() -> impl Strategy<Value = Manifest> {
        let lens = prop::collection::vec(1..=256 * 1024u32, 0..2_500);
        (0..4u8, lens, validators()).prop_map(|(code, lens, validators)| {
            manifest(Profile::from_code(code).unwrap(), &lens, validators)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_manifest_survives_the_wire(manifest in any_manifest()) {
            let head = ManifestHead::decode(&ManifestHead::of(&manifest).encode()).unwrap();
            let pages: Vec<_> = manifest.pages().map(|page| page.encode()).collect();
            let back = head.assemble(pages.iter().map(Vec::as_slice), manifest.root()).unwrap();
            prop_assert_eq!(back.root(), manifest.root());
            prop_assert_eq!(back.profile(), manifest.profile());
            prop_assert_eq!(back.validators(), manifest.validators());
            prop_assert!(back.entries_from(0).eq(manifest.entries_from(0)));
            for page in pages {
                prop_assert!(page.len() <= PAGE_BYTES_MAX);
            }
        }

        #[test]
        fn decoding_any_bytes_ends_and_is_the_inverse_where_it_succeeds(bytes: Vec<u8>) {
            if let Ok(page) = Page::decode(&bytes) {
                prop_assert_eq!(page.encode(), bytes.clone());
            }
            if let Ok(head) = ManifestHead::decode(&bytes) {
                prop_assert_eq!(head.encode(), bytes);
            }
        }

        #[test]
        fn a_changed_or_cut_encoding_is_never_taken_for_the_original(
            manifest in any_manifest(), at: prop::sample::Index, flip in 1..=u8::MAX
        ) {
            let head = ManifestHead::of(&manifest);
            let pages: Vec<_> = manifest.pages().map(|page| page.encode()).collect();
            let bytes = head.encode();
            let at_head = at.index(bytes.len());
            prop_assert!(ManifestHead::decode(&bytes[..at_head]).is_err());
            let mut changed = bytes.clone();
            changed[at_head] ^= flip;
            if let Ok(changed) = ManifestHead::decode(&changed) {
                prop_assert_ne!(&changed, &head);
                // Validators are vouched for by the sender alone, all else by the root.
                let assembled = changed.assemble(pages.iter().map(Vec::as_slice), manifest.root());
                if changed.validators == head.validators {
                    prop_assert!(assembled.is_err());
                }
            }
            if let Some(page) = pages.first() {
                let at = at.index(page.len());
                prop_assert!(Page::decode(&page[..at]).is_err());
                let mut changed = pages.clone();
                changed[0][at] ^= flip;
                prop_assert_eq!(
                    head.assemble(changed.iter().map(Vec::as_slice), manifest.root()).unwrap_err(),
                    WireError::PageDigest { index: 0 }
                );
            }
        }
    }

    #[test]
    fn each_flaw_has_its_error() {
        let manifest = manifest(Profile::Fine, &[5, 7], Validators::default());
        let page = manifest.pages().next().unwrap().encode();
        let decode = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = page.clone();
            change(&mut bytes);
            Page::decode(&bytes).unwrap_err()
        };
        assert_eq!(decode(&|b| b[0] = 9), WireError::Version(9));
        assert_eq!(decode(&|b| b.clear()), WireError::Truncated);
        assert_eq!(decode(&|b| b.push(0)), WireError::Trailing(1));
        assert_eq!(
            decode(&|b| b[1..3].fill(0)),
            WireError::Entries {
                got: 0,
                min: 1,
                max: 1024
            }
        );
        assert_eq!(
            decode(&|b| b[1..3].fill(0xff)),
            WireError::Entries {
                got: 65_535,
                min: 1,
                max: 1024
            }
        );
        assert_eq!(
            decode(&|b| b[35..39].fill(0)),
            WireError::Entry(ManifestError::ChunkLength { len: 0 })
        );

        let head = ManifestHead::of(&manifest);
        let mut bytes = head.encode();
        bytes[1] = 2;
        assert_eq!(
            ManifestHead::decode(&bytes).unwrap_err(),
            WireError::Profile {
                version: 2,
                profile: 1
            }
        );
        let mut bytes = head.encode();
        bytes[11..15].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            ManifestHead::decode(&bytes),
            Err(WireError::Entries { .. })
        ));
        let root = manifest.root();
        let pages = || [page.as_slice()];
        assert_eq!(head.assemble([], root).unwrap_err(), WireError::Truncated);
        let longer = ManifestHead {
            total_len: 13,
            ..head.clone()
        };
        assert_eq!(
            longer.assemble(pages(), root).unwrap_err(),
            WireError::TotalLength { got: 12, want: 13 }
        );
        let other = ManifestHead {
            profile: Profile::Coarse,
            ..head
        };
        assert!(matches!(
            other.assemble(pages(), root),
            Err(WireError::Root { want, .. }) if want == root
        ));
    }

    #[test]
    fn a_head_of_the_largest_manifest_is_within_its_bound() {
        let long = HeaderValue::from_bytes(&[b'x'; VALIDATOR_BYTES_MAX]).unwrap();
        let head = ManifestHead {
            profile: Profile::Fixed,
            total_len: u64::MAX,
            entries: u32::try_from(ENTRIES_MAX).unwrap(),
            validators: Validators {
                etag: Some(long.clone()),
                last_modified: Some(long),
            },
            page_digests: vec![[0; 32]; ENTRIES_MAX / PAGE_ENTRIES],
        };
        let bytes = head.encode();
        assert_eq!(bytes.len(), HEAD_BYTES_MAX);
        assert_eq!(ManifestHead::decode(&bytes).unwrap(), head);
    }

    #[test]
    fn a_page_is_laid_out_as_documented() {
        let mut page = Page::default();
        for (byte, len) in [(1, 5), (2, 7)] {
            let id = ChunkId::from_bytes([byte; 32]);
            page.push(Entry { id, len }).unwrap();
        }
        let mut want = vec![1, 2, 0];
        want.extend([1; 32]);
        want.extend([5, 0, 0, 0]);
        want.extend([2; 32]);
        want.extend([7, 0, 0, 0]);
        assert_eq!(page.encode(), want);
    }
}
