//! A device in memory for tests: it loses power, rots and fails on command, and does the same again from the same seed.
//!
//! What is written lies in a volatile cache, where reads see it, until a sync that began after the write had completed. A loss of power keeps of each
//! block what was synced, or any of what was written to it since, or sectors of 512 bytes of several of them: blocks survive in no order. Operations
//! take effect when their future completes, after a few turns of the caller's runtime that the seed decides, so two that are under way at once end in
//! either order. A future that is dropped has its effect then.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    future::Future,
    io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{
    super::DiskFuture,
    BLOCK_BYTES, Device, Extent, IoBuf,
    file::{check, check_transfer},
    job::failed,
};

/// What a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// Contents of a block since the last sync of which one may survive a loss of power; older ones no longer do.
const VERSIONS_MAX: usize = 8;

type Block = [u8; BLOCK_BYTES];

/// A device in memory. Clones are the same device.
#[derive(Clone)]
pub struct Sim {
    state: Arc<Mutex<State>>,
}

/// An operation of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// [`Device::read`]
    Read,
    /// [`Device::write`]
    Write,
    /// [`Device::sync`]
    Sync,
    /// [`Device::allocate`]
    Allocate,
}

/// Something that goes wrong, from when it is [told](Sim::fail) until it is spent or [healed](Sim::heal).
#[derive(Clone, Debug)]
pub struct Fault {
    /// The operations it befalls.
    pub op: Op,
    /// The bytes it befalls, on which an operation need only touch; `None` for all. Syncs have none.
    pub range: Option<Range<u64>>,
    /// How many operations pass before the first that it befalls.
    pub after: u64,
    /// How many it befalls then; `None` for all.
    pub times: Option<u64>,
    /// What happens.
    pub effect: Effect,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The operation fails with this number of the system (`libc::EIO`, `libc::ENOSPC`). Of a write, some sectors may have arrived. After a sync that
    /// failed, what it was to cover is no more certain with the next, as with a kernel.
    Errno(i32),
    /// A write or a sync is said to be done, and never is. Reads and allocations are spared.
    Lost,
}

/// What a device goes down with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The power goes: what was not synced survives by chance.
    Power,
    /// The process dies: what was completed is there; what was under way, by chance.
    Process,
}

/// What was asked of the device, failures included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Bytes they gave.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes they had.
    pub write_bytes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Allocations.
    pub allocates: u64,
    /// Operations of all kinds that failed.
    pub failed: u64,
}

struct State {
    rng: StdRng,
    capacity: u64,
    len: u64,
    synced_len: u64,
    blocks: BTreeMap<u64, Content>,
    /// Blocks with versions that are not synced.
    dirty: BTreeSet<u64>,
    /// Writes that were asked for and have not completed.
    under_way: BTreeMap<u64, (u64, Arc<IoBuf>)>,
    /// Numbers writes and versions, in the order they come.
    next: u64,
    faults: Vec<Fault>,
    stalled: bool,
    wakers: Vec<Waker>,
    /// Operations whose futures were dropped while the device stalled.
    abandoned: Vec<Abandoned>,
    counts: Counts,
}

/// What a block holds: what is there for good, and what was written since, oldest first.
#[derive(Clone, Default)]
struct Content {
    synced: Option<Arc<Block>>,
    versions: VecDeque<Version>,
}

#[derive(Clone)]
struct Version {
    number: u64,
    bytes: Arc<Block>,
    /// Whether the next sync that covers it makes it last.
    certain: bool,
}

impl Content {
    fn now(&self) -> Option<&Arc<Block>> {
        self.versions
            .back()
            .map(|version| &version.bytes)
            .or(self.synced.as_ref())
    }

    fn candidates(&self) -> Vec<Arc<Block>> {
        let synced = self
            .synced
            .clone()
            .unwrap_or_else(|| Arc::new([0; BLOCK_BYTES]));
        let versions = self.versions.iter().map(|version| version.bytes.clone());
        std::iter::once(synced).chain(versions).collect()
    }
}

impl Sim {
    /// An empty device of at most this many bytes.
    #[must_use]
    pub fn new(seed: u64, capacity: u64) -> Self {
        State::new(StdRng::seed_from_u64(seed), capacity).into()
    }

    /// What a loss leaves: another device, empty of cache, faults and counts. This one goes on as if nothing had happened, so that one moment can
    /// be lost under many seeds.
    #[must_use]
    pub fn after(&self, loss: Loss, seed: u64) -> Self {
        self.state.lock().after(loss, seed).into()
    }

    /// Inverts a bit, for good.
    pub fn flip(&self, offset: u64, bit: u8) {
        self.state.lock().flip(offset, bit);
    }

    /// Inverts that many bits at random places of what was written, and says at which offsets.
    pub fn rot(&self, bits: usize) -> Vec<u64> {
        let mut state = self.state.lock();
        let blocks: Vec<u64> = state.blocks.keys().copied().collect();
        if blocks.is_empty() {
            return Vec::new();
        }
        let mut places = Vec::with_capacity(bits);
        for _ in 0..bits {
            let block = blocks[state.rng.random_range(0..blocks.len())];
            let offset = block * BLOCK_BYTES as u64 + state.rng.random_range(0..BLOCK_BYTES as u64);
            let bit = state.rng.random_range(0..8);
            state.flip(offset, bit);
            places.push(offset);
        }
        places
    }

    /// Makes something go wrong. Of several faults that befall an operation the first that was told counts.
    pub fn fail(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Lets no operation complete from now on, but allocations, which have no future.
    pub fn stall(&self) {
        self.state.lock().stalled = true;
    }

    /// Lets operations complete again.
    pub fn resume(&self) {
        let wakers = {
            let mut state = self.state.lock();
            state.stalled = false;
            for effect in std::mem::take(&mut state.abandoned) {
                effect(&mut state);
            }
            let state = &mut *state;
            state.wakers.shuffle(&mut state.rng);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// What was asked of the device so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    fn operation<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&mut State) -> io::Result<T> + Send + 'static,
    ) -> DiskFuture<'static, io::Result<T>> {
        Box::pin(Operation {
            turns: self.state.lock().rng.random_range(0..4),
            state: Arc::clone(&self.state),
            effect: Some(Box::new(effect)),
        })
    }
}

impl From<State> for Sim {
    fn from(state: State) -> Self {
        let state = Arc::new(Mutex::new(state));
        Self { state }
    }
}

impl Device for Sim {
    fn read(&self, extent: Extent) -> DiskFuture<'static, io::Result<IoBuf>> {
        if let Err(error) = check_transfer(extent.offset, extent.len) {
            return failed(error);
        }
        self.operation(move |state| state.read(extent))
    }

    fn write(&self, offset: u64, buffer: Arc<IoBuf>) -> DiskFuture<'static, io::Result<()>> {
        if let Err(error) = check_transfer(offset, buffer.len()) {
            return failed(error);
        }
        let number = {
            let mut state = self.state.lock();
            let number = state.number();
            state.under_way.insert(number, (offset, buffer));
            number
        };
        self.operation(move |state| state.write(number))
    }

    fn sync(&self) -> DiskFuture<'static, io::Result<()>> {
        let (number, len) = {
            let mut state = self.state.lock();
            (state.number(), state.len)
        };
        self.operation(move |state| state.sync(number, len))
    }

    fn allocate(&self, extent: Extent) -> io::Result<()> {
        let end = check(extent.offset, extent.len as u64)?;
        self.state.lock().allocate(extent, end)
    }

    fn len(&self) -> u64 {
        self.state.lock().len
    }
}

impl State {
    fn new(rng: StdRng, capacity: u64) -> Self {
        Self {
            rng,
            capacity,
            len: 0,
            synced_len: 0,
            blocks: BTreeMap::new(),
            dirty: BTreeSet::new(),
            under_way: BTreeMap::new(),
            next: 0,
            faults: Vec::new(),
            stalled: false,
            wakers: Vec::new(),
            abandoned: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The fault that befalls this operation.
    fn befalls(&mut self, op: Op, at: &Range<u64>) -> Option<Effect> {
        let index = self.faults.iter_mut().position(|fault| {
            let touches = |range: &Range<u64>| range.start < at.end && at.start < range.end;
            if fault.op != op || !fault.range.as_ref().is_none_or(touches) {
                return false;
            }
            let now = fault.after == 0;
            fault.after = fault.after.saturating_sub(1);
            now
        })?;
        let fault = &mut self.faults[index];
        let effect = fault.effect;
        if let Some(times) = &mut fault.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.faults.remove(index);
            }
        }
        if matches!(effect, Effect::Errno(_)) {
            self.counts.failed += 1;
        }
        Some(effect)
    }

    fn read(&mut self, extent: Extent) -> io::Result<IoBuf> {
        self.counts.reads += 1;
        let end = extent.offset + extent.len as u64;
        if let Some(Effect::Errno(errno)) = self.befalls(Op::Read, &(extent.offset..end)) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if end > self.len {
            self.counts.failed += 1;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.counts.read_bytes += extent.len as u64;
        let mut buffer = IoBuf::zeroed(extent.len);
        for (block, out) in indices(extent.offset).zip(buffer.chunks_exact_mut(BLOCK_BYTES)) {
            if let Some(bytes) = self.blocks.get(&block).and_then(Content::now) {
                out.copy_from_slice(&bytes[..]);
            }
        }
        Ok(buffer)
    }

    fn write(&mut self, number: u64) -> io::Result<()> {
        let Some((offset, buffer)) = self.under_way.remove(&number) else {
            return Err(io::Error::other("a write completes once"));
        };
        self.counts.writes += 1;
        self.counts.write_bytes += buffer.len() as u64;
        let end = offset + buffer.len() as u64;
        match self.befalls(Op::Write, &(offset..end)) {
            Some(Effect::Errno(errno)) => {
                for (block, bytes) in blocks_of(offset, &buffer) {
                    if block * (BLOCK_BYTES as u64) < self.len && self.rng.random_bool(0.5) {
                        let before = self.now(block);
                        let torn = torn(&[before, bytes], &mut self.rng);
                        self.put(block, torn, false);
                    }
                }
                return Err(io::Error::from_raw_os_error(errno));
            }
            Some(Effect::Lost) => return Ok(()),
            None => {}
        }
        if end > self.capacity {
            self.counts.failed += 1;
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        for (block, bytes) in blocks_of(offset, &buffer) {
            self.put(block, bytes, true);
        }
        self.len = self.len.max(end);
        Ok(())
    }

    fn now(&self, block: u64) -> Arc<Block> {
        let now = self.blocks.get(&block).and_then(Content::now);
        now.map_or_else(|| Arc::new([0; BLOCK_BYTES]), Arc::clone)
    }

    fn put(&mut self, block: u64, bytes: Arc<Block>, certain: bool) {
        let number = self.number();
        let versions = &mut self.blocks.entry(block).or_default().versions;
        if versions.len() == VERSIONS_MAX {
            versions.pop_front();
        }
        versions.push_back(Version {
            number,
            bytes,
            certain,
        });
        self.dirty.insert(block);
    }

    /// Makes last what was completed before `number`.
    fn sync(&mut self, number: u64, len: u64) -> io::Result<()> {
        self.counts.syncs += 1;
        let failed = self.befalls(Op::Sync, &(0..u64::MAX));
        for block in std::mem::take(&mut self.dirty) {
            let Some(content) = self.blocks.get_mut(&block) else {
                continue;
            };
            let covered = content
                .versions
                .iter()
                .rposition(|version| version.number < number && version.certain);
            match failed {
                None => {
                    if let Some(last) = covered {
                        let version = content.versions.drain(..=last).next_back();
                        content.synced = version.map(|version| version.bytes);
                    }
                }
                Some(Effect::Lost) => {}
                Some(Effect::Errno(_)) => {
                    let covered = content.versions.iter_mut();
                    covered
                        .filter(|version| version.number < number)
                        .for_each(|version| version.certain = false);
                }
            }
            if !content.versions.is_empty() {
                self.dirty.insert(block);
            }
        }
        match failed {
            Some(Effect::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Effect::Lost) => Ok(()),
            None => {
                self.synced_len = self.synced_len.max(len);
                Ok(())
            }
        }
    }

    fn allocate(&mut self, extent: Extent, end: u64) -> io::Result<()> {
        self.counts.allocates += 1;
        if let Some(Effect::Errno(errno)) = self.befalls(Op::Allocate, &(extent.offset..end)) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if end > self.capacity {
            self.counts.failed += 1;
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.len = self.len.max(end);
        Ok(())
    }

    fn flip(&mut self, offset: u64, bit: u8) {
        let block = offset / BLOCK_BYTES as u64;
        let within = usize::try_from(offset % BLOCK_BYTES as u64).expect("less than a block");
        let content = self.blocks.entry(block).or_default();
        let synced = content
            .synced
            .get_or_insert_with(|| Arc::new([0; BLOCK_BYTES]));
        let versions = content
            .versions
            .iter_mut()
            .map(|version| &mut version.bytes);
        for bytes in versions.chain(std::iter::once(synced)) {
            Arc::make_mut(bytes)[within] ^= 1 << (bit % 8);
        }
    }

    fn after(&self, loss: Loss, seed: u64) -> Self {
        let mut after = Self::new(StdRng::seed_from_u64(seed), self.capacity);
        // From almost nothing to almost all survives, so that a few seeds see both ends.
        let survives = [0.0, 0.1, 0.5, 0.9, 1.0][after.rng.random_range(0..5)];
        after.len = match loss {
            Loss::Process => self.len,
            Loss::Power => {
                let block = BLOCK_BYTES as u64;
                after
                    .rng
                    .random_range(self.synced_len / block..=self.len / block)
                    * block
            }
        };
        for (block, content) in &self.blocks {
            let bytes = match (loss, content.versions.is_empty()) {
                (Loss::Process, _) | (_, true) => content.now().cloned(),
                (Loss::Power, false) => {
                    Some(survivor(&content.candidates(), survives, &mut after.rng))
                }
            };
            let versions = VecDeque::new();
            after.blocks.insert(
                *block,
                Content {
                    synced: bytes,
                    versions,
                },
            );
        }
        let mut under_way: Vec<_> = self.under_way.values().collect();
        under_way.shuffle(&mut after.rng);
        for (offset, buffer) in under_way {
            for (block, bytes) in blocks_of(*offset, buffer) {
                if (block + 1) * BLOCK_BYTES as u64 > self.capacity {
                    break;
                }
                let bytes = survivor(&[after.now(block), bytes], survives, &mut after.rng);
                if loss == Loss::Process {
                    after.len = after.len.max((block + 1) * BLOCK_BYTES as u64);
                }
                after.blocks.entry(block).or_default().synced = Some(bytes);
            }
        }
        let end = after.len / BLOCK_BYTES as u64;
        drop(after.blocks.split_off(&end));
        after.synced_len = after.len;
        after
    }
}

/// What is left of a block that had these contents in this order.
fn survivor(candidates: &[Arc<Block>], survives: f64, rng: &mut StdRng) -> Arc<Block> {
    let (first, last) = (&candidates[0], &candidates[candidates.len() - 1]);
    if rng.random_bool(survives) {
        return Arc::clone(last);
    }
    match rng.random_range(0..4) {
        0 | 1 => Arc::clone(first),
        2 => Arc::clone(&candidates[rng.random_range(0..candidates.len())]),
        _ => torn(candidates, rng),
    }
}

/// A block with each sector from one of these.
fn torn(candidates: &[Arc<Block>], rng: &mut StdRng) -> Arc<Block> {
    let mut block = [0; BLOCK_BYTES];
    for sector in 0..BLOCK_BYTES / SECTOR_BYTES {
        let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        let from = &candidates[rng.random_range(0..candidates.len())];
        block[range.clone()].copy_from_slice(&from[range]);
    }
    Arc::new(block)
}

/// The numbers of blocks from this offset on.
fn indices(offset: u64) -> impl Iterator<Item = u64> {
    offset / BLOCK_BYTES as u64..
}

fn blocks_of(offset: u64, buffer: &IoBuf) -> impl Iterator<Item = (u64, Arc<Block>)> {
    let (blocks, _) = buffer.as_chunks::<BLOCK_BYTES>();
    indices(offset).zip(blocks.iter().map(|block| Arc::new(*block)))
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Sim")
            .field("len", &state.len)
            .field("counts", &state.counts)
            .finish_non_exhaustive()
    }
}

type Abandoned = Box<dyn FnOnce(&mut State) + Send>;
type EffectOf<T> = Box<dyn FnOnce(&mut State) -> io::Result<T> + Send>;

struct Operation<T: Send + 'static> {
    state: Arc<Mutex<State>>,
    turns: u8,
    effect: Option<EffectOf<T>>,
}

impl<T: Send + 'static> Future for Operation<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.state.lock();
        if state.stalled {
            state.wakers.push(context.waker().clone());
            return Poll::Pending;
        }
        if this.turns > 0 {
            this.turns -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let effect = this
            .effect
            .take()
            .expect("a future is not polled after it is ready");
        Poll::Ready(effect(&mut state))
    }
}

impl<T: Send + 'static> Drop for Operation<T> {
    fn drop(&mut self) {
        let Some(effect) = self.effect.take() else {
            return;
        };
        let mut state = self.state.lock();
        if state.stalled {
            let effect = move |state: &mut State| drop(effect(state));
            state.abandoned.push(Box::new(effect));
        } else {
            drop(effect(&mut state));
        }
    }
}

#[cfg(test)]
mod tests;
