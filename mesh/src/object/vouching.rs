//! This node's word for what it fetched from an origin itself.
//!
//! A node whose certificate says `fetch:<site>` writes for each object of that site what a shield writes for those it relays: a [`Voucher`]. Any node believes it from whomever it comes,
//! as long as that certificate holds. A shield may do so for all sites.

use std::fmt;

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use stoq::identity::{Identity, Role};
use stoq_cache::engine::{Fetched, Vouches};

use super::voucher::Voucher;

/// Vouches as this node. Costs a signature an object, some 25 µs.
pub struct OwnWord {
    identity: Identity,
    /// Objects that this node has vouched for.
    given: Counter,
    /// Objects of sites that it may vouch for, and did not: what they vary by fits no other request or may say who asked, or the voucher would be too long.
    withheld: Counter,
}

impl fmt::Debug for OwnWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnWord")
            .field("node", &self.identity.name())
            .finish_non_exhaustive()
    }
}

impl OwnWord {
    /// As this node.
    #[must_use]
    pub fn of(identity: Identity) -> Self {
        Self {
            identity,
            given: Counter::default(),
            withheld: Counter::default(),
        }
    }

    /// Whether its certificate says that it may vouch for objects of this site.
    #[must_use]
    pub fn may(&self, site: &str) -> bool {
        let may = |role: &Role| match role {
            Role::Shield => true,
            Role::Fetch(fetched) => fetched == site,
            _ => false,
        };
        self.identity.roles().iter().any(may)
    }

    /// Names its counters in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("vouched");
        registry.register(
            "objects",
            "Objects that this node fetched from their origins and has vouched for",
            self.given.clone(),
        );
        registry.register(
            "withheld",
            "Objects that it fetched and could not vouch for, though it may for their sites",
            self.withheld.clone(),
        );
    }

    fn word(&self, fetched: &Fetched<'_>) -> Option<Bytes> {
        let voucher = Voucher {
            key: *fetched.key.as_bytes(),
            chunk_key_id: *fetched.site.chunk_key.key_id().as_bytes(),
            site: fetched.site.name.to_string(),
            status: fetched.status,
            root: fetched.manifest.root(),
            total: fetched.manifest.total_len(),
            sent_ms: self.identity.now()?.as_secs().checked_mul(1_000)?,
            response: fetched.response.clone(),
            request: Voucher::selecting(fetched.response, fetched.request)?,
        };
        let sealed = voucher.seal(&self.identity);
        sealed
            .inspect_err(|error| tracing::debug!(%error, "an object goes without a voucher"))
            .ok()
    }
}

impl Vouches for OwnWord {
    fn vouch(&self, fetched: &Fetched<'_>) -> Option<Bytes> {
        if !self.may(&fetched.site.name) {
            return None;
        }
        let word = self.word(fetched);
        match &word {
            Some(_) => self.given.inc(),
            None => self.withheld.inc(),
        };
        word
    }
}
