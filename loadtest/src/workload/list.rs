//! Lists of objects: `PATH-OR-URL [blake3:HEX length:BYTES] [weight:N]` a line.

use std::sync::Arc;

use rand::Rng;

use super::{Known, Object, WorkloadError};

/// Most objects in a list, about 100 bytes each beside their paths.
const OBJECTS_MAX: usize = 1_000_000;

/// An object, and how often it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The object.
    pub object: Object,
    /// In proportion to the others'. Default 1; 0 is learned and never asked for again.
    pub weight: u32,
}

/// Places drawn by weight.
#[derive(Debug)]
pub(super) struct Weights {
    /// The sum of all weights up to each.
    sums: Vec<u64>,
    sum: u64,
}

impl Weights {
    pub(super) fn new(weights: impl Iterator<Item = u32>) -> Result<Self, String> {
        let mut sum = 0_u64;
        let sums: Option<Vec<u64>> = weights
            .map(|weight| {
                sum = sum.checked_add(weight.into())?;
                Some(sum)
            })
            .collect();
        let sums = sums.ok_or("weights whose sum is above 2^64")?;
        if sum == 0 {
            return Err("every weight is 0: there is nothing to ask for".to_owned());
        }
        Ok(Self { sums, sum })
    }

    /// By bisection: 20 steps for a million.
    pub(super) fn draw(&self, random: &mut impl Rng) -> usize {
        let at = random.random_range(0..self.sum);
        self.sums.partition_point(|sum| *sum <= at)
    }
}

/// A word of a line, and where it begins.
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    line: usize,
    column: usize,
}

impl Word<'_> {
    pub(super) fn wrong(&self, reason: impl Into<String>) -> WorkloadError {
        WorkloadError::Line {
            line: self.line,
            column: self.column,
            reason: reason.into(),
        }
    }
}

/// The words of each line that has any, without comments.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Vec<Word<'_>>> {
    text.lines().enumerate().filter_map(|(number, line)| {
        let mut words = Vec::new();
        for text in line.split_ascii_whitespace() {
            // Only at the begin of a word: a path may have one within it, which is refused for what it is.
            if text.starts_with('#') {
                break;
            }
            let before = text.as_ptr().addr() - line.as_ptr().addr();
            let column = line
                .get(..before)
                .map_or(before, |before| before.chars().count())
                + 1;
            words.push(Word {
                text,
                line: number + 1,
                column,
            });
        }
        (!words.is_empty()).then_some(words)
    })
}

/// A path, and a query perhaps, that can be asked for.
pub(super) fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("`{path}` does not begin with `/`"));
    }
    if path.contains('#') {
        return Err(format!("`{path}`: what follows a `#` is never sent"));
    }
    let sound = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte));
    if !sound || path.parse::<http::uri::PathAndQuery>().is_err() {
        return Err(format!(
            "`{}` has characters that must be written as %XX in a path",
            path.escape_debug()
        ));
    }
    Ok(())
}

pub(super) fn read(
    text: &str,
    scheme: &str,
    authority: &str,
) -> Result<Vec<Listed>, WorkloadError> {
    let mut listed = Vec::new();
    for words in lines(text) {
        let Some((first, others)) = words.split_first() else {
            continue;
        };
        if listed.len() >= OBJECTS_MAX {
            return Err(first.wrong(format!("more than {OBJECTS_MAX} objects")));
        }
        listed.push(one(first, others, scheme, authority)?);
    }
    Ok(listed)
}

fn one(
    first: &Word<'_>,
    others: &[Word<'_>],
    scheme: &str,
    authority: &str,
) -> Result<Listed, WorkloadError> {
    let mut object = place(first.text, scheme, authority).map_err(|why| first.wrong(why))?;
    let (mut hash, mut length, mut weight) = (None, None, None);
    for word in others {
        let (key, value) = word.text.split_once(':').ok_or_else(|| {
            word.wrong(format!(
                "`{}` is none of blake3:HEX, length:BYTES, weight:N",
                word.text
            ))
        })?;
        let twice = match key {
            "blake3" => {
                let parsed = blake3::Hash::from_hex(value);
                let parsed = parsed.map_err(|_| word.wrong("a BLAKE3 is 64 hexadecimal digits"))?;
                hash.replace((parsed, word)).is_some()
            }
            "length" => {
                let parsed: u64 = value
                    .parse()
                    .map_err(|_| word.wrong(format!("`{value}` is no number of bytes")))?;
                length.replace(parsed).is_some()
            }
            "weight" => {
                let parsed: u32 = value.parse().map_err(|_| {
                    word.wrong(format!("`{value}` is no weight: a whole number, 0 or more"))
                })?;
                weight.replace(parsed).is_some()
            }
            other => {
                let keys = ["blake3", "length", "weight"];
                let near = keys
                    .into_iter()
                    .min_by_key(|key| strsim::damerau_levenshtein(key, other))
                    .unwrap_or("blake3");
                return Err(word.wrong(format!("`{other}:` is not known; did you mean `{near}:`?")));
            }
        };
        if twice {
            return Err(word.wrong(format!("`{key}:` a second time")));
        }
    }
    object.known = match (hash, length) {
        (Some((hash, _)), Some(length)) => Known::Hash { length, hash },
        (Some((_, word)), None) => {
            return Err(word.wrong(
                "a body is judged by its hash and its length: add `length:BYTES` (`stoq-bench get` prints both)",
            ));
        }
        (None, Some(length)) => Known::Length(length),
        (None, None) => Known::Nothing,
    };
    Ok(Listed {
        object,
        weight: weight.unwrap_or(1),
    })
}

/// A path, or a URL of the target's scheme.
fn place(text: &str, scheme: &str, authority: &str) -> Result<Object, String> {
    if text.starts_with('/') {
        check_path(text)?;
        return Ok(Object::new(text));
    }
    let Some((said, rest)) = text.split_once("://") else {
        return Err(format!(
            "`{text}` is neither a path, which begins with `/`, nor a URL"
        ));
    };
    if said != scheme {
        return Err(format!("`{said}://`, and the run speaks {scheme}://"));
    }
    let (host, path) = rest
        .find('/')
        .map_or((rest, "/"), |slash| rest.split_at(slash));
    if host.parse::<http::uri::Authority>().is_err() || host.contains('@') {
        return Err(format!("`{host}` is no host"));
    }
    check_path(path)?;
    Ok(Object {
        authority: (host != authority).then(|| Arc::from(host)),
        ..Object::new(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place_of(text: &str) -> (usize, usize, String) {
        match read(text, "https", "h:1").unwrap_err() {
            WorkloadError::Line {
                line,
                column,
                reason,
            } => (line, column, reason),
            other @ WorkloadError::Whole(_) => panic!("{other}"),
        }
    }

    #[test]
    fn a_line_is_an_object_and_what_is_known_of_it() {
        let hash = blake3::hash(b"abc");
        let text = format!(
            "# all of them\n\n/a?q=1  # first\nhttps://h:1/b length:7\nhttps://other\n  /c blake3:{hash} length:3 weight:5\n"
        );
        let listed = read(&text, "https", "h:1").unwrap();
        let paths: Vec<_> = listed.iter().map(|one| &*one.object.path).collect();
        assert_eq!(paths, ["/a?q=1", "/b", "/", "/c"]);
        assert_eq!(listed[1].object.authority, None);
        assert_eq!(listed[1].object.known, Known::Length(7));
        assert_eq!(listed[2].object.authority.as_deref(), Some("other"));
        assert_eq!(listed[3].object.known, Known::Hash { length: 3, hash });
        assert_eq!((listed[0].weight, listed[3].weight), (1, 5));
    }

    #[test]
    fn a_mistake_is_refused_with_line_column_and_what_would_do() {
        let hash = blake3::hash(b"abc");
        let no_length = format!("/é /x\n/c blake3:{hash}");
        for (text, line, column, part) in [
            ("/a\nb", 2, 1, "begins with `/`"),
            ("/a weigth:2", 1, 4, "did you mean `weight:`"),
            ("/a  weight:-1", 1, 5, "0 or more"),
            ("/a weight:1 weight:2", 1, 13, "second time"),
            ("/a 5", 1, 4, "weight:N"),
            ("/a length:x", 1, 4, "number of bytes"),
            ("/a blake3:12", 1, 4, "64"),
            ("http://h:1/a", 1, 1, "https://"),
            ("https://u@h/a", 1, 1, "no host"),
            ("/a#b", 1, 1, "never sent"),
            ("/a|b", 1, 1, "%XX"),
            (&no_length, 1, 1, "%XX"),
            (&no_length[no_length.find('\n').unwrap()..], 2, 4, "length:"),
        ] {
            let (at, from, reason) = place_of(text);
            assert_eq!((at, from), (line, column), "{text}: {reason}");
            assert!(reason.contains(part), "{text}: {reason}");
        }
    }

    #[test]
    fn nothing_to_ask_for_is_refused() {
        for text in ["", "# nothing\n", "/a weight:0\n/b weight:0"] {
            let refused = super::super::Workload::read_list(text, "https", "h:1");
            assert!(refused.is_err(), "{text}");
        }
    }
}
