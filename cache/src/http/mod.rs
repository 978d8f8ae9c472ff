//! What HTTP says about caching, as pure functions: fields and times in, decisions out.
//!
//! No clock, no store, no network. The complete RFC 9111 grows here, a file for each of its topics. What is not
//! decided yet, and so behaves as if the field were absent: request directives, heuristic freshness,
//! `must-understand`, targeted fields (RFC 9213), `stale-if-error`, invalidation by unsafe methods, combining
//! partial content.

pub mod age;
pub mod cache_status;
pub mod conditional;
pub mod directives;
pub mod facts;
pub mod freshness;
pub mod hop;
pub mod multipart;
pub mod policy;
pub mod range;
pub mod update;
pub mod validator;
pub mod vary;
