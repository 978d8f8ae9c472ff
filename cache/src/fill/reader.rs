//! Reading a body that is stored or still arriving.
//!
//! Both readers hand out bytes from an offset to an end, as cheaply as they are to be had, and own at most what they
//! hand out next: a slow client pins no memory here beyond the chunk or piece it is being sent.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    At, Fill,
    hole::{self, Depot, Refill, Run},
};
use crate::{
    content::{ChunkKey, Manifest},
    http::range::Slice,
    metrics::{Metrics, ServedFrom},
    upstream::BodyError,
};

/// What every reader needs to get at chunks.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) depot: Arc<Depot>,
    pub(crate) key: ChunkKey,
    pub(crate) refill: Arc<Refill>,
}

/// One reader of a fill. Dropping it frees its seat.
#[derive(Debug)]
pub(crate) struct FillReader {
    fill: Arc<Fill>,
    access: Access,
    /// Given up once, for the seat is then another's.
    seat: Option<usize>,
    offset: u64,
    end: Option<u64>,
    held: Option<Arc<Run>>,
    failed: bool,
}

impl FillReader {
    /// A reader at `offset`; `None` where the fill failed or no longer has those bytes.
    pub(crate) fn new(fill: &Arc<Fill>, access: Access, offset: u64) -> Option<Self> {
        let seat = Some(fill.sit(offset)?);
        Some(Self {
            fill: Arc::clone(fill),
            access,
            seat,
            offset,
            end: None,
            held: None,
            failed: false,
        })
    }

    /// Where the bytes it hands out are counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.access.depot.metrics
    }

    /// Restricts a reader to a slice, to be ahead of what it read: bytes behind may be gone.
    pub(crate) fn narrow(&mut self, slice: Slice) {
        self.offset = slice.start;
        self.end = Some(slice.end);
        self.stand_at(slice.start);
    }

    /// Passes over bytes, all of which have arrived.
    pub(crate) fn skip_to(&mut self, offset: u64) {
        self.offset = offset;
        self.stand_at(offset);
    }

    pub(crate) fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes, at most up to offset `limit`; `None` at the end. After an error there is nothing more.
    ///
    /// Cancel safe.
    pub(crate) async fn next(&mut self, limit: Option<u64>) -> Option<Result<Bytes, BodyError>> {
        if self.failed {
            return None;
        }
        let mut waited = false;
        loop {
            let until = match (self.end, limit) {
                (Some(end), Some(limit)) => Some(end.min(limit)),
                (end, limit) => end.or(limit),
            };
            if until.is_some_and(|until| self.offset >= until) {
                return None;
            }
            let fill = Arc::clone(&self.fill);
            let grown = fill.grown.notified();
            let (bytes, from) = match fill.at(self.offset) {
                At::NotYet => {
                    waited = true;
                    grown.await;
                    continue;
                }
                At::End => match self.end {
                    // A range that was promised and is not there is no end.
                    Some(end) => {
                        return Some(Err(self.fail(BodyError::Length {
                            got: self.offset,
                            declared: end,
                        })));
                    }
                    None => return None,
                },
                At::Failed(error) => return Some(Err(self.fail(error))),
                At::Bytes(bytes, arrived, from) => {
                    if waited {
                        let metrics = &self.access.depot.metrics;
                        metrics
                            .relay_seconds
                            .observe(arrived.elapsed().as_secs_f64());
                    }
                    self.held = None;
                    (bytes, from)
                }
                At::Chunk { start, run } => {
                    let Access { depot, key, refill } = &self.access;
                    let keep = self.fill.received() <= depot.ram_object_bytes_max;
                    let held = &mut self.held;
                    match depot.chunk(key, refill, start, &run, keep, held).await {
                        Ok((chunk, from)) => (tail(chunk, start, self.offset), from),
                        Err(error) => return Some(Err(self.fail(error))),
                    }
                }
            };
            let bytes = head(bytes, self.offset, until);
            self.offset += bytes.len() as u64;
            self.stand_at(self.offset);
            self.access
                .depot
                .metrics
                .served_bytes(from)
                .inc_by(bytes.len() as u64);
            return Some(Ok(bytes));
        }
    }

    fn fail(&mut self, error: BodyError) -> BodyError {
        self.failed = true;
        self.leave();
        error
    }

    fn stand_at(&self, offset: u64) {
        if let Some(seat) = self.seat {
            self.fill.move_to(seat, Some(offset));
        }
    }

    fn leave(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.fill.move_to(seat, None);
        }
    }
}

impl Drop for FillReader {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A reader of a complete object.
pub(crate) struct ObjectReader {
    manifest: Arc<Manifest>,
    access: Access,
    slice: Slice,
    held: Option<Arc<Run>>,
    /// A chunk fetched ahead of its turn, by where it starts.
    ahead: Option<(u64, Bytes, ServedFrom)>,
    on_gone: Option<Box<dyn FnOnce() + Send>>,
    failed: bool,
}

impl ObjectReader {
    /// A reader of a slice. `on_gone` runs when its bytes cannot be had any more; not when nobody was there to ask.
    pub(crate) fn new(
        manifest: Arc<Manifest>,
        access: Access,
        slice: Slice,
        on_gone: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self {
            manifest,
            access,
            slice,
            held: None,
            ahead: None,
            on_gone: Some(Box::new(on_gone)),
            failed: false,
        }
    }

    /// Makes sure that the first chunk is here, so that a hole that cannot be refilled shows before the head is sent.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) async fn prepare(&mut self) -> Result<(), BodyError> {
        if self.slice.start < self.slice.end {
            let (start, bytes, from) = self.chunk().await?;
            self.ahead = Some((start, bytes, from));
        }
        Ok(())
    }

    /// Whether the chunk that [`ObjectReader::prepare`] made sure of was read from disk.
    pub(crate) fn is_from_disk(&self) -> bool {
        let ahead = self.ahead.as_ref();
        ahead.is_some_and(|(_, _, from)| *from == ServedFrom::Disk)
    }

    /// The next bytes; `None` at the end. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        if self.failed || self.slice.start >= self.slice.end {
            return None;
        }
        let (start, chunk, from) = match self.ahead.take() {
            Some(ready) => ready,
            None => match self.chunk().await {
                Ok(ready) => ready,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            },
        };
        let bytes = head(
            tail(chunk, start, self.slice.start),
            self.slice.start,
            Some(self.slice.end),
        );
        self.slice.start += bytes.len() as u64;
        self.access
            .depot
            .metrics
            .served_bytes(from)
            .inc_by(bytes.len() as u64);
        Some(Ok(bytes))
    }

    /// Where the bytes it hands out are counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.access.depot.metrics
    }

    /// Goes to another slice.
    pub(crate) fn narrow(&mut self, slice: Slice) {
        self.slice = slice;
        self.ahead = None;
    }

    /// Passes over bytes.
    pub(crate) fn skip(&mut self, bytes: u64) {
        self.slice.start = self.slice.start.saturating_add(bytes).min(self.slice.end);
        self.ahead = None;
    }

    /// The chunk that holds the next byte, and where it starts.
    async fn chunk(&mut self) -> Result<(u64, Bytes, ServedFrom), BodyError> {
        let offset = self.slice.start;
        let found = match hole::run_at(&self.manifest, offset) {
            Some((start, run)) => {
                let Access { depot, key, refill } = &self.access;
                let keep = self.manifest.total_len() <= depot.ram_object_bytes_max;
                let held = &mut self.held;
                let read = depot.chunk(key, refill, start, &run, keep, held).await;
                read.map(|(bytes, from)| (start, bytes, from))
            }
            None => Err(BodyError::Gone {
                offset,
                reason: "beyond the manifest".to_owned(),
            }),
        };
        let gone = matches!(found, Err(BodyError::Gone { .. } | BodyError::Corrupt(_)));
        if gone && let Some(on_gone) = self.on_gone.take() {
            on_gone();
        }
        found
    }
}

/// A chunk from `offset` of the body on, given where the chunk starts.
fn tail(mut chunk: Bytes, start: u64, offset: u64) -> Bytes {
    let skip = usize::try_from(offset - start)
        .unwrap_or(usize::MAX)
        .min(chunk.len());
    chunk.split_off(skip)
}

/// Bytes at `offset`, cut at `until`.
fn head(mut bytes: Bytes, offset: u64, until: Option<u64>) -> Bytes {
    if let Some(until) = until {
        bytes.truncate(usize::try_from(until.saturating_sub(offset)).unwrap_or(usize::MAX));
    }
    bytes
}
