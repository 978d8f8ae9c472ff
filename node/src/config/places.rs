//! Where a node stands, and where a site's bytes may be.

use toml::Spanned;

use super::{
    hosts,
    raw::{At, RawGeo, RawPosition, Strings},
    resolve::Resolver,
    resolved::{GeoFiles, GeoPosition},
};

/// Patterns of a site: each node that could be asked for one of its objects is held against all of them.
const RESIDENCY_MAX: usize = 64;

impl Resolver<'_> {
    pub(super) fn zone(&mut self, value: &At<String>) -> Option<String> {
        let value = value.as_ref()?;
        self.parsed(value, "node.zone", hosts::zone)
    }

    pub(super) fn geo_position(&mut self, value: &At<RawPosition>) -> Option<GeoPosition> {
        let table = value.as_ref()?;
        let (Some(latitude), Some(longitude)) =
            (&table.get_ref().latitude, &table.get_ref().longitude)
        else {
            if self.whole {
                self.fail(
                    table,
                    "node.position",
                    "needs both `latitude` and `longitude` (write { latitude = 50.11, longitude = 8.68 })",
                );
            }
            return None;
        };
        let latitude = self.degrees(latitude, "node.position.latitude", 90);
        let longitude = self.degrees(longitude, "node.position.longitude", 180);
        Some(GeoPosition {
            latitude_e6: latitude?,
            longitude_e6: longitude?,
        })
    }

    /// Millionths of a degree.
    fn degrees(&mut self, value: &Spanned<f64>, key: &str, max: i32) -> Option<i32> {
        let degrees = *value.get_ref();
        let bound = f64::from(max);
        // Of what is no number neither comparison holds.
        if !(-bound..=bound).contains(&degrees) {
            let message =
                format!("{degrees} is no place on the globe (write degrees, from -{max} to {max})");
            self.fail(value, key, message);
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most 180,000,000, which an i32 holds"
        )]
        let millionths = (degrees * 1e6).round() as i32;
        Some(millionths)
    }

    pub(super) fn network_number(&mut self, value: &At<i64>) -> Option<u32> {
        let value = value.as_ref()?;
        match u32::try_from(*value.get_ref()) {
            Ok(number @ 1..) => Some(number),
            _ => {
                let message = format!(
                    "{} is no network's number (write one from 1 to {})",
                    value.get_ref(),
                    u32::MAX
                );
                self.fail(value, "node.asn", message);
                None
            }
        }
    }

    pub(super) fn geo(&mut self, raw: &RawGeo) -> GeoFiles {
        let mut path = |value: &At<String>, key: &str| {
            let value = value.as_ref()?;
            Some(self.path(value, key))
        };
        GeoFiles {
            city: path(&raw.city, "cluster.geo.city"),
            asn: path(&raw.asn, "cluster.geo.asn"),
        }
    }

    /// What the patterns say is for whoever compares zones with them to judge; here it is only that they are some.
    pub(super) fn residency(&mut self, value: &At<Strings>, key: &str) -> Vec<String> {
        let patterns = self.at_most(RESIDENCY_MAX, value, key, |text| Ok(text.to_owned()));
        if let Some(value) = value.as_ref().filter(|_| patterns.is_empty()) {
            self.fail(
                value,
                key,
                "is empty, and its bytes could be nowhere (write residency = [\"eu-*\"], or remove it)",
            );
        }
        patterns
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, Env, Role};

    fn parse(node: &str, site: &str) -> Result<Config, String> {
        let text = format!(
            "[node]\n{node}\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[[site]]\nhosts = [\"*\"]\norigins = [\"http://127.0.0.1:1\"]\n{site}\n"
        );
        Config::parse("f.toml", &text, Path::new("/"), &Env::none(), Role::Edge)
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_position_is_two_angles_within_their_bounds() {
        let node = parse("position = { latitude = -33.87, longitude = 151 }", "")
            .unwrap()
            .node;
        let at = node.position.unwrap();
        assert_eq!(
            (at.latitude_e6, at.longitude_e6),
            (-33_870_000, 151_000_000)
        );
        for (position, fix) in [
            ("{ latitude = 90.1, longitude = 0.0 }", "f.toml:2:25"),
            ("{ latitude = nan, longitude = 0.0 }", "from -90 to 90"),
            ("{ latitude = 0.0, longitude = -181.0 }", "from -180 to 180"),
            ("{ latitude = 1.0 }", "needs both"),
            (
                "{ latitude = 1.0, longitude = 1.0, height = 3.0 }",
                "height",
            ),
        ] {
            let error = parse(&format!("position = {position}"), "").unwrap_err();
            assert!(error.contains(fix), "{position}: {error}");
        }
    }

    #[test]
    fn a_networks_number_has_32_bits_and_is_not_zero() {
        let asn = |asn: &str| parse(&format!("asn = {asn}"), "");
        assert_eq!(asn("4200000000").unwrap().node.asn, Some(4_200_000_000));
        for wrong in ["0", "-1", "4294967296", "\"AS1\""] {
            assert!(asn(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_site_that_may_be_nowhere_is_refused() {
        let residency = |text: &str| parse("", &format!("residency = {text}"));
        let config = residency("[\"eu-*\", \"us-nyc\"]").unwrap();
        assert_eq!(config.sites[0].residency, ["eu-*", "us-nyc"]);
        assert!(residency("[]").unwrap_err().contains("nowhere"));
    }
}
