//! Sizes with their unit, durations and rates with theirs, and counts: the leaf types of the configuration.
//!
//! A number without a unit is refused, because `ram = 256` has been read as bytes, as megabytes and as pages by
//! different programs. Zero is refused too: no key here means anything at zero. "Off" is said by leaving a key out, or by the word where the default
//! is on.
//! Invariant: [`format_size`], [`format_duration`] and [`format_packet_rate`] write what [`parse_size`], [`parse_duration`] and [`parse_packet_rate`] read
//! back unchanged.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Units of time in milliseconds, largest first.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// The longest duration a key takes: ten years, far from every overflow of a deadline.
pub const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why a size or a duration was refused. The text holds the fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Nothing but white space.
    #[error("is empty (write {example})")]
    Empty {
        /// A value that would be accepted.
        example: String,
    },
    /// A number without its unit.
    #[error("`{text}` has no unit (write {example})")]
    NoUnit {
        /// What was written.
        text: String,
        /// A value that would be accepted.
        example: String,
    },
    /// A unit that does not exist.
    #[error("`{text}` has the unknown unit `{unit}` (write {example})")]
    UnknownUnit {
        /// What was written.
        text: String,
        /// The part behind the number.
        unit: String,
        /// A value that would be accepted.
        example: String,
    },
    /// Not a whole number in front of the unit.
    #[error("`{text}` does not start with a whole number (write {example})")]
    NotANumber {
        /// What was written.
        text: String,
        /// A value that would be accepted.
        example: String,
    },
    /// Below zero.
    #[error("`{text}` is negative (write {example})")]
    Negative {
        /// What was written.
        text: String,
        /// A value that would be accepted.
        example: String,
    },
    /// Zero.
    #[error("`{text}` is zero (leave the key out for its default, or write {example})")]
    Zero {
        /// What was written.
        text: String,
        /// A value that would be accepted.
        example: String,
    },
    /// More than the type or the key can hold.
    #[error("`{text}` is too large (at most {max})")]
    TooLarge {
        /// What was written.
        text: String,
        /// The largest value.
        max: String,
    },
}

/// Splits `text` into its whole number and what follows it.
fn split(
    text: &str,
    example: &dyn Fn(Option<&str>) -> String,
) -> Result<(u128, String), UnitError> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(UnitError::Empty {
            example: example(None),
        });
    }
    let owned = || trimmed.to_owned();
    if trimmed.starts_with('-') {
        return Err(UnitError::Negative {
            text: owned(),
            example: example(None),
        });
    }
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    if number.is_empty() || unit.starts_with(['.', ',']) {
        return Err(UnitError::NotANumber {
            text: owned(),
            example: example(None),
        });
    }
    let unit = unit.trim();
    if unit.is_empty() {
        return Err(UnitError::NoUnit {
            text: owned(),
            example: example(Some(number)),
        });
    }
    // A number of more digits than u128 holds is too large in every unit; the caller compares and says so.
    Ok((number.parse().unwrap_or(u128::MAX), unit.to_owned()))
}

/// Reads a size such as `64KiB`, `256MiB`, `5GB`: a whole number and a unit, binary (KiB) or decimal (KB).
///
/// # Errors
/// Every text that is not a positive whole number with a unit, and sizes above 8 EiB − 1.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let example = |number: Option<&str>| match number {
        Some(number) => format!("\"{number}MiB\" or \"{number}KiB\""),
        None => "\"256MiB\"".to_owned(),
    };
    let (number, unit) = split(text, &example)?;
    let text = text.trim();
    let Some(factor) = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
    else {
        let near = SIZE_UNITS
            .iter()
            .find(|(name, _)| unit_is_near(name, &unit))
            .map_or("MiB", |(name, _)| name);
        return Err(UnitError::UnknownUnit {
            text: text.to_owned(),
            unit,
            example: format!("\"{number}{near}\""),
        });
    };
    if number == 0 {
        return Err(UnitError::Zero {
            text: text.to_owned(),
            example: example(None),
        });
    }
    number
        .checked_mul(u128::from(factor))
        .and_then(|bytes| u64::try_from(bytes).ok())
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| UnitError::TooLarge {
            text: text.to_owned(),
            max: "8388607TiB".to_owned(),
        })
}

/// What a key that is on by default is set to where it is to be off.
pub(super) const OFF: &str = "off";

/// Reads a size, or [`OFF`].
fn parse_size_or_off(text: &str) -> Result<SizeOrOff, UnitError> {
    if text.trim() == OFF {
        return Ok(SizeOrOff(None));
    }
    parse_size(text)
        .map(|bytes| SizeOrOff(Some(bytes)))
        .map_err(|error| match error {
            UnitError::Zero { text, .. } => UnitError::Zero {
                text,
                example: format!("\"{OFF}\""),
            },
            error => error,
        })
}

/// Packets a second, and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketRate {
    /// Packets a second: 1 to 100,000,000.
    pub per_second: u32,
    /// Packets at once: 1 to 100,000,000. Where none is written: those of one second.
    pub burst: u32,
}

/// No interface of today carries more small packets in a second.
const PACKETS_MAX: u32 = 100_000_000;

/// Reads a rate such as `200/s` or `200/s burst 1000`.
///
/// # Errors
/// Every text that is not so, and numbers above 100,000,000.
pub fn parse_packet_rate(text: &str) -> Result<PacketRate, UnitError> {
    let example = |number: Option<&str>| match number {
        Some(number) => format!("\"{number}/s\""),
        None => "\"200/s\" or \"200/s burst 1000\"".to_owned(),
    };
    let (number, rest) = split(text, &example)?;
    let text = text.trim();
    let unknown = |unit: &str| UnitError::UnknownUnit {
        text: text.to_owned(),
        unit: unit.to_owned(),
        example: format!("\"{number}/s\" or \"{number}/s burst {number}\""),
    };
    let mut words = rest.split_ascii_whitespace();
    let unit = words.next().unwrap_or_default();
    if unit != "/s" {
        return Err(unknown(&rest));
    }
    let burst = match (words.next(), words.next(), words.next()) {
        (None, ..) => number,
        (Some("burst"), Some(burst), None) => burst.parse().map_err(|_| unknown(&rest))?,
        _ => return Err(unknown(&rest)),
    };
    let bounded = |packets: u128| match u32::try_from(packets) {
        Ok(0) => Err(UnitError::Zero {
            text: text.to_owned(),
            example: example(None),
        }),
        Ok(packets) if packets <= PACKETS_MAX => Ok(packets),
        _ => Err(UnitError::TooLarge {
            text: text.to_owned(),
            max: format!("{PACKETS_MAX}/s"),
        }),
    };
    Ok(PacketRate {
        per_second: bounded(number)?,
        burst: bounded(burst)?,
    })
}

/// Writes a rate as [`parse_packet_rate`] reads it.
pub fn format_packet_rate(rate: PacketRate) -> String {
    let PacketRate { per_second, burst } = rate;
    if burst == per_second {
        format!("{per_second}/s")
    } else {
        format!("{per_second}/s burst {burst}")
    }
}

/// Reads a rate, or [`OFF`].
fn parse_rate_or_off(text: &str) -> Result<RateOrOff, UnitError> {
    if text.trim() == OFF {
        return Ok(RateOrOff(None));
    }
    parse_packet_rate(text)
        .map(|rate| RateOrOff(Some(rate)))
        .map_err(|error| match error {
            UnitError::Zero { text, .. } => UnitError::Zero {
                text,
                example: format!("\"{OFF}\""),
            },
            error => error,
        })
}

/// Whether `written` is `unit` in another spelling: other case, or the `i` or the `B` left out.
fn unit_is_near(unit: &str, written: &str) -> bool {
    let first = unit.chars().next().map(|c| c.to_ascii_lowercase());
    written.chars().next().map(|c| c.to_ascii_lowercase()) == first
}

/// Reads a duration such as `500ms`, `30s`, `5m`, `24h`, `7d`.
///
/// # Errors
/// Every text that is not a positive whole number with a unit, and durations above [`DURATION_MAX`].
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let example = |number: Option<&str>| match number {
        Some(number) => format!("\"{number}s\" or \"{number}ms\""),
        None => "\"30s\"".to_owned(),
    };
    let (number, unit) = split(text, &example)?;
    let text = text.trim();
    let Some(factor) = DURATION_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
    else {
        let near = match unit.to_ascii_lowercase().as_str() {
            "ms" | "msec" | "millis" | "milliseconds" => "ms",
            other => DURATION_UNITS
                .iter()
                .find(|(name, _)| unit_is_near(name, other))
                .map_or("s", |(name, _)| name),
        };
        return Err(UnitError::UnknownUnit {
            text: text.to_owned(),
            unit,
            example: format!("\"{number}{near}\""),
        });
    };
    if number == 0 {
        return Err(UnitError::Zero {
            text: text.to_owned(),
            example: example(None),
        });
    }
    number
        .checked_mul(u128::from(factor))
        .and_then(|millis| u64::try_from(millis).ok())
        .map(Duration::from_millis)
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| UnitError::TooLarge {
            text: text.to_owned(),
            max: format_duration(DURATION_MAX),
        })
}

/// Writes a size in its largest exact unit: `268435456` → `256MiB`.
pub fn format_size(bytes: u64) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor))
        .map_or_else(
            || format!("{bytes}B"),
            |(unit, factor)| format!("{}{unit}", bytes / factor),
        )
}

/// Writes a duration in its largest exact unit: 90 seconds → `90s`. Parts below a millisecond are cut.
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    DURATION_UNITS
        .iter()
        .find(|(_, factor)| millis != 0 && millis.is_multiple_of(*factor))
        .map_or_else(
            || format!("{millis}ms"),
            |(unit, factor)| format!("{}{unit}", millis / factor),
        )
}

/// A size in bytes as the file states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

/// A size of what can be turned off: `None` is the word `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SizeOrOff(pub(super) Option<u64>);

/// A rate of packets: `None` is the word `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RateOrOff(pub(super) Option<PacketRate>);
/// Copies of what is hot: `true` for [`COPIES`], a number, or `false` for 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copies(pub(super) usize);

/// What `true` means.
const COPIES: usize = 3;
/// The most copies.
const COPIES_MAX: usize = 8;

impl<'de> Deserialize<'de> for Copies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CopiesVisitor)
    }
}

struct CopiesVisitor;

impl Visitor<'_> for CopiesVisitor {
    type Value = Copies;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "true, false, or how many edges keep it, 2 to {COPIES_MAX}"
        )
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<Copies, E> {
        Ok(Copies(if on { COPIES } else { 0 }))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Copies, E> {
        usize::try_from(number)
            .ok()
            .filter(|number| (2..=COPIES_MAX).contains(number))
            .map(Copies)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Copies, E> {
        self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// A duration as the file states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

/// A whole number of at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count(pub(super) usize);

/// One visitor for all of them: what it expects differs, and so do the calls it answers.
struct UnitVisitor<T> {
    expecting: &'static str,
    text: fn(&str) -> Result<T, UnitError>,
    number: fn(i64) -> Result<T, UnitError>,
}

impl<T> Visitor<'_> for UnitVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.number)(number).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.number)(i64::try_from(number).unwrap_or(i64::MAX)).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitVisitor {
            expecting: "a size with its unit, such as \"256MiB\"",
            text: |text| parse_size(text).map(Self),
            number: |number| parse_size(&number.to_string()).map(Self),
        })
    }
}

impl<'de> Deserialize<'de> for RateOrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitVisitor {
            expecting: "packets a second, such as \"200/s\" or \"200/s burst 1000\", or \"off\"",
            text: parse_rate_or_off,
            number: |number| parse_rate_or_off(&number.to_string()),
        })
    }
}

impl<'de> Deserialize<'de> for SizeOrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitVisitor {
            expecting: "a size with its unit, such as \"4MiB\", or \"off\"",
            text: parse_size_or_off,
            number: |number| parse_size_or_off(&number.to_string()),
        })
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitVisitor {
            expecting: "a duration with its unit, such as \"30s\"",
            text: |text| parse_duration(text).map(Self),
            number: |number| parse_duration(&number.to_string()).map(Self),
        })
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitVisitor {
            expecting: "a whole number of at least 1, without quotes",
            text: |text| {
                Err(UnitError::NotANumber {
                    text: format!("\"{text}\""),
                    example: "4, without quotes".to_owned(),
                })
            },
            number: |number| {
                let text = number.to_string();
                match usize::try_from(number) {
                    Ok(0) => Err(UnitError::Zero {
                        text,
                        example: "4".to_owned(),
                    }),
                    Ok(count) if count <= COUNT_MAX => Ok(Self(count)),
                    Ok(_) => Err(UnitError::TooLarge {
                        text,
                        max: COUNT_MAX.to_string(),
                    }),
                    Err(_) => Err(UnitError::Negative {
                        text,
                        example: "4".to_owned(),
                    }),
                }
            },
        })
    }
}

/// The largest count any key takes: sixteen million, above what file descriptors and ports allow.
const COUNT_MAX: usize = 1 << 24;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_size_needs_a_number_and_a_unit() {
        for (text, bytes) in [
            ("1B", 1),
            ("64KiB", 65_536),
            ("256MiB", 268_435_456),
            ("5 GB", 5_000_000_000),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for (text, fix) in [
            ("", "\"256MiB\""),
            ("256", "\"256MiB\""),
            ("0MiB", "is zero"),
            ("-1MiB", "is negative"),
            ("1.5GiB", "whole number"),
            ("MiB", "whole number"),
            ("64M", "\"64MiB\""),
            ("64mib", "\"64MiB\""),
            ("64 k", "\"64KiB\""),
            ("99999999999TiB", "at most"),
            ("99999999999999999999999999999999999999999999TiB", "at most"),
        ] {
            let error = parse_size(text).unwrap_err().to_string();
            assert!(error.contains(fix), "{text}: {error}");
        }
    }

    #[test]
    fn a_duration_needs_a_number_and_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for (text, fix) in [
            ("30", "\"30s\""),
            ("0s", "is zero"),
            ("-5s", "is negative"),
            ("1.5h", "whole number"),
            ("30sec", "\"30s\""),
            ("5min", "\"5m\""),
            ("20msec", "\"20ms\""),
            ("30S", "\"30s\""),
            ("9999999d", "at most"),
        ] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains(fix), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_written_size_reads_back(bytes in 1_u64..=i64::MAX as u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn a_written_duration_reads_back(millis in 1_u64..315_360_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,24}") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
        }
    }
}
