//! Result files: one bundle, several rounds of one setup, or two setups measured in turn.
//!
//! A file comes from wherever its owner got it, so it is read as something hostile: bounded in size, its numbers
//! looked at, its histograms decoded within bounds.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, Distribution, FORMAT};

/// What the `format` of a [`Pair`] says.
pub const PAIR_FORMAT: &str = "stoq-bench-pair/1";

/// Largest file that is read, bytes. A bundle has some 50 KB; a hundred rounds of two fit.
const FILE_MAX: u64 = 64 << 20;
/// Largest histogram, base64 and bytes: an hour in nanoseconds to three digits has 35,000 counters, which no compression of
/// ours leaves this large.
const HISTOGRAM_MAX: usize = 1 << 20;
/// What the compressed V2 form begins with; then the length of the rest, 4 bytes, and a zlib stream.
const COMPRESSED_COOKIE: u32 = 0x1c84_9314;
/// Of the V2 form: cookie, payload's length, normalizing offset, digits (4 bytes each), bounds and ratio (8 each).
const HEADER_LEN: usize = 40;
/// With 3 digits a histogram of any bounds has at most 1 MB of counters.
const DIGITS_MAX: u32 = 3;

/// Two setups measured in turn, A B A B …, on one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// [`PAIR_FORMAT`].
    pub format: String,
    /// What is compared, in a line.
    pub name: String,
    /// How the first server was started.
    pub command_a: String,
    /// How the second was.
    pub command_b: String,
    /// Rounds of the first.
    pub a: Vec<Bundle>,
    /// Rounds of the second, each run after the one of the same place in `a`.
    pub b: Vec<Bundle>,
    /// Rounds that were INVALID and measured again, neither half of which is above: each with its side and the reasons.
    #[serde(default)]
    pub set_aside: Vec<String>,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Results {
    /// Rounds of one setup, in their order; one or more.
    Rounds(Vec<Bundle>),
    /// Two setups.
    Pair(Box<Pair>),
}

/// Why a file is no result.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is too large to be one.
    #[error("{}: {bytes} bytes, a result has at most {FILE_MAX}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// It is no JSON, or lacks what a result has.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// It is of another format.
    #[error("{}: format {found:?}; this is read: {FORMAT:?}, a list of those, and {PAIR_FORMAT:?}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// A number in it cannot be.
    #[error("{}: {what}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which, and why.
        what: String,
    },
}

impl Results {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ResultsError`] names the file, and the line of a syntax error.
    pub fn load(path: &Path) -> Result<Self, ResultsError> {
        let io = |source| ResultsError::Io {
            path: path.to_owned(),
            source,
        };
        let bytes = fs::metadata(path).map_err(io)?.len();
        if bytes > FILE_MAX {
            return Err(ResultsError::TooLarge {
                path: path.to_owned(),
                bytes,
            });
        }
        Self::parse(&fs::read(path).map_err(io)?, path)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, ResultsError> {
        /// Only what tells the formats apart; the rest is read a second time, so that errors have their place.
        #[derive(Deserialize)]
        struct Head {
            #[serde(default)]
            format: String,
        }
        let syntax = |source| ResultsError::Syntax {
            path: path.to_owned(),
            source,
        };
        let results = if bytes.trim_ascii_start().first() == Some(&b'[') {
            Self::Rounds(serde_json::from_slice(bytes).map_err(syntax)?)
        } else {
            let head: Head = serde_json::from_slice(bytes).map_err(syntax)?;
            match head.format.as_str() {
                FORMAT => Self::Rounds(vec![serde_json::from_slice(bytes).map_err(syntax)?]),
                PAIR_FORMAT => Self::Pair(serde_json::from_slice(bytes).map_err(syntax)?),
                _ => {
                    return Err(ResultsError::Format {
                        path: path.to_owned(),
                        found: head.format,
                    });
                }
            }
        };
        results.check().map_err(|refused| match refused {
            Refused::Format(found) => ResultsError::Format {
                path: path.to_owned(),
                found,
            },
            Refused::Value(what) => ResultsError::Value {
                path: path.to_owned(),
                what,
            },
        })?;
        Ok(results)
    }

    fn check(&self) -> Result<(), Refused> {
        let bundles: Vec<&Bundle> = match self {
            Self::Rounds(rounds) => rounds.iter().collect(),
            Self::Pair(pair) => {
                if pair.a.is_empty() || pair.b.is_empty() {
                    return Err(Refused::Value("a side without rounds".to_owned()));
                }
                pair.a.iter().chain(&pair.b).collect()
            }
        };
        if bundles.is_empty() {
            return Err(Refused::Value("an empty list".to_owned()));
        }
        for (nth, bundle) in bundles.into_iter().enumerate() {
            if bundle.format != FORMAT {
                return Err(Refused::Format(bundle.format.clone()));
            }
            check(bundle).map_err(|what| Refused::Value(format!("round {}: {what}", nth + 1)))?;
        }
        Ok(())
    }

    /// Writes a file, whole or not at all: beside it first, then in its place.
    ///
    /// # Errors
    /// [`ResultsError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), ResultsError> {
        let text = match self {
            Self::Rounds(rounds) => match rounds.as_slice() {
                [one] => serde_json::to_string_pretty(one),
                many => serde_json::to_string_pretty(many),
            },
            Self::Pair(pair) => serde_json::to_string_pretty(pair),
        };
        let mut text = text.map_err(|source| ResultsError::Syntax {
            path: path.to_owned(),
            source,
        })?;
        text.push('\n');
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let io = |source| ResultsError::Io {
            path: path.to_owned(),
            source,
        };
        fs::write(&beside, text).map_err(io)?;
        fs::rename(&beside, path).map_err(io)
    }
}

enum Refused {
    Format(String),
    Value(String),
}

/// Whether a bundle's numbers can be.
fn check(bundle: &Bundle) -> Result<(), String> {
    let outcome = &bundle.outcome;
    for (name, value) in [
        ("elapsed_s", outcome.elapsed_s),
        ("cpu_s", bundle.client.cpu_s),
        ("duration_s", bundle.setup.duration_s),
    ] {
        if !value.is_finite() || value < 0.0 {
            return Err(format!("{name} is {value}"));
        }
    }
    if let Some(server) = &bundle.server {
        let spent = [server.cpu_s_per_million, server.cpu_s_per_gb];
        let spent = spent.into_iter().flatten().chain([server.cpu_s]);
        if let Some(wrong) = spent.into_iter().find(|spent| *spent < 0.0) {
            return Err(format!("the server's CPU time is {wrong}"));
        }
    }
    if let Some(tick) = outcome
        .series
        .iter()
        .find(|tick| tick.at_s < 0.0 || tick.p50_us < 0.0 || tick.p99_us < 0.0)
    {
        return Err(format!("a second has a time below 0: {tick:?}"));
    }
    for (name, distribution) in [
        ("latency", &outcome.latency),
        ("service", &outcome.service),
        ("first_byte", &outcome.first_byte),
        ("connect", &outcome.connect),
    ] {
        let histogram = histogram(distribution).map_err(|error| format!("{name}: {error}"))?;
        if histogram.len() != distribution.count {
            return Err(format!(
                "{name} says {} values, its histogram has {}",
                distribution.count,
                histogram.len()
            ));
        }
    }
    Ok(())
}

/// Why the histogram of a [`Distribution`] cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistogramError {
    /// No base64, or too much of it.
    #[error("the histogram is no base64 of at most {HISTOGRAM_MAX} bytes")]
    Text,
    /// No histogram.
    #[error("the histogram cannot be decoded: {0}")]
    Decode(String),
}

/// The histogram behind a distribution, nanoseconds.
///
/// # Errors
/// It is none.
pub fn histogram(distribution: &Distribution) -> Result<Histogram<u64>, HistogramError> {
    if distribution.hdr.is_empty() {
        return Histogram::new(3).map_err(|error| HistogramError::Decode(error.to_string()));
    }
    if distribution.hdr.len() > HISTOGRAM_MAX {
        return Err(HistogramError::Text);
    }
    let bytes = STANDARD
        .decode(&distribution.hdr)
        .map_err(|_| HistogramError::Text)?;
    let plain = inflate(&bytes).map_err(|why| HistogramError::Decode(why.to_owned()))?;
    Deserializer::new()
        .deserialize(&mut &plain[..])
        .map_err(|error| HistogramError::Decode(error.to_string()))
}

/// The V2 form within the compressed V2 form. The decoder of the library would do it, and would take as much memory as a
/// length in the file says: here that length has to be that of what is there.
fn inflate(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    let field = |bytes: &[u8], at: usize| -> Option<u32> {
        let field = bytes.get(at..at + 4)?;
        Some(u32::from_be_bytes(field.try_into().ok()?))
    };
    if field(bytes, 0) != Some(COMPRESSED_COOKIE) {
        return Err("not in the compressed V2 form");
    }
    let packed = bytes.get(8..).unwrap_or_default();
    let mut plain = Vec::new();
    ZlibDecoder::new(packed)
        .take(HISTOGRAM_MAX as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|_| "the compression is damaged")?;
    if plain.len() > HISTOGRAM_MAX {
        return Err("larger than a histogram is");
    }
    let payload = plain.len().checked_sub(HEADER_LEN);
    if payload.is_none() || field(&plain, 4).map(|len| len as usize) != payload {
        return Err("its length is not what its head says");
    }
    if field(&plain, 12).is_none_or(|digits| digits > DIGITS_MAX) {
        return Err("of more than 3 significant digits");
    }
    Ok(plain)
}

/// The histograms of several rounds as one: exact, as if all had been recorded in one. Nothing in it without any.
///
/// # Errors
/// One of them cannot be read.
pub fn merged<'a>(
    rounds: impl Iterator<Item = &'a Distribution>,
) -> Result<Histogram<u64>, HistogramError> {
    let decode = |error: &dyn std::fmt::Display| HistogramError::Decode(error.to_string());
    let mut all = Histogram::new(3).map_err(|error| decode(&error))?;
    for round in rounds {
        all.add(histogram(round)?).map_err(|error| decode(&error))?;
    }
    Ok(all)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use std::time::Duration;

    use super::*;
    use crate::bundle::sample;

    #[test]
    fn what_was_saved_loads_and_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        let bundle = sample("one", 1000, Duration::from_micros(300));
        let pair = Pair {
            format: PAIR_FORMAT.to_owned(),
            name: "x".to_owned(),
            command_a: "a".to_owned(),
            command_b: "b".to_owned(),
            a: vec![bundle.clone()],
            b: vec![bundle.clone()],
            set_aside: vec!["A, round 1: late".to_owned()],
        };
        for results in [
            Results::Rounds(vec![bundle.clone()]),
            Results::Rounds(vec![bundle.clone(), bundle]),
            Results::Pair(Box::new(pair)),
        ] {
            results.save(&path).unwrap();
            assert_eq!(Results::load(&path).unwrap(), results);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// A compressed V2 histogram whose head says `payload` and `digits`, with `body` behind it.
    fn packed(payload: u32, digits: u32, body: &[u8]) -> Distribution {
        let mut plain = Vec::new();
        for field in [0x1c84_9313, payload, 0, digits] {
            plain.extend(field.to_be_bytes());
        }
        plain.extend(1_u64.to_be_bytes());
        plain.extend(u64::MAX.to_be_bytes());
        plain.extend(1_f64.to_be_bytes());
        plain.extend(body);
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&plain).unwrap();
        let zlib = zlib.finish().unwrap();
        let mut bytes = COMPRESSED_COOKIE.to_be_bytes().to_vec();
        bytes.extend(u32::try_from(zlib.len()).unwrap().to_be_bytes());
        bytes.extend(zlib);
        Distribution {
            hdr: STANDARD.encode(bytes),
            ..Distribution::default()
        }
    }

    #[test]
    fn a_histogram_that_claims_to_be_huge_is_refused_before_any_memory_is_taken() {
        assert!(histogram(&packed(1, 3, &[2])).is_ok());
        for (hostile, reason) in [
            (packed(u32::MAX, 3, &[2]), "what its head says"),
            (packed(1, 5, &[2]), "digits"),
            (packed(1 << 24, 3, &vec![0; 1 << 24]), "larger than"),
        ] {
            let error = histogram(&hostile).unwrap_err().to_string();
            assert!(error.contains(reason), "{error} / {reason}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_merged_histogram_is_that_of_all_values(
            rounds in proptest::collection::vec(
                proptest::collection::vec(0_u64..4_000_000_000_000, 0..50), 0..5)
        ) {
            let mut all = crate::record::Times::default();
            let mut each = Vec::new();
            for round in &rounds {
                let mut times = crate::record::Times::default();
                for nanos in round {
                    times.record(Duration::from_nanos(*nanos));
                    all.record(Duration::from_nanos(*nanos));
                }
                let read = histogram(&times.distribution()).unwrap();
                proptest::prop_assert_eq!(read.len(), round.len() as u64);
                each.push(times.distribution());
            }
            let merged = merged(each.iter()).unwrap();
            proptest::prop_assert_eq!(merged, histogram(&all.distribution()).unwrap());
        }

        #[test]
        fn no_text_in_place_of_a_histogram_does_harm(text: String, bytes: Vec<u8>) {
            let mut head = COMPRESSED_COOKIE.to_be_bytes().to_vec();
            head.extend(&bytes);
            for hdr in [text, STANDARD.encode(&bytes), STANDARD.encode(&head)] {
                let _ = histogram(&Distribution { hdr, ..Distribution::default() });
            }
        }
    }

    #[test]
    fn what_is_no_result_is_refused_with_its_reason() {
        let bundle = sample("one", 10, Duration::from_micros(300));
        let text = serde_json::to_string(&bundle).unwrap();
        let mut lying = bundle.clone();
        lying.outcome.latency.count += 1;
        let mut garbled = bundle.clone();
        garbled.outcome.service.hdr = "!!".to_owned();
        let mut large = bundle.clone();
        large.outcome.service.hdr = "A".repeat(HISTOGRAM_MAX + 1);
        let mut negative = bundle;
        negative.outcome.elapsed_s = -1.0;
        let json = |bundle: &Bundle| serde_json::to_string(bundle).unwrap();
        for (text, reason) in [
            (String::new(), "EOF"),
            ("{}".to_owned(), "format \"\""),
            ("[]".to_owned(), "empty list"),
            ("{\"format\": \"k6/1\"}".to_owned(), "format \"k6/1\""),
            (text[..text.len() / 2].to_owned(), "EOF"),
            (text.replace("stoq-bench/1", "stoq-bench/9"), "stoq-bench/9"),
            (json(&lying), "says 11 values, its histogram has 10"),
            (json(&garbled), "base64"),
            (json(&large), "base64"),
            (json(&negative), "elapsed_s is -1"),
        ] {
            let error = Results::parse(text.as_bytes(), Path::new("x.json")).unwrap_err();
            let error = error.to_string();
            assert!(
                error.starts_with("x.json") && error.contains(reason),
                "{error} / {reason}"
            );
        }
    }
}
