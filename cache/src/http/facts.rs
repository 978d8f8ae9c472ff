//! The parts of a request that decide about a stored response.

use http::{HeaderMap, Method};

/// A request as caching sees it.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// GET or HEAD; nothing else is looked up or stored.
    pub method: &'a Method,
    /// The client's fields.
    pub headers: &'a HeaderMap,
}
