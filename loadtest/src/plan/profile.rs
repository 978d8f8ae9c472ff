//! A profile: [`Wishes`] as a TOML file. Whatever is wrong with it is told with its place and what would do.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::wishes::{Refused, Wishes};

/// Larger files are no profiles, bytes.
const PROFILE_MAX: u64 = 1 << 20;

/// A profile as it was read.
#[derive(Debug, Clone)]
pub struct Profile {
    path: PathBuf,
    text: String,
    /// What it says.
    pub wishes: Wishes,
}

/// Why a profile is none.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}:{column}: {what}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What, and what would do.
        what: String,
    },
}

impl Profile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ProfileError`]: file, line, column, key, and the fix.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let io = |source| ProfileError::Io {
            path: path.to_owned(),
            source,
        };
        let size = std::fs::metadata(path).map_err(io)?.len();
        if size > PROFILE_MAX {
            let what = format!("{size} bytes, a profile has at most {PROFILE_MAX}");
            return Err(io(std::io::Error::other(what)));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(io)?, path)
    }

    /// Reads text as that of the file `path`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(text: &str, path: &Path) -> Result<Self, ProfileError> {
        let wrong = |span: Option<Range<usize>>, what: String| {
            let (line, column) = place(text, span.map_or(0, |span| span.start));
            ProfileError::Wrong {
                path: path.to_owned(),
                line,
                column,
                what,
            }
        };
        let table = DeTable::parse(text)
            .map_err(|error| wrong(error.span(), error.message().to_owned()))?;
        if let Some((span, what)) = unknown(table.get_ref()) {
            return Err(wrong(Some(span), what));
        }
        let wishes =
            toml::from_str(text).map_err(|error| wrong(error.span(), expected(error.message())))?;
        Ok(Self {
            path: path.to_owned(),
            text: text.to_owned(),
            wishes,
        })
    }

    /// Where the profile says what was refused; `None` if it does not say it.
    #[must_use]
    pub fn place(&self, refused: &Refused) -> Option<ProfileError> {
        let table = DeTable::parse(&self.text).ok()?;
        let span = find(table.get_ref(), refused.key)?;
        let (line, column) = place(&self.text, span.start);
        Some(ProfileError::Wrong {
            path: self.path.clone(),
            line,
            column,
            what: refused.to_string(),
        })
    }
}

/// The keys there are: those of each table, the profile itself under the empty name.
fn keys() -> BTreeMap<String, Vec<String>> {
    let mut tables = BTreeMap::new();
    if let Ok(Value::Object(all)) = serde_json::to_value(Wishes::default()) {
        for (name, value) in &all {
            if let Value::Object(inner) = value {
                tables.insert(name.clone(), inner.keys().cloned().collect());
            }
        }
        tables.insert(String::new(), all.keys().cloned().collect());
    }
    tables
}

/// The first key that does not exist, and what may have been meant.
fn unknown(table: &DeTable<'_>) -> Option<(Range<usize>, String)> {
    let keys = keys();
    let check = |table: &DeTable<'_>, name: &str| {
        let known = keys.get(name)?;
        let (key, _) = table
            .iter()
            .filter(|(key, _)| !known.iter().any(|name| name == key.get_ref().as_ref()))
            .min_by_key(|(key, _)| key.span().start)?;
        Some((key.span(), advice(key.get_ref(), name, &keys)))
    };
    check(table, "").or_else(|| {
        table.iter().find_map(|(key, value)| match value.get_ref() {
            DeValue::Table(inner) => check(inner, key.get_ref()),
            _ => None,
        })
    })
}

fn advice(key: &str, table: &str, keys: &BTreeMap<String, Vec<String>>) -> String {
    let nearest = keys
        .iter()
        .flat_map(|(name, keys)| keys.iter().map(move |key| (name, key)))
        .map(|(name, known)| (strsim::damerau_levenshtein(key, known), name, known))
        // Of equals the one in the same table.
        .min_by_key(|(distance, name, _)| (*distance, *name != table));
    let place = |name: &str| match name {
        "" => String::new(),
        name => format!(" in [{name}]"),
    };
    match nearest {
        Some((distance, name, known)) if distance <= 2 || distance * 3 <= known.len() => {
            format!(
                "unknown key `{key}`; did you mean `{known}`{}?",
                place(name)
            )
        }
        _ => {
            let known = keys
                .get(table)
                .map_or_else(String::new, |known| known.join(", "));
            format!("unknown key `{key}`; there are{}: {known}", place(table))
        }
    }
}

/// The place of a key, `table.key` or `key`.
fn find(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let (name, value) = table
        .iter()
        .find(|(name, _)| name.get_ref().as_ref() == first)?;
    match (rest, value.get_ref()) {
        (Some(rest), DeValue::Table(inner)) => find(inner, rest),
        _ => Some(name.span()),
    }
}

/// serde's words, where they are not a user's.
fn expected(message: &str) -> String {
    if message.contains("untagged enum Amount") {
        return "expected a number, or one with its unit in quotes: 5, \"30s\", \"64KiB\", \"1000/s\"".to_owned();
    }
    message.to_owned()
}

/// Line and column of a byte, both from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"# a comment
url = "https://a.test/x"
name = "é"
http = 2
connections = 4
streams = 8
threads = 2
poisson = "1000/s"
duration = "30s"
requests = 5000
warmup = 2
timeout = 1.5
session = "churn=1s"
read_rate = "64KiB"
idle = 10
idle_rate = 5
idle_hold = "1s"
idle_keep_alive = "10s"
header = ["X-A: b"]
insecure = true
resolve = ["a.test:443:127.0.0.1"]
source = ["127.0.0.1"]
zeros = true
seed = 7

[workload]
expect_length = "1KiB"
expect_blake3 = "0000000000000000000000000000000000000000000000000000000000000000"
"#;

    /// The other keys, which cannot all stand in one plan.
    const OTHERS: &str = r#"ramp = "0-1000/s"
rate = 10
replay = 2.0
cacert = "ca.pem"

[workload]
urls = "urls.txt"
zipf = "1000,0.9,/{}"
trace = "trace.txt"
versioned = "10,/{}"
put_share = 0.1
put_bytes = "16KiB"
ranges = "4KiB"
range_order = "random"
purge_share = "1%"
"#;

    #[test]
    fn no_key_is_left_out_of_the_slips() {
        for key in keys().into_values().flatten() {
            let said = |text: &str| {
                text.lines()
                    .any(|line| line.split(" = ").next() == Some(&*key))
            };
            assert!(said(WHOLE) || said(OTHERS) || key == "workload", "{key}");
        }
        parse(OTHERS).unwrap();
    }

    #[test]
    fn each_example_in_the_repository_makes_a_plan() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
        let mut examples = 0;
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|end| end != "toml") {
                continue;
            }
            let mut profile = Profile::load(&path).unwrap_or_else(|error| panic!("{error}"));
            // Their files are named from the root of the repository; tests run in the crate's.
            let choice = &mut profile.wishes.choice;
            for file in [&mut choice.urls, &mut choice.trace].into_iter().flatten() {
                *file = Path::new("..").join(&*file);
            }
            let plan = profile.wishes.plan(None);
            let plan = plan.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            println!("{}: {}", path.display(), plan.workload.describe());
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("# "), "{} says nothing", path.display());
            examples += 1;
        }
        assert!(examples >= 10, "{examples}");
    }

    fn parse(text: &str) -> Result<Profile, ProfileError> {
        Profile::parse(text, Path::new("p.toml"))
    }

    #[test]
    fn every_key_is_read_and_the_plan_is_what_it_says() {
        let profile = parse(WHOLE).unwrap();
        let plan = profile.wishes.plan(None).unwrap();
        assert_eq!((plan.connections, plan.streams, plan.threads), (4, 8, 2));
        assert_eq!(plan.read_rate, Some(65536));
        assert_eq!(plan.timeout.as_millis(), 1500);
        assert_eq!(plan.seed, 7);
        assert_eq!(plan.idle.unwrap().rate, 5);
    }

    /// Each key of the profile, with one character of it taken away, doubled, or another.
    #[test]
    fn each_slip_in_a_key_is_refused_at_its_place_with_the_key_that_was_meant() {
        let mut slips = 0;
        let lines = |whole: &'static str| {
            let lines = whole.lines().enumerate();
            lines.map(move |(nth, line)| (whole, nth, line))
        };
        for (whole, nth, line) in lines(WHOLE).chain(lines(OTHERS)) {
            let Some((key, _)) = line.split_once(" = ") else {
                continue;
            };
            for at in 0..key.len() {
                let (before, after) = key.split_at(at);
                let first = &after[..1];
                for slip in [
                    format!("{before}{}", &after[1..]),
                    format!("{before}{first}{after}"),
                    format!("{before}q{}", &after[1..]),
                ] {
                    let known: Vec<String> = keys().into_values().flatten().collect();
                    if slip.is_empty() || known.contains(&slip) {
                        continue;
                    }
                    let text: Vec<String> = whole
                        .lines()
                        .enumerate()
                        .map(|(other, whole)| {
                            if other == nth {
                                line.replacen(key, &slip, 1)
                            } else {
                                whole.to_owned()
                            }
                        })
                        .collect();
                    let error = parse(&text.join("\n")).unwrap_err().to_string();
                    let place = format!("p.toml:{}:1: unknown key `{slip}`", nth + 1);
                    assert!(error.starts_with(&place), "{error}");
                    assert!(error.contains(&format!("`{key}`")), "{slip}: {error}");
                    slips += 1;
                }
            }
        }
        println!("{slips} slips refused");
        assert!(slips > 400);
    }

    #[test]
    fn wrong_values_are_refused_at_their_place() {
        for (from, to, place, part) in [
            (
                "connections = 4",
                "connections = \"4\"",
                "p.toml:5:15",
                "expected u32",
            ),
            (
                "connections = 4",
                "connections = -4",
                "p.toml:5:15",
                "expected u32",
            ),
            (
                "duration = \"30s\"",
                "duration = true",
                "p.toml:9:12",
                "\"30s\"",
            ),
            ("seed = 7", "seed = ", "p.toml:24:", ""),
            (
                "source = [\"127.0.0.1\"]",
                "source = [\"here\"]",
                "p.toml:22:11",
                "IP address",
            ),
        ] {
            let error = parse(&WHOLE.replace(from, to)).unwrap_err().to_string();
            assert!(error.starts_with(place), "{error} / {place}");
            assert!(error.contains(part), "{error} / {part}");
        }
        // What parses and cannot be has its place too.
        for (from, to, place) in [
            (
                "duration = \"30s\"",
                "duration = \"30 parsecs\"",
                "p.toml:9:1: `duration`",
            ),
            (
                "expect_length = \"1KiB\"",
                "expect_length = \"1kb\"",
                "p.toml:27:1: `workload.expect_length`",
            ),
        ] {
            let profile = parse(&WHOLE.replace(from, to)).unwrap();
            let refused = profile.wishes.plan(None).unwrap_err();
            let error = profile.place(&refused).unwrap().to_string();
            assert!(error.starts_with(place), "{error} / {place}");
        }
    }
}
