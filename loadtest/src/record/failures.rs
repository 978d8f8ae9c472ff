//! Failures by kind, with the first example of each.

use std::collections::BTreeMap;

use crate::lane::Failure;

/// Kinds told apart; codes and statuses come from the server, who could invent many. Further ones are `other`.
const KINDS_MAX: usize = 64;
/// Characters of an example: its text may be the server's.
const EXAMPLE_CHARS_MAX: usize = 300;

/// Failures by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures(BTreeMap<String, (u64, String)>);

impl Failures {
    /// Counts one.
    pub fn record(&mut self, failure: &Failure) {
        self.add(&kind(failure), 1, || failure.to_string());
    }

    /// Adds all of `other`; its examples count where there was none.
    pub fn merge(&mut self, other: &Self) {
        for (kind, (count, example)) in &other.0 {
            self.add(kind, *count, || example.clone());
        }
    }

    /// How many of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().map(|(count, _)| count).sum()
    }

    /// How many of each kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let counts = self.0.iter();
        counts
            .map(|(kind, (count, _))| (kind.clone(), *count))
            .collect()
    }

    /// The first of each kind.
    #[must_use]
    pub fn examples(&self) -> BTreeMap<String, String> {
        let examples = self.0.iter();
        examples
            .map(|(kind, (_, example))| (kind.clone(), example.clone()))
            .collect()
    }

    fn add(&mut self, kind: &str, count: u64, example: impl FnOnce() -> String) {
        if let Some((known, _)) = self.0.get_mut(kind) {
            *known += count;
            return;
        }
        let full = self.0.len() >= KINDS_MAX;
        let kind = if full { "other" } else { kind };
        let entry = self.0.entry(kind.to_owned()).or_insert_with(|| {
            let example = example().chars().take(EXAMPLE_CHARS_MAX).collect();
            (0, example)
        });
        entry.0 += count;
    }
}

/// What a report calls it.
fn kind(failure: &Failure) -> String {
    match failure {
        Failure::Connect(_) => "connect".to_owned(),
        Failure::Handshake(_) => "handshake".to_owned(),
        Failure::Closed(_) | Failure::Unsent(_) => "connection closed".to_owned(),
        Failure::Reset(code) => format!("reset {code:#x}"),
        Failure::Truncated { .. } => "wrong length".to_owned(),
        Failure::Wrong(_) => "wrong body".to_owned(),
        Failure::Status(status) => format!("status {status}"),
        Failure::Protocol(_) => "protocol".to_owned(),
        Failure::Refused { code, .. } => format!("refused {code}"),
        Failure::TimedOut => "timed out".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_kind_is_the_example() {
        let mut failures = Failures::default();
        failures.record(&Failure::Closed("one".to_owned()));
        failures.record(&Failure::Closed("two".to_owned()));
        failures.record(&Failure::Status(503));
        assert_eq!(failures.total(), 3);
        assert_eq!(failures.counts()["connection closed"], 2);
        assert_eq!(
            failures.examples()["connection closed"],
            "connection closed: one"
        );
    }

    #[test]
    fn a_server_that_invents_codes_fills_no_memory() {
        let mut failures = Failures::default();
        for code in 0..10_000 {
            failures.record(&Failure::Reset(code));
        }
        assert_eq!(failures.total(), 10_000);
        assert!(failures.counts().len() <= KINDS_MAX + 1);
    }
}
