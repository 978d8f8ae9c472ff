//! What a path is like, and what follows from it.
//!
//! ```text
//! counters of a connection ▶ Sampler ▶ Sample ▶ Profile ▶ PathClass ▶ Plan ▶ windows, controller, streams
//! ```
//!
//! Everything here is a value: times, round trips and byte counts come in as arguments, classes and plans come out. No
//! clock, no socket, no task. The rim is in [`quic`](crate::quic): a connection whose
//! settings say so ([`adapt`](crate::quic::TransportConfig::adapt)) is sampled some times a second while it carries traffic, and its plan is applied.
//!
//! Nothing is guessed: a distance is unknown until a round trip was measured, a bandwidth until bytes were delivered.
//!
//! | file | what |
//! |---|---|
//! | `class` | distance and bandwidth, with their borders |
//! | `sampler` | rates out of counters |
//! | `profile` | which class a path is in, without flapping |
//! | `plan` | what follows from a class |
//! | `known` | what was learnt of each address, for the next connection to it |
//! | `histogram` | distributions for metrics |

mod class;
mod histogram;
mod known;
mod plan;
mod profile;
mod sampler;

pub use class::{Bandwidth, Distance, PathClass};
pub use histogram::{Histogram, PathHistograms, Quantiles};
pub use known::{Known, Learnt};
pub use plan::{Controller, Plan, WindowBounds};
pub use profile::Profile;
pub use sampler::{Counts, Evidence, Rate, Sample, Sampler};
