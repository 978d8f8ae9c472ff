//! Where the bytes of sites may be: `residency` of each site, held against where nodes say they stand.
//!
//! No byte of a site with a residency goes between nodes but where both stand in its zones, and both see to it: who outside is not asked, and who outside asks is refused. A node that stands outside itself
//! answers for the site as if it did not have it. It closes: who is not seen in the mesh, or does not say where it stands, is outside. Who is where follows the mesh as it is seen at that moment.
//!
//! Not covered: what a node stored before it came to stand elsewhere stays on its disk, unused; what clients and origins do.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use stoq_node::config::{Config, ConfigError};
use stoq_routing::{Membership, NodeId, Residency, Zone};

use crate::Standing;

/// What was refused because somebody stands outside a site's zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    /// To answer a client: this node stands outside.
    Serve,
    /// To answer another node.
    Give,
    /// To ask another node.
    Ask,
}

impl Crossing {
    const ALL: [Self; 3] = [Self::Serve, Self::Give, Self::Ask];

    const fn word(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Give => "give",
            Self::Ask => "ask",
        }
    }
}

/// The residencies of all sites, and who is where. One a process.
#[derive(Default)]
pub struct Borders {
    /// Sites that have one, by name.
    bound: HashMap<Box<str>, Residency>,
    /// `node.zone`, for a node that is in no mesh.
    own: Option<Zone>,
    members: OnceLock<Arc<dyn Membership>>,
    refusals: Family<[(&'static str, &'static str); 1], Counter>,
}

impl fmt::Debug for Borders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Borders")
            .field("bound", &self.bound)
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

impl Borders {
    /// As the configuration says.
    ///
    /// # Errors
    /// Patterns that match no zone, each at its place.
    pub fn of(config: &Config) -> Result<Self, Vec<ConfigError>> {
        let mut borders = Self {
            own: Standing::of(config).zone,
            ..Self::default()
        };
        let mut errors = Vec::new();
        for (place, site) in config.sites.iter().enumerate() {
            if site.residency.is_empty() {
                continue;
            }
            match Residency::new(&site.residency) {
                Ok(residency) => {
                    borders.bound.insert((*site.name).into(), residency);
                }
                Err(error) => {
                    let key = format!("site[{place}].residency");
                    errors.push(config.error(&key, error.to_string()));
                }
            }
        }
        match errors.is_empty() {
            true => Ok(borders),
            false => Err(errors),
        }
    }

    /// Where nodes stand is known from these from now on. Once.
    pub fn among(&self, members: Arc<dyn Membership>) {
        // Who has some keeps them.
        let _ = self.members.set(members);
    }

    /// Whether a site's bytes may not be everywhere.
    #[must_use]
    pub fn binds(&self, site: &str) -> bool {
        !self.bound.is_empty() && self.bound.contains_key(site)
    }

    /// Whether a site's bytes may be here. Where no site has a residency this is one look. Who refuses because of it [says so](Self::refused).
    #[must_use]
    pub fn is_home(&self, site: &str) -> bool {
        let Some(residency) = self.bound_by(site) else {
            return true;
        };
        match self.members.get() {
            Some(members) => {
                let view = members.view();
                view.get(&view.me)
                    .is_some_and(|me| residency.allows(&me.zone))
            }
            None => self.own.as_ref().is_some_and(|zone| residency.allows(zone)),
        }
    }

    /// Whether a site's bytes may be in a zone. Nothing is counted: nobody asked.
    #[must_use]
    pub fn allows(&self, site: &str, zone: &Zone) -> bool {
        self.bound_by(site)
            .is_none_or(|residency| residency.allows(zone))
    }

    /// Whether a site's bytes may go to another node or come from it. If not, that is counted as a refusal.
    #[must_use]
    pub fn admits(&self, site: &str, node: &NodeId, crossing: Crossing) -> bool {
        let Some(residency) = self.bound_by(site) else {
            return true;
        };
        let stands_within = |members: &Arc<dyn Membership>| {
            let view = members.view();
            let allows = |id| {
                view.get(id)
                    .is_some_and(|node| residency.allows(&node.zone))
            };
            // Who stands outside itself has no business with what is within.
            allows(node) && allows(&view.me)
        };
        let admits = self.members.get().is_some_and(stands_within);
        if !admits {
            self.refused(crossing);
        }
        admits
    }

    fn bound_by(&self, site: &str) -> Option<&Residency> {
        if self.bound.is_empty() {
            return None;
        }
        self.bound.get(site)
    }

    /// Counts a refusal.
    pub fn refused(&self, crossing: Crossing) {
        let label = [("what", crossing.word())];
        self.refusals.get_or_create(&label).inc();
    }

    /// Puts its counters below `registry`, as `residency_…`.
    pub fn register(&self, registry: &mut Registry) {
        for crossing in Crossing::ALL {
            // So that each is there at zero.
            drop(self.refusals.get_or_create(&[("what", crossing.word())]));
        }
        registry.register(
            "residency_refused",
            "What was refused since this node or the other stands outside a site's zones",
            self.refusals.clone(),
        );
    }
}
