//! Who goes next: the tree of buckets and the order among the classes, without I/O and without a clock.
//!
//! Of each class one piece at most stands here, the first in its line; the line itself is the gate's. Among the classes whose
//! cap lets their piece pass, the one goes first that lies furthest behind its share: start-time fair queueing, in which
//! each class has a tag that grows by bytes over weight with each piece, and the least tag goes. The one chosen waits for
//! the node's bucket; nobody passes it meanwhile with a smaller piece.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::limits::{Class, Limits, Rate};
use super::{HEAD_START_BYTES, PIECE_BYTES_MAX};

/// Tag of one byte at weight 1. A weight is at most 2^16, so a byte is never nothing, and 2^96 bytes fit.
const BYTE: u128 = 1 << 32;

#[derive(Debug)]
pub(super) struct Schedule {
    node: Option<Bucket>,
    lines: [Line; 3],
    /// The tag of the piece granted last, of those so far the largest.
    reached: u128,
}

/// One class.
#[derive(Debug)]
struct Line {
    weight: NonZeroU16,
    cap: Option<Bucket>,
    /// The tag at which its last piece ended.
    finish: u128,
    first: First,
}

/// What stands first in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Nobody,
    Waiting { bytes: u64, start: u128 },
    Granted { bytes: u64 },
}

/// What came of [`Schedule::run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ran {
    /// Classes whose piece was granted now, by [`Class::index`].
    pub(super) granted: [bool; 3],
    /// After how long it is worth to run again, if anybody waits.
    pub(super) next: Option<Duration>,
}

impl Schedule {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        let line = |class: Class| {
            let limits = limits.of(class);
            Line {
                weight: limits.weight,
                cap: limits.cap.map(|rate| Bucket::full(rate, now)),
                finish: 0,
                first: First::Nobody,
            }
        };
        Self {
            node: limits.node.map(|rate| Bucket::full(rate, now)),
            lines: Class::ALL.map(line),
            reached: 0,
        }
    }

    /// Holds to other limits from `now` on. Buckets that were there keep their credit; new ones are full.
    pub(super) fn change(&mut self, limits: &Limits, now: Instant) {
        change(&mut self.node, limits.node, now);
        for class in Class::ALL {
            let (line, limits) = (self.line(class), limits.of(class));
            line.weight = limits.weight;
            change(&mut line.cap, limits.cap, now);
        }
    }

    /// Puts a piece of up to `wanted` bytes in the class's first place, which must be free. No grant before the next
    /// [`run`](Self::run). Without a limit on its way the piece is as large as is wanted. With one it is at most half the
    /// burst: while it waits the bucket may fill further, so that a wake that comes late costs no rate.
    pub(super) fn ask(&mut self, class: Class, wanted: u64) {
        let node = self.node.as_ref().map(Bucket::burst);
        let reached = self.reached;
        let line = self.line(class);
        let cap = line.cap.as_ref().map(Bucket::burst);
        let bytes = match (node, cap) {
            (None, None) => wanted,
            (burst, other) => {
                let bursts = burst.into_iter().chain(other);
                bursts.fold(wanted.min(PIECE_BYTES_MAX), |bytes, burst| {
                    bytes.min((burst / 2).max(1))
                })
            }
        };
        let head_start = line.tag_of(HEAD_START_BYTES);
        let start = line.finish.max(reached.saturating_sub(head_start));
        debug_assert_eq!(line.first, First::Nobody, "one piece of a class at a time");
        line.first = First::Waiting { bytes, start };
    }

    /// Grants all that may pass at `now`.
    pub(super) fn run(&mut self, now: Instant) -> Ran {
        if let Some(node) = &mut self.node {
            node.advance(now);
        }
        for line in &mut self.lines {
            if let Some(cap) = &mut line.cap {
                cap.advance(now);
            }
        }
        let mut granted = [false; 3];
        // Each turn grants one of three, or ends.
        loop {
            match self.next() {
                Next::Nobody => {
                    return Ran {
                        granted,
                        next: None,
                    };
                }
                Next::After(wait) => {
                    return Ran {
                        granted,
                        next: Some(wait),
                    };
                }
                Next::Class(class) => {
                    self.grant(class);
                    if let Some(granted) = granted.get_mut(class.index()) {
                        *granted = true;
                    }
                }
            }
        }
    }

    fn next(&self) -> Next {
        let mut chosen: Option<(u128, Class, u64)> = None;
        let mut soonest: Option<Duration> = None;
        for (class, line) in Class::ALL.into_iter().zip(&self.lines) {
            let First::Waiting { bytes, start } = line.first else {
                continue;
            };
            let wait = line
                .cap
                .as_ref()
                .map_or(Duration::ZERO, |cap| cap.wait_for(bytes));
            if !wait.is_zero() {
                soonest = Some(soonest.map_or(wait, |soonest| soonest.min(wait)));
            } else if chosen.is_none_or(|(least, _, _)| start < least) {
                chosen = Some((start, class, bytes));
            }
        }
        let Some((_, class, bytes)) = chosen else {
            return soonest.map_or(Next::Nobody, Next::After);
        };
        let wait = self
            .node
            .as_ref()
            .map_or(Duration::ZERO, |node| node.wait_for(bytes));
        if wait.is_zero() {
            return Next::Class(class);
        }
        // Whose cap opens first may be further behind, and want less.
        Next::After(soonest.map_or(wait, |soonest| soonest.min(wait)))
    }

    fn grant(&mut self, class: Class) {
        let line = self.line(class);
        let First::Waiting { bytes, start } = line.first else {
            return;
        };
        line.first = First::Granted { bytes };
        line.finish = start.saturating_add(line.tag_of(bytes));
        if let Some(cap) = &mut line.cap {
            cap.spend(bytes);
        }
        if let Some(node) = &mut self.node {
            node.spend(bytes);
        }
        self.reached = self.reached.max(start);
    }

    /// The bytes granted to the class, whose first place is free then.
    pub(super) fn collect(&mut self, class: Class) -> Option<u64> {
        let line = self.line(class);
        let First::Granted { bytes } = line.first else {
            return None;
        };
        line.first = First::Nobody;
        Some(bytes)
    }

    /// Gives the class's first place up, and back what was granted there and not collected.
    pub(super) fn withdraw(&mut self, class: Class) {
        let line = self.line(class);
        if let First::Granted { bytes } = line.first {
            line.finish = line.finish.saturating_sub(line.tag_of(bytes));
            if let Some(cap) = &mut line.cap {
                cap.refund(bytes);
            }
            if let Some(node) = &mut self.node {
                node.refund(bytes);
            }
        }
        self.line(class).first = First::Nobody;
    }

    /// Whether a piece of the class waits.
    pub(super) fn is_waiting(&self, class: Class) -> bool {
        let line = self.lines.get(class.index());
        line.is_some_and(|line| matches!(line.first, First::Waiting { .. }))
    }

    fn line(&mut self, class: Class) -> &mut Line {
        let [serve, fill, replicate] = &mut self.lines;
        match class {
            Class::Serve => serve,
            Class::Fill => fill,
            Class::Replicate => replicate,
        }
    }
}

enum Next {
    Nobody,
    After(Duration),
    Class(Class),
}

impl Line {
    /// By how much so many bytes move its tag.
    fn tag_of(&self, bytes: u64) -> u128 {
        u128::from(bytes) * BYTE / u128::from(self.weight.get())
    }
}

fn change(bucket: &mut Option<Bucket>, rate: Option<Rate>, now: Instant) {
    match (bucket.as_mut(), rate) {
        (Some(bucket), Some(rate)) => bucket.change(rate, now),
        (None, Some(rate)) => *bucket = Some(Bucket::full(rate, now)),
        (_, None) => *bucket = None,
    }
}
