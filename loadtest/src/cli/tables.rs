//! `stoq-bench tables`: makes the tables in documents out of result files, or says which are stale.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use super::Usage;
use crate::results::Results;
use crate::tables::{Regenerated, figure_keys, regenerate};

/// Largest document that is read, bytes.
const DOCUMENT_MAX: u64 = 16 << 20;

/// What `tables` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(crate) struct Args {
    /// Documents [default: README.md and docs/*.md of this directory].
    #[arg(value_name = "FILE.md")]
    files: Vec<PathBuf>,
    /// Change nothing, print what differs, and fail when anything does.
    #[arg(long)]
    check: bool,
}

fn after_help() -> String {
    format!(
        "A block of a document, each marker alone on its line; paths are relative to the document:\n\n\
         \x20 <!-- stoq-bench: ../loadtest/results/hits.json [MORE.json …] [figures=A,B,…] -->\n\
         \x20 …the table, which is replaced…\n\
         \x20 <!-- end of table -->\n\n\
         Files of `run` give a row each, files of `ab` a row for each figure. Nothing is written when one block cannot be \
         made.\nFigures: {}.\n\
         Exit code 1: a table is stale (--check), or a block cannot be made.",
        figure_keys()
    )
}

/// A document whose tables were made.
struct Document {
    path: PathBuf,
    made: Regenerated,
}

/// Makes all, then writes those that changed.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let files = if args.files.is_empty() {
        usual(Path::new("")).map_err(|error| Usage(format!("{error:#}")))?
    } else {
        args.files.clone()
    };
    let (mut documents, mut refused) = (Vec::new(), 0);
    for path in files {
        match document(&path) {
            Ok(made) => documents.push(Document { path, made }),
            Err(error) => {
                refused += 1;
                eprintln!("stoq-bench: {error:#}");
            }
        }
    }
    if refused > 0 {
        let refused = plural(refused, "document");
        anyhow::bail!("{refused} could not be made; none was written");
    }
    let (mut tables, mut stale) = (0, 0);
    for Document { path, made } in &documents {
        tables += made.tables;
        stale += made.stale.len();
        if made.stale.is_empty() {
            continue;
        }
        let name = path.display();
        if args.check {
            for table in &made.stale {
                print!("{}", table.difference(&name.to_string()));
            }
        } else {
            replace(path, &made.text).with_context(|| format!("writing {name}"))?;
            println!(
                "{name}: {} of {} changed",
                made.stale.len(),
                plural(made.tables, "table")
            );
        }
    }
    let did = if args.check { "stale" } else { "changed" };
    println!(
        "{} in {}, {stale} {did}",
        plural(tables, "table"),
        plural(documents.len(), "document")
    );
    Ok(if args.check && stale > 0 {
        eprintln!("stoq-bench: `stoq-bench tables` makes them anew from their results");
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// README.md and docs/*.md of a directory.
fn usual(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let readme = directory.join("README.md");
    if !readme.is_file() {
        anyhow::bail!("there is no README.md here: name documents, or run this where it is");
    }
    let mut files = vec![readme];
    let docs = directory.join("docs");
    let entries = match fs::read_dir(&docs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        entries => entries.with_context(|| docs.display().to_string())?,
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths: Vec<PathBuf> = paths
        .collect::<io::Result<_>>()
        .with_context(|| docs.display().to_string())?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "md"));
    paths.sort();
    files.extend(paths);
    Ok(files)
}

/// Its tables, made; an error begins with file and line.
fn document(path: &Path) -> anyhow::Result<Regenerated> {
    let name = path.display();
    let bytes = fs::metadata(path).with_context(|| name.to_string())?.len();
    if bytes > DOCUMENT_MAX {
        anyhow::bail!("{name}: {bytes} bytes, a document has at most {DOCUMENT_MAX}");
    }
    let text = fs::read_to_string(path).with_context(|| name.to_string())?;
    let beside = path.parent().unwrap_or_else(|| Path::new(""));
    regenerate(&text, |file| Results::load(&beside.join(file)))
        .map_err(|error| anyhow::anyhow!("{name}:{error}"))
}

/// Whole or not at all: beside it first, then in its place, and with its permissions. Of a link the file it leads to.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let mut beside = path.clone().into_os_string();
    beside.push(".part");
    let written = fs::write(&beside, text)
        .and_then(|()| fs::set_permissions(&beside, fs::metadata(&path)?.permissions()))
        .and_then(|()| fs::rename(&beside, &path));
    if written.is_err() {
        // It may not be there; the first error tells more.
        let _ = fs::remove_file(&beside);
    }
    written
}
