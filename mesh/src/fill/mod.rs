//! Fills from several holders at once: other edges first, the shield for what they lack.

mod holder;
mod swarm;

pub use holder::{Offer, Tier};
pub use swarm::{End, HOLDERS_MAX, HolderId, Step, Swarm, Trouble};
