//! What the engine promises, against a scripted upstream on a clock that is set by hand.

#![expect(clippy::unwrap_used, reason = "what a test takes for granted fails it")]

mod blocks;
mod census;
mod collapse;
mod digests;
mod disk;
mod fill;
mod freshening;
mod invalidation;
mod kept;
mod pins;
mod posted;
mod ranges;
mod relay;
mod reuse;
mod script;
mod semantics;
mod watching;
