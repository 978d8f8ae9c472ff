//! What is asked, as the user says it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::amount;
use super::wishes::{Amount, Refused, read, refused};
use crate::workload::{Known, Object, Slices, Workload, WorkloadError};

/// Larger lists and traces are refused, bytes: they are read whole.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Most objects that are updated.
const VERSIONED_MAX: u64 = 10_000;

/// What is asked of the server, and what is known of it. In a profile the table `[workload]`.
///
/// Files are taken as the command line's are: from the working directory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct Choice {
    /// Ask for the objects in this file: `PATH-OR-URL [blake3:HEX length:BYTES] [weight:N]` a line, in turn, or at random if
    /// any has a weight.
    #[arg(long, value_name = "FILE")]
    pub urls: Option<PathBuf>,
    /// Ask for N objects at random by Zipf's law with exponent S; PATTERN is their path with {} for their number, as in
    /// 100000,0.9,/object/{}.
    #[arg(long, value_name = "N,S,PATTERN")]
    pub zipf: Option<String>,
    /// Ask what this file recorded: `OFFSET_MS METHOD PATH [FIRST-LAST]` a line. In this order, at the pace that the other
    /// flags say; at its own times with --replay.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Update N objects while they are asked for, and hold each answer to the latest acknowledged version; PATTERN is
    /// their path, as with --zipf. The origin must take PUT.
    #[arg(long, value_name = "N,PATTERN")]
    pub versioned: Option<String>,
    /// For --versioned: share of updates among the requests [default: 0.1].
    #[arg(long, value_name = "SHARE")]
    pub put_share: Option<Amount>,
    /// For --versioned: bytes of each version [default: 16KiB].
    #[arg(long, value_name = "BYTES")]
    pub put_bytes: Option<Amount>,
    /// Ask for ranges of this length instead of whole objects.
    #[arg(long, value_name = "BYTES")]
    pub ranges: Option<Amount>,
    /// For --ranges: random, or successive from the first to the last of each object [default: random].
    #[arg(long, value_name = "random|successive")]
    pub range_order: Option<String>,
    /// Share of PURGE among the requests, 0 to 1, or as in 1%.
    #[arg(long, value_name = "SHARE")]
    pub purge_share: Option<Amount>,
    /// The body's BLAKE3, 64 hexadecimal digits, with `expect_length`: each answer is hashed.
    #[arg(long, value_name = "HEX", requires = "expect_length")]
    pub expect_blake3: Option<String>,
    /// The body's length, bytes.
    #[arg(long, value_name = "BYTES")]
    pub expect_length: Option<Amount>,
}

impl Choice {
    /// These, and where they say nothing, `under`. What is asked for on the command line takes the place of what the
    /// profile asks for, with all that belongs to it.
    #[must_use]
    pub fn over(self, under: Self) -> Self {
        let under = if self.kinds().next().is_some() {
            Self {
                ranges: under.ranges,
                range_order: under.range_order,
                purge_share: under.purge_share,
                ..Self::default()
            }
        } else {
            under
        };
        Self {
            urls: self.urls.or(under.urls),
            zipf: self.zipf.or(under.zipf),
            trace: self.trace.or(under.trace),
            versioned: self.versioned.or(under.versioned),
            put_share: self.put_share.or(under.put_share),
            put_bytes: self.put_bytes.or(under.put_bytes),
            ranges: self.ranges.or(under.ranges),
            range_order: self.range_order.or(under.range_order),
            purge_share: self.purge_share.or(under.purge_share),
            expect_blake3: self.expect_blake3.or(under.expect_blake3),
            expect_length: self.expect_length.or(under.expect_length),
        }
    }

    /// The keys that say which objects.
    fn kinds(&self) -> impl Iterator<Item = &'static str> {
        let given = [
            ("workload.urls", self.urls.is_some()),
            ("workload.zipf", self.zipf.is_some()),
            ("workload.trace", self.trace.is_some()),
            ("workload.versioned", self.versioned.is_some()),
        ];
        given
            .into_iter()
            .filter_map(|(key, given)| given.then_some(key))
    }

    /// The workload on the server of `url`. What it draws beforehand, it draws from `seed`.
    ///
    /// # Errors
    /// The key that cannot be granted.
    pub fn workload(&self, url: &str, stoq: bool, seed: u64) -> Result<Workload, Refused> {
        let mut kinds = self.kinds();
        let kind = kinds.next();
        if let (Some(first), Some(second)) = (kind, kinds.next()) {
            let first = first.rsplit('.').next().unwrap_or(first);
            return Err(refused(
                second,
                format!("and `{first}`: one of them says what is asked for"),
            ));
        }
        self.lonely(kind)?;
        let workload = match kind {
            None => {
                let object = Object {
                    path: path(url, stoq)?.into(),
                    authority: None,
                    known: self.known()?,
                };
                Workload::of(vec![Arc::new(object)])
            }
            Some(kind) => {
                without_path(url, kind)?;
                self.many(url, seed)?
            }
        };
        let workload = match read("workload.ranges", self.ranges.as_ref(), amount::bytes)? {
            None => workload,
            Some(length) => {
                let slices = Slices {
                    length,
                    random: self.random()?,
                };
                let sliced = workload.in_slices(slices);
                sliced.map_err(|error| refused("workload.ranges", error.to_string()))?
            }
        };
        let purged = match read("workload.purge_share", self.purge_share.as_ref(), share)? {
            None => return Ok(workload),
            Some(share) => workload.purging(share),
        };
        purged.map_err(|error| refused("workload.purge_share", error.to_string()))
    }

    /// Refuses what belongs to another key that is not there.
    fn lonely(&self, kind: Option<&str>) -> Result<(), Refused> {
        let of_versions = [
            ("workload.put_share", self.put_share.is_some()),
            ("workload.put_bytes", self.put_bytes.is_some()),
        ];
        if self.versioned.is_none()
            && let Some((key, _)) = of_versions.into_iter().find(|(_, given)| *given)
        {
            return Err(refused(
                key,
                "belongs to `versioned`, which says what is updated",
            ));
        }
        if self.range_order.is_some() && self.ranges.is_none() {
            return Err(refused(
                "workload.range_order",
                "belongs to `ranges`, which says how long they are",
            ));
        }
        let of_one = [
            ("workload.expect_blake3", self.expect_blake3.is_some()),
            ("workload.expect_length", self.expect_length.is_some()),
        ];
        match of_one.into_iter().find(|(_, given)| *given) {
            Some((key, _)) if kind.is_some() => Err(refused(
                key,
                "is of one object, that of the URL; lists say it on each line (`blake3:HEX length:BYTES`)",
            )),
            _ => Ok(()),
        }
    }

    fn many(&self, url: &str, seed: u64) -> Result<Workload, Refused> {
        if let Some(file) = &self.urls {
            let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
            let authority = rest.find(['/', '?', '#']).map_or(rest, |at| &rest[..at]);
            let text = text("workload.urls", file)?;
            return Workload::read_list(&text, scheme, authority)
                .map_err(|error| in_file("workload.urls", file, &error));
        }
        if let Some(file) = &self.trace {
            return Workload::trace(&text("workload.trace", file)?)
                .map_err(|error| in_file("workload.trace", file, &error));
        }
        if let Some(zipf) = &self.zipf {
            let wrong = |reason: String| refused("workload.zipf", reason);
            let parts = zipf.split_once(',').and_then(|(count, rest)| {
                let (exponent, pattern) = rest.split_once(',')?;
                let count = count.trim().replace('_', "").parse().ok()?;
                Some((count, exponent.trim().parse().ok()?, pattern.trim()))
            });
            let (count, exponent, pattern) = parts.ok_or_else(|| {
                wrong(format!(
                    "`{zipf}` is not N,S,PATTERN, as in `100000,0.9,/object/{{}}`"
                ))
            })?;
            return Workload::zipf(count, exponent, pattern)
                .map_err(|error| wrong(error.to_string()));
        }
        self.versions(seed)
    }

    fn versions(&self, seed: u64) -> Result<Workload, Refused> {
        let wrong = |reason: String| refused("workload.versioned", reason);
        let text = self.versioned.as_deref().unwrap_or_default();
        let parts = text.split_once(',').and_then(|(count, pattern)| {
            let count: u64 = count.trim().replace('_', "").parse().ok()?;
            Some((count, pattern.trim().split_once("{}")?))
        });
        let (count, (before, after)) = parts.ok_or_else(|| {
            wrong(format!(
                "`{text}` is not N,PATTERN, as in `10,/object/{{}}`"
            ))
        })?;
        if !(1..=VERSIONED_MAX).contains(&count) {
            return Err(wrong(format!(
                "{count} objects; 1 to {VERSIONED_MAX} can be updated"
            )));
        }
        let paths: Vec<_> = (0..count)
            .map(|number| format!("{before}{number}{after}"))
            .collect();
        let puts = read("workload.put_share", self.put_share.as_ref(), share)?;
        let bytes = read("workload.put_bytes", self.put_bytes.as_ref(), amount::bytes)?;
        Workload::versioned(&paths, bytes.unwrap_or(16 << 10), puts.unwrap_or(0.1), seed)
            .map_err(|error| wrong(error.to_string()))
    }

    fn random(&self) -> Result<bool, Refused> {
        match self.range_order.as_deref() {
            None | Some("random") => Ok(true),
            Some("successive") => Ok(false),
            Some(other) => Err(refused(
                "workload.range_order",
                format!("`{other}` is neither random nor successive"),
            )),
        }
    }

    fn known(&self) -> Result<Known, Refused> {
        let length = read(
            "workload.expect_length",
            self.expect_length.as_ref(),
            amount::bytes,
        )?;
        match (&self.expect_blake3, length) {
            (None, None) => Ok(Known::Nothing),
            (None, Some(length)) => Ok(Known::Length(length)),
            (Some(hex), Some(length)) => {
                let hash = blake3::Hash::from_hex(hex)
                    .map_err(|error| refused("workload.expect_blake3", error.to_string()))?;
                Ok(Known::Hash { length, hash })
            }
            (Some(_), None) => Err(refused(
                "workload.expect_blake3",
                "needs `expect_length`, which tells a short body from a wrong one",
            )),
        }
    }
}

/// A share of all: `0.01`, `1%`.
fn share(text: &str) -> Result<f64, String> {
    let (number, of) = match text.trim().strip_suffix('%') {
        Some(number) => (number.trim_end(), 100.0),
        None => (text.trim(), 1.0),
    };
    let share = number.parse::<f64>().map(|number| number / of);
    share
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("`{text}` is no share: 0 to 1, or 0% to 100%"))
}

fn text(key: &'static str, file: &Path) -> Result<String, Refused> {
    let wrong = |reason: String| refused(key, format!("{}: {reason}", file.display()));
    let size = std::fs::metadata(file).map_err(|error| wrong(error.to_string()))?;
    if size.len() > FILE_BYTES_MAX {
        return Err(wrong(format!(
            "{} bytes, at most {FILE_BYTES_MAX} are read",
            size.len()
        )));
    }
    std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))
}

/// `FILE:LINE:COLUMN: what`, as compilers write it.
fn in_file(key: &'static str, file: &Path, error: &WorkloadError) -> Refused {
    let file = file.display();
    refused(
        key,
        match error {
            WorkloadError::Line {
                line,
                column,
                reason,
            } => format!("{file}:{line}:{column}: {reason}"),
            WorkloadError::Whole(reason) => format!("{file}: {reason}"),
        },
    )
}

/// A URL that names the server alone.
fn without_path(url: &str, kind: &str) -> Result<(), Refused> {
    let named = path(url, false)?;
    if named == "/" {
        return Ok(());
    }
    let kind = kind.rsplit('.').next().unwrap_or(kind);
    Err(refused(
        "url",
        format!("`{named}` would never be asked for: `{kind}` says what is; leave the path out"),
    ))
}

/// Path and query of a URL, `/` where it has none.
fn path(url: &str, stoq: bool) -> Result<String, Refused> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
    let path = path.split('#').next().unwrap_or_default();
    if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(refused(
            "url",
            "spaces and control characters are written %20 and the like",
        ));
    }
    Ok(match path {
        "" if stoq => {
            return Err(refused(
                "url",
                "the path says what: /bulk/BYTES, /rpc/REQUEST/ANSWER, or an object's path with `--site`",
            ));
        }
        "" => "/".to_owned(),
        path if path.starts_with('?') => format!("/{path}"),
        path => path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<Amount> {
        Some(Amount::Text(text.to_owned()))
    }

    fn zipf() -> Choice {
        Choice {
            zipf: Some("1_000,0.9,/o/{}".to_owned()),
            ..Choice::default()
        }
    }

    #[test]
    fn the_path_is_that_of_the_url() {
        for (url, want) in [
            ("https://a.test", "/"),
            ("https://a.test/", "/"),
            ("https://a.test/x/y?z=1#frag", "/x/y?z=1"),
            ("https://a.test?z", "/?z"),
            ("https://[::1]:8443/x", "/x"),
        ] {
            assert_eq!(path(url, false).unwrap(), want, "{url}");
        }
        assert_eq!(
            path("stoq://a:1/rpc/64/1024", true).unwrap(),
            "/rpc/64/1024"
        );
        assert!(path("stoq://a:1", true).is_err());
        assert!(path("https://a.test/a b", false).is_err());
    }

    #[test]
    fn a_hash_needs_a_length() {
        let choice = Choice {
            expect_blake3: Some("00".repeat(32)),
            ..Choice::default()
        };
        let refused = choice.workload("https://a/", false, 0).unwrap_err();
        assert_eq!(refused.key, "workload.expect_blake3");
        let choice = Choice {
            expect_length: Some(Amount::Whole(5)),
            ..choice
        };
        let workload = choice.workload("https://a/", false, 0).unwrap();
        assert!(matches!(
            workload.objects()[0].known,
            Known::Hash { length: 5, .. }
        ));
    }

    #[test]
    fn a_workload_is_what_it_says() {
        let choice = Choice {
            ranges: text("4KiB"),
            purge_share: text("1%"),
            ..zipf()
        };
        let workload = choice.workload("https://a", false, 0).unwrap();
        let described = workload.describe();
        assert_eq!(
            described,
            "1000 objects /o/{}, zipf 0.9, random ranges of 4096 B, 1 % purges"
        );
    }

    #[test]
    fn a_kind_on_the_command_line_takes_the_place_of_the_profiles() {
        let profile = Choice {
            versioned: Some("3,/v/{}".to_owned()),
            put_share: text("0.5"),
            purge_share: text("0.1"),
            ..Choice::default()
        };
        let merged = zipf().over(profile);
        let described = merged.workload("https://a", false, 0).unwrap().describe();
        assert_eq!(described, "1000 objects /o/{}, zipf 0.9, 10 % purges");
    }

    #[test]
    fn a_mistake_in_a_list_has_file_line_and_column() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("urls.txt");
        std::fs::write(&file, "/a\n/b weigth:3\n").unwrap();
        let choice = Choice {
            urls: Some(file.clone()),
            ..Choice::default()
        };
        let refused = choice.workload("https://a", false, 0).unwrap_err();
        let place = format!("{}:2:4: ", file.display());
        assert!(refused.reason.starts_with(&place), "{refused}");
        assert!(refused.reason.contains("did you mean `weight:`"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_key_and_reason() {
        let url = "https://a";
        let with = |change: fn(&mut Choice)| {
            let mut choice = zipf();
            change(&mut choice);
            choice
        };
        let alone = |change: fn(&mut Choice)| {
            let mut choice = Choice::default();
            change(&mut choice);
            choice
        };
        for (url, choice, key, part) in [
            (
                url,
                with(|choice| choice.trace = Some("t".into())),
                "workload.trace",
                "`zipf`",
            ),
            ("https://a/x", zipf(), "url", "never be asked"),
            (
                url,
                with(|choice| choice.expect_length = text("5")),
                "workload.expect_length",
                "one object",
            ),
            (
                url,
                with(|choice| choice.put_share = text("0.1")),
                "workload.put_share",
                "`versioned`",
            ),
            (
                url,
                with(|choice| choice.range_order = Some("random".to_owned())),
                "workload.range_order",
                "`ranges`",
            ),
            (
                url,
                with(|choice| choice.ranges = text("0")),
                "workload.ranges",
                "0 bytes",
            ),
            (
                url,
                with(|choice| choice.purge_share = text("2")),
                "workload.purge_share",
                "0 to 1",
            ),
            (
                url,
                with(|choice| {
                    choice.zipf = Some("20000,1,/o/{}".to_owned());
                    choice.ranges = text("1KiB");
                }),
                "workload.ranges",
                "length of each",
            ),
            (
                url,
                alone(|choice| choice.zipf = Some("5,/o/{}".to_owned())),
                "workload.zipf",
                "N,S,PATTERN",
            ),
            (
                url,
                alone(|choice| choice.zipf = Some("5,1,/o".to_owned())),
                "workload.zipf",
                "no place",
            ),
            (
                url,
                alone(|choice| choice.zipf = Some("0,1,/{}".to_owned())),
                "workload.zipf",
                "0 objects",
            ),
            (
                url,
                alone(|choice| choice.zipf = Some("5,NaN,/{}".to_owned())),
                "workload.zipf",
                "exponent",
            ),
            (
                url,
                alone(|choice| choice.versioned = Some("5".to_owned())),
                "workload.versioned",
                "N,PATTERN",
            ),
            (
                url,
                alone(|choice| {
                    choice.versioned = Some("5,/{}".to_owned());
                    choice.ranges = text("1KiB");
                }),
                "workload.ranges",
                "whole body",
            ),
            (
                url,
                alone(|choice| choice.urls = Some("/nowhere".into())),
                "workload.urls",
                "/nowhere",
            ),
        ] {
            let refused = choice.workload(url, false, 0).unwrap_err();
            assert_eq!(refused.key, key, "{refused}");
            assert!(refused.reason.contains(part), "{refused} / {part}");
        }
    }
}
