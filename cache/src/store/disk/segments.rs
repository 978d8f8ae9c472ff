//! What is known of each segment of a volume: its life, its sequence, and who reads from it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

/// Where a segment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It has no room on the device yet, or nothing in it counts.
    Empty,
    /// It may be opened, or is being filled.
    Open,
    /// It is full, or was left when the node ended.
    Sealed,
    /// What is worth it is being moved out of it.
    Reclaiming,
}

#[derive(Debug)]
struct Segment {
    life: Mutex<Life>,
    sequence: AtomicU64,
    readers: AtomicU32,
}

/// All segments there can be. 24 bytes each.
#[derive(Debug)]
pub(super) struct Segments(Box<[Segment]>);

/// Keeps a segment from being written again. Dropped by a reader that is done.
#[derive(Debug)]
pub(super) struct Pin<'a>(&'a Segment);

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Segments {
    /// Empty ones.
    pub(super) fn new(count: u32) -> Self {
        let segment = || Segment {
            life: Mutex::new(Life::Empty),
            sequence: AtomicU64::new(0),
            readers: AtomicU32::new(0),
        };
        Self(
            std::iter::repeat_with(segment)
                .take(count as usize)
                .collect(),
        )
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn at(&self, segment: u32) -> Option<&Segment> {
        self.0.get(segment as usize)
    }

    /// Its life.
    pub(super) fn life(&self, segment: u32) -> Life {
        self.at(segment)
            .map_or(Life::Empty, |segment| *segment.life.lock())
    }

    /// Its next life, if it is in this one now.
    pub(super) fn turn(&self, segment: u32, from: Life, to: Life) -> bool {
        let Some(segment) = self.at(segment) else {
            return false;
        };
        let mut life = segment.life.lock();
        if *life != from {
            return false;
        }
        *life = to;
        true
    }

    /// Whatever its life was, it is now this, under this sequence.
    pub(super) fn set(&self, segment: u32, life: Life, sequence: u64) {
        if let Some(segment) = self.at(segment) {
            *segment.life.lock() = life;
            segment.sequence.store(sequence, Ordering::SeqCst);
        }
    }

    /// The sequence of what is in it; 0 for nothing.
    pub(super) fn sequence(&self, segment: u32) -> u64 {
        self.at(segment)
            .map_or(0, |segment| segment.sequence.load(Ordering::SeqCst))
    }

    /// The sequences of all, by place.
    pub(super) fn sequences(&self) -> Vec<u64> {
        self.0
            .iter()
            .map(|segment| segment.sequence.load(Ordering::SeqCst))
            .collect()
    }

    /// Keeps a segment as it is while it is read. Look the place up again afterwards: it may have moved before.
    pub(super) fn pin(&self, segment: u32) -> Option<Pin<'_>> {
        let segment = self.at(segment)?;
        segment.readers.fetch_add(1, Ordering::SeqCst);
        Some(Pin(segment))
    }

    /// Whether nobody reads from it.
    pub(super) fn is_unread(&self, segment: u32) -> bool {
        self.at(segment)
            .is_none_or(|segment| segment.readers.load(Ordering::SeqCst) == 0)
    }
}
