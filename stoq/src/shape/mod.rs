//! Shaping: how much a node sends, and who goes first when not all can.
//!
//! A [`Shaper`] is a tree of token buckets: one for the node, below it one for each [`Class`]. Whoever writes bodies asks
//! it before each piece ([`Shaper::take`]) and writes what it grants.
//!
//! What it is not: a pacer of packets. It counts the bytes of bodies, not of headers and retransmissions, which are a few
//! percent more. Congestion control below it goes on as ever.
//!
//! Invariants, each of them a property test (`tests.rs`):
//!
//! * Never above a limit: within any time T a limited node or class is granted at most its burst and rate × T.
//! * Work-conserving: while anybody waits whom no limit of their own holds back, the node's rate is used up. What a class does
//!   not take is shared by the others.
//! * By weight: classes that all wait share the rate by their weights. So no other class starves [`Class::Serve`],
//!   however many of its writers wait: with the default weights serve has at least 16/21 of the rate, and one
//!   who asks waits until at most a few hundred KiB of the others have passed.
//!
//! # Bounds
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | memory of a shaper | three buckets; who waits does so in their own future | – |
//! | one grant | [`PIECE_BYTES_MAX`], and half the smallest burst on the way | the writer asks again for the rest |
//! | what a class that paused may catch up | [`HEAD_START_BYTES`] | lost |

mod bucket;
mod gate;
mod limits;
mod schedule;
#[cfg(test)]
mod tests;

pub use gate::{ShapeCounters, Shaper};
pub use limits::{Class, ClassLimits, Limits, Rate};

/// Most bytes granted at once where a rate holds: 64 KiB, which take 5 ms at 100 Mbit/s. So long may one who comes wait
/// for one who came before.
pub const PIECE_BYTES_MAX: u64 = 64 * 1024;

/// How far a class may lie behind its share and still catch up: 256 KiB. A writer needs a moment between
/// two pieces, in which its class does not wait; without this the others would have that moment for good.
pub const HEAD_START_BYTES: u64 = 4 * PIECE_BYTES_MAX;
