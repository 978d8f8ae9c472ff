//! Tables in Markdown documents, made of result files: text and results in, text out.
//!
//! A block is a marker that names the files, the table, and a marker that ends it, each marker alone on its line from
//! the first column on:
//!
//! ```text
//! <!-- stoq-bench: ../loadtest/results/hits.json -->
//! …
//! <!-- end of table -->
//! ```
//!
//! Paths are relative to the directory of the document, as those of its links are; they hold no space. Several files
//! of runs give a row each, several files of `ab` a few rows each; both in one block are refused. `figures=rate,p99`
//! behind the files chooses the figures. What stands between the markers is replaced; fenced code is left alone.
//!
//! Names, commands and messages in results are others' words: they cannot add a column, a line or an element. Of a run
//! that is INVALID no figure is shown. Not here: which documents, and writing them (`stoq-bench tables`).

mod figure;
mod grid;
mod pairs;
mod runs;
mod text;

use std::fmt::Write as _;
use std::ops::Range;

use self::figure::Figure;
pub(crate) use self::figure::keys as figure_keys;
use crate::results::{Results, ResultsError};

/// Most files of one block. Each takes as much memory as its result while its table is made.
pub const FILES_MAX: usize = 24;

/// What a marker that begins a block says first.
const BEGIN: &str = "stoq-bench";
/// What the marker that ends it says.
const END: &str = "end of table";

/// A block of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Line of the marker that begins it, from 1.
    pub line: usize,
    /// The files it names, as they stand there: relative to the document's directory. 1 to 24.
    pub files: Vec<String>,
    /// Figures asked for; `None`: those that matter.
    figures: Option<Vec<&'static Figure>>,
    /// Where in the document the table stands, without the markers.
    inside: Range<usize>,
    /// How the lines of the document end.
    line_end: &'static str,
}

/// A document with its tables made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regenerated {
    /// The document. The same as before when nothing is stale.
    pub text: String,
    /// Blocks in it.
    pub tables: usize,
    /// Those of them that are not what their results give.
    pub stale: Vec<Stale>,
}

/// A table that is not what its results give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// Line of the marker that begins its block, from 1.
    pub line: usize,
    /// What stands there.
    pub old: String,
    /// What is to stand there.
    pub new: String,
}

/// A block that cannot be made. Shown as `LINE: WHAT, AND WHAT TO DO`, so that `FILE:` goes before it.
#[derive(Debug, thiserror::Error)]
#[error("{line}: {fault}")]
pub struct TablesError {
    /// Line of the document, from 1.
    pub line: usize,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong with a block.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It begins within another.
    #[error(
        "a block begins within the one of line {open}: end that one with a line `<!-- {END} -->`"
    )]
    Nested {
        /// Line where the other begins.
        open: usize,
    },
    /// It does not end.
    #[error("this block has no end: write a line `<!-- {END} -->` where its table is to end")]
    Unclosed,
    /// It does not begin.
    #[error(
        "a block ends here and none has begun: write `<!-- {BEGIN}: FILE.json -->` before it, or remove it"
    )]
    Stray,
    /// It is nearly a marker.
    #[error(
        "this is no marker, though it looks like one: write `<!-- {BEGIN}: FILE.json -->` alone on its line, from the \
         first column on; where it is meant to be read, fence it as code"
    )]
    Malformed,
    /// No file is named.
    #[error("no file is named: write `<!-- {BEGIN}: FILE.json -->`")]
    NoFile,
    /// Too many are.
    #[error("{files} files: a table shows at most {FILES_MAX}, make two of it")]
    TooManyFiles {
        /// How many.
        files: usize,
    },
    /// A path that is another on each machine.
    #[error("{path} is absolute: write it relative to the directory of this document")]
    Absolute {
        /// It.
        path: String,
    },
    /// An option that does not exist, or is there twice.
    #[error("`{word}`: the one option is `figures=A,B,…`, once")]
    Option {
        /// It.
        word: String,
    },
    /// A figure that does not exist, or is there twice.
    #[error(
        "`{word}` is no figure or is there twice: write some of {}",
        figure::keys()
    )]
    Figure {
        /// It.
        word: String,
    },
    /// Runs and pairs.
    #[error(
        "these are results of `run` and of `ab`, which have different columns: give each a block of its own"
    )]
    Mixed,
    /// A file cannot be read.
    #[error(
        "{0}: correct the path, which is relative to the directory of this document, or make the file anew"
    )]
    Results(#[from] ResultsError),
}

/// The blocks of a document, in their order.
///
/// # Errors
/// A marker that is no marker, or has no counterpart.
pub fn blocks(document: &str) -> Result<Vec<Block>, TablesError> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut fence: Option<Fence<'_>> = None;
    let mut at = 0;
    for (nth, line) in document.split_inclusive('\n').enumerate() {
        let number = nth + 1;
        let begins = at;
        at += line.len();
        // A table is ours and has no code in it: whatever looks like a fence there does not hide the block's end.
        if open.is_none() {
            match (&fence, Fence::of(line)) {
                (None, Some(opening)) if opening.can_open() => {
                    fence = Some(opening);
                    continue;
                }
                (Some(opening), Some(closing)) if closing.closes(opening) => {
                    fence = None;
                    continue;
                }
                (Some(_), _) => continue,
                (None, _) => {}
            }
        }
        let refused = |fault| TablesError {
            line: number,
            fault,
        };
        match mark(line).map_err(refused)? {
            Mark::None => {}
            Mark::Begin(words) => {
                if let Some(Block { line: open, .. }) = open {
                    return Err(refused(Fault::Nested { open }));
                }
                let (files, figures) = named(words).map_err(refused)?;
                open = Some(Block {
                    line: number,
                    files,
                    figures,
                    inside: at..at,
                    line_end: if line.ends_with("\r\n") { "\r\n" } else { "\n" },
                });
            }
            Mark::End => {
                let mut block = open.take().ok_or_else(|| refused(Fault::Stray))?;
                block.inside.end = begins;
                blocks.push(block);
            }
        }
    }
    match open {
        Some(Block { line, .. }) => Err(TablesError {
            line,
            fault: Fault::Unclosed,
        }),
        None => Ok(blocks),
    }
}

/// A document with its tables made of what `load` gives for the files they name.
///
/// # Errors
/// The first block that cannot be made.
pub fn regenerate(
    document: &str,
    mut load: impl FnMut(&str) -> Result<Results, ResultsError>,
) -> Result<Regenerated, TablesError> {
    let blocks = blocks(document)?;
    let mut text = String::with_capacity(document.len());
    let mut stale = Vec::new();
    let mut copied = 0;
    for block in &blocks {
        let new = block.table(&mut load).map_err(|fault| TablesError {
            line: block.line,
            fault,
        })?;
        // Blocks lie in the document, in their order, on its line ends.
        let (start, end) = (block.inside.start, block.inside.end);
        let before = document.get(copied..start).unwrap_or_default();
        let old = document.get(start..end).unwrap_or_default();
        text.push_str(before);
        text.push_str(&new);
        copied = end;
        if old != new {
            stale.push(Stale {
                line: block.line,
                old: old.to_owned(),
                new,
            });
        }
    }
    text.push_str(document.get(copied..).unwrap_or_default());
    Ok(Regenerated {
        text,
        tables: blocks.len(),
        stale,
    })
}

impl Block {
    /// What stands between the markers: an empty line before and after, for renderers that want one.
    fn table(
        &self,
        load: &mut impl FnMut(&str) -> Result<Results, ResultsError>,
    ) -> Result<String, Fault> {
        let (mut rounds, mut pairs) = (Vec::new(), Vec::new());
        for file in &self.files {
            match load(file)? {
                Results::Pair(pair) => pairs.push(*pair),
                of_one @ Results::Rounds(_) => rounds.push(of_one),
            }
        }
        let figures = self.figures.as_deref();
        let table = match (rounds.is_empty(), pairs.is_empty()) {
            (false, false) => return Err(Fault::Mixed),
            (_, true) => runs::table(rounds, figures),
            (true, false) => pairs::table(&pairs, figures),
        };
        let table = format!("\n{table}\n");
        Ok(if self.line_end == "\n" {
            table
        } else {
            table.replace('\n', self.line_end)
        })
    }
}

impl Stale {
    /// The lines that differ, `-` those that stand in the document `name` and `+` those that are to, under a head each.
    #[must_use]
    pub fn difference(&self, name: &str) -> String {
        let (old, new): (Vec<&str>, Vec<&str>) =
            (self.old.lines().collect(), self.new.lines().collect());
        let same = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| {
            pairs.take_while(|(old, new)| old == new).count()
        };
        let before = same(&mut old.iter().zip(&new));
        let rest = |lines: &[&str]| -> usize { lines.len().saturating_sub(before) };
        let after = same(&mut old.iter().rev().zip(new.iter().rev()))
            .min(rest(&old))
            .min(rest(&new));
        let differing = |lines: &[&str]| -> Vec<String> {
            let many = rest(lines).saturating_sub(after);
            let lines = lines.iter().skip(before).take(many);
            lines.map(|line| (*line).to_owned()).collect()
        };
        let (old, new) = (differing(&old), differing(&new));
        let line = self.line + 1 + before;
        let mut out =
            format!("--- {name}:{line}, as it stands\n+++ {name}:{line}, from the results\n");
        if old.is_empty() && new.is_empty() {
            out.push_str("the ends of lines differ\n");
        }
        for (sign, lines) in [('-', old), ('+', new)] {
            for line in lines {
                let _ = writeln!(out, "{sign}{line}");
            }
        }
        out
    }
}

/// What a line is.
enum Mark<'a> {
    None,
    /// With what it says behind the colon.
    Begin(&'a str),
    End,
}

fn mark(line: &str) -> Result<Mark<'_>, Fault> {
    let trimmed = line.trim();
    let Some(comment) = trimmed.strip_prefix("<!--") else {
        return Ok(Mark::None);
    };
    let unindented = line.starts_with('<');
    let whole = comment.strip_suffix("-->");
    if whole.is_some_and(|said| said.trim() == END) {
        return if unindented {
            Ok(Mark::End)
        } else {
            Err(Fault::Malformed)
        };
    }
    let Some(said) = comment.trim_start().strip_prefix(BEGIN) else {
        return Ok(Mark::None);
    };
    if said.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_') {
        return Ok(Mark::None);
    }
    let words = said
        .strip_prefix(':')
        .and_then(|said| said.strip_suffix("-->"));
    match words {
        Some(words) if unindented && !words.contains("-->") => Ok(Mark::Begin(words)),
        Some(_) | None => Err(Fault::Malformed),
    }
}

type Named = (Vec<String>, Option<Vec<&'static Figure>>);

/// The files and figures that a marker names.
fn named(words: &str) -> Result<Named, Fault> {
    let (mut files, mut figures) = (Vec::new(), None);
    for word in words.split_whitespace() {
        match word.split_once('=') {
            Some(("figures", list)) if figures.is_none() => {
                let mut chosen: Vec<&'static Figure> = Vec::new();
                for key in list.split(',') {
                    match Figure::called(key) {
                        Some(figure) if chosen.iter().all(|other| other.key != key) => {
                            chosen.push(figure);
                        }
                        Some(_) | None => {
                            return Err(Fault::Figure {
                                word: key.to_owned(),
                            });
                        }
                    }
                }
                figures = Some(chosen);
            }
            Some((name, _)) if !name.contains(['/', '.']) => {
                return Err(Fault::Option {
                    word: word.to_owned(),
                });
            }
            Some(_) | None if word.starts_with('/') => {
                return Err(Fault::Absolute {
                    path: word.to_owned(),
                });
            }
            Some(_) | None => files.push(word.to_owned()),
        }
    }
    match files.len() {
        0 => Err(Fault::NoFile),
        1..=FILES_MAX => Ok((files, figures)),
        files => Err(Fault::TooManyFiles { files }),
    }
}

/// A line that can open or close fenced code.
struct Fence<'a> {
    letter: char,
    length: usize,
    behind: &'a str,
}

impl<'a> Fence<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let bare = line.trim_start_matches(' ');
        let letter = bare
            .chars()
            .next()
            .filter(|letter| "`~".contains(*letter))?;
        let behind = bare.trim_start_matches(letter);
        let length = bare.len() - behind.len();
        (line.len() - bare.len() <= 3 && length >= 3).then_some(Self {
            letter,
            length,
            behind,
        })
    }

    /// What stands behind backticks holds none: else it is code within a line.
    fn can_open(&self) -> bool {
        self.letter == '~' || !self.behind.contains('`')
    }

    fn closes(&self, opening: &Fence<'_>) -> bool {
        self.letter == opening.letter
            && self.length >= opening.length
            && self.behind.trim().is_empty()
    }
}

#[cfg(test)]
mod tests;
