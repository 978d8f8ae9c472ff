//! What stands in braces in a scenario's commands:
//!
//! | written | becomes |
//! |---|---|
//! | `{host:NAME}` | the IPv4 address of a host |
//! | `{host6:NAME}` | its IPv6 address, without brackets |
//! | `{pid:NAME}` | the process id of a host's first process |
//! | `{bench}` | this program |
//! | `{dir}` | the directory of the scenario file |
//!
//! Other braces are the shell's and stay.

use std::collections::BTreeSet;

/// A placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placeholder<'a> {
    /// `{host:NAME}`.
    Host(&'a str),
    /// `{host6:NAME}`.
    Host6(&'a str),
    /// `{pid:NAME}`.
    Pid(&'a str),
    /// `{bench}`.
    Bench,
    /// `{dir}`.
    Dir,
}

impl<'a> Placeholder<'a> {
    /// `inside` without its braces.
    fn read(inside: &'a str) -> Option<Self> {
        match inside.split_once(':') {
            Some(("host", name)) => Some(Self::Host(name)),
            Some(("host6", name)) => Some(Self::Host6(name)),
            Some(("pid", name)) => Some(Self::Pid(name)),
            None if inside == "bench" => Some(Self::Bench),
            None if inside == "dir" => Some(Self::Dir),
            _ => None,
        }
    }

    const fn name(self) -> Option<&'a str> {
        match self {
            Self::Host(name) | Self::Host6(name) | Self::Pid(name) => Some(name),
            Self::Bench | Self::Dir => None,
        }
    }
}

/// Whether all placeholders of `text` name a host that there is.
pub(super) fn check(text: &str, hosts: &BTreeSet<String>) -> Result<(), String> {
    fill(text, |placeholder| match placeholder.name() {
        Some(name) if !hosts.contains(name) => {
            let written = match placeholder {
                Placeholder::Host6(_) => "host6",
                Placeholder::Pid(_) => "pid",
                _ => "host",
            };
            Err(format!(
                "there is no host `{name}` for {{{written}:{name}}}: {}",
                one_of(hosts)
            ))
        }
        _ => Ok(String::new()),
    })
    .map(|_| ())
}

/// `one of a, b`.
pub(super) fn one_of(names: &BTreeSet<String>) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    format!("one of {}", names.join(", "))
}

/// `text` with its placeholders replaced.
///
/// # Errors
/// The first that `value` gives.
pub(super) fn fill<E>(
    text: &str,
    mut value: impl FnMut(Placeholder<'_>) -> Result<String, E>,
) -> Result<String, E> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, from)) = rest.split_once('{') {
        filled.push_str(before);
        let found = from
            .split_once('}')
            .and_then(|(inside, after)| Some((Placeholder::read(inside)?, after)));
        if let Some((placeholder, after)) = found {
            filled.push_str(&value(placeholder)?);
            rest = after;
        } else {
            filled.push('{');
            rest = from;
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        let fill = |text| {
            fill(text, |placeholder| {
                Ok::<_, ()>(format!("<{placeholder:?}>"))
            })
            .unwrap()
        };
        assert_eq!(
            fill("a {host:b}:1 [{host6:b}]"),
            "a <Host(\"b\")>:1 [<Host6(\"b\")>]"
        );
        assert_eq!(fill("{bench} {dir}"), "<Bench> <Dir>");
        for same in [
            "awk '{print $1}'",
            "${HOME} {x:y}",
            "{ {",
            "}",
            "{\"a\": {}}",
        ] {
            assert_eq!(fill(same), same);
        }
        assert_eq!(fill("{ {pid:a}"), "{ <Pid(\"a\")>");
    }
}
