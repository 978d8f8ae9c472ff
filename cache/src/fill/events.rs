//! A body as chunk events, for another cache: of an object, or of a fill while it grows. And the bytes of one that is only passed on.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};

use super::{
    named::Named,
    reader::{FillReader, ObjectReader},
};
use crate::{
    content::{ChunkId, Entry, Manifest},
    metrics::ServedFrom,
    upstream::{BodyError, ChunkEvent, ChunkStream},
};

/// The events of a fill, bytes relayed at once, each chunk's end as soon as it is cut. Chunks of `held` are named
/// instead where they are cut before their bytes leave: bytes that wait for a cut would cost more than they save.
pub(crate) fn of_fill(reader: FillReader, held: HashSet<ChunkId>) -> ChunkStream {
    let relay = FillEvents {
        reader,
        held,
        told_profile: false,
        closed: 0,
        next: 0,
        done: false,
    };
    Box::pin(stream::unfold(relay, |mut relay| async move {
        let event = relay.next().await?;
        Some((event, relay))
    }))
}

struct FillEvents {
    reader: FillReader,
    held: HashSet<ChunkId>,
    told_profile: bool,
    /// Bytes closed by chunks told.
    closed: u64,
    /// Index of the next chunk to tell.
    next: usize,
    done: bool,
}

impl FillEvents {
    async fn next(&mut self) -> Option<Result<ChunkEvent, BodyError>> {
        if self.done {
            return None;
        }
        loop {
            let fill = Arc::clone(self.reader.fill());
            // Registered before looking, so that nothing is missed between the two.
            let named = fill.named.notified();
            if !self.told_profile {
                if let Some(profile) = fill.profile() {
                    self.told_profile = true;
                    return Some(Ok(ChunkEvent::Profile(profile)));
                }
                if let super::At::Failed(error) = fill.at(0) {
                    self.done = true;
                    return Some(Err(error));
                }
                named.await;
                continue;
            }
            // Chunks whose bytes were all told close before more bytes open.
            let cut = fill.chunk(self.next);
            if let Some((start, entry)) = cut {
                let end = start + u64::from(entry.len);
                if end <= self.reader.offset() {
                    self.next += 1;
                    self.closed = end;
                    return Some(Ok(ChunkEvent::Chunk {
                        id: entry.id,
                        len: entry.len,
                    }));
                }
            }
            if let Some((start, Entry { id, len })) = cut
                && start == self.reader.offset()
                && self.held.contains(&id)
            {
                self.next += 1;
                self.closed = start + u64::from(len);
                self.reader.skip_to(self.closed);
                return Some(Ok(ChunkEvent::Held { id, len }));
            }
            let limit = cut.map(|(start, entry)| start + u64::from(entry.len));
            let told = self.reader.offset();
            // Waits for bytes or, where all bytes are told and chunks are not, for whatever comes first.
            let next = tokio::select! {
                // Cancel safe: the reader moves only when it returns.
                biased;
                next = self.reader.next(limit) => next,
                () = named, if told > self.closed => continue,
            };
            match next {
                Some(Ok(bytes)) => return Some(Ok(ChunkEvent::Bytes(bytes))),
                Some(Err(error)) => {
                    self.done = true;
                    return Some(Err(error));
                }
                None if limit.is_some() => {}
                None => {
                    let Some(sealed) = fill.sealed() else {
                        continue;
                    };
                    if self.next < sealed.len() {
                        continue;
                    }
                    self.done = true;
                    return Some(Ok(ChunkEvent::Sealed {
                        root: sealed.root(),
                        total: sealed.total_len(),
                    }));
                }
            }
        }
    }
}

/// The events of a complete object; chunks of `held` are named instead of sent.
pub(crate) fn of_object(
    manifest: Arc<Manifest>,
    reader: ObjectReader,
    held: HashSet<ChunkId>,
) -> ChunkStream {
    let start = ObjectEvents {
        manifest,
        reader,
        held,
        next: 0,
        at: Step::Profile,
    };
    Box::pin(stream::unfold(start, |mut relay| async move {
        let event = relay.next().await?;
        Some((event, relay))
    }))
}

struct ObjectEvents {
    manifest: Arc<Manifest>,
    reader: ObjectReader,
    held: HashSet<ChunkId>,
    next: usize,
    at: Step,
}

enum Step {
    Profile,
    Bytes,
    Close,
    Done,
}

impl ObjectEvents {
    async fn next(&mut self) -> Option<Result<ChunkEvent, BodyError>> {
        match self.at {
            Step::Profile => {
                self.at = Step::Bytes;
                Some(Ok(ChunkEvent::Profile(self.manifest.profile())))
            }
            Step::Bytes => {
                if let Some(Entry { id, len }) = self.manifest.entry(self.next)
                    && self.held.contains(&id)
                {
                    self.next += 1;
                    self.reader.skip(u64::from(len));
                    return Some(Ok(ChunkEvent::Held { id, len }));
                }
                self.bytes().await
            }
            Step::Close => {
                let entry = self.manifest.entry(self.next)?;
                self.next += 1;
                self.at = Step::Bytes;
                Some(Ok(ChunkEvent::Chunk {
                    id: entry.id,
                    len: entry.len,
                }))
            }
            Step::Done => None,
        }
    }

    async fn bytes(&mut self) -> Option<Result<ChunkEvent, BodyError>> {
        match self.reader.next().await {
            // The reader hands out whole chunks, as it starts at the first byte of one.
            Some(Ok(bytes)) => {
                self.at = Step::Close;
                Some(Ok(ChunkEvent::Bytes(bytes)))
            }
            Some(Err(error)) => {
                self.at = Step::Done;
                Some(Err(error))
            }
            None => {
                self.at = Step::Done;
                Some(Ok(ChunkEvent::Sealed {
                    root: self.manifest.root(),
                    total: self.manifest.total_len(),
                }))
            }
        }
    }
}

/// The bytes of a chunked body that nobody stores, each piece with where it was had from. What comes from an upstream is counted as fetched. Without its commit
/// record it is truncated.
pub(crate) fn pieces_of(
    events: ChunkStream,
    named: Named,
) -> impl Stream<Item = Result<(Bytes, ServedFrom), BodyError>> + Send {
    stream::unfold(Some((events, named)), |body| async move {
        let (mut events, named) = body?;
        let fetched = |bytes: Bytes, via| {
            let metrics = &named.depot.metrics;
            metrics.fetched_bytes.inc_by(bytes.len() as u64);
            (bytes, ServedFrom::Upstream(via))
        };
        let piece = loop {
            match events.next().await {
                Some(Ok(ChunkEvent::Bytes(bytes))) => break Ok(fetched(bytes, named.source)),
                Some(Ok(ChunkEvent::Whole { chunk, via })) => {
                    break Ok(fetched(chunk.bytes().clone(), via));
                }
                Some(Ok(ChunkEvent::Held { id, len })) => break named.chunk(id, len).await,
                Some(Ok(
                    ChunkEvent::Profile(_) | ChunkEvent::Chunk { .. } | ChunkEvent::Vouched(_),
                )) => {}
                Some(Ok(ChunkEvent::Sealed { .. })) => return None,
                Some(Err(error)) => break Err(error),
                None => {
                    break Err(BodyError::Upstream(
                        "ended before its commit record".to_owned(),
                    ));
                }
            }
        };
        let rest = piece.is_ok().then_some((events, named));
        Some((piece, rest))
    })
}
