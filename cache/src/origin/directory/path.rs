//! From a URL's path to names below the directory. What cannot be a file's name here is no target at all.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What RFC 3986 allows in a path segment stays; the rest is encoded.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Names below the directory. Linux allows 4,096 bytes of path; a longer one cannot exist.
const PATH_BYTES_MAX: usize = 4096;

/// A path below the directory, taken apart and decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    segments: Vec<String>,
    /// The path ended in a slash, so it asks for a directory.
    pub(super) slash: bool,
}

impl Target {
    /// `None`: no file or directory that may be served has such a path. The segments are decoded once, after the
    /// split, so that an encoded slash or dot is a character in a name and never a step.
    pub(super) fn of(path: &str) -> Option<Self> {
        let rest = path.strip_prefix('/')?;
        if rest.len() > PATH_BYTES_MAX {
            return None;
        }
        let (names, slash) = match rest.strip_suffix('/') {
            Some(names) => (names, true),
            None => (rest, rest.is_empty()),
        };
        let mut segments = Vec::new();
        if !rest.is_empty() {
            for encoded in names.split('/') {
                let name = percent_decode_str(encoded).decode_utf8().ok()?;
                if name.is_empty() || name.contains(['/', '\0']) {
                    return None;
                }
                let well_known = segments.is_empty() && name == ".well-known";
                if name.starts_with('.') && !well_known {
                    return None;
                }
                segments.push(name.into_owned());
            }
        }
        Some(Self { segments, slash })
    }

    /// The path relative to the directory; `.` for the directory itself.
    pub(super) fn relative(&self) -> String {
        if self.segments.is_empty() {
            ".".to_owned()
        } else {
            self.segments.join("/")
        }
    }

    /// The last name, from whose ending the type is guessed.
    pub(super) fn name(&self) -> &str {
        if self.slash {
            "index.html"
        } else {
            self.segments.last().map_or("", String::as_str)
        }
    }

    /// The path with a slash at its end, encoded. Built from the names, so it cannot begin with two slashes, which
    /// would name another host.
    pub(super) fn as_directory(&self) -> String {
        let mut path = String::from("/");
        for name in &self.segments {
            path.extend(utf8_percent_encode(name, SEGMENT));
            path.push('/');
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_decoded_once_and_only_after_the_split() {
        let target = Target::of("/a%20b/%2541").unwrap();
        assert_eq!(target.relative(), "a b/%41");
        assert_eq!(
            Target::of("/").unwrap(),
            Target {
                segments: vec![],
                slash: true
            }
        );
        assert!(Target::of("/dir/").unwrap().slash);
    }

    #[test]
    fn whatever_could_climb_hide_or_mean_two_things_is_no_target() {
        for path in [
            "/..",
            "/../etc/passwd",
            "/a/../b",
            "/%2e%2e/b",
            "/%2E./b",
            "/a/%2e%2e%2fb",
            "/a%2fb",
            "/a%00b",
            "//a",
            "/a//b",
            "/.git/config",
            "/a/.env",
            "/.",
            "/./a",
            "/%ff",
            "/a/.well-known/x",
            "relative",
            "",
        ] {
            assert_eq!(Target::of(path), None, "{path}");
        }
        assert!(Target::of("/.well-known/security.txt").is_some());
    }

    proptest! {
        #[test]
        fn a_directorys_path_names_the_same_directory_and_stays_on_this_host(path in "/[ -~]{0,40}") {
            if let Some(target) = Target::of(&path) {
                let directory = target.as_directory();
                prop_assert!(!directory.starts_with("//"));
                let again = Target::of(&directory).unwrap();
                prop_assert_eq!(again.segments, target.segments);
            }
        }
    }
}
