//! The zone of a node whose operator named none: what its neighbours say, else what its address says, and not changed lightly.
//!
//! A zone that flaps moves keys, owners and replicas each time. So a measured one is published only once it has held for a while;
//! one that is configured is not measured at all.

use std::{collections::BTreeMap, time::Duration};

use super::Place;
use crate::{Latency, Source, View, Zone};

/// The measured round trip within which neighbours stand in one metro.
const METRO: Duration = Duration::from_millis(2);

/// The measured round trip within which they stand in one region, likely.
const REGION: Duration = Duration::from_millis(15);

/// How long another zone must be measured without a break until it is taken, by default.
const HOLD: Duration = Duration::from_secs(600);

/// What [`Zone::unknown`] has for its region and metro. A measured zone of which only the region is known has this metro.
const NO_REGION: &str = "world";
const NO_METRO: &str = "any";

/// Whether a zone says which region it is.
pub(crate) fn names_region(zone: &Zone) -> bool {
    !zone.region.is_empty() && zone.region != NO_REGION
}

/// Whether a zone says which metro it is.
pub(crate) fn names_metro(zone: &Zone) -> bool {
    names_region(zone) && !zone.metro.is_empty() && zone.metro != NO_METRO
}

/// Where this node seems to be at this moment: in the metro that most of the neighbours within 2 ms name (of equals the nearest's), else where the
/// database has its address, else in the region of the nearest neighbour within 15 ms, as `eu-any`. Only fresh measured paths count. None
/// where nothing tells.
///
/// A neighbour's zone may be a measured one too. Where an operator names none at all it is the database that says the first.
#[must_use]
pub fn measure_zone(
    view: &View,
    latency: &Latency,
    place: Option<&Place>,
    now: Duration,
) -> Option<Zone> {
    let mut neighbours: Vec<_> = view
        .nodes()
        .iter()
        .filter(|node| node.id != view.me && names_region(&node.zone))
        .filter_map(|node| match latency.to(view, &node.id, now)? {
            (rtt, Source::Path) => Some((rtt, &node.zone)),
            _ => None,
        })
        .collect();
    neighbours.sort_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
    let mut votes: BTreeMap<&Zone, (usize, Duration)> = BTreeMap::new();
    let in_metro = neighbours.iter().take_while(|(rtt, _)| *rtt <= METRO);
    for (rtt, zone) in in_metro.filter(|(_, zone)| names_metro(zone)) {
        votes.entry(zone).or_insert((0, *rtt)).0 += 1;
    }
    let most = votes
        .iter()
        .max_by(|(_, (votes, rtt)), (_, (more, other))| votes.cmp(more).then(other.cmp(rtt)));
    if let Some((zone, _)) = most {
        return Some((*zone).clone());
    }
    if let Some(zone) = place.and_then(by_place) {
        return Some(zone);
    }
    let (rtt, nearest) = neighbours.first()?;
    (*rtt <= REGION).then(|| Zone {
        region: nearest.region.clone(),
        metro: NO_METRO.to_owned(),
    })
}

/// The continent's two letters and the city, in the letters that zones have.
fn by_place(place: &Place) -> Option<Zone> {
    let region = name(place.continent.as_deref()?);
    let metro = name(place.city.as_deref().or(place.country.as_deref())?);
    let zone = Zone { region, metro };
    zone.is_plain().then_some(zone)
}

/// Small letters and digits; what is between them becomes one hyphen.
fn name(text: &str) -> String {
    let mut name = String::new();
    for letter in text.chars() {
        if name.len() >= Zone::PART_BYTES_MAX {
            break;
        }
        if letter.is_ascii_alphanumeric() {
            name.push(letter.to_ascii_lowercase());
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    name.truncate(name.trim_end_matches('-').len());
    name
}

/// A measured zone that is changed only once another has held.
#[derive(Debug, Clone)]
pub struct MeasuredZone {
    zone: Option<Zone>,
    /// Another one, and since when nothing else was measured.
    other: Option<(Zone, Duration)>,
    hold: Duration,
}

impl Default for MeasuredZone {
    /// Another zone is taken once it has held for 10 min.
    fn default() -> Self {
        Self::new(HOLD)
    }
}

impl MeasuredZone {
    /// Another zone is taken once it has held for so long; the first at once.
    #[must_use]
    pub fn new(hold: Duration) -> Self {
        Self {
            zone: None,
            other: None,
            hold,
        }
    }

    /// The zone to publish.
    #[must_use]
    pub fn zone(&self) -> Option<&Zone> {
        self.zone.as_ref()
    }

    /// Takes what was measured; the new zone where this changed it. A measurement that found nothing neither speaks for the zone
    /// nor against it.
    pub fn observe(&mut self, now: Duration, measured: Option<Zone>) -> Option<&Zone> {
        let measured = measured?;
        let Some(zone) = &self.zone else {
            self.zone = Some(measured);
            return self.zone.as_ref();
        };
        if *zone == measured {
            self.other = None;
            return None;
        }
        match &self.other {
            Some((other, since)) if *other == measured => {
                if now.saturating_sub(*since) < self.hold {
                    return None;
                }
                self.other = None;
                self.zone = Some(measured);
                self.zone.as_ref()
            }
            _ => {
                self.other = Some((measured, now));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        NodeState,
        latency::world::{node, view},
    };

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn zone(region: &str, metro: &str) -> Zone {
        Zone {
            region: region.to_owned(),
            metro: metro.to_owned(),
        }
    }

    fn measured(nodes: &[(NodeState, Duration)], place: Option<&Place>) -> Option<Zone> {
        let me = node(1_000, ("", ""));
        let mut latency = Latency::new(me.id);
        let mut all = vec![me];
        for (node, rtt) in nodes {
            latency.measured(node.id, *rtt, SECOND);
            all.push(node.clone());
        }
        measure_zone(&view(&all), &latency, place, SECOND)
    }

    fn berlin() -> Place {
        Place {
            continent: Some("EU".to_owned()),
            country: Some("DE".to_owned()),
            city: Some("Berlin (Mitte)".to_owned()),
            ..Place::default()
        }
    }

    #[test]
    fn neighbours_name_the_metro_then_the_address_then_the_region() {
        let fra = |number, rtt| (node(number, ("eu", "fra")), rtt);
        let ams = |number, rtt| (node(number, ("eu", "ams")), rtt);
        let few = [ams(1, MS / 2), fra(2, MS), fra(3, MS), fra(4, MS * 9)];
        assert_eq!(measured(&few, Some(&berlin())), Some(zone("eu", "fra")));
        // Of as many the nearest.
        assert_eq!(measured(&few[..2], None), Some(zone("eu", "ams")));
        let far = [fra(2, MS * 9)];
        assert_eq!(
            measured(&far, Some(&berlin())),
            Some(zone("eu", "berlin-mitte"))
        );
        assert_eq!(measured(&far, None), Some(zone("eu", "any")));
        // Such a one names no metro for others.
        let vague = [(node(5, ("eu", "any")), MS)];
        assert_eq!(measured(&vague, None), Some(zone("eu", "any")));
        assert_eq!(measured(&[fra(2, MS * 30)], None), None);
        assert_eq!(measured(&[(node(5, ("world", "any")), MS)], None), None);
        let nowhere = Place {
            continent: Some("??".to_owned()),
            ..berlin()
        };
        assert_eq!(measured(&[], Some(&nowhere)), None);
        assert_eq!(measured(&[], Some(&Place::default())), None);
    }

    #[test]
    fn the_unknown_zone_names_nothing_and_what_is_measured_can_be_published() {
        let unknown = Zone::unknown();
        assert_eq!((&*unknown.region, &*unknown.metro), (NO_REGION, NO_METRO));
        assert!(!names_region(&unknown) && !names_metro(&unknown));
        assert!(names_region(&zone("eu", "any")) && !names_metro(&zone("eu", "any")));
        assert!(zone("eu", "any").is_plain() && by_place(&berlin()).unwrap().is_plain());
    }

    #[test]
    fn names_are_of_the_letters_that_zones_have_and_not_longer() {
        for (text, expected) in [
            ("Frankfurt am Main", "frankfurt-am-main"),
            ("--São--Paulo--", "s-o-paulo"),
            ("東京", ""),
            (
                "Llanfairpwllgwyngyllgogerychwyrndrobwll",
                "llanfairpwllgwyngyllgogerychwyrn",
            ),
        ] {
            assert_eq!(name(text), expected);
            assert!(name(text).len() <= Zone::PART_BYTES_MAX);
        }
    }

    #[test]
    fn another_zone_is_taken_only_once_it_has_held() {
        let mut measured = MeasuredZone::default();
        let (fra, ams) = (zone("eu", "fra"), zone("eu", "ams"));
        let mut observe = |minute: u32, zone: Option<&Zone>| {
            measured
                .observe(SECOND * 60 * minute, zone.cloned())
                .cloned()
        };
        assert_eq!(observe(0, None), None);
        assert_eq!(observe(1, Some(&fra)), Some(fra.clone()));
        // It flaps for an hour and nothing is published.
        for minute in 2..60 {
            let seen = if minute % 9 == 0 { &fra } else { &ams };
            assert_eq!(observe(minute, Some(seen)), None);
        }
        assert_eq!(observe(60, Some(&fra)), None);
        assert_eq!(observe(61, Some(&ams)), None);
        assert_eq!(observe(65, None), None);
        assert_eq!(observe(70, Some(&ams)), None);
        assert_eq!(observe(71, Some(&ams)), Some(ams.clone()));
        assert_eq!(observe(72, Some(&ams)), None);
        assert_eq!(measured.zone(), Some(&ams));
    }
}
