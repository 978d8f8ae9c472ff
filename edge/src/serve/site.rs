//! Step two: the host names its site. Exact names win over wildcards, the longest wildcard over
//! shorter ones, and `"*"` takes what is left; the port plays no part.
//!
//! The table is built once from the configuration and never changes: a lookup is one hash of the
//! name, and one more for each label when wildcards exist at all.

use std::collections::HashMap;

use stoq_node::config::HostPattern;

/// Host patterns to the position of their site.
#[derive(Debug, Default)]
pub(crate) struct SiteTable {
    exact: HashMap<Box<str>, usize>,
    /// Key: what follows `*.`.
    below: HashMap<Box<str>, usize>,
    any: Option<usize>,
}

impl SiteTable {
    /// A table of `sites`, each given as its host patterns. The earlier of two equal patterns wins; the
    /// configuration refuses such pairs before they come here.
    pub(crate) fn new<'a>(sites: impl IntoIterator<Item = &'a [HostPattern]>) -> Self {
        let mut table = Self::default();
        for (position, patterns) in sites.into_iter().enumerate() {
            for pattern in patterns {
                match pattern {
                    HostPattern::Exact(host) => {
                        table.exact.entry(host.as_str().into()).or_insert(position)
                    }
                    HostPattern::Below(domain) => table
                        .below
                        .entry(domain.as_str().into())
                        .or_insert(position),
                    HostPattern::Any => table.any.get_or_insert(position),
                };
            }
        }
        table
    }

    /// The site of a canonical host (lower case; no trailing dot, brackets or port).
    pub(crate) fn find(&self, host: &str) -> Option<usize> {
        if let Some(position) = self.exact.get(host) {
            return Some(*position);
        }
        if !self.below.is_empty() {
            let mut rest = host;
            while let Some((_, suffix)) = rest.split_once('.') {
                if let Some(position) = self.below.get(suffix) {
                    return Some(*position);
                }
                rest = suffix;
            }
        }
        self.any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(host: &str) -> HostPattern {
        HostPattern::Exact(host.to_owned())
    }

    fn below(domain: &str) -> HostPattern {
        HostPattern::Below(domain.to_owned())
    }

    #[test]
    fn the_most_specific_pattern_wins() {
        let sites = [
            vec![exact("example.com"), exact("::1")],
            vec![below("example.com")],
            vec![below("img.example.com"), exact("one.img.example.com")],
        ];
        let table = SiteTable::new(sites.iter().map(Vec::as_slice));
        for (host, want) in [
            ("example.com", Some(0)),
            ("::1", Some(0)),
            ("www.example.com", Some(1)),
            ("a.b.example.com", Some(1)),
            ("img.example.com", Some(1)),
            ("x.img.example.com", Some(2)),
            ("one.img.example.com", Some(2)),
            ("badexample.com", None),
            ("com", None),
            ("", None),
        ] {
            assert_eq!(table.find(host), want, "{host}");
        }
    }

    #[test]
    fn catch_all_takes_only_what_is_left() {
        let table = SiteTable::new([&[HostPattern::Any][..], &[exact("a.test"), below("b.test")]]);
        assert_eq!(
            [
                table.find("a.test"),
                table.find("x.b.test"),
                table.find("b.test"),
                table.find("c")
            ],
            [Some(1), Some(1), Some(0), Some(0)]
        );
    }
}
