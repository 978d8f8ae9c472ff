//! A ranking as a table for people: every candidate, the parts of its score, and why it was cut.

use std::fmt;

use super::{Parts, Ranking, RateSource, Row, Verdict};
use crate::View;

/// Characters of a name that are shown.
const NAME_MAX: usize = 32;

/// A ranking as a table, one line for each candidate below a line of titles.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    ranking: &'a Ranking,
    view: &'a View,
}

impl<'a> Table<'a> {
    pub(super) fn new(ranking: &'a Ranking, view: &'a View) -> Self {
        Self { ranking, view }
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<32}  {:<16}  {:>9}  {:>9}  {:<11}  {:>5}  {:>8}  {:>10}  {:<22}  note",
            "node",
            "zone",
            self.ranking.policy.name(),
            "rtt ms",
            "known by",
            "load",
            "load ms",
            "bytes ms",
            "rate"
        )?;
        for row in &self.ranking.rows {
            // Who has left since is shown by its id.
            let (name, zone) = self.view.get(&row.id).map_or_else(
                || (format!("{:?}", row.id), String::new()),
                |node| (shown(&node.name), shown(&node.zone.to_string())),
            );
            write!(f, "{name:<32}  {zone:<16}  ")?;
            match &row.verdict {
                Verdict::Fit {
                    score,
                    parts,
                    is_last_resort,
                } => fit(f, row, *score, parts, *is_last_resort)?,
                Verdict::Cut(why) => writeln!(
                    f,
                    "{:>9}  {:>9}  {:<11}  {:>5.2}  {:>8}  {:>10}  {:<22}  not asked: {why}",
                    "-", "-", "-", row.load, "-", "-", "-"
                )?,
            }
        }
        Ok(())
    }
}

fn fit(
    f: &mut fmt::Formatter<'_>,
    row: &Row,
    score: f64,
    parts: &Parts,
    is_last_resort: bool,
) -> fmt::Result {
    let source = parts
        .rtt_source
        .map_or_else(|| "nothing".to_owned(), |source| source.to_string());
    let rate = parts.rate.map_or_else(
        || "-".to_owned(),
        |(rate, source)| {
            let known = match source {
                RateSource::Measured => "measured",
                RateSource::Published => "published",
                RateSource::Others => "of others",
            };
            format!("{} KiB/s {known}", rate / 1024)
        },
    );
    let note = if is_last_resort { "degraded: last" } else { "" };
    writeln!(
        f,
        "{score:>9.1}  {:>9.1}  {source:<11}  {:>5.2}  {:>8.1}  {:>10.1}  {rate:<22}  {note}",
        parts.rtt_ms, row.load, parts.load_ms, parts.transfer_ms
    )
}

/// What another node says of itself, without what would move a terminal's cursor.
fn shown(text: &str) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_graphic() || letter == ' ' {
            letter
        } else {
            '?'
        }
    };
    text.chars().take(NAME_MAX).map(plain).collect()
}
