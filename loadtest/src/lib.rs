//! `stoq-bench`: a load tester that says when not to believe it, and the clients that the scenarios in `tests/` use.
//!
//! A run: a [`Plan`](plan::Plan) (flags, or a TOML profile with the same keys) names a [`workload`], a shape of load
//! ([`arrival`]) and a protocol ([`lane`]). [`run`](run::run) does it on threads of its own, [`record`] takes the times,
//! [`truth`] watches the client, the server and the kernel's counters and judges, and a [`Bundle`](bundle::Bundle) keeps
//! it all. [`compare`], [`ab`], [`report`] and [`tables`] are what one does with bundles. [`netlab`] makes the network.
//!
//! [`Client`] is one connection to one server in one version of HTTP, for tests and for [`get`](mod@get): a body that was
//! reset or cut short is an error, never a short body.

pub mod ab;
pub mod arrival;
pub mod bundle;
pub mod cli;
mod client;
pub mod compare;
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
