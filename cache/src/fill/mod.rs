//! One body on its way from an upstream to any number of readers and, chunk by chunk, into the store.
//!
//! - One writer ([`writer`]) pushes bytes as they arrive; the chunker cuts the same bytes behind it, and each chunk
//!   goes to the store before the manifest names it. The sealed manifest comes last and is the commit record.
//! - Readers ([`reader`]) may be on other threads. A reader within the window shares the pieces as they arrived; one that fell
//!   behind reads by hash from the store; a chunk evicted meanwhile is a hole ([`hole`]), fetched again by range
//!   under the strong validator, else that reader alone is reset.
//! - The fastest live reader paces the writer. With no reader left, the writer goes on unpaced where the chunks are
//!   stored, and gives up where they are not.
//! - Whatever ends early ends in an error for every reader; no reader ever sees an end that was not the body's.
//!
//! Not here: what may be stored and who may read, which is the engine's.

pub(crate) mod budget;
pub(crate) mod events;
pub(crate) mod hole;
pub(crate) mod named;
pub(crate) mod reader;
mod readers;
mod window;
pub(crate) mod writer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::{
    budget::{Share, WINDOW_BYTES_MIN},
    readers::Readers,
    window::Window,
};
use crate::{
    content::{ChunkId, Entry, GrowingManifest, Manifest, ManifestError, Profile, Validators},
    metrics::ServedFrom,
    upstream::BodyError,
};

/// A body under way.
#[derive(Debug)]
pub(crate) struct Fill {
    state: Mutex<State>,
    /// Rung when bytes or the end arrive.
    grown: Notify,
    /// Rung when chunks are named. Apart, since only relays care and a thousand clients may wait for bytes.
    named: Notify,
    /// Rung when a reader moves or leaves.
    moved: Notify,
}

#[derive(Debug)]
struct State {
    window: Window,
    /// Names the chunks cut so far; `None` until the profile is known, and once sealed.
    manifest: Option<GrowingManifest>,
    sealed: Option<Arc<Manifest>>,
    /// The chunk that is being put into the store and is named right after.
    intended: Option<ChunkId>,
    /// Bytes from the body's start that chunks in the manifest cover.
    cut: u64,
    /// Whether chunks go to the store.
    stored: bool,
    end: Option<Result<(), BodyError>>,
    /// The window of a complete body was let go of: what is left to read is in the store.
    released: bool,
    readers: Readers,
    /// Given back when the body has ended and the window is empty.
    share: Option<Share>,
}

/// What the writer may do.
enum Room {
    /// Push on.
    Open,
    /// The window is full.
    Full,
    /// Nobody will ever read what comes.
    Unread,
}

/// What a reader finds at its offset.
pub(crate) enum At {
    /// Bytes, as they arrived, when, and where from.
    Bytes(Bytes, Instant, ServedFrom),
    /// A chunk that has left the window, and those that follow it, at most [`hole::RUN_BYTES_MAX`] of them.
    Chunk { start: u64, run: Vec<Entry> },
    /// Nothing yet.
    NotYet,
    /// The body's end.
    End,
    /// It ended early.
    Failed(BodyError),
}

impl Fill {
    /// A body about to arrive. `stored`: whether its chunks go to the store.
    pub(crate) fn new(share: Share, stored: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                window: Window::default(),
                manifest: None,
                sealed: None,
                intended: None,
                cut: 0,
                stored,
                end: None,
                released: false,
                readers: Readers::default(),
                share: Some(share),
            }),
            grown: Notify::new(),
            named: Notify::new(),
            moved: Notify::new(),
        })
    }

    /// Bytes that have arrived.
    pub(crate) fn received(&self) -> u64 {
        self.state.lock().window.end()
    }

    /// The manifest, once the body is complete.
    pub(crate) fn sealed(&self) -> Option<Arc<Manifest>> {
        self.state.lock().sealed.clone()
    }

    /// Whether chunks go to the store.
    pub(crate) fn is_stored(&self) -> bool {
        self.state.lock().stored
    }

    /// Takes a seat at `offset`; `None` where its bytes are gone for good, or the fill failed.
    fn sit(&self, offset: u64) -> Option<usize> {
        let mut state = self.state.lock();
        let gone = offset < state.window.start() && !state.stored;
        if gone || matches!(state.end, Some(Err(_))) {
            return None;
        }
        Some(state.readers.sit(offset))
    }

    /// Moves a reader to `offset`, or frees its seat.
    fn move_to(&self, seat: usize, offset: Option<u64>) {
        let concerns_writer = {
            let mut state = self.state.lock();
            let fastest = state.readers.fastest();
            state.readers.place(seat, offset);
            state.trim();
            state.end.is_some() || state.readers.fastest() != fastest
        };
        if concerns_writer {
            self.moved.notify_one();
        }
    }

    /// What there is at `offset`.
    fn at(&self, offset: u64) -> At {
        let state = self.state.lock();
        if let Some((bytes, arrived, from)) = state.window.at(offset) {
            return At::Bytes(bytes, arrived, from);
        }
        if offset < state.window.end() {
            return state.behind(offset);
        }
        match &state.end {
            None => At::NotYet,
            Some(Ok(())) => At::End,
            Some(Err(error)) => At::Failed(error.clone()),
        }
    }

    /// The chunk at `index` and where it starts, once it is cut; with it the profile.
    fn chunk(&self, index: usize) -> Option<(u64, Entry)> {
        let state = self.state.lock();
        let found = match (&state.sealed, &state.manifest) {
            (Some(manifest), _) => (manifest.start_of(index)?, manifest.entry(index)?),
            (None, Some(manifest)) => (manifest.start_of(index)?, manifest.entry(index)?),
            (None, None) => return None,
        };
        Some(found)
    }

    /// How the body is cut, once that is known.
    fn profile(&self) -> Option<Profile> {
        let state = self.state.lock();
        state
            .sealed
            .as_ref()
            .map(|m| m.profile())
            .or_else(|| state.manifest.as_ref().map(GrowingManifest::profile))
    }

    // What the writer does.

    fn set_profile(&self, profile: Profile) {
        self.state.lock().manifest = Some(GrowingManifest::new(profile));
        self.named.notify_waiters();
    }

    /// Waits until the next piece may be pushed; `false` where nobody will read it.
    ///
    /// Cancel safe.
    async fn room(&self) -> bool {
        loop {
            let moved = self.moved.notified();
            match self.state.lock().room() {
                Room::Open => return true,
                Room::Unread => return false,
                Room::Full => {}
            }
            moved.await;
        }
    }

    /// Waits until nobody will read what comes. Cancel safe.
    async fn unread(&self) {
        loop {
            let moved = self.moved.notified();
            if matches!(self.state.lock().room(), Room::Unread) {
                return;
            }
            moved.await;
        }
    }

    fn push(&self, piece: Bytes, from: ServedFrom) {
        {
            let now = Instant::now();
            let mut state = self.state.lock();
            state.window.push(piece, from, now);
            state.trim();
        }
        self.grown.notify_waiters();
    }

    /// Says which chunk is put into the store next, for [`Fill::for_each_name`].
    fn intend(&self, id: ChunkId) {
        self.state.lock().intended = Some(id);
    }

    /// Shows the names of the chunks and pages that the body, once complete, is to be found by: those of what is in the store by now, and of what is
    /// being put there.
    pub(crate) fn for_each_name(&self, mut see: impl FnMut(&[u8; 32])) {
        let state = self.state.lock();
        if let Some(id) = &state.intended {
            see(id.as_bytes());
        }
        if let Some(growing) = &state.manifest {
            growing
                .entries_from(0)
                .for_each(|entry| see(entry.id.as_bytes()));
        }
        if let Some(sealed) = &state.sealed {
            sealed
                .entries_from(0)
                .for_each(|entry| see(entry.id.as_bytes()));
            sealed.page_digests().iter().for_each(see);
        }
    }

    /// Names the next chunk, which is in the store by now if it goes there.
    fn name(&self, id: ChunkId, len: u32) -> Result<(), ManifestError> {
        {
            let mut state = self.state.lock();
            if let Some(manifest) = &mut state.manifest {
                manifest.push(id, len)?;
                state.cut += u64::from(len);
            }
            state.trim();
        }
        self.named.notify_waiters();
        Ok(())
    }

    /// Stores no more of this body: it turned out larger than is admitted.
    fn stop_storing(&self) {
        self.state.lock().stored = false;
    }

    /// Seals the manifest of a complete body. Readers see the end only at [`Fill::end`].
    fn seal(&self, validators: Validators) -> Option<Arc<Manifest>> {
        let mut state = self.state.lock();
        let sealed = Arc::new(state.manifest.take()?.seal(validators));
        state.sealed = Some(Arc::clone(&sealed));
        Some(sealed)
    }

    /// Ends the body, for good or ill. The first end counts.
    fn end(&self, end: Result<(), BodyError>) {
        {
            let mut state = self.state.lock();
            if state.end.is_none() {
                state.end = Some(end);
            }
            state.trim();
        }
        self.grown.notify_waiters();
        self.named.notify_waiters();
    }

    /// Keeps the window of a complete, stored body for readers on their way through it, until they stand still for
    /// `idle`. Not longer, so that a stalled client pins nothing; not shorter, for a store under pressure may have evicted
    /// what was put there a moment ago, and a client a little slower than the upstream would have it fetched again.
    async fn drain(&self, idle: Duration) {
        loop {
            let moved = self.moved.notified();
            if self.state.lock().window.weight() == 0 {
                return;
            }
            if tokio::time::timeout(idle, moved).await.is_err() {
                let mut state = self.state.lock();
                state.released = true;
                state.trim();
                return;
            }
        }
    }
}

impl State {
    /// Bytes the window may hold now.
    fn window_bytes(&self) -> usize {
        self.share
            .as_ref()
            .map_or(WINDOW_BYTES_MIN, Share::window_bytes)
    }

    /// By what is unread and not by what is held: the part of an open chunk that was read stays, and waiting for a reader
    /// to make it go would be waiting for ever.
    fn room(&self) -> Room {
        match self.readers.fastest() {
            None if self.stored => Room::Open,
            None => Room::Unread,
            Some(fastest)
                if self.window.end().saturating_sub(fastest) < self.window_bytes() as u64 =>
            {
                Room::Open
            }
            Some(_) => Room::Full,
        }
    }

    /// Lets go of what no reader needs from memory.
    ///
    /// Where chunks are stored, a piece may go once it is cut, and goes when every reader is past it or when the window
    /// is full: a reader further behind reads by hash. Where they are not, the window is all there is: a piece goes when the window is full and the
    /// fastest reader is past it, or when the body has ended and all are.
    fn trim(&mut self) {
        let fastest = self.readers.fastest();
        let slowest = self.readers.slowest();
        let (cut, stored, limit) = (self.cut, self.stored, self.window_bytes());
        let (ended, released) = (self.end.is_some(), self.released);
        let failed = matches!(self.end, Some(Err(_)));
        self.window.drop_front_while(|end, weight| {
            let passed_by_all = slowest.is_none_or(|slowest| end <= slowest);
            let passed_by_one = fastest.is_none_or(|fastest| end <= fastest);
            if failed {
                true
            } else if stored {
                end <= cut && (passed_by_all || weight > limit || released)
            } else {
                (weight > limit && passed_by_one) || (ended && passed_by_all)
            }
        });
        if ended && self.window.weight() == 0 {
            self.share = None;
        } else if let Some(share) = &mut self.share {
            share.hold(self.window.weight());
        }
    }

    /// The chunk that holds `offset`, which is no longer in the window.
    fn behind(&self, offset: u64) -> At {
        if let Some(Err(error)) = &self.end {
            return At::Failed(error.clone());
        }
        let found = if let Some(manifest) = &self.sealed {
            hole::run_at(manifest, offset)
        } else {
            self.manifest.as_ref().and_then(|growing| {
                let at = growing.locate(offset)?;
                Some((
                    growing.start_of(at.index)?,
                    hole::run(growing.entries_from(at.index)),
                ))
            })
        };
        match found {
            Some((start, run)) => At::Chunk { start, run },
            None => At::Failed(BodyError::Gone {
                offset,
                reason: "left the window before it was cut".to_owned(),
            }),
        }
    }
}
