//! What HTTP says about caching, as pure functions: fields and times in, decisions out.
//!
//! No clock, no store, no network. The whole of RFC 9111 that a shared cache needs, a file for each of its topics. What is
//! left out, as if the field were absent: combining partial content other than aligned blocks.

pub mod age;
pub mod blame;
pub mod cache_status;
pub mod conditional;
pub mod dates;
pub mod digest;
pub mod directives;
pub mod facts;
pub mod freshness;
pub mod groups;
pub mod heuristic;
pub mod hop;
pub mod invalidation;
pub mod multipart;
pub mod negotiation;
pub mod no_vary_search;
pub mod own;
pub mod policy;
pub mod range;
pub mod redirection;
pub mod reuse;
pub mod targeted;
pub mod update;
pub mod validator;
pub mod vary;
