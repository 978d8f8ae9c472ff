//! Reads the main file and all that it includes, within bounds, each file once.

use std::{
    collections::VecDeque,
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    problem::{ConfigError, ConfigErrors},
    source::{Kind, Position, Sources},
};

/// Files of one load; the next is an error. A site a file fits many tenants, and more belong in fewer files.
pub const FILES_MAX: usize = 1024;
/// Bytes of one file; 1 MiB holds some ten thousand sites.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of all files of one load.
pub const TOTAL_BYTES_MAX: u64 = 16 << 20;
/// How deep includes may nest.
pub const DEPTH_MAX: usize = 8;

/// A file that waits to be read.
struct Waiting {
    path: PathBuf,
    /// Where it was asked for; none for the main file.
    asked: Option<Position>,
    /// The files that led here, outermost first, canonical.
    within: Vec<PathBuf>,
}

/// Reads the main file and all it includes.
pub(super) fn read_main(main: &Path, sources: &mut Sources, errors: &mut ConfigErrors) {
    read_files(
        [Waiting {
            path: main.to_owned(),
            asked: None,
            within: Vec::new(),
        }]
        .into(),
        sources,
        errors,
    );
}

/// Reads what a source that is there already includes.
pub(super) fn follow_includes(sources: &mut Sources, index: usize, errors: &mut ConfigErrors) {
    let files = includes(sources, index, errors).into_iter();
    let waiting = files
        .map(|(path, asked)| Waiting {
            path,
            asked: Some(asked),
            within: Vec::new(),
        })
        .collect();
    read_files(waiting, sources, errors);
}

fn read_files(mut waiting: VecDeque<Waiting>, sources: &mut Sources, errors: &mut ConfigErrors) {
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut total = 0;
    while let Some(file) = waiting.pop_front() {
        let name = file.path.display().to_string();
        let mut fail = |message: String| {
            let position = file
                .asked
                .clone()
                .unwrap_or_else(|| Position::Whole(name.as_str().into()));
            let (key, message) = if file.asked.is_some() {
                ("include", format!("{name}: {message}"))
            } else {
                ("", message)
            };
            errors.push(ConfigError {
                position,
                key: key.to_owned(),
                message,
            });
        };
        let canonical = fs::canonicalize(&file.path).unwrap_or_else(|_| file.path.clone());
        if file.within.contains(&canonical) {
            fail(
                "includes itself (remove this include, or the one that leads back here)".to_owned(),
            );
            continue;
        }
        if seen.contains(&canonical) {
            fail("is included twice (keep one of the two)".to_owned());
            continue;
        }
        if seen.len() >= FILES_MAX {
            fail(format!(
                "is one file too many (at most {FILES_MAX}; put several sites in one file)"
            ));
            return;
        }
        if file.within.len() >= DEPTH_MAX {
            fail(format!(
                "is included {DEPTH_MAX} files deep (include it from a file further out)"
            ));
            continue;
        }
        let text = match read_bounded(&file.path) {
            Ok(text) => text,
            Err(error) => {
                fail(error);
                continue;
            }
        };
        total += text.len() as u64;
        if total > TOTAL_BYTES_MAX {
            fail(format!("brings all files above {TOTAL_BYTES_MAX} bytes"));
            return;
        }
        seen.push(canonical.clone());
        let dir = file
            .path
            .parent()
            .unwrap_or_else(|| Path::new(""))
            .to_owned();
        let index = sources.add(Kind::File, &name, text, &dir);
        let mut within = file.within;
        within.push(canonical);
        for (path, asked) in includes(sources, index, errors) {
            waiting.push_back(Waiting {
                path,
                asked: Some(asked),
                within: within.clone(),
            });
        }
    }
}

fn read_bounded(path: &Path) -> Result<String, String> {
    let open = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            "no such file (check the path; `config init` prints a file to start from)".to_owned()
        }
        _ => format!("cannot be read: {error}"),
    };
    let file = fs::File::open(path).map_err(open)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(open)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!(
            "is larger than {FILE_BYTES_MAX} bytes (split it with `include`)"
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        format!(
            "is not UTF-8 (byte {} is not text)",
            error.utf8_error().valid_up_to()
        )
    })
}

/// The files that the source's `include` names, in the order of the list and then of their names.
fn includes(
    sources: &Sources,
    index: usize,
    errors: &mut ConfigErrors,
) -> Vec<(PathBuf, Position)> {
    let Some(source) = sources.all().get(index) else {
        return Vec::new();
    };
    // Errors of syntax are reported when the file is parsed as a whole.
    let (table, _syntax) = DeTable::parse_recoverable(&source.text);
    let Some(value) = table.get_ref().get("include") else {
        return Vec::new();
    };
    let one = std::slice::from_ref(value);
    let items = match value.get_ref() {
        DeValue::Array(items) => &items[..],
        _ => one,
    };
    let mut found = Vec::new();
    for item in items {
        let position = source.position(item.span().start);
        let no_string = || "is no string (write include = [\"sites.d/*.toml\"])".to_owned();
        let pattern = item.get_ref().as_str().ok_or_else(no_string);
        match pattern.and_then(|pattern| expand(&source.dir, pattern)) {
            Ok(paths) => found.extend(paths.into_iter().map(|path| (path, position.clone()))),
            Err(message) => errors.push(ConfigError {
                position,
                key: "include".to_owned(),
                message,
            }),
        }
    }
    found
}

/// The files a pattern stands for: `*` and `?` in the file's name only, sorted. A plain name must exist, a pattern may match nothing.
fn expand(dir: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let joined = dir.join(pattern);
    let name = joined
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let parent = joined.parent().unwrap_or_else(|| Path::new("")).to_owned();
    if name.is_empty() {
        return Err(format!(
            "`{pattern}` names no file (write \"sites.d/*.toml\")"
        ));
    }
    let wild = |text: &str| text.contains(['*', '?']);
    if wild(&parent.to_string_lossy()) {
        return Err(format!(
            "`{pattern}` has a `*` in a directory (only the file's name may have one: \"sites.d/*.toml\")"
        ));
    }
    if !wild(&name) {
        return Ok(vec![joined]);
    }
    let listed = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        &parent
    };
    let entries = match fs::read_dir(listed) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: cannot be listed: {error}", listed.display())),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry =
            entry.map_err(|error| format!("{}: cannot be listed: {error}", listed.display()))?;
        let found = entry.file_name();
        let found = found.to_string_lossy();
        // As in a shell, a pattern does not match hidden files, so an editor's leftovers are not read.
        if (!found.starts_with('.') || name.starts_with('.'))
            && glob(name.as_bytes(), found.as_bytes())
        {
            paths.push(parent.join(entry.file_name()));
        }
        if paths.len() > FILES_MAX {
            return Err(format!(
                "`{pattern}` matches more than {FILES_MAX} files (put several sites in one file)"
            ));
        }
    }
    paths.sort();
    Ok(paths)
}

/// `*` any run, `?` any one byte. Linear in name × stars: on a mismatch only the last star is retried.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while let Some(byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if c == byte || *c == b'?' => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star_p, star_n)) = star else {
                    return false;
                };
                star = Some((star_p, star_n + 1));
                p = star_p + 1;
                n = star_n + 1;
            }
        }
    }
    pattern
        .get(p..)
        .is_some_and(|rest| rest.iter().all(|c| *c == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_names_as_a_shell_does() {
        for (pattern, name, matches) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml.bak", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("?.toml", "ab.toml", false),
            ("????", "abcd", true),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), name.as_bytes()),
                matches,
                "{pattern} {name}"
            );
        }
    }
}
