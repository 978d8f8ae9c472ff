//! A body whose shield breaks off midway, gone on with from another.
//!
//! What has been passed on is not taken back. The next shield is asked for the whole object again; as much of its answer as was passed on already is left out, once
//! it was found to be named the same. Bytes of a chunk that was open are covered by the chunk's id, which comes from the second: if they were others, the
//! chunk does not verify, and no reader sees the body's end.
//!
//! Invariant: the events that come out are those of one body; where the two differ in what is known to differ, the stream ends with the first's error.

use bytes::Buf;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use stoq_cache::content::{ChunkId, Profile};
use stoq_cache::upstream::{BodyError, ChunkEvent, ChunkStream};

use super::body::{Broken, EventStream};

/// How often a body is gone on with: twice. Then a third shield has broken off.
const RESUMED_MAX: usize = 2;

/// Asks again for the same object, of the same version; `None` where that cannot be had. The argument: whether chunks may be named instead of sent.
pub(super) type Again = Box<dyn Fn(bool) -> BoxFuture<'static, Option<EventStream>> + Send + Sync>;

/// `events`, gone on with by `again` where they break off.
pub(super) fn resumable(events: EventStream, again: Again) -> ChunkStream {
    let body = Body {
        events,
        again,
        passed: Passed::default(),
        skipping: None,
        resumed: 0,
    };
    Box::pin(stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        match body.next().await? {
            Ok(event) => Some((Ok(event), Some(body))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// How far a body is.
#[derive(Debug, Clone, Default)]
struct Passed {
    profile: Option<Profile>,
    /// Bytes that were sent or are of chunks that were named.
    bytes: u64,
    /// Bytes of closed chunks.
    closed: u64,
    /// Chunks that were closed, and a hash over their names in order.
    chunks: u64,
    names: blake3::Hasher,
}

impl Passed {
    fn close(&mut self, id: &ChunkId, len: u32) {
        self.closed += u64::from(len);
        self.chunks += 1;
        self.names.update(id.as_bytes()).update(&len.to_be_bytes());
    }

    fn take(&mut self, event: &ChunkEvent) {
        match event {
            ChunkEvent::Profile(profile) => self.profile = Some(*profile),
            ChunkEvent::Bytes(bytes) => self.bytes += bytes.len() as u64,
            ChunkEvent::Chunk { id, len } => self.close(id, *len),
            ChunkEvent::Whole { chunk, .. } => {
                let len = u32::try_from(chunk.bytes().len()).unwrap_or(u32::MAX);
                self.bytes += u64::from(len);
                self.close(&chunk.id(), len);
            }
            ChunkEvent::Held { id, len } => {
                self.bytes += u64::from(*len);
                self.close(id, *len);
            }
            ChunkEvent::Vouched(_) | ChunkEvent::Sealed { .. } => {}
        }
    }
}

struct Body {
    events: EventStream,
    again: Again,
    passed: Passed,
    /// While what was passed on already is left out: how far the body at hand is, and why the one before broke off.
    skipping: Option<(Passed, BodyError)>,
    resumed: usize,
}

impl Body {
    async fn next(&mut self) -> Option<Result<ChunkEvent, BodyError>> {
        loop {
            let event = match (self.events.next().await, &self.skipping) {
                (Some(Ok(event)), _) => event,
                (None, None) => return None,
                (None, Some((_, why))) => return Some(Err(why.clone())),
                (Some(Err(Broken { error, is_gone })), _) => {
                    if !is_gone {
                        return Some(Err(error));
                    }
                    if let Err(error) = self.resume(error).await {
                        return Some(Err(error));
                    }
                    continue;
                }
            };
            let Some((at, why)) = &mut self.skipping else {
                self.passed.take(&event);
                return Some(Ok(event));
            };
            match left(at, &self.passed, event) {
                Left::Nothing => {}
                Left::Rest(event) => {
                    at.take(&event);
                    self.passed.take(&event);
                    if is_level(at, &self.passed) {
                        self.skipping = None;
                    }
                    return Some(Ok(event));
                }
                Left::Another => {
                    tracing::debug!("another shield has another body");
                    return Some(Err(why.clone()));
                }
            }
            if is_level(at, &self.passed) {
                self.skipping = None;
            }
        }
    }

    async fn resume(&mut self, error: BodyError) -> Result<(), BodyError> {
        // Why the first broke off says more than that the next did too.
        let why = self.skipping.take().map_or(error, |(_, why)| why);
        if self.resumed >= RESUMED_MAX {
            return Err(why);
        }
        self.resumed += 1;
        // A chunk whose bytes have been passed on in part cannot be named any more.
        let may_name = self.passed.bytes == self.passed.closed;
        let Some(events) = (self.again)(may_name).await else {
            return Err(why);
        };
        tracing::debug!(%why, bytes = self.passed.bytes, "a body goes on from another shield");
        self.events = events;
        let at = Passed::default();
        self.skipping = (!is_level(&at, &self.passed)).then_some((at, why));
        Ok(())
    }
}

/// Whether as much came as had been passed on, and no more is to be left out.
fn is_level(at: &Passed, passed: &Passed) -> bool {
    at.profile == passed.profile && at.chunks == passed.chunks && at.bytes == passed.bytes
}

/// What is left of an event when what was passed on is taken off.
enum Left {
    Nothing,
    Rest(ChunkEvent),
    /// It does not belong to the same body.
    Another,
}

fn left(at: &mut Passed, passed: &Passed, event: ChunkEvent) -> Left {
    let is_closing = matches!(
        event,
        ChunkEvent::Chunk { .. } | ChunkEvent::Held { .. } | ChunkEvent::Whole { .. }
    );
    match event {
        ChunkEvent::Profile(profile) => match passed.profile {
            Some(before) if before == profile => {
                at.profile = Some(profile);
                Left::Nothing
            }
            Some(_) => Left::Another,
            None => Left::Rest(ChunkEvent::Profile(profile)),
        },
        ChunkEvent::Bytes(mut bytes) => {
            let known = passed.bytes.saturating_sub(at.bytes);
            let len = bytes.len() as u64;
            if len <= known {
                at.bytes += len;
                return Left::Nothing;
            }
            // The ends of chunks that were closed before may still come: how far they lag is each shield's own.
            bytes.advance(usize::try_from(known).unwrap_or(usize::MAX));
            at.bytes += known;
            Left::Rest(ChunkEvent::Bytes(bytes))
        }
        _ if is_closing && at.chunks < passed.chunks => {
            at.take(&event);
            let fits = at.bytes <= passed.bytes && at.closed <= passed.closed;
            let is_last = at.chunks == passed.chunks;
            let same = !is_last
                || (at.closed == passed.closed && at.names.finalize() == passed.names.finalize());
            if fits && same {
                Left::Nothing
            } else {
                Left::Another
            }
        }
        // The end of a chunk whose bytes had been passed on before it was known.
        event @ ChunkEvent::Chunk { .. } => Left::Rest(event),
        // The end before what was passed on, or a chunk that was not there before its bytes were.
        _ => Left::Another,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures_util::TryStreamExt;
    use proptest::prelude::*;
    use stoq_cache::content::ManifestId;

    use super::*;

    const BODY: u64 = 40;

    fn error() -> BodyError {
        BodyError::Upstream("gone".to_owned())
    }

    fn gone() -> Broken {
        Broken {
            error: error(),
            is_gone: true,
        }
    }

    fn id(number: u64) -> ChunkId {
        ChunkId::from_bytes([u8::try_from(number).unwrap(); 32])
    }

    /// The events of a body of 40 bytes in chunks of these lengths, sent in pieces of `piece`; every `held`th chunk is named alone.
    fn events(lengths: &[u32], piece: usize, held: Option<usize>) -> Vec<ChunkEvent> {
        let body: Vec<u8> = (0..40).collect();
        let mut events = vec![ChunkEvent::Profile(Profile::Fine)];
        let mut at = 0;
        for (number, len) in lengths.iter().enumerate() {
            let chunk = &body[at..at + *len as usize];
            at += *len as usize;
            let (id, len) = (id(number as u64), *len);
            if held.is_some_and(|held| number % held == 0) {
                events.push(ChunkEvent::Held { id, len });
                continue;
            }
            let pieces = chunk.chunks(piece);
            events.extend(pieces.map(|piece| ChunkEvent::Bytes(Bytes::copy_from_slice(piece))));
            events.push(ChunkEvent::Chunk { id, len });
        }
        events.push(ChunkEvent::Sealed {
            root: ManifestId::from_bytes([9; 32]),
            total: BODY,
        });
        events
    }

    /// The same, in which each chunk's end is known so many pieces later.
    fn late(events: Vec<ChunkEvent>, lag: usize) -> Vec<ChunkEvent> {
        let mut out = Vec::new();
        let mut ends: std::collections::VecDeque<(usize, ChunkEvent)> = Default::default();
        for event in events {
            match event {
                ChunkEvent::Chunk { .. } => ends.push_back((lag, event)),
                ChunkEvent::Bytes(_) => {
                    out.push(event);
                    ends.iter_mut()
                        .for_each(|(left, _)| *left = left.saturating_sub(1));
                }
                _ => {
                    out.extend(ends.drain(..).map(|(_, end)| end));
                    out.push(event);
                }
            }
            while ends.front().is_some_and(|(left, _)| *left == 0) {
                out.extend(ends.pop_front().map(|(_, end)| end));
            }
        }
        out
    }

    fn stream_of(events: Vec<ChunkEvent>, breaks_after: Option<usize>) -> EventStream {
        let all = events.len();
        let cut = breaks_after.filter(|cut| *cut < all);
        let mut events: Vec<_> = events.into_iter().map(Ok).collect();
        if let Some(cut) = cut {
            events.truncate(cut);
            events.push(Err(gone()));
        }
        Box::pin(stream::iter(events))
    }

    /// The bytes as a reader has them (a named chunk's are zeros), the chunks' names, and whether it ended whole.
    fn read(events: &[ChunkEvent]) -> (Vec<Option<u8>>, Vec<(ChunkId, u32)>, bool) {
        let (mut bytes, mut names, mut sealed) = (Vec::new(), Vec::new(), false);
        let mut closed = 0;
        for event in events {
            assert!(!sealed, "something after the end");
            match event {
                ChunkEvent::Bytes(piece) => bytes.extend(piece.iter().map(|byte| Some(*byte))),
                ChunkEvent::Chunk { id, len } => {
                    closed += *len as usize;
                    assert!(closed <= bytes.len(), "closes more than is open");
                    names.push((*id, *len));
                }
                ChunkEvent::Held { id, len } => {
                    assert_eq!(closed, bytes.len(), "named with bytes open");
                    bytes.extend((0..*len).map(|_| None));
                    closed += *len as usize;
                    names.push((*id, *len));
                }
                ChunkEvent::Sealed { .. } => sealed = true,
                _ => {}
            }
        }
        (bytes, names, sealed)
    }

    fn lengths() -> impl Strategy<Value = Vec<u32>> {
        prop::collection::vec(1u32..12, 1..12).prop_map(|mut lengths| {
            let mut sum = 0;
            lengths.retain(|len| {
                sum += len;
                sum <= 40
            });
            let rest = 40 - lengths.iter().sum::<u32>();
            lengths.extend((rest > 0).then_some(rest));
            lengths
        })
    }

    async fn run(
        first: EventStream,
        next: impl Fn(usize, bool) -> Option<EventStream> + Send + Sync + 'static,
    ) -> (Vec<ChunkEvent>, Option<BodyError>) {
        let asked = AtomicUsize::new(0);
        let next = Arc::new(next);
        let again: Again = Box::new(move |may_name| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            let events = next(number, may_name);
            Box::pin(async move { events })
        });
        let mut out = Vec::new();
        let mut body = resumable(first, again);
        loop {
            match body.try_next().await {
                Ok(Some(event)) => out.push(event),
                Ok(None) => return (out, None),
                Err(error) => return (out, Some(error)),
            }
        }
    }

    proptest! {
        /// Wherever two shields break off, and however each cuts the same body into pieces: it comes whole and once.
        #[test]
        fn body_comes_once_wherever_it_breaks(
            lengths in lengths(), pieces in prop::array::uniform3(1usize..9),
            cuts in prop::array::uniform2(0usize..60), lags in prop::array::uniform3(0usize..6), held in prop::array::uniform3(prop::option::of(1usize..4)),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let of = |at: usize, may_name: bool| {
                late(events(&lengths, pieces[at], held[at].filter(|_| may_name)), lags[at])
            };
            let (first, want) = (of(0, true), of(0, false));
            let later: Vec<Vec<Vec<ChunkEvent>>> = (1..3).map(|at| vec![of(at, false), of(at, true)]).collect();
            let (out, error) = runtime.block_on(run(stream_of(first, Some(cuts[0])), move |number, may_name| {
                let events = later.get(number)?[usize::from(may_name)].clone();
                Some(stream_of(events, (number == 0).then_some(cuts[1])))
            }));
            prop_assert_eq!(error, None);
            let ((bytes, names, sealed), (body, all, _)) = (read(&out), read(&want));
            prop_assert!(sealed);
            prop_assert_eq!(names, all);
            prop_assert_eq!(bytes.len(), body.len());
            prop_assert!(bytes.iter().zip(&body).all(|(got, want)| got.is_none() || got == want));
        }

        /// A body that was cut otherwise, or is shorter, is not taken for the same.
        #[test]
        fn another_body_is_not_gone_on_with(lengths in lengths(), others in lengths(), cut in 1usize..60, piece in 1usize..9) {
            prop_assume!(lengths != others);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (first, next) = (events(&lengths, piece, None), events(&others, 40, None));
            let (out, failed) = runtime.block_on(run(stream_of(first, Some(cut)), move |number, _| {
                (number == 0).then(|| stream_of(next.clone(), None))
            }));
            // As far as both are the same nobody can tell, and the rest is the second's.
            let (_, names, sealed) = read(&out);
            if sealed {
                let names: Vec<_> = names.iter().map(|(_, len)| *len).collect();
                prop_assert!(names == others || names == lengths);
            } else {
                prop_assert_eq!(failed, Some(error()));
            }
        }
    }

    #[tokio::test]
    async fn it_is_over_when_nobody_has_it_or_all_break_off() {
        let body = || events(&[10, 10, 10, 10], 5, None);
        let (_, failed) = run(stream_of(body(), Some(4)), |_, _| None).await;
        assert_eq!(failed, Some(error()));
        let breaks = move |_, _| Some(stream_of(body(), Some(6)));
        let (out, failed) = run(
            stream_of(events(&[10, 10, 10, 10], 5, None), Some(4)),
            breaks,
        )
        .await;
        assert_eq!(failed, Some(error()));
        let (bytes, ..) = read(&out);
        assert!(bytes.len() < 40);
    }

    #[tokio::test]
    async fn what_the_shield_itself_says_has_broken_is_asked_of_no_other() {
        let body = events(&[10, 10, 10, 10], 5, None);
        let first = body.clone().into_iter().take(3).map(Ok);
        let first: EventStream = Box::pin(stream::iter(first.chain([Err(error().into())])));
        let (out, failed) = run(first, move |_, _| Some(stream_of(body.clone(), None))).await;
        assert_eq!((out.len(), failed), (3, Some(error())));
    }
}
