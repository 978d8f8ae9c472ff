//! What is stored under a URL, as bytes. Version 2; all integers little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 2 |
//! | 1 | kind: 1 responses, 2 an object known by blocks, 3 names of blocks |
//! | 8, 8 | era and point of the marks when it was written (kinds 1 and 2) |
//! | … | the content |
//! | 32 | BLAKE3, keyed by the cluster's secret, over the record's name and all bytes before |
//!
//! Responses are a count of 2 bytes, and each after its length of 4: status, fields, freshness, selector, source, what caches nearer
//! the origin said, groups, what vouches for it, and the manifest: its head, its root, and its only page where it has at most [`INLINE_ENTRIES_MAX`] entries. Larger manifests
//! lie in pages of their own, named by their digests.
//!
//! Decoding meets only bytes whose seal holds, so the disk cannot make us believe anything; an older or newer build could, which is what the
//! checks are for. Whoever changes what a field of this means changes [`VERSION`], the normal forms of [`Selector`] included: what was
//! stored before is then fetched again.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::{
    Body,
    bytes::{Decoder, Encoder},
};
use crate::{
    content::{ManifestHead, ManifestId, Page, WireError},
    engine::Membership,
    http::{
        freshness::Freshness,
        vary::{NOMINATED_MAX, Selector, SelectorPart},
    },
    object::Object,
    reply::StoredHead,
    store::disk::{BODY_BYTES_MAX, Name},
    time::Timestamp,
    upstream::Source,
};

const VERSION: u8 = 2;
const RESPONSES: u8 = 1;
const BLOCKS: u8 = 2;
const NAMES: u8 = 3;

/// Manifests of at most so many entries lie within the record: 2.3 KB. It is one page, which saves a read.
pub(super) const INLINE_ENTRIES_MAX: usize = 64;

/// Blocks whose names lie in one record: 64 × 256 KiB = 16 MiB of an object.
pub(in crate::engine) const LEAF_BLOCKS: usize = 64;

const SEAL_BYTES: usize = 32;
const SEAL_CONTEXT: &str = "stoq 2026-11-21 stored record v1";

const STALE_ALLOWED: u8 = 1;
const IMMUTABLE: u8 = 2;
const HAS_IF_ERROR: u8 = 4;

/// Why bytes are no record of this build's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    #[error("record of version {0}, this build reads {VERSION}")]
    Version(u8),
    #[error("record of kind {got}, wanted {want}")]
    Kind { got: u8, want: u8 },
    #[error("record ends early")]
    Truncated,
    #[error("{0} bytes after the end of a record")]
    Trailing(usize),
    #[error("{0} is none")]
    Malformed(&'static str),
    #[error(transparent)]
    Manifest(#[from] WireError),
}

/// When a record was written, as the marks count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which sequence of points.
    pub(crate) era: u64,
    /// The last point given out by then.
    pub(crate) point: u64,
}

/// Ties a record to its name and to the cluster's secret.
pub(super) struct Seal([u8; 32]);

impl Seal {
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        Self(blake3::derive_key(SEAL_CONTEXT, secret))
    }

    fn of(&self, name: &Name, bytes: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(name).update(bytes);
        hasher.finalize()
    }

    /// The record with its seal; `None` where it is longer than the tier takes.
    pub(super) fn close(&self, name: &Name, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        let seal = self.of(name, &bytes);
        bytes.extend_from_slice(seal.as_bytes());
        (bytes.len() <= BODY_BYTES_MAX).then_some(bytes)
    }

    /// The record without its seal, if that holds. Takes the same time wherever it does not.
    pub(super) fn open<'a>(&self, name: &Name, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (bytes, seal) = bytes.split_last_chunk::<SEAL_BYTES>()?;
        (self.of(name, bytes) == blake3::Hash::from_bytes(*seal)).then_some(bytes)
    }
}

/// What stored responses and objects known by blocks have in common.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub(crate) head: Arc<StoredHead>,
    pub(crate) freshness: Freshness,
    pub(crate) selector: Selector,
    pub(crate) source: Source,
    pub(crate) upstream_cache_status: Option<String>,
    pub(crate) membership: Option<Arc<Membership>>,
}

impl Common {
    fn of(object: &Object) -> Self {
        Self {
            head: Arc::clone(&object.head),
            freshness: object.freshness,
            selector: object.selector.clone(),
            source: object.source,
            upstream_cache_status: object.upstream_cache_status.clone(),
            membership: object.membership.clone(),
        }
    }

    fn encode(&self, out: &mut Encoder) -> Option<()> {
        out.u16(self.head.status.as_u16());
        out.headers(&self.head.headers)?;
        let freshness = &self.freshness;
        out.u64(freshness.lifetime_ms);
        out.u64(freshness.initial_age_ms);
        out.u64(freshness.response_time.0);
        out.u64(freshness.while_revalidate_ms);
        let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        out.u8(flag(freshness.stale_allowed, STALE_ALLOWED)
            | flag(freshness.immutable, IMMUTABLE)
            | flag(freshness.if_error_ms.is_some(), HAS_IF_ERROR));
        out.u64(freshness.if_error_ms.unwrap_or(0));
        let parts = self.selector.parts();
        out.u8(u8::try_from(parts.len()).ok()?);
        for part in parts {
            out.bytes(part.name.as_str().as_bytes())?;
            out.u8(u8::from(part.by_codings));
            out.maybe_bytes(part.written.as_deref())?;
            out.maybe_bytes(part.normal.as_deref())?;
        }
        out.u8(match self.source {
            Source::Origin => 0,
            Source::Shield => 1,
            Source::Peer => 2,
        });
        out.maybe_bytes(self.upstream_cache_status.as_ref().map(String::as_bytes))?;
        match &self.membership {
            None => out.u16(0),
            Some(membership) => {
                let (begun, slots) = membership.parts();
                out.u16(u16::try_from(slots.len()).ok()?);
                out.u64(begun);
                for slot in slots {
                    out.u32(*slot);
                }
            }
        }
        Some(())
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, RecordError> {
        let status =
            StatusCode::from_u16(input.u16()?).map_err(|_| RecordError::Malformed("status"))?;
        let headers: HeaderMap = input.headers()?;
        let (lifetime_ms, initial_age_ms) = (input.u64()?, input.u64()?);
        let (response_time, while_revalidate_ms) = (Timestamp(input.u64()?), input.u64()?);
        let (flags, if_error_ms) = (input.u8()?, input.u64()?);
        let has = |bit: u8| flags & bit != 0;
        if flags > STALE_ALLOWED | IMMUTABLE | HAS_IF_ERROR
            || (!has(HAS_IF_ERROR) && if_error_ms != 0)
        {
            return Err(RecordError::Malformed("freshness"));
        }
        let freshness = Freshness {
            lifetime_ms,
            initial_age_ms,
            response_time,
            while_revalidate_ms,
            if_error_ms: has(HAS_IF_ERROR).then_some(if_error_ms),
            stale_allowed: has(STALE_ALLOWED),
            immutable: has(IMMUTABLE),
        };
        let count = usize::from(input.u8()?);
        if count > NOMINATED_MAX {
            return Err(RecordError::Malformed("selector"));
        }
        let parts = (0..count).map(|_| {
            Ok(SelectorPart {
                name: input.name()?,
                by_codings: match input.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(RecordError::Malformed("selector")),
                },
                written: input.maybe_bytes()?.map(Into::into),
                normal: input.maybe_bytes()?.map(Into::into),
            })
        });
        let parts: Vec<SelectorPart> = parts.collect::<Result<_, RecordError>>()?;
        let source = match input.u8()? {
            0 => Source::Origin,
            1 => Source::Shield,
            2 => Source::Peer,
            _ => return Err(RecordError::Malformed("source")),
        };
        let said = input.maybe_bytes()?.map(|said| {
            std::str::from_utf8(said)
                .map(ToOwned::to_owned)
                .map_err(|_| RecordError::Malformed("cache status"))
        });
        let membership = match input.u16()? {
            0 => None,
            count => {
                let begun = input.u64()?;
                let slots: Result<Box<[u32]>, _> = (0..count).map(|_| input.u32()).collect();
                let membership =
                    Membership::from_parts(begun, slots?).ok_or(RecordError::Malformed("group"))?;
                Some(Arc::new(membership))
            }
        };
        Ok(Self {
            head: Arc::new(StoredHead::new(status, headers)),
            freshness,
            selector: Selector::from_parts(parts),
            source,
            upstream_cache_status: said.transpose()?,
            membership,
        })
    }
}

/// A stored response whose manifest may lie elsewhere.
#[derive(Debug)]
pub(super) struct Sketch {
    common: Common,
    voucher: Option<Bytes>,
    manifest: ManifestHead,
    root: ManifestId,
    page: Option<Vec<u8>>,
}

impl Sketch {
    /// The digests of the pages that are to be found elsewhere.
    pub(super) fn pages(&self) -> &[[u8; 32]] {
        match self.page {
            Some(_) => &[],
            None => &self.manifest.page_digests,
        }
    }

    /// What its manifest names.
    pub(super) fn named(self) -> Body {
        let page = self
            .page
            .as_deref()
            .and_then(|page| Page::decode(page).ok());
        Body {
            bytes: self.manifest.total_len,
            pages: self.pages().to_vec(),
            entries: page.map_or_else(Vec::new, |page| page.entries().collect()),
        }
    }

    /// The response, given those pages.
    pub(super) fn finish(self, pages: &[impl AsRef<[u8]>]) -> Result<Object, RecordError> {
        let manifest = match &self.page {
            Some(page) => self.manifest.assemble([page.as_slice()], self.root)?,
            None => self
                .manifest
                .assemble(pages.iter().map(AsRef::as_ref), self.root)?,
        };
        let Common {
            head,
            freshness,
            selector,
            source,
            upstream_cache_status,
            membership,
        } = self.common;
        let manifest = Arc::new(manifest);
        let object = Object::new(
            head,
            manifest,
            freshness,
            selector,
            source,
            upstream_cache_status,
        );
        Ok(object.in_groups(membership).vouched(self.voucher))
    }
}

fn begin(kind: u8, stamp: Stamp) -> Encoder {
    let mut out = Encoder(Vec::with_capacity(1024));
    out.u8(VERSION);
    out.u8(kind);
    out.u64(stamp.era);
    out.u64(stamp.point);
    out
}

fn header(bytes: &[u8], want: u8) -> Result<Decoder<'_>, RecordError> {
    let mut input = Decoder(bytes);
    match (input.u8()?, input.u8()?) {
        (VERSION, kind) if kind == want => Ok(input),
        (VERSION, got) => Err(RecordError::Kind { got, want }),
        (version, _) => Err(RecordError::Version(version)),
    }
}

fn stamped(bytes: &[u8], want: u8) -> Result<(Stamp, Decoder<'_>), RecordError> {
    let mut input = header(bytes, want)?;
    let stamp = Stamp {
        era: input.u64()?,
        point: input.u64()?,
    };
    Ok((stamp, input))
}

/// When a record was written, whichever of the two kinds that say it is.
pub(super) fn stamp(bytes: &[u8]) -> Result<Stamp, RecordError> {
    let responses = stamped(bytes, RESPONSES);
    responses
        .or_else(|_| stamped(bytes, BLOCKS))
        .map(|(stamp, _)| stamp)
}

/// Responses as they are stored, the newest first, and how many of the oldest are left out, since they do not fit. `None` where none does.
pub(super) fn encode(stamp: Stamp, objects: &[Arc<Object>]) -> (Option<Vec<u8>>, usize) {
    let mut out = begin(RESPONSES, stamp);
    let count_at = out.0.len();
    out.u16(0);
    let mut count: u16 = 0;
    for object in objects {
        let mut one = Encoder::default();
        let fits = encode_one(&mut one, object).is_some()
            && out.0.len() + 4 + one.0.len() + SEAL_BYTES <= BODY_BYTES_MAX
            && out.bytes(&one.0).is_some();
        if !fits {
            break;
        }
        count += 1;
    }
    if let Some(place) = out.0.get_mut(count_at..count_at + 2) {
        place.copy_from_slice(&count.to_le_bytes());
    }
    let left_out = objects.len().saturating_sub(usize::from(count));
    ((count > 0).then_some(out.0), left_out)
}

fn encode_one(out: &mut Encoder, object: &Object) -> Option<()> {
    Common::of(object).encode(out)?;
    out.maybe_bytes(object.voucher.as_deref())?;
    let manifest = &object.manifest;
    out.bytes(&ManifestHead::of(manifest).encode())?;
    out.array(manifest.root().as_bytes());
    let mut pages = manifest.pages();
    let page = match (pages.next(), manifest.len()) {
        (Some(page), 1..=INLINE_ENTRIES_MAX) => Some(page.encode()),
        _ => None,
    };
    out.maybe_bytes(page.as_deref())
}

/// The responses of a record whose seal was opened.
pub(super) fn decode(bytes: &[u8]) -> Result<(Stamp, Vec<Sketch>), RecordError> {
    let (stamp, mut input) = stamped(bytes, RESPONSES)?;
    let count = input.u16()?;
    let mut sketches = Vec::new();
    for _ in 0..count {
        let mut one = Decoder(input.bytes()?);
        let common = Common::decode(&mut one)?;
        let voucher = one.maybe_bytes()?.map(Bytes::copy_from_slice);
        let manifest = ManifestHead::decode(one.bytes()?)?;
        let root = ManifestId::from_bytes(one.array()?);
        let page = one.maybe_bytes()?.map(<[u8]>::to_vec);
        one.end()?;
        sketches.push(Sketch {
            common,
            voucher,
            manifest,
            root,
            page,
        });
    }
    input.end()?;
    Ok((stamp, sketches))
}

/// An object known by blocks.
#[derive(Debug, Clone)]
pub(crate) struct BlocksRecord {
    pub(crate) common: Common,
    /// Its length in bytes.
    pub(crate) total: u64,
    /// Its strong entity tag.
    pub(crate) strong: HeaderValue,
    /// What its blocks are filed under.
    pub(crate) serial: [u8; 16],
}

impl BlocksRecord {
    pub(super) fn encode(&self, stamp: Stamp) -> Option<Vec<u8>> {
        let mut out = begin(BLOCKS, stamp);
        self.common.encode(&mut out)?;
        out.u64(self.total);
        out.bytes(self.strong.as_bytes())?;
        out.array(&self.serial);
        Some(out.0)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<(Stamp, Self), RecordError> {
        let (stamp, mut input) = stamped(bytes, BLOCKS)?;
        let record = Self {
            common: Common::decode(&mut input)?,
            total: input.u64()?,
            strong: input.value()?,
            serial: input.array()?,
        };
        input.end()?;
        Ok((stamp, record))
    }
}

/// Which chunks some consecutive blocks are, as far as that is known.
pub(crate) type Leaf = [Option<[u8; 32]>; LEAF_BLOCKS];

pub(super) fn encode_leaf(leaf: &Leaf) -> Vec<u8> {
    let mut out = Encoder::default();
    out.u8(VERSION);
    out.u8(NAMES);
    let known = leaf
        .iter()
        .rev()
        .fold(0_u64, |known, name| known << 1 | u64::from(name.is_some()));
    out.u64(known);
    for name in leaf.iter().flatten() {
        out.array(name);
    }
    out.0
}

pub(super) fn decode_leaf(bytes: &[u8]) -> Result<Leaf, RecordError> {
    let mut input = header(bytes, NAMES)?;
    let known = input.u64()?;
    let mut leaf: Leaf = [None; LEAF_BLOCKS];
    for (place, name) in leaf.iter_mut().enumerate() {
        if known >> place & 1 == 1 {
            *name = Some(input.array()?);
        }
    }
    input.end()?;
    Ok(leaf)
}

#[cfg(test)]
mod tests;
