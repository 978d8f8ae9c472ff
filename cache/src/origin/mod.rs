//! Where a site's bytes come from in the end: its own servers over HTTP, or a directory.
//!
//! [`OriginSite`] is what a site's configuration resolves to, shared by the workers; [`OriginClient`] is one worker's
//! client for it. [`DirOrigin`] serves a directory instead. Both are [`Upstream`](crate::upstream::Upstream)s.
//!
//! One request to a server:
//!
//! ```text
//! admit      one of the origin's places, of all workers together           → TooMany
//! connect    from the pool, else lookup, TCP, TLS; next origin on failure  → Unreachable, Timeout
//! exchange   request out, head in; again if the pooled connection had died → Protocol, Timeout, RequestBody
//! download   pieces as they come; the end only when the framing says so    → BodyError
//! ```
//!
//! Bounds: open requests per origin (`requests_max`), waiting ones (`waiting_max`, `wait`), unused connections per
//! worker (`idle_max`, `idle`), streams per HTTP/2 connection (`streams_max`), the response head
//! (`header_bytes_max`), unread response bytes (256 KiB for HTTP/1.1; 1 MiB a stream and 4 MiB a connection for
//! HTTP/2). A body that nobody polls is not read on.
//!
//! Not here: what may be asked of an origin, and what becomes of the answer. No proxies, no redirects, no upgrades,
//! and trailers are dropped.

mod client;
mod connect;
mod directory;
mod download;
mod endpoint;
mod exchange;
mod interim;
mod lane;
mod metrics;
mod probe;
mod upload;

pub use self::client::{OriginClient, OriginSite};
pub use self::directory::{DirOrigin, PIECE_BYTES};
pub use self::endpoint::{OriginConfigError, OriginSettings, OriginSpec, Roots};
pub use self::metrics::OriginMetrics;
pub use self::probe::{Probe, ProbeError, Reached, probe};
