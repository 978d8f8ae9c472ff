//! What the origin clients of one site count. One set per site, shared by its workers.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters of one site's traffic to its origins. Clones share the counters.
#[derive(Debug, Clone, Default)]
pub struct OriginMetrics {
    /// Requests that asked for an answer. Each ends in a response head or in one of the failures below.
    pub requests: Counter,
    /// Connections opened (TCP, and TLS where asked for).
    pub connections: Counter,
    /// Requests carried by a connection that had carried one before.
    pub reused: Counter,
    /// Requests sent a second time because a reused connection had died before a byte of the answer.
    pub resent: Counter,
    /// Connects that failed or took too long; a request may meet one per origin of the site.
    pub connect_failures: Counter,
    /// Requests refused because the origin had its bound of requests open and the wait was over.
    pub refused_at_bound: Counter,
    /// Requests whose response head did not come in time.
    pub head_timeouts: Counter,
    /// Requests that failed after the connect for any other reason.
    pub failed: Counter,
    /// Response bodies that broke, stalled or were shorter than declared.
    pub broken_bodies: Counter,
}

impl OriginMetrics {
    /// Registers every counter under its name with the prefix `origin_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("origin");
        let mut add = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone())
        };
        add("requests", "Requests sent towards origins", &self.requests);
        add(
            "connections",
            "Connections opened to origins",
            &self.connections,
        );
        add(
            "reused",
            "Requests carried by a reused connection",
            &self.reused,
        );
        add(
            "resent",
            "Requests sent again after a reused connection had died",
            &self.resent,
        );
        add(
            "connect_failures",
            "Connects to origins that failed",
            &self.connect_failures,
        );
        add(
            "refused_at_bound",
            "Requests refused at the bound of open requests",
            &self.refused_at_bound,
        );
        add(
            "head_timeouts",
            "Response heads that did not come in time",
            &self.head_timeouts,
        );
        add(
            "failed",
            "Requests that failed after the connect",
            &self.failed,
        );
        add(
            "broken_bodies",
            "Response bodies that ended before their end",
            &self.broken_bodies,
        );
    }
}
