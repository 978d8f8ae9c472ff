//! A run, from the first connection to the bundle.
//!
//! ```text
//! learn ─▶ connect ─▶ open idle ─▶ warm-up ─▶ counted time ─▶ drain ─▶ ask idle ─▶ judge
//! ```
//!
//! * **learn**: each object that is not known is asked for once. One that cannot be had ends the run.
//! * **warm-up**, **counted time**: the same load; see [`record`](crate::record) for what is counted.
//! * **drain**: no request begins any more; those under way are waited for, each for no longer than its time-out, and
//!   cut then. From the begin of the load to the end of the drain no more than warm-up + duration + time-out pass, whatever the
//!   server does.
//!
//! Each of the plan's threads is a runtime with a dialer and connections of its own; the caller's thread conducts them,
//! blocking. An [interrupt](Options::interrupt) ends a run early: what was found until then is in its bundle, with a remark.

mod conduct;
mod deadline;
mod gate;
mod idle;
mod learn;
mod live;
mod outcome;
mod slot;
mod thread;
mod worker;

use std::io;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::bundle::Bundle;
use crate::lane::h1::H1Dialer;
use crate::lane::h2::H2Dialer;
use crate::lane::h3::H3Dialer;
use crate::lane::stoq::StoqDialer;
use crate::lane::{Dialer, Failure};
use crate::plan::{Plan, Protocol, Shape};
use crate::truth::{EnvironmentError, WatchError};

/// What a run needs to know beside its plan.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What the run is called in tables and plots.
    pub name: String,
    /// The server's process on this machine, whose CPU and memory are read.
    pub server_pid: Option<u32>,
    /// Shows how it goes on standard error, if that is a terminal.
    pub progress: bool,
    /// Cancelled: the run ends now, and gives what it has. Before the counted time there is nothing to give:
    /// [`RunError::Interrupted`].
    pub interrupt: CancellationToken,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The plan asks for what cannot be. The caller's fault.
    #[error("{0}")]
    Plan(String),
    /// This side could not begin.
    #[error("starting a load thread: {0}")]
    Runtime(#[source] io::Error),
    /// This side could not begin to speak the protocol.
    #[error("{0:#}")]
    Dialer(anyhow::Error),
    /// An object is not to be had, so that no answer could be checked.
    #[error("{path}, asked once before the run: {failure}")]
    Learn {
        /// The object.
        path: String,
        /// Why not.
        failure: Failure,
    },
    /// An object is nothing but zeros.
    #[error(
        "{path} is {length} bytes that are all zero: that is what a server sends that answers before it has the bytes. \
         If the object is like that, say so (`zeros`)"
    )]
    Zeros {
        /// The object.
        path: String,
        /// Its bytes.
        length: u64,
    },
    /// A connection could not be opened before the run.
    #[error("connection {number} to {target}: {failure}")]
    Connect {
        /// Its number, from 0.
        number: u32,
        /// `host:port`.
        target: String,
        /// Why not, the last time.
        failure: Failure,
    },
    /// This machine cannot be described.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The run could not be watched, and so not be judged.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// Interrupted before there was anything to count.
    #[error("interrupted before the counted time began")]
    Interrupted,
    /// A load thread hung beyond every time-out. A bug of this tool.
    #[error("a load thread did not end in time")]
    Stuck,
    /// A load thread panicked. A bug of this tool.
    #[error("a load thread panicked: {0}")]
    Panicked(String),
}

/// Makes a run, speaking the plan's protocol. Blocks until it is over; not to be called within a runtime.
///
/// # Errors
/// Whatever keeps a run from being made. Failed requests are no error: they are in the bundle.
pub fn run(plan: Plan, options: &Options) -> Result<Bundle, RunError> {
    match plan.protocol {
        Protocol::Http3 => run_with(plan, options, |plan, thread| {
            Ok(H3Dialer::new(plan, thread)?)
        }),
        Protocol::Http2 => run_with(plan, options, |plan, thread| {
            Ok(H2Dialer::new(plan, thread)?)
        }),
        Protocol::Http1 => run_with(plan, options, |plan, thread| {
            Ok(H1Dialer::new(plan, thread)?)
        }),
        Protocol::Stoq => run_with(plan, options, |plan, thread| {
            Ok(StoqDialer::new(plan, thread)?)
        }),
    }
}

/// Makes a run with connections of `dialer`, which is called once on each load thread, within its runtime, with the
/// thread's number; and once more, with the number after theirs, by what learns the objects. Blocks until the run is over;
/// not to be called within a runtime.
///
/// # Errors
/// Whatever keeps a run from being made. Failed requests are no error: they are in the bundle.
pub fn run_with<D: Dialer>(
    plan: Plan,
    options: &Options,
    dialer: impl Fn(&Plan, u32) -> anyhow::Result<D> + Send + Sync + 'static,
) -> Result<Bundle, RunError> {
    let plan = check(plan)?;
    conduct::conduct(plan, options, &Arc::new(dialer))
}

fn check(mut plan: Plan) -> Result<Plan, RunError> {
    let wrong = |why: &str| Err(RunError::Plan(why.to_owned()));
    if plan.workload.objects().is_empty() {
        return wrong("a workload without objects");
    }
    if plan.connections == 0 || plan.streams == 0 || plan.threads == 0 {
        return wrong("connections, streams and threads must be at least 1");
    }
    if plan.stop.duration.is_zero() || plan.timeout.is_zero() {
        return wrong("duration and time-out must be above 0");
    }
    if plan.stop.requests == Some(0) {
        return wrong("a run of 0 requests");
    }
    if let Shape::Recorded { speed } = plan.shape
        && plan.workload.times(speed, 0, 1).is_none()
    {
        return wrong("a recorded shape with a workload that has no times");
    }
    // A thread without a connection would get its share of the arrivals and serve none.
    plan.threads = plan.threads.min(plan.connections);
    Ok(plan)
}
