//! What a cluster, node or site may be called on the wire and in a certificate.

use thiserror::Error;

/// Longest cluster or node name: 64 bytes, which is also Linux's longest host name.
pub const NAME_BYTES_MAX: usize = 64;

/// Longest site name in a `fetch:<site>` role: 200 bytes, so that the role's text fits the one-byte length of a hello.
pub(crate) const SITE_BYTES_MAX: usize = 200;

/// A name that cannot stand in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Empty, or longer than allowed.
    #[error("{what} \"{name}\" has {len} bytes; 1 to {max} are allowed")]
    Length {
        /// Which name.
        what: &'static str,
        /// The name, cut to its first 80 characters.
        name: String,
        /// Its length in bytes.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// Holds something other than ASCII letters, digits and a few marks.
    #[error("{what} \"{name}\" holds {found:?}; allowed are a-z A-Z 0-9 and {allowed}")]
    Character {
        /// Which name.
        what: &'static str,
        /// The name.
        name: String,
        /// The first character that is not allowed.
        found: char,
        /// The marks allowed beside letters and digits.
        allowed: &'static str,
    },
}

/// A cluster's or node's name: 1–64 bytes of letters, digits, `.`, `-` and `_`.
pub(crate) fn plain(what: &'static str, name: &str) -> Result<(), NameError> {
    validate(what, name, NAME_BYTES_MAX, ".-_")
}

/// A site's name: as [`plain`], up to 200 bytes, and `*`, `:`, `[`, `]` for host patterns and ports.
pub(crate) fn site(name: &str) -> Result<(), NameError> {
    validate("site", name, SITE_BYTES_MAX, ".-_*:[]")
}

fn validate(
    what: &'static str,
    name: &str,
    max: usize,
    marks: &'static str,
) -> Result<(), NameError> {
    if name.is_empty() || name.len() > max {
        let shown = name.chars().take(80).collect();
        return Err(NameError::Length {
            what,
            name: shown,
            len: name.len(),
            max,
        });
    }
    match name
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !marks.contains(*c))
    {
        Some(found) => Err(NameError::Character {
            what,
            name: name.to_owned(),
            found,
            allowed: marks,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_forge_another_uri_are_refused() {
        for bad in [
            "",
            "a b",
            "a:role:admin",
            "a/b",
            "ä",
            "a\n",
            &"x".repeat(65),
        ] {
            assert!(plain("node name", bad).is_err(), "{bad:?}");
        }
        for good in ["edge-1", "a.b_c", &"x".repeat(64)] {
            assert_eq!(plain("node name", good), Ok(()));
        }
        assert_eq!(site("*"), Ok(()));
        assert!(site("a b").is_err());
    }
}
