//! Content-defined chunks, tiered stores, HTTP cache semantics and fills.

mod collapse;
pub mod content;
pub mod engine;
mod fill;
pub mod http;
pub mod key;
pub mod metrics;
pub mod object;
pub mod origin;
pub mod query;
pub mod reply;
pub mod store;
pub mod time;
pub mod upstream;
