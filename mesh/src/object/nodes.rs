//! Where the shield's nodes are: addresses, or names that are resolved when needed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stoq_cache::key::CacheKey;
use tokio::time::{Instant, timeout};

/// How long a resolved name is believed: 30 s. A node that moved is found within that.
const BELIEVED: Duration = Duration::from_secs(30);
/// How long a resolution may take: 3 s, then the node counts as unreachable for this request.
const RESOLUTION: Duration = Duration::from_secs(3);
/// Addresses of a name that are tried: 4. More are ignored.
const ADDRESSES_MAX: usize = 4;

/// A shield node as configured: host (a name or an address) and port.
#[derive(Debug, Clone)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: String,
    port: u16,
    resolved: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Node {
    /// A node. `host` is an IP address without brackets, or a name.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self(Arc::new(Inner {
            host: host.into(),
            port,
            resolved: Mutex::new(None),
        }))
    }

    /// How much it is the node for a URL (rendezvous hashing): the most of all is asked first.
    pub(super) fn weight(&self, key: &CacheKey) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(key.as_bytes())
            .update(&self.0.port.to_be_bytes());
        *hasher.update(self.0.host.as_bytes()).finalize().as_bytes()
    }

    /// Its addresses now, in the resolver's order, at most 4.
    ///
    /// # Errors
    /// Why the name does not resolve, as text that names it.
    pub(super) async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let Inner {
            host,
            port,
            resolved,
        } = &*self.0;
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, *port)]);
        }
        let now = Instant::now();
        if let Some((at, addresses)) = &*resolved.lock()
            && now.duration_since(*at) < BELIEVED
        {
            return Ok(addresses.clone());
        }
        let found = timeout(RESOLUTION, tokio::net::lookup_host((host.as_str(), *port))).await;
        let addresses: Vec<_> = match found {
            Ok(Ok(found)) => found.take(ADDRESSES_MAX).collect(),
            Ok(Err(error)) => return Err(format!("{host}: {error}")),
            Err(_) => return Err(format!("{host}: not resolved within {RESOLUTION:?}")),
        };
        *resolved.lock() = Some((now, addresses.clone()));
        Ok(addresses)
    }
}

impl From<SocketAddr> for Node {
    fn from(addr: SocketAddr) -> Self {
        Self::new(addr.ip().to_string(), addr.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_need_no_resolver_and_names_are_resolved() {
        let v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 7443));
        assert_eq!(Node::from(v6).addresses().await.unwrap(), [v6]);
        let local = Node::new("localhost", 7443).addresses().await.unwrap();
        assert!(
            local
                .iter()
                .all(|addr| addr.ip().is_loopback() && addr.port() == 7443),
            "{local:?}"
        );
        let error = Node::new("no-such-host.invalid", 1)
            .addresses()
            .await
            .unwrap_err();
        assert!(error.starts_with("no-such-host.invalid: "), "{error}");
    }
}
