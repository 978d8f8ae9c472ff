//! What a run counts: each load thread has a [`Tally`] of its own, written without locks or allocation, and all are
//! merged when the threads are done. Merging is exact: a tally of parts merged is the tally of the whole.
//!
//! Two views of the same requests are kept apart:
//!
//! * what *came* within the counted time, quarter second by quarter second ([`Slice`]): rates are made of it;
//! * what became of each request that was *due* within it: answered, failed, or unanswered. Nothing is left over.

mod connects;
mod failures;
mod series;
mod tally;
mod times;

pub use self::connects::Connects;
pub use self::failures::Failures;
pub use self::series::{Counted, Place, SLICE, SLICES_A_SECOND, Series, Slice};
pub use self::tally::{Answer, Tally};
pub use self::times::Times;
