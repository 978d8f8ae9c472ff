//! The client side of every measurement: clients for HTTP/3, HTTP/2 and HTTP/1.1 that tell the truth, and what is
//! built on them.
//!
//! * [`Client`]: one connection to one server in one version of HTTP, on which many requests can be under way. A body
//!   that was reset or cut short is an error, never a short body.
//! * [`get`](mod@get): one request, timed in its parts and hashed; the verb of `stoq-bench`.
//! * [`drive`](mod@drive): a closed loop of requests over connections and streams, for comparing CPU time per request.
//!
//! * [`netlab`](mod@netlab): hosts out of network namespaces, to run any of it over a network of known properties.
//!
//! The scenarios in `tests/` use the same clients.

pub mod ab;
pub mod arrival;
pub mod bundle;
pub mod cli;
mod client;
pub mod compare;
pub mod drive;
pub mod get;
pub mod lane;
pub mod netlab;
pub mod plan;
pub mod record;
pub mod report;
pub mod results;
pub mod run;
pub mod tables;
pub mod truth;
pub mod workload;

pub use client::{
    Answer, Body, Client, ClientError, ConnectTimes, Member, Payload, QuicParts, Site, Target,
    Trust, Version, Whole,
};
