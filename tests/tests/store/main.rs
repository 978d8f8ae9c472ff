//! What is kept on disk, seen from outside: real processes that are killed, refused, filled up, throttled and started again, before an
//! origin that counts what it is asked.

mod full;
mod invalidated;
mod kills;
mod large;
mod refusals;
mod rig;
mod sharing;
mod soak;
