//! What is wrong with a configuration: every problem with its place, its key, and the fix.

use std::fmt;

use super::source::{Position, Sources};

/// One thing that is wrong. Displayed as `file:line:column: section.key: what (fix)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it was written.
    pub position: Position,
    /// The key with its tables, such as `limits.timeouts.idle` or `site[0].hosts`; empty when no key is meant.
    pub key: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.position)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// All that is wrong, one a line, in the order of the files. Never empty.
///
/// Bound: at most [`ConfigErrors::MAX`] are kept; what is beyond is counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    beyond: usize,
}

impl ConfigErrors {
    /// The most errors one load reports. A file of another format gives one for each line.
    pub const MAX: usize = 100;

    /// The errors, in the order of the files.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.errors.iter()
    }

    /// How many there are, counting those beyond [`ConfigErrors::MAX`].
    pub fn len(&self) -> usize {
        self.errors.len() + self.beyond
    }

    /// Whether nothing is wrong; not so in any value that a load returned.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In the order of the sources and of their lines.
    pub(super) fn sorted(mut self, sources: &Sources) -> Self {
        self.errors.sort_by_key(|error| match &error.position {
            Position::Whole(name) | Position::Environment(name) => (sources.order(name), 0, 0),
            Position::File { file, line, column } => (sources.order(file), *line, *column),
        });
        self
    }

    /// Adds one.
    pub(super) fn push(&mut self, error: ConfigError) {
        if self.errors.len() < Self::MAX {
            self.errors.push(error);
        } else {
            self.beyond += 1;
        }
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self {
            errors: vec![error],
            beyond: 0,
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        if self.beyond > 0 {
            write!(f, "\n… and {} more", self.beyond)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
