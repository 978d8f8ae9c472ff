//! Bodies of parts of an object: from RAM at once, or streamed from a reader that is sent from part to part.
//!
//! No byte of a part is copied: what goes out are slices of chunks, or of pieces as they arrived, with the text of
//! `multipart/byteranges` between them. That text is counted as taken from RAM, so that served and delivered bytes stay equal.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use smallvec::SmallVec;

use super::{blocks::BlockReader, deliver::Shape};
use crate::{
    content::Manifest,
    fill::reader::{FillReader, ObjectReader},
    http::{multipart::Multipart, range::Slice},
    metrics::{Metrics, ServedFrom},
    reply::{INLINE_BYTES_MAX, ReplyBody},
    store::Store,
    upstream::{BodyError, BodyStream},
};

/// A reader of a slice of a body, which can be sent to another one.
pub(super) trait PartReader: Send + 'static {
    /// Goes on to read this slice, and nothing else of the one before.
    fn turn_to(&mut self, slice: Slice);

    /// The next bytes of the slice; `None` at its end. After an error there is nothing more.
    fn next_bytes(&mut self) -> impl Future<Output = Option<Result<Bytes, BodyError>>> + Send;

    /// Where served bytes are counted.
    fn metrics(&self) -> &Metrics;
}

impl PartReader for ObjectReader {
    fn turn_to(&mut self, slice: Slice) {
        self.narrow(slice);
    }

    fn next_bytes(&mut self) -> impl Future<Output = Option<Result<Bytes, BodyError>>> + Send {
        self.next()
    }

    fn metrics(&self) -> &Metrics {
        self.metrics()
    }
}

impl PartReader for FillReader {
    fn turn_to(&mut self, slice: Slice) {
        self.narrow(slice);
    }

    fn next_bytes(&mut self) -> impl Future<Output = Option<Result<Bytes, BodyError>>> + Send {
        self.next(None)
    }

    fn metrics(&self) -> &Metrics {
        self.metrics()
    }
}

impl PartReader for BlockReader {
    fn turn_to(&mut self, slice: Slice) {
        self.narrow(slice);
    }

    fn next_bytes(&mut self) -> impl Future<Output = Option<Result<Bytes, BodyError>>> + Send {
        self.next()
    }

    fn metrics(&self) -> &Metrics {
        self.metrics()
    }
}

/// What is left of the reader's slice.
pub(super) fn rest(reader: impl PartReader) -> BodyStream {
    Box::pin(stream::unfold(reader, |mut reader| async move {
        let next = reader.next_bytes().await?;
        Some((next, reader))
    }))
}

/// What a multipart body sends next.
enum Next {
    /// The head of this part.
    Head(usize),
    /// Bytes of this part.
    Bytes(usize),
    End,
}

/// Several parts, from a reader that stands at the first byte of the first.
///
/// One part is read at a time; nothing is read ahead.
pub(super) fn stream(reader: impl PartReader, multipart: Arc<Multipart>) -> BodyStream {
    let start = (reader, multipart, Next::Head(0));
    Box::pin(stream::unfold(
        start,
        |(mut reader, multipart, mut next)| async move {
            loop {
                match next {
                    Next::Head(index) => {
                        let Some(part) = multipart.parts().get(index) else {
                            next = Next::End;
                            let tail = multipart.tail().clone();
                            count_text(reader.metrics(), &tail);
                            return Some((Ok(tail), (reader, multipart, next)));
                        };
                        // The reader was opened at the first, and may have its first bytes at hand.
                        if index > 0 {
                            reader.turn_to(part.slice);
                        }
                        let head = part.head.clone();
                        count_text(reader.metrics(), &head);
                        return Some((Ok(head), (reader, multipart, Next::Bytes(index))));
                    }
                    Next::Bytes(index) => match reader.next_bytes().await {
                        Some(Ok(bytes)) => return Some((Ok(bytes), (reader, multipart, next))),
                        Some(Err(error)) => {
                            return Some((Err(error), (reader, multipart, Next::End)));
                        }
                        None => next = Next::Head(index + 1),
                    },
                    Next::End => return None,
                }
            }
        },
    ))
}

fn count_text(metrics: &Metrics, text: &Bytes) {
    metrics
        .served_bytes(ServedFrom::Ram)
        .inc_by(text.len() as u64);
}

/// The body of a shape whose chunks are all in RAM now; `None` where they are not, or are more than may be handed over at once.
pub(super) fn in_ram(store: &Store, manifest: &Manifest, shape: &Shape) -> Option<ReplyBody> {
    // Most bodies are of one chunk, and cost no allocation.
    let mut pieces: SmallVec<[Bytes; 1]> = SmallVec::new();
    if let Shape::Parts(multipart) = shape {
        if multipart.length() > INLINE_BYTES_MAX {
            return None;
        }
        for part in multipart.parts() {
            pieces.push(part.head.clone());
            push_slice(store, manifest, part.slice, &mut pieces)?;
        }
        pieces.push(multipart.tail().clone());
    } else {
        let slice = shape.slice(manifest.total_len());
        if slice.start == slice.end {
            return Some(ReplyBody::Empty);
        }
        push_slice(store, manifest, slice, &mut pieces)?;
    }
    Some(match pieces.len() {
        1 => ReplyBody::Bytes(pieces.pop()?),
        _ => ReplyBody::Chunks(pieces.into_vec()),
    })
}

/// Adds a slice of a body, which is not empty, chunk by chunk.
fn push_slice(
    store: &Store,
    manifest: &Manifest,
    slice: Slice,
    pieces: &mut SmallVec<[Bytes; 1]>,
) -> Option<()> {
    let length = slice.end - slice.start;
    if length > INLINE_BYTES_MAX {
        return None;
    }
    let first = manifest.locate(slice.start)?;
    let mut skip = first.within as usize;
    let mut left = usize::try_from(length).ok()?;
    let mut index = first.index;
    while left > 0 {
        let mut chunk = store.get_ram(&manifest.entry(index)?.id)?;
        let mut piece = chunk.split_off(skip.min(chunk.len()));
        piece.truncate(left);
        left -= piece.len();
        pieces.push(piece);
        skip = 0;
        index += 1;
    }
    Some(())
}
