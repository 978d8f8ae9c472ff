//! Leaves out of a chunked body what the asker holds already.
//!
//! Bytes normally leave before their chunk's end is known. To leave a chunk out it must be known first, so for an asker that names a
//! manifest each chunk waits for its cut: one chunk of delay and of memory (at most 256 KiB, plus the piece that crosses its end), paid
//! only where a predecessor exists. What is not held then leaves whole.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use stoq_cache::content::{CHUNK_BYTES_MAX, ChunkId, Manifest};
use stoq_cache::upstream::{BodyError, ChunkEvent, ChunkStream};

/// Open bytes beyond which a body that is not cut is broken: a chunk, and a piece of up to 1 MiB that crosses its end.
const OPEN_BYTES_MAX: usize = CHUNK_BYTES_MAX + (1 << 20);

/// `events` without the bytes of the chunks that `held` names.
pub fn withhold(events: ChunkStream, held: &Manifest) -> ChunkStream {
    let ids = (0..held.len())
        .filter_map(|index| held.entry(index))
        .map(|entry| entry.id)
        .collect();
    let state = Withholding {
        events,
        ids,
        open: VecDeque::new(),
        open_bytes: 0,
        ready: VecDeque::new(),
    };
    Box::pin(stream::try_unfold(state, |mut state| async move {
        let event = state.next().await?;
        Ok(event.map(|event| (event, state)))
    }))
}

struct Withholding {
    events: ChunkStream,
    ids: HashSet<ChunkId>,
    /// Bytes that no chunk has closed yet, in order.
    open: VecDeque<Bytes>,
    open_bytes: usize,
    /// What can leave.
    ready: VecDeque<ChunkEvent>,
}

impl Withholding {
    async fn next(&mut self) -> Result<Option<ChunkEvent>, BodyError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            match self.events.next().await.transpose()? {
                None => return Ok(None),
                Some(ChunkEvent::Bytes(bytes)) => {
                    self.open_bytes += bytes.len();
                    if self.open_bytes > OPEN_BYTES_MAX {
                        return Err(BodyError::Corrupt(format!(
                            "{} bytes without a cut",
                            self.open_bytes
                        )));
                    }
                    self.open.push_back(bytes);
                }
                Some(ChunkEvent::Chunk { id, len }) => self.close(id, len)?,
                Some(ChunkEvent::Whole { chunk, .. }) if self.ids.contains(&chunk.id()) => {
                    let len = u32::try_from(chunk.bytes().len()).unwrap_or(u32::MAX);
                    let id = chunk.id();
                    self.ready.push_back(ChunkEvent::Held { id, len });
                }
                Some(
                    event @ (ChunkEvent::Profile(_)
                    | ChunkEvent::Whole { .. }
                    | ChunkEvent::Held { .. }
                    | ChunkEvent::Vouched(_)
                    | ChunkEvent::Sealed { .. }),
                ) => {
                    return Ok(Some(event));
                }
            }
        }
    }

    /// Takes the chunk's bytes off the open ones; lets them go only if the asker lacks them.
    fn close(&mut self, id: ChunkId, len: u32) -> Result<(), BodyError> {
        let held = self.ids.contains(&id);
        let mut left = usize::try_from(len).unwrap_or(usize::MAX);
        while left > 0 {
            let Some(mut front) = self.open.pop_front() else {
                return Err(BodyError::Corrupt(format!(
                    "a chunk of {len} bytes, {left} of them never came"
                )));
            };
            if front.len() > left {
                self.open.push_front(front.split_off(left));
            }
            left -= front.len();
            self.open_bytes -= front.len();
            if !held {
                self.ready.push_back(ChunkEvent::Bytes(front));
            }
        }
        self.ready.push_back(if held {
            ChunkEvent::Held { id, len }
        } else {
            ChunkEvent::Chunk { id, len }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;
    use stoq_cache::content::{GrowingManifest, ManifestId, Profile, Validators};

    use super::*;

    fn id(byte: u8) -> ChunkId {
        ChunkId::from_bytes([byte; 32])
    }

    fn manifest(chunks: &[(ChunkId, u32)]) -> Manifest {
        let mut growing = GrowingManifest::new(Profile::Fine);
        for (id, len) in chunks {
            growing.push(*id, *len).unwrap();
        }
        growing.seal(Validators::default())
    }

    async fn withheld(
        events: Vec<ChunkEvent>,
        held: &[(ChunkId, u32)],
    ) -> Result<Vec<ChunkEvent>, BodyError> {
        withhold(
            Box::pin(stream::iter(events.into_iter().map(Ok))),
            &manifest(held),
        )
        .try_collect()
        .await
    }

    fn bytes(text: &'static str) -> ChunkEvent {
        ChunkEvent::Bytes(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn held_chunks_lose_their_bytes_and_the_rest_keeps_its_order() {
        let sealed = ChunkEvent::Sealed {
            root: ManifestId::from_bytes([9; 32]),
            total: 12,
        };
        let events = vec![
            ChunkEvent::Profile(Profile::Fine),
            bytes("aaaab"),
            ChunkEvent::Chunk { id: id(1), len: 4 },
            bytes("bbbccc"),
            ChunkEvent::Chunk { id: id(2), len: 4 },
            bytes("c"),
            ChunkEvent::Chunk { id: id(3), len: 4 },
            sealed.clone(),
        ];
        let expected = vec![
            ChunkEvent::Profile(Profile::Fine),
            bytes("aaaa"),
            ChunkEvent::Chunk { id: id(1), len: 4 },
            ChunkEvent::Held { id: id(2), len: 4 },
            bytes("ccc"),
            bytes("c"),
            ChunkEvent::Chunk { id: id(3), len: 4 },
            sealed,
        ];
        assert_eq!(
            withheld(events, &[(id(2), 4), (id(7), 4)]).await.unwrap(),
            expected
        );
    }

    #[tokio::test]
    async fn a_chunk_longer_than_its_bytes_is_corrupt() {
        let events = vec![bytes("aa"), ChunkEvent::Chunk { id: id(1), len: 3 }];
        assert!(matches!(
            withheld(events, &[(id(1), 3)]).await,
            Err(BodyError::Corrupt(_))
        ));
    }
}
