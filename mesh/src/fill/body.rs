//! A body whose chunks come from several holders: the driver of a [`Swarm`].
//!
//! It takes the chunk events of a body from who vouches for it (the shield), and puts in the place of each chunk that is named and not sent the chunk
//! itself, as soon as some holder gave it. All else passes as it comes. A task of its own, so that holders are read while the body's reader is slow;
//! dropping the body ends it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use stoq_cache::content::{CHUNK_BYTES_MAX, ChunkId, VerifiedChunk};
use stoq_cache::upstream::{BodyError, ChunkEvent, ChunkStream, Source};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::ask::{self, AskError, Way};
use super::budget::Share;
use super::feed::{self, Ended, Line, News, Teller, Wanted};
use super::holder::{Offer, Tier};
use super::metrics::Fault;
use super::swarm::{End, HolderId, Step, Swarm, Trouble};
use crate::wire::CHUNKS_MAX;

/// Chunks and events of a body that are known ahead of its reader: 2,048 × some 100 B. Beyond it the manifest is read more slowly.
const KNOWN_MAX: usize = 2_048;
/// Bytes that whoever vouches for the body sent itself, and that wait for chunks before them.
const PASSING_BYTES_MAX: usize = 1 << 20;
/// Events that the body's reader has not taken.
const OUT_MAX: usize = 2;
/// News of holders that wait: each is at most a chunk, which counts as asked for already.
const NEWS_MAX: usize = 16;
/// Requests to one holder that wait for the ones before to be written: each is for a chunk that is known, so there is always room for the next. One that was
/// not taken would be waited for until the holder counts as stalled.
const ASKS_MAX: usize = KNOWN_MAX;

/// How much later than it asked to be woken a driver is before it holds no silence against anybody: 100 ms. Its worker was busy or had no time on a core, and so were its feeds.
const LATE: Duration = Duration::from_millis(100);

/// Whether a chunk is here already, so that nobody need be asked for it.
pub(super) type Has = Arc<dyn Fn(&ChunkId) -> bool + Send + Sync>;

/// A holder of a fill.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) way: Way,
    pub(super) offer: Offer,
}

/// The body that `events` tells of, with chunks from `members` in the place of those it names only. `has`: those that are here are left to the reader.
pub(super) fn body(
    events: ChunkStream,
    members: Vec<Member>,
    line: Arc<Line>,
    has: Option<Has>,
    share: Share,
) -> ChunkStream {
    let (out, taken) = mpsc::channel(OUT_MAX);
    let driver = Driver::new(members, line, has, share);
    let task = tokio::spawn(driver.run(events, out));
    Box::pin(Body { taken, task })
}

/// The reader's end.
struct Body {
    taken: mpsc::Receiver<Result<ChunkEvent, BodyError>>,
    task: JoinHandle<()>,
}

impl Stream for Body {
    type Item = Result<ChunkEvent, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.taken.poll_recv(cx)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What comes next in the body.
#[derive(Debug)]
enum Item {
    /// What was sent by who vouches.
    Event(ChunkEvent),
    /// The swarm's next chunk.
    Chunk,
}

/// Why a body does not go on.
enum Stop {
    /// Its reader left.
    Reader,
    Error(BodyError),
}

impl From<BodyError> for Stop {
    fn from(error: BodyError) -> Self {
        Self::Error(error)
    }
}

/// A member at work.
#[derive(Debug)]
struct Holder {
    id: HolderId,
    way: Way,
    offer: Offer,
    feed: Option<(mpsc::Sender<Vec<Wanted>>, AbortHandle)>,
    /// Which feed it is.
    feeds: u64,
    /// From this place on it has not been asked which chunks it holds.
    unasked: usize,
    /// Whether it is being asked.
    asking: bool,
}

struct Driver {
    line: Arc<Line>,
    has: Option<Has>,
    swarm: Swarm<VerifiedChunk>,
    holders: Vec<Holder>,
    script: VecDeque<Item>,
    passing_bytes: usize,
    /// Names of the chunks from `first` on.
    names: VecDeque<(ChunkId, u32)>,
    first: usize,
    started: Instant,
    news: mpsc::Receiver<(HolderId, u64, News)>,
    tell: mpsc::Sender<(HolderId, u64, News)>,
    /// The feeds, and questions under way. They end with this.
    tasks: JoinSet<()>,
    /// The driver's part of the memory for fills.
    _share: Share,
}

impl Driver {
    fn new(members: Vec<Member>, line: Arc<Line>, has: Option<Has>, share: Share) -> Self {
        let (tell, news) = mpsc::channel(NEWS_MAX);
        let mut swarm = Swarm::new(share.bytes(), line.patience);
        let mut holders = Vec::with_capacity(members.len());
        for Member { way, offer } in members {
            let Some(id) = swarm.join(offer) else {
                break;
            };
            holders.push(Holder {
                id,
                way,
                offer,
                feed: None,
                feeds: 0,
                unasked: 0,
                asking: false,
            });
        }
        Self {
            line,
            has,
            swarm,
            holders,
            script: VecDeque::new(),
            passing_bytes: 0,
            names: VecDeque::new(),
            first: 0,
            started: Instant::now(),
            news,
            tell,
            tasks: JoinSet::new(),
            _share: share,
        }
    }

    async fn run(mut self, events: ChunkStream, out: mpsc::Sender<Result<ChunkEvent, BodyError>>) {
        let metrics = Arc::clone(&self.line.metrics);
        metrics.open.inc();
        let open = Open(&metrics);
        match self.drive(events, &out).await {
            Ok(()) => open.whole(),
            Err(Stop::Reader) => {}
            // A reader that left meanwhile needs no reason.
            Err(Stop::Error(error)) => drop(out.send(Err(error)).await),
        }
    }

    async fn drive(
        &mut self,
        mut events: ChunkStream,
        out: &mpsc::Sender<Result<ChunkEvent, BodyError>>,
    ) -> Result<(), Stop> {
        let mut reading = true;
        // Whether all that belongs to the body is known; the end of the exchange may still be to come.
        let mut known = false;
        let mut wake: Option<Duration> = None;
        loop {
            // Before anybody's silence is judged.
            while let Ok((holder, feed, news)) = self.news.try_recv() {
                self.learn(holder, feed, news);
            }
            let now = self.now();
            if wake.is_some_and(|wake| now >= wake + LATE) {
                self.swarm.was_late(now);
            }
            wake = self.step()?;
            if known && self.script.is_empty() {
                return Ok(());
            }
            let ready = self.is_ready();
            let room = self.script.len() < KNOWN_MAX && self.passing_bytes < PASSING_BYTES_MAX;
            let wake_at = wake.map(|at| self.started + at);
            tokio::select! {
                // Each may be cancelled: what was not taken stays where it is.
                permit = out.reserve(), if ready => {
                    let permit = permit.map_err(|_| Stop::Reader)?;
                    if let Some(event) = self.next_event() {
                        permit.send(Ok(event));
                    }
                }
                () = out.closed(), if !ready => return Err(Stop::Reader),
                event = events.next(), if reading && room => match event {
                    Some(event) => {
                        let event = event?;
                        known = matches!(event, ChunkEvent::Sealed { .. });
                        self.read(event)?;
                        if known {
                            self.swarm.no_more();
                        }
                    }
                    None => {
                        (reading, known) = (false, true);
                        self.swarm.no_more();
                    }
                },
                Some((holder, feed, news)) = self.news.recv() => self.learn(holder, feed, news),
                () = sleep_until(wake_at.unwrap_or(self.started)), if wake_at.is_some() => {}
                // None ends with anything to say: a panic in one shows as silence.
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Does what the swarm wants done; when it wants to be asked again.
    fn step(&mut self) -> Result<Option<Duration>, Stop> {
        self.ask_holdings();
        loop {
            match self.swarm.next(self.now()) {
                Step::Ask { holder, chunks } => self.ask(holder, &chunks),
                Step::Cancel { holder, why } => {
                    let fault = match why {
                        Trouble::Stalled => Fault::Stalled,
                        Trouble::Slow => Fault::Slow,
                    };
                    self.fault(holder, fault, &why);
                    self.break_off(holder);
                }
                Step::Wait(until) => return Ok(until),
                Step::Done => return Ok(None),
                Step::Failed { chunk } => {
                    let id = self.names.get(chunk.saturating_sub(self.first));
                    let id = id.map_or_else(String::new, |(id, _)| id.to_string());
                    let error = format!("nobody is left who could give chunk {chunk} ({id})");
                    return Err(BodyError::Upstream(error).into());
                }
            }
        }
    }

    fn is_ready(&self) -> bool {
        match self.script.front() {
            Some(Item::Event(_)) => true,
            Some(Item::Chunk) => self.swarm.is_ready(),
            None => false,
        }
    }

    /// What comes next in the body, if it is here.
    fn next_event(&mut self) -> Option<ChunkEvent> {
        match self.script.pop_front()? {
            Item::Event(event) => {
                if let ChunkEvent::Bytes(bytes) = &event {
                    self.passing_bytes -= bytes.len();
                }
                Some(event)
            }
            Item::Chunk => {
                let (_, chunk, holder) = self.swarm.take()?;
                self.names.pop_front();
                self.first += 1;
                let tier = self.holders.get(holder.index())?.offer.tier;
                let via = match tier {
                    Tier::Peer => Source::Peer,
                    Tier::Shield => Source::Shield,
                };
                Some(ChunkEvent::Whole { chunk, via })
            }
        }
    }

    /// Takes an event of the body.
    fn read(&mut self, event: ChunkEvent) -> Result<(), BodyError> {
        match event {
            ChunkEvent::Held { id, len } if !self.has.as_ref().is_some_and(|has| has(&id)) => {
                if len == 0 || len as usize > CHUNK_BYTES_MAX {
                    let error = format!("chunk {id} is said to be of {len} bytes");
                    return Err(BodyError::Corrupt(error));
                }
                self.swarm.want(len);
                self.names.push_back((id, len));
                self.script.push_back(Item::Chunk);
            }
            event => {
                if let ChunkEvent::Bytes(bytes) = &event {
                    self.passing_bytes += bytes.len();
                }
                self.script.push_back(Item::Event(event));
            }
        }
        Ok(())
    }

    /// Asks those who do not hold all which they hold of what is newly wanted.
    fn ask_holdings(&mut self) {
        let end = self.first + self.names.len();
        for holder in &mut self.holders {
            let id = holder.id;
            let from = holder.unasked.max(self.first);
            if holder.offer.whole || holder.asking || from >= end {
                continue;
            }
            let names = self.names.iter().skip(from - self.first).take(CHUNKS_MAX);
            let chunks: Vec<_> = names.map(|(id, _)| *id).collect();
            holder.unasked = from + chunks.len();
            holder.asking = true;
            let (line, way) = (Arc::clone(&self.line), holder.way.clone());
            let teller = Teller {
                holder: id,
                feed: 0,
                news: self.tell.clone(),
            };
            self.tasks.spawn(async move {
                let said = async {
                    let conn = way.connect(&line.pool, &line.quarantine).await?;
                    teller.tell(News::Reached(conn.path().rtt_min)).await;
                    ask::holdings(&conn, &line.site, line.chunk_key_id(), &chunks).await
                };
                // Its chunks wait for what it says, so all of this has an end.
                let said = timeout(line.patience.first, said).await;
                let said = said.unwrap_or(Err(AskError::Silent));
                teller.tell(News::Said(from, said)).await;
            });
        }
    }

    /// Sends a request to a holder, on the feed there is or a new one.
    fn ask(&mut self, id: HolderId, chunks: &[usize]) {
        let wanted: Vec<_> = chunks
            .iter()
            .filter_map(|place| {
                let (id, len) = *self.names.get(place.checked_sub(self.first)?)?;
                Some(Wanted {
                    place: *place,
                    id,
                    len,
                })
            })
            .collect();
        let Some(holder) = self.holders.get_mut(id.index()) else {
            return;
        };
        let (asks, _) = holder.feed.get_or_insert_with(|| {
            holder.feeds += 1;
            let (asks, asked) = mpsc::channel(ASKS_MAX);
            let teller = Teller {
                holder: id,
                feed: holder.feeds,
                news: self.tell.clone(),
            };
            let (line, way) = (Arc::clone(&self.line), holder.way.clone());
            let task = self.tasks.spawn(feed::feed(line, way, asked, teller));
            (asks, task)
        });
        // A feed that takes nothing has ended, and its end is among the news.
        let _ = asks.try_send(wanted);
    }

    fn break_off(&mut self, holder: HolderId) {
        if let Some(holder) = self.holders.get_mut(holder.index())
            && let Some((_, task)) = holder.feed.take()
        {
            task.abort();
        }
    }

    /// Takes what is heard of a holder.
    fn learn(&mut self, id: HolderId, feed: u64, news: News) {
        let now = self.now();
        match news {
            News::Reached(rtt) => self.swarm.measured(id, rtt),
            News::Said(from, said) => self.told(id, from, said),
            // Of a feed that was broken off: what it had verified by then is wanted of another already.
            News::Chunk(_, chunk) if !self.is_current(id, feed) => {
                let wasted = &self.line.metrics.wasted_bytes;
                wasted.inc_by(chunk.bytes().len() as u64);
            }
            _ if !self.is_current(id, feed) => {}
            News::Heard => self.swarm.heard(id, now),
            News::Chunk(place, chunk) => {
                let bytes = chunk.bytes().len();
                let holder = self.holders.get(id.index());
                let tier = holder.map_or(Tier::Peer, |holder| holder.offer.tier);
                if self.swarm.arrived(id, place, chunk, now) {
                    self.line.metrics.arrived(tier, bytes);
                } else {
                    self.line.metrics.wasted_bytes.inc_by(bytes as u64);
                }
            }
            News::Ended(ended) => {
                if let Some(holder) = self.holders.get_mut(id.index()) {
                    holder.feed = None;
                    // A peer that has not all is asked what it has.
                    let has_all =
                        holder.offer.tier == Tier::Shield || !matches!(ended, Ended::Lacks(_));
                    holder.offer.whole &= has_all;
                }
                let end = self.judged(id, ended);
                self.swarm.ended(id, end, now);
            }
        }
    }

    fn is_current(&self, id: HolderId, feed: u64) -> bool {
        let holder = self.holders.get(id.index());
        holder.is_some_and(|holder| holder.feed.is_some() && holder.feeds == feed)
    }

    /// A holder says which chunks it holds, or does not.
    fn told(&mut self, id: HolderId, from: usize, said: Result<Vec<bool>, AskError>) {
        match said {
            Ok(held) => {
                if let Some(holder) = self.holders.get_mut(id.index()) {
                    holder.asking = false;
                }
                for (holds, place) in held.into_iter().zip(from..) {
                    self.swarm.said(id, place, holds);
                }
            }
            // Who does not say what it holds is not asked for it: nor again what it holds.
            Err(error) => {
                self.swarm.leave(id, self.now());
                self.break_off(id);
                self.fault(id, Fault::Broke, &error);
            }
        }
    }

    fn judged(&self, id: HolderId, ended: Ended) -> End {
        match ended {
            Ended::Closed => End::Closed,
            Ended::Lacks(place) => {
                self.fault(id, Fault::Lacked, &place);
                End::Lacks(place)
            }
            Ended::Broke(error) => {
                self.fault(id, Fault::Broke, &error);
                End::Broke
            }
            Ended::Lied(node, place) => {
                self.fault(id, Fault::Lied, &place);
                self.line.quarantine.put(node, Instant::now());
                let site = &self.line.site;
                tracing::warn!(%node, %site, place, "a holder sent other bytes than a chunk's: it is in quarantine");
                End::Lied
            }
        }
    }

    fn fault(&self, holder: HolderId, fault: Fault, why: &dyn std::fmt::Debug) {
        self.line.metrics.fault(fault);
        let way = self.holders.get(holder.index()).map(|holder| &holder.way);
        tracing::debug!(?way, ?fault, ?why, "a holder is not relied upon");
    }
}

/// Counts a fill as open, and as broken unless it is said to be whole.
struct Open<'a>(&'a super::metrics::FillMetrics);

impl Open<'_> {
    fn whole(self) {
        self.0.whole.inc();
        self.0.open.dec();
        std::mem::forget(self);
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.broken.inc();
        self.0.open.dec();
    }
}
