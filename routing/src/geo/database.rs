//! One database in MaxMind's format, held in memory.
//!
//! It comes from outside, so nothing of it is believed before all of it was walked through once: the tree, and each record that the tree names. What
//! was damaged on its way is found then and not by a request.

use std::{
    error::Error,
    fmt,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use maxminddb::{MaxMindDbError, Reader, WithinOptions, geoip2};

use super::Place;
use crate::Position;

/// Records that are looked at to see that a database holds what it is for.
const SAMPLE: usize = 4_096;

/// What a database is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Positions and cities ("City").
    Places,
    /// Numbers of networks ("ASN").
    Networks,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Places => "places",
            Self::Networks => "network numbers",
        })
    }
}

/// Why a file is no database to use.
#[derive(Debug, thiserror::Error)]
pub enum BadDatabase {
    /// It is not of the format, or damaged.
    #[error("not a database in MaxMind's format, or damaged: {0}")]
    Damaged(Box<dyn Error + Send + Sync>),
    /// It is whole, and of something else.
    #[error("a database of type `{is}` has no {wanted}")]
    Other {
        /// What it says it is.
        is: String,
        /// What it was to have.
        wanted: Kind,
    },
}

/// One database. Holds the file's bytes.
#[derive(Debug)]
pub struct Database {
    reader: Reader<Vec<u8>>,
    kind: Kind,
    unreadable: AtomicU64,
}

impl From<MaxMindDbError> for BadDatabase {
    fn from(error: MaxMindDbError) -> Self {
        Self::Damaged(error.into())
    }
}

impl Database {
    /// A database from a file's bytes. Walks through all of it, and remembers each record on the way: no work for a thread that
    /// serves.
    ///
    /// # Errors
    /// It is damaged, not of the format, or not of this kind.
    pub fn read(bytes: Vec<u8>, kind: Kind) -> Result<Self, BadDatabase> {
        let reader = Reader::from_source(bytes)?;
        reader.verify()?;
        let database = Self {
            reader,
            kind,
            unreadable: AtomicU64::new(0),
        };
        let is_useful = database
            .reader
            .networks(WithinOptions::default())?
            .take(SAMPLE)
            .flatten()
            .filter_map(|found| found.network().ok())
            .any(|network| {
                let mut place = Place::default();
                database.add(network.ip(), &mut place);
                match kind {
                    Kind::Places => place.position.is_some(),
                    Kind::Networks => place.network.is_some(),
                }
            });
        if !is_useful {
            return Err(BadDatabase::Other {
                is: database.reader.metadata().database_type.clone(),
                wanted: kind,
            });
        }
        Ok(database)
    }

    /// What it is for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its type, as it says: "GeoLite2-City".
    #[must_use]
    pub fn name(&self) -> &str {
        &self.reader.metadata().database_type
    }

    /// When it was made, seconds since 1970.
    #[must_use]
    pub fn built(&self) -> u64 {
        self.reader.metadata().build_epoch
    }

    /// Lookups that met a record which is none of this kind.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Adds what it knows of an address.
    pub(super) fn add(&self, address: IpAddr, place: &mut Place) {
        let address = address.to_canonical();
        if address.is_ipv6() && self.reader.metadata().ip_version == 4 {
            return;
        }
        let added = match self.kind {
            Kind::Places => self.add_place(address, place),
            Kind::Networks => self.add_network(address, place),
        };
        if added.is_err() {
            self.unreadable.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn add_place(&self, address: IpAddr, place: &mut Place) -> Result<(), MaxMindDbError> {
        let Some(found) = self.reader.lookup(address)?.decode::<geoip2::City<'_>>()? else {
            return Ok(());
        };
        let position =
            found
                .location
                .latitude
                .zip(found.location.longitude)
                .map(|(latitude, longitude)| Position {
                    latitude,
                    longitude,
                });
        place.position = position.filter(Position::is_valid);
        place.accuracy_km = found.location.accuracy_radius;
        place.continent = found.continent.code.map(str::to_owned);
        place.country = found.country.iso_code.map(str::to_owned);
        place.city = found.city.names.english.map(str::to_owned);
        Ok(())
    }

    fn add_network(&self, address: IpAddr, place: &mut Place) -> Result<(), MaxMindDbError> {
        let Some(found) = self.reader.lookup(address)?.decode::<geoip2::Asn<'_>>()? else {
            return Ok(());
        };
        place.network = found.autonomous_system_number;
        place.network_name = found.autonomous_system_organization.map(str::to_owned);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
