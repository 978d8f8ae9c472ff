//! Where a piece of configuration was written: file, line and column, or an environment variable.
//!
//! All sources of one load share one space of offsets, each source beginning where the one before it ended. A span
//! from the parser, shifted by its source's base, so names its file by itself, whatever was merged with what.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The place a value or a key was written at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// In a file, or in a text that was handed in under a name.
    File {
        /// The file as the operator named it.
        file: Arc<str>,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
    },
    /// In an environment variable of this name.
    Environment(Arc<str>),
    /// Nowhere: the key is absent and the file as a whole is meant.
    Whole(Arc<str>),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Whole(file) => f.write_str(file),
        }
    }
}

/// What kind of text a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Environment,
}

/// One text: the main file, an included one, or a variable's value.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) kind: Kind,
    pub(super) name: Arc<str>,
    pub(super) text: String,
    /// What relative paths in this text are relative to.
    pub(super) dir: PathBuf,
    base: usize,
}

/// All sources of one load, in the order they were read.
#[derive(Debug, Default)]
pub(super) struct Sources {
    list: Vec<Source>,
}

impl Sources {
    /// Adds a text and gives its index.
    pub(super) fn add(&mut self, kind: Kind, name: &str, text: String, dir: &Path) -> usize {
        // One byte between two sources, so that the end of one is not the start of the next.
        let base = self
            .list
            .last()
            .map_or(0, |last| last.base + last.text.len() + 1);
        self.list.push(Source {
            kind,
            name: name.into(),
            text,
            dir: dir.to_owned(),
            base,
        });
        self.list.len() - 1
    }

    pub(super) fn all(&self) -> &[Source] {
        &self.list
    }

    /// The source that holds the offset.
    pub(super) fn of(&self, offset: usize) -> Option<&Source> {
        let after = self.list.partition_point(|source| source.base <= offset);
        self.list.get(after.checked_sub(1)?)
    }

    /// Where a source of this name stands in the order of reading; last when there is none.
    pub(super) fn order(&self, name: &str) -> usize {
        self.list
            .iter()
            .position(|source| &*source.name == name)
            .unwrap_or(self.list.len())
    }

    /// The position of an offset in the shared space.
    pub(super) fn position(&self, offset: usize) -> Position {
        let Some(source) = self.of(offset) else {
            return Position::Whole("configuration".into());
        };
        source.position(offset - source.base)
    }

    /// The first file, for errors that are about something absent.
    pub(super) fn whole(&self) -> Position {
        Position::Whole(
            self.list
                .first()
                .map_or_else(|| "configuration".into(), |source| source.name.clone()),
        )
    }
}

impl Source {
    pub(super) fn base(&self) -> usize {
        self.base
    }

    /// The position of an offset counted from this source's own start.
    pub(super) fn position(&self, offset: usize) -> Position {
        match self.kind {
            Kind::Environment => Position::Environment(self.name.clone()),
            Kind::File => {
                let before = self.text.get(..offset).unwrap_or(&self.text);
                let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
                let line = before.matches('\n').count() + 1;
                let column = before
                    .get(line_start..)
                    .map_or(1, |line| line.chars().count() + 1);
                Position::File {
                    file: self.name.clone(),
                    line,
                    column,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_names_its_file_line_and_column() {
        let mut sources = Sources::default();
        sources.add(
            Kind::File,
            "a.toml",
            "x = 1\ny = 2\n".to_owned(),
            Path::new(""),
        );
        let second = sources.add(Kind::File, "b.toml", "# é\nz = 3".to_owned(), Path::new(""));
        sources.add(
            Kind::Environment,
            "STOQ__NODE__NAME",
            "n".to_owned(),
            Path::new(""),
        );
        assert_eq!(sources.position(6).to_string(), "a.toml:2:1");
        let base = sources.all()[second].base();
        assert_eq!(sources.position(base + 9).to_string(), "b.toml:2:5");
        assert_eq!(
            sources.position(base + 4).to_string(),
            "b.toml:1:4",
            "columns count characters"
        );
        assert_eq!(
            sources.position(base + 11).to_string(),
            "environment variable STOQ__NODE__NAME"
        );
    }
}
