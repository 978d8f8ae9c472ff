//! Where an address is: position, city and network number, from databases in MaxMind's format.
//!
//! The databases are the operator's; without them nothing here is known and latency falls back to zones. Two are looked at, either may be
//! missing: one with places ("City"), one with network numbers ("ASN").
//!
//! [`Database`] and [`Geo`] work on bytes; [`GeoFiles`] alone touches the filesystem.

mod database;
mod files;
#[cfg(test)]
mod mmdb;
mod zone;

use std::{net::IpAddr, sync::Arc};

pub use database::{BadDatabase, Database, Kind};
pub use files::{BadGeoFile, GeoFiles, GeoNews, GeoPaths};
pub use zone::{MeasuredZone, measure_zone};
pub(crate) use zone::{names_metro, names_region};

use crate::Position;

/// What is known of where an address is. Each part may be missing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Place {
    /// On the globe.
    pub position: Option<Position>,
    /// Kilometres around the position within which the address likely is.
    pub accuracy_km: Option<u16>,
    /// Two letters, "EU".
    pub continent: Option<String>,
    /// Two letters (ISO 3166-1), "DE".
    pub country: Option<String>,
    /// Its English name.
    pub city: Option<String>,
    /// The number of the network (autonomous system).
    pub network: Option<u32>,
    /// Whose network that is.
    pub network_name: Option<String>,
}

/// The databases that there are, at one moment. Shared; a changed file makes a new one.
#[derive(Debug, Clone, Default)]
pub struct Geo {
    places: Option<Arc<Database>>,
    networks: Option<Arc<Database>>,
}

impl Geo {
    /// These databases.
    #[must_use]
    pub fn new(places: Option<Arc<Database>>, networks: Option<Arc<Database>>) -> Self {
        Self { places, networks }
    }

    /// The databases that are there.
    pub fn databases(&self) -> impl Iterator<Item = &Database> {
        self.places.iter().chain(&self.networks).map(Arc::as_ref)
    }

    /// Where an address is, as far as the databases know: a walk down each one's tree.
    #[must_use]
    pub fn place(&self, address: IpAddr) -> Place {
        let mut place = Place::default();
        for database in self.databases() {
            database.add(address, &mut place);
        }
        place
    }
}
