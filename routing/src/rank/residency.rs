//! Where the bytes of a site may be: patterns of zones.
//!
//! The text of a zone is its region, a hyphen and its metro, `eu-fra`. A pattern is such a text in which `*` stands for any run of
//! characters, hyphens included; capitals do not matter. It closes: a node that does not say where it is (`world-any`, or no zone) lies in none
//! that names a region.

use crate::Zone;

/// Bytes of a pattern: a zone's text, and some stars.
const PATTERN_BYTES_MAX: usize = 80;

/// Bytes of the text of a zone: both parts and the hyphen.
const ZONE_BYTES_MAX: usize = 2 * Zone::PART_BYTES_MAX + 1;

/// Patterns of a site.
const PATTERNS_MAX: usize = 64;

/// The zones that a site's bytes may be in. None named: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Residency {
    patterns: Vec<String>,
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// It is empty or too long.
    #[error("a pattern of zones has 1 to {PATTERN_BYTES_MAX} bytes, this one {bytes}")]
    Length {
        /// Its bytes.
        bytes: usize,
    },
    /// It has what no zone has.
    #[error("`{pattern}`: a pattern of zones is of letters, digits, `-`, `_`, `.` and `*`")]
    Character {
        /// The pattern.
        pattern: String,
    },
    /// It can match no zone: neither a hyphen nor a star.
    #[error("`{pattern}` matches no zone, whose text is region-metro: `{pattern}-*` is the region")]
    NoZone {
        /// The pattern.
        pattern: String,
    },
    /// There are too many.
    #[error("at most {PATTERNS_MAX} patterns of zones, not {count}")]
    Count {
        /// How many.
        count: usize,
    },
}

impl Residency {
    /// All zones.
    #[must_use]
    pub fn anywhere() -> Self {
        Self::default()
    }

    /// The zones that at least one of the patterns matches; all where there is no pattern.
    ///
    /// # Errors
    /// What is wrong with the first bad pattern.
    pub fn new<P: AsRef<str>>(patterns: &[P]) -> Result<Self, BadPattern> {
        if patterns.len() > PATTERNS_MAX {
            return Err(BadPattern::Count {
                count: patterns.len(),
            });
        }
        let check = |pattern: &P| {
            let pattern = pattern.as_ref();
            if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX {
                return Err(BadPattern::Length {
                    bytes: pattern.len(),
                });
            }
            let of_zones = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
            if !pattern.bytes().all(of_zones) {
                return Err(BadPattern::Character {
                    pattern: pattern.to_owned(),
                });
            }
            if !pattern.contains(['-', '*']) {
                return Err(BadPattern::NoZone {
                    pattern: pattern.to_owned(),
                });
            }
            Ok(pattern.to_ascii_lowercase())
        };
        let patterns = patterns.iter().map(check).collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// Whether bytes may be in this zone.
    #[must_use]
    pub fn allows(&self, zone: &Zone) -> bool {
        if self.patterns.is_empty() {
            return true;
        }
        // Half a zone is none: who does not say where in `eu` it stands is not taken at its word that it stands there.
        let mut bytes = [0; ZONE_BYTES_MAX];
        let text = lowercase(zone, &mut bytes).unwrap_or_default();
        self.patterns
            .iter()
            .any(|pattern| matches(pattern.as_bytes(), text))
    }
}

/// The text of a zone in small letters, written where the caller has room: this is asked of each candidate. None where either part is missing, or
/// longer than it may be.
fn lowercase<'a>(zone: &Zone, to: &'a mut [u8; ZONE_BYTES_MAX]) -> Option<&'a [u8]> {
    let parts = [zone.region.as_bytes(), b"-", zone.metro.as_bytes()];
    let mut written = 0;
    for part in parts {
        let room = to.get_mut(written..written + part.len())?;
        room.copy_from_slice(part);
        written += part.len();
    }
    let text = to.get_mut(..written)?;
    text.make_ascii_lowercase();
    (!zone.region.is_empty() && !zone.metro.is_empty()).then_some(text)
}

/// Whether the whole text matches. Goes back to the last star only, so it takes at most pattern × text steps.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last star, and how far it has reached in the text.
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(seen) {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                star = Some((at, seen));
            }
            Some(expected) if expected == byte => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((behind, reached)) = star else {
                    return false;
                };
                star = Some((behind, reached + 1));
                at = behind;
                seen = reached + 1;
            }
        }
    }
    pattern.iter().skip(at).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone(region: &str, metro: &str) -> Zone {
        Zone {
            region: region.to_owned(),
            metro: metro.to_owned(),
        }
    }

    #[test]
    fn patterns_match_the_whole_text_of_a_zone() {
        for (patterns, region, metro, allowed) in [
            (&[][..], "na", "nyc", true),
            (&[], "", "", true),
            (&["eu-*"], "eu", "fra", true),
            (&["eu-*"], "EU", "FRA", true),
            (&["EU-*"], "eu", "fra", true),
            (&["eu-*"], "eu", "west-par", true),
            (&["eu-*"], "world", "any", false),
            (&["eu-fra"], "eu", "any", false),
            (&["eu-*"], "europe", "fra", false),
            (&["eu-*"], "na", "eu-x", false),
            (&["eu-*"], "neu", "x", false),
            (&["eu-fra"], "eu", "fra", true),
            (&["eu-fra"], "eu", "fra2", false),
            (&["*-fra"], "eu", "fra", true),
            (&["eu-*", "na-nyc"], "na", "nyc", true),
            (&["eu-*", "na-nyc"], "na", "sjc", false),
            (&["*"], "", "", true),
            (&["eu-*"], "", "", false),
            (&["eu-*"], "eu", "", false),
            (&["-*"], "", "", false),
            (&["*a*b*"], "eu", "xaxbx", true),
            (&["*a*b"], "eu", "xaxbx", false),
            (&["eu-*"], "eu", &"x".repeat(62), true),
            (&["eu-*"], "eu", &"x".repeat(63), false),
        ] {
            let residency = Residency::new(patterns).unwrap();
            assert_eq!(
                residency.allows(&zone(region, metro)),
                allowed,
                "{patterns:?} {region}-{metro}"
            );
        }
    }

    #[test]
    fn a_pattern_that_cannot_be_meant_is_refused_with_the_fix() {
        let refused = |pattern: &str| Residency::new(&[pattern]).unwrap_err().to_string();
        assert!(refused("eu").contains("`eu-*` is the region"));
        assert!(refused("").contains("1 to 80 bytes"));
        assert!(refused(&"x-".repeat(41)).contains("82"));
        assert!(refused("eu fra-*").contains("letters"));
        assert!(Residency::new(&["*"; PATTERNS_MAX]).is_ok());
        assert_eq!(
            Residency::new(&["*"; PATTERNS_MAX + 1]),
            Err(BadPattern::Count {
                count: PATTERNS_MAX + 1
            })
        );
    }

    /// What `matches` means, in the plainest words.
    fn plainly(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|skipped| plainly(rest, &text[skipped..])),
            Some((byte, rest)) => text
                .split_first()
                .is_some_and(|(first, text)| first == byte && plainly(rest, text)),
        }
    }

    proptest! {
        #[test]
        fn matching_is_as_its_plainest_definition(pattern in "[ab*-]{0,8}", text in "[ab-]{0,10}") {
            prop_assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                plainly(pattern.as_bytes(), text.as_bytes())
            );
        }
    }
}
