//! What one holder sends of a fill: one exchange, on which more is asked for while chunks come.
//!
//! A feed reads as fast as its holder sends, so that who is slow is known; what it may be sent is bounded by what it was asked for. Each chunk is
//! verified before anybody sees it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stoq::identity::NodeId;
use stoq::peer::{Ask, Exchange, ExchangeError, Part};
use stoq::pool::Pool;
use stoq::wire::Urgency;
use stoq_cache::content::{ChunkId, ChunkKey, VerifiedChunk};
use stoq_cache::key::CacheKey;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::ask::{AskError, Way};
use super::holder::Patience;
use super::metrics::FillMetrics;
use super::quarantine::Quarantine;
use super::swarm::HolderId;
use crate::object::Code;
use crate::wire::{self, ChunksRequest};

/// How often it is told that bytes of a chunk come: some times within the least patience there is.
const HEARD_EVERY: Duration = Duration::from_millis(50);

/// What the feeds of one fill have in common.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) pool: Pool,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) metrics: Arc<FillMetrics>,
    pub(super) site: Arc<str>,
    pub(super) key: CacheKey,
    pub(super) chunk_key: ChunkKey,
    pub(super) patience: Patience,
    /// The last is for what nobody waits for.
    pub(super) urgency: Urgency,
}

impl Line {
    pub(super) fn chunk_key_id(&self) -> [u8; 16] {
        *self.chunk_key.key_id().as_bytes()
    }
}

/// A chunk that a holder is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Its place in the body.
    pub(super) place: usize,
    pub(super) id: ChunkId,
    pub(super) len: u32,
}

/// What a fill hears of its holders.
#[derive(Debug)]
pub(super) enum News {
    /// It was reached, over a path with this round trip, what waits in queues left out.
    Reached(Duration),
    /// Bytes came, of a chunk that is not whole yet.
    Heard,
    /// A chunk came.
    Chunk(usize, VerifiedChunk),
    /// No more comes of what it was asked for.
    Ended(Ended),
    /// Which chunks it holds, from this place on; or it does not say.
    Said(usize, Result<Vec<bool>, AskError>),
}

/// How a feed ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// In good order.
    Closed,
    /// It lacks the chunk at this place.
    Lacks(usize),
    Broke(AskError),
    /// It sent other bytes than those of the chunk at this place.
    Lied(NodeId, usize),
}

/// Where news go: whose they are, and of which of its feeds, since what comes of one that was broken off does not count.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    pub(super) holder: HolderId,
    pub(super) feed: u64,
    pub(super) news: mpsc::Sender<(HolderId, u64, News)>,
}

impl Teller {
    /// Nobody listens any more when the fill has ended, and this task is about to end with it.
    pub(super) async fn tell(&self, news: News) {
        let _ = self.news.send((self.holder, self.feed, news)).await;
    }
}

/// Asks a holder for what comes in `asks`, until that ends or the holder does.
pub(super) async fn feed(
    line: Arc<Line>,
    way: Way,
    mut asks: mpsc::Receiver<Vec<Wanted>>,
    teller: Teller,
) {
    let ended = converse(&line, &way, &mut asks, &teller)
        .await
        .unwrap_or_else(Ended::Broke);
    teller.tell(News::Ended(ended)).await;
}

async fn converse(
    line: &Line,
    way: &Way,
    asks: &mut mpsc::Receiver<Vec<Wanted>>,
    teller: &Teller,
) -> Result<Ended, AskError> {
    let Some(first) = asks.recv().await else {
        return Ok(Ended::Closed);
    };
    let conn = way.connect(&line.pool, &line.quarantine).await?;
    let node = conn.peer().identity.node_id;
    teller.tell(News::Reached(conn.path().rtt_min)).await;
    let request = ChunksRequest {
        key: *line.key.as_bytes(),
        chunk_key_id: line.chunk_key_id(),
        site: line.site.to_string(),
        chunks: named(&first),
    };
    let ask = Ask::new(wire::CHUNKS, request.encode()?).urgency(line.urgency);
    let asked = conn.ask(ask).await;
    let Exchange { mut send, mut recv } = asked?;
    let mut assembly = Assembly::new(line, first);
    let (mut gave, mut heard) = (false, Instant::now());
    loop {
        tokio::select! {
            // Both may be cancelled: what was not taken stays in its queue.
            more = asks.recv() => match more {
                Some(more) => {
                    let payload = wire::encode_more(&named(&more))?;
                    assembly.queue.extend(more);
                    send.frame(wire::MORE, payload).await?;
                }
                None => return Ok(Ended::Closed),
            },
            part = recv.next() => match part {
                Ok(Some(Part::Data(mut bytes))) => {
                    while !bytes.is_empty() {
                        match assembly.take(&mut bytes)? {
                            Taken::Part if heard.elapsed() >= HEARD_EVERY => {
                                heard = Instant::now();
                                teller.tell(News::Heard).await;
                            }
                            Taken::Part => {}
                            Taken::Chunk(place, chunk) => {
                                gave = true;
                                teller.tell(News::Chunk(place, chunk)).await;
                            }
                            Taken::Lie(place) => return Ok(Ended::Lied(node, place)),
                        }
                    }
                }
                Ok(Some(Part::Head(_) | Part::Frame { .. })) => return Err(AskError::Answer),
                // A holder may end what was left idle. One that gives nothing at all does not do what it was asked.
                Ok(None) if gave || assembly.queue.is_empty() => return Ok(Ended::Closed),
                Ok(None) => return Err(AskError::Answer),
                Err(ExchangeError::Remote { code, .. }) if Code::of(code) == Code::ChunkMissing => {
                    let missing = assembly.queue.front().ok_or(AskError::Answer)?;
                    return Ok(Ended::Lacks(missing.place));
                }
                Err(error) => return Err(error.into()),
            },
        }
    }
}

fn named(chunks: &[Wanted]) -> Vec<([u8; 32], u32)> {
    let chunks = chunks.iter();
    chunks.map(|one| (*one.id.as_bytes(), one.len)).collect()
}

/// Chunks out of bytes, in the order in which they were asked for.
struct Assembly<'a> {
    line: &'a Line,
    queue: VecDeque<Wanted>,
    /// What is here of the first.
    part: Vec<u8>,
}

enum Taken {
    Part,
    Chunk(usize, VerifiedChunk),
    Lie(usize),
}

impl<'a> Assembly<'a> {
    fn new(line: &'a Line, first: Vec<Wanted>) -> Self {
        Self {
            line,
            queue: first.into(),
            part: Vec::new(),
        }
    }

    /// Takes what belongs to the first chunk off `bytes`.
    fn take(&mut self, bytes: &mut Bytes) -> Result<Taken, AskError> {
        // More than was asked for.
        let first = *self.queue.front().ok_or(AskError::Answer)?;
        let len = first.len as usize;
        if self.part.is_empty() {
            // In a buffer of its size, since it may be kept.
            self.part = Vec::with_capacity(len);
        }
        let missing = len.saturating_sub(self.part.len());
        let piece = bytes.split_to(missing.min(bytes.len()));
        self.part.extend_from_slice(&piece);
        if self.part.len() < len {
            return Ok(Taken::Part);
        }
        self.queue.pop_front();
        let chunk = Bytes::from(std::mem::take(&mut self.part));
        Ok(match self.line.chunk_key.verify(first.id, chunk) {
            Some(chunk) => Taken::Chunk(first.place, chunk),
            None => {
                self.line.metrics.wasted_bytes.inc_by(len as u64);
                Taken::Lie(first.place)
            }
        })
    }
}

impl Drop for Assembly<'_> {
    /// What was cut off was sent for nothing.
    fn drop(&mut self) {
        let cut_off = self.part.len() as u64;
        self.line.metrics.wasted_bytes.inc_by(cut_off);
    }
}
