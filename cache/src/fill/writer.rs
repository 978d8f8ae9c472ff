//! The one writer of a fill: from the upstream's body to the window, the chunker and the store.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;

use super::{Fill, named::Named, reader::Access};
use crate::{
    content::{
        CHUNK_BYTES_MAX, ChunkId, Chunker, GrowingManifest, Manifest, ManifestError, Profile,
        SNIFF_BYTES, Validators,
    },
    metrics::ServedFrom,
    store::Pins,
    upstream::{BodyError, BodyStream, ChunkEvent, ChunkStream, FetchBody, VOUCHER_BYTES_MAX},
};

/// Bytes of a relayed body that may be open, not yet closed by a chunk: a cut lags by up to a chunk, plus pieces on the way.
const OPEN_BYTES_MAX: usize = 4 << 20;

/// How long the window of a complete body waits for readers in it that do not move.
const DRAIN_IDLE: Duration = Duration::from_secs(5);

/// How long a body waits in all for a disk that is slower than its upstream. After that its chunks are not kept there, rather than that its
/// readers wait for a disk that is failing.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// What is known of a body before it arrives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declared {
    pub(crate) length: Option<u64>,
    pub(crate) content_type: Option<Vec<u8>>,
    pub(crate) content_encoding: Option<Vec<u8>>,
    pub(crate) validators: Validators,
    /// A body that grows beyond this is not stored, however it began.
    pub(crate) stored_bytes_max: u64,
    /// What comes of a body beyond this is kept on disk alone.
    pub(crate) ram_bytes_max: u64,
}

/// Writes a fill. Dropped unfinished, it fails the fill.
#[derive(Debug)]
pub(crate) struct Writer {
    fill: Arc<Fill>,
    access: Access,
    declared: Declared,
    received: u64,
    /// What is left of [`DISK_PATIENCE`].
    patience: Duration,
    /// Holds the chunks in memory until the last reader in the window is through.
    pins: Pins,
    voucher: Option<Bytes>,
}

impl Writer {
    pub(crate) fn new(fill: Arc<Fill>, access: Access, declared: Declared) -> Self {
        let pins = access.depot.store.pins();
        Self {
            fill,
            access,
            declared,
            received: 0,
            patience: DISK_PATIENCE,
            pins,
            voucher: None,
        }
    }

    /// Takes the whole body and seals it. The readers' end is not told yet: see [`Writer::end`].
    ///
    /// # Errors
    /// When the body breaks, has another length than declared, does not verify, or nobody reads it any more.
    pub(crate) async fn run(&mut self, body: FetchBody) -> Result<Arc<Manifest>, BodyError> {
        match body {
            FetchBody::Empty => self.cut(Box::pin(futures_util::stream::empty())).await,
            FetchBody::Stream(body) => self.cut(body).await,
            FetchBody::Chunked(events) => self.relay(events).await,
        }
    }

    /// What came with the body by which others may believe it.
    pub(crate) fn voucher(&self) -> Option<Bytes> {
        self.voucher.clone()
    }

    /// Tells every reader that the body is complete.
    pub(crate) fn end(&self) {
        self.fill.end(Ok(()));
    }

    /// Stays for readers within the window of a complete body, while they move.
    pub(crate) async fn drain(&self) {
        if self.fill.is_stored() {
            self.fill.drain(DRAIN_IDLE).await;
        }
    }

    /// Fails the fill: every reader gets the error.
    pub(crate) fn fail(&self, error: BodyError) {
        self.fill.end(Err(error));
    }

    /// A body of plain bytes: cut here.
    async fn cut(&mut self, mut body: BodyStream) -> Result<Arc<Manifest>, BodyError> {
        let mut chunker: Option<Chunker> = None;
        let mut first: Vec<Bytes> = Vec::new();
        while let Some(piece) = self.next(&mut body).await? {
            self.push(piece.clone(), self.source())?;
            match &mut chunker {
                Some(chunker) => {
                    chunker.push(piece);
                    self.store_cut(chunker).await?;
                }
                None => {
                    first.push(piece);
                    if self.received >= SNIFF_BYTES as u64 {
                        chunker = Some(self.open_chunker(std::mem::take(&mut first)).await?);
                    }
                }
            }
        }
        self.check_length()?;
        let mut chunker = match chunker {
            Some(chunker) => chunker,
            None => self.open_chunker(first).await?,
        };
        chunker.finish();
        self.store_cut(&mut chunker).await?;
        self.fill
            .seal(self.declared.validators.clone())
            .ok_or_else(|| BodyError::Corrupt("sealed twice".to_owned()))
    }

    /// Decides how the body is cut, from its first bytes.
    async fn open_chunker(&mut self, first: Vec<Bytes>) -> Result<Chunker, BodyError> {
        let sniffed: Vec<u8> = first.iter().flatten().copied().take(SNIFF_BYTES).collect();
        let Declared {
            length,
            content_type,
            content_encoding,
            ..
        } = &self.declared;
        let profile = Profile::choose(
            content_type.as_deref(),
            content_encoding.as_deref(),
            *length,
            &sniffed,
        );
        self.fill.set_profile(profile);
        let mut chunker = Chunker::new(profile);
        for piece in first {
            chunker.push(piece);
        }
        self.store_cut(&mut chunker).await?;
        Ok(chunker)
    }

    /// Stores and names each chunk that is cut.
    async fn store_cut(&mut self, chunker: &mut Chunker) -> Result<(), BodyError> {
        while let Some(chunk) = chunker.next_chunk() {
            let id = self.access.key.id(&chunk);
            self.store(id, chunk).await?;
        }
        Ok(())
    }

    /// Chunk first, name after: a reader takes the name's word.
    async fn store(&mut self, id: ChunkId, chunk: Bytes) -> Result<(), BodyError> {
        let len = u32::try_from(chunk.len())
            .map_err(|_| BodyError::Corrupt("chunk too long".to_owned()))?;
        if self.fill.is_stored() {
            self.await_disk().await;
            let store = &self.access.depot.store;
            self.fill.intend(id);
            let whole = self.declared.length.unwrap_or(0).max(self.received);
            if whole <= self.declared.ram_bytes_max {
                self.pins.put(id, chunk);
            } else if !store.put_on_disk(id, &chunk) {
                self.fill.stop_storing();
            }
        } else {
            // It turned out too large.
            self.pins.release();
        }
        self.fill
            .name(id, len)
            .map_err(|error: ManifestError| BodyError::Corrupt(error.to_string()))
    }

    /// Waits until the disk takes more, as long as there is patience left.
    async fn await_disk(&mut self) {
        if let Some(disk) = self.access.depot.store.disk()
            && !self.patience.is_zero()
        {
            let began = Instant::now();
            // Either way the chunk is offered: a disk that is still busy refuses it.
            let _ = tokio::time::timeout(self.patience, disk.room()).await;
            self.patience = self.patience.saturating_sub(began.elapsed());
        }
    }

    /// A body that somebody else cut: relayed at once, verified at each chunk's end.
    async fn relay(&mut self, mut events: ChunkStream) -> Result<Arc<Manifest>, BodyError> {
        let mut open = Open::default();
        let mut mirror: Option<GrowingManifest> = None;
        let named = Named::of(&self.access);
        loop {
            if !self.fill.room().await {
                return Err(BodyError::Upstream(
                    "nobody reads this body any more".to_owned(),
                ));
            }
            let event = tokio::select! {
                // Both are cancel safe.
                event = events.next() => event,
                () = self.fill.unread() => continue,
            };
            let Some(event) = event else {
                return Err(BodyError::Upstream(
                    "ended before its commit record".to_owned(),
                ));
            };
            match (event?, &mut mirror) {
                (ChunkEvent::Profile(profile), None) => {
                    self.fill.set_profile(profile);
                    mirror = Some(GrowingManifest::new(profile));
                }
                (ChunkEvent::Bytes(bytes), Some(_)) if !bytes.is_empty() => {
                    self.access
                        .depot
                        .metrics
                        .fetched_bytes
                        .inc_by(bytes.len() as u64);
                    if open.bytes + bytes.len() > OPEN_BYTES_MAX {
                        return Err(BodyError::Corrupt("bytes without a chunk's end".to_owned()));
                    }
                    open.push(bytes.clone());
                    self.push(bytes, self.source())?;
                }
                (ChunkEvent::Chunk { id, len }, Some(_)) => {
                    let chunk = open
                        .take(len as usize)
                        .filter(|_| len as usize <= CHUNK_BYTES_MAX)
                        .ok_or_else(|| {
                            BodyError::Corrupt(format!(
                                "chunk {id} of {len} bytes closes more than is open"
                            ))
                        })?;
                    if self.access.key.id(&chunk) != id {
                        return Err(BodyError::Corrupt(format!(
                            "bytes are not those of chunk {id}"
                        )));
                    }
                    self.store(id, chunk).await?;
                }
                (ChunkEvent::Whole { chunk, via }, Some(_)) if open.bytes == 0 => {
                    let (id, bytes) = (chunk.id(), chunk.bytes().clone());
                    if bytes.is_empty() || bytes.len() > CHUNK_BYTES_MAX {
                        return Err(BodyError::Corrupt(format!(
                            "chunk {id} of {} bytes",
                            bytes.len()
                        )));
                    }
                    if !chunk.is_under(&self.access.key) {
                        return Err(BodyError::Corrupt(format!(
                            "chunk {id} was verified under another key"
                        )));
                    }
                    let fetched = &self.access.depot.metrics.fetched_bytes;
                    fetched.inc_by(bytes.len() as u64);
                    self.push(bytes.clone(), ServedFrom::Upstream(via))?;
                    self.store(id, bytes).await?;
                }
                (ChunkEvent::Held { id, len }, Some(_)) if open.bytes == 0 => {
                    let (chunk, from) = named.chunk(id, len).await?;
                    self.push(chunk.clone(), from)?;
                    self.store(id, chunk).await?;
                }
                (ChunkEvent::Vouched(voucher), Some(_))
                    if self.voucher.is_none() && voucher.len() <= VOUCHER_BYTES_MAX =>
                {
                    // In a buffer of its own, since it is kept.
                    self.voucher = Some(Bytes::copy_from_slice(&voucher));
                }
                (ChunkEvent::Sealed { root, total }, Some(_)) if open.bytes == 0 => {
                    if total != self.received {
                        return Err(BodyError::Length {
                            got: self.received,
                            declared: total,
                        });
                    }
                    self.check_length()?;
                    let sealed = self
                        .fill
                        .seal(self.declared.validators.clone())
                        .ok_or_else(|| BodyError::Corrupt("sealed twice".to_owned()))?;
                    if sealed.root() != root {
                        return Err(BodyError::Corrupt(format!(
                            "manifest is not that of root {root}"
                        )));
                    }
                    return Ok(sealed);
                }
                (event, _) => {
                    return Err(BodyError::Corrupt(format!("{} out of turn", kind(&event))));
                }
            }
        }
    }

    /// The body's next piece, once there is room for it.
    async fn next(&self, body: &mut BodyStream) -> Result<Option<Bytes>, BodyError> {
        loop {
            if !self.fill.room().await {
                return Err(BodyError::Upstream(
                    "nobody reads this body any more".to_owned(),
                ));
            }
            let piece = tokio::select! {
                // Both are cancel safe.
                piece = body.next() => piece,
                () = self.fill.unread() => continue,
            };
            let Some(piece) = piece.transpose()? else {
                return Ok(None);
            };
            if !piece.is_empty() {
                self.access
                    .depot
                    .metrics
                    .fetched_bytes
                    .inc_by(piece.len() as u64);
                return Ok(Some(piece));
            }
        }
    }

    /// Lets readers have a piece, unless it is more than was declared.
    fn push(&mut self, piece: Bytes, from: ServedFrom) -> Result<(), BodyError> {
        self.received += piece.len() as u64;
        if let Some(declared) = self
            .declared
            .length
            .filter(|declared| self.received > *declared)
        {
            return Err(BodyError::Length {
                got: self.received,
                declared,
            });
        }
        if self.received > self.declared.stored_bytes_max {
            self.fill.stop_storing();
        }
        self.fill.push(piece, from);
        Ok(())
    }

    /// Who sends the body.
    fn source(&self) -> ServedFrom {
        ServedFrom::Upstream(self.access.refill.source)
    }

    fn check_length(&self) -> Result<(), BodyError> {
        match self.declared.length {
            Some(declared) if declared != self.received => Err(BodyError::Length {
                got: self.received,
                declared,
            }),
            _ => Ok(()),
        }
    }
}

impl Drop for Writer {
    /// Without effect on a fill that has ended.
    fn drop(&mut self) {
        self.fail(BodyError::Shutdown);
    }
}

/// Relayed bytes whose chunk has not ended yet.
#[derive(Default)]
struct Open {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Open {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }

    /// The first `len` bytes, in a buffer of their own; `None` where fewer are open.
    fn take(&mut self, len: usize) -> Option<Bytes> {
        self.bytes = self.bytes.checked_sub(len)?;
        let mut chunk = Vec::with_capacity(len);
        while chunk.len() < len {
            let mut piece = self.pieces.pop_front()?;
            chunk.extend_from_slice(&piece.split_to(piece.len().min(len - chunk.len())));
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
        }
        Some(Bytes::from(chunk))
    }
}

fn kind(event: &ChunkEvent) -> &'static str {
    match event {
        ChunkEvent::Profile(_) => "profile",
        ChunkEvent::Bytes(_) => "bytes",
        ChunkEvent::Chunk { .. } => "chunk",
        ChunkEvent::Whole { .. } => "whole chunk",
        ChunkEvent::Held { .. } => "held chunk",
        ChunkEvent::Vouched(_) => "voucher",
        ChunkEvent::Sealed { .. } => "commit record",
    }
}
