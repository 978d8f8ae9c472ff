//! What each server process has: configuration, telemetry, metrics, admin listener, workers, drain, state directory.
//!
//! A leaf: it knows no transport, no cache and no HTTP of its callers; it speaks in sizes, durations, addresses and strings.

mod admin;
mod busy;
mod calls;
pub mod config;
mod drain;
pub mod memory;
pub mod metrics;
mod process;
pub mod report;
mod state_dir;
pub mod telemetry;
mod workers;

pub use self::{
    admin::{Admin, AdminHandle, Readiness},
    busy::Busy,
    calls::{AskError, CallError, Calls, ask},
    config::{Config, ConfigError, ConfigErrors, Env, Role},
    drain::{Drain, DrainOutcome, Signals, Tracked},
    metrics::Registry,
    process::{ProcessStats, resident_bytes},
    state_dir::{StateDir, StateDirError},
    workers::{WorkerError, WorkerId, WorkerResult, Workers},
};
