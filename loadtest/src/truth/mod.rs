//! Whether a run can be believed: what the client, the server and the network did while it was counted, as the kernel
//! says, and the [verdict](judge) on it.
//!
//! ```text
//! load threads: Lag::watch ─────────────────────────────▶ finish ─┐
//! conductor:    Watch::start ──▶ counted_from_now ──▶ finish ─────┴▶ judge ──▶ Verdict
//! ```
//!
//! Watching costs a timer each 10 ms on each load thread, three rounds of reading `/proc`, and, where a server's process
//! is named, a thread that reads its memory four times a second. In an unoptimized build these were measured at 0.7 %
//! and 0.3 % of a core; a test holds each of them below 2 %. The timer's part is in the load thread's own account.
//!
//! What is not seen here: limits of a control group (`cpu.max`), but for the lag that being held back by one makes;
//! the time that interrupts take from a thread's core, but for the same.

mod environment;
mod interface;
mod lag;
mod process;
mod resident;
mod threads;
mod tree;
mod verdict;
mod watch;

pub use self::environment::{EnvironmentError, environment};
pub use self::lag::Lag;
pub use self::process::ProcessError;
pub use self::resident::Resident;
pub use self::verdict::{Case, judge};
pub use self::watch::{Watch, WatchError, Watched};
