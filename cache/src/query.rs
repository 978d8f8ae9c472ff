//! What of a URL's query names an object at a site, by the operator's word.
//!
//! Invariant: a rule does not only shape the key, it shapes the target that is asked for. The origin never sees a
//! parameter that the key does not, so it cannot answer by it: what is stored under a key is an answer to all that share it.
//! Parameters end at `&` alone. An origin that also ends them at `;` still gets each of ours whole or not at all.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::key::{CacheKey, normalize};

/// What of a query takes part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryPolicy {
    /// Which parameters.
    pub take: Take,
    /// Whether they are put in the order of their names; those of one name keep theirs. Default: as they come.
    pub sort: bool,
}

/// Which parameters of a query take part. Names are compared in their normal form (RFC 3986 section 6.2.2), case and all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Take {
    /// The whole query; with [`QueryPolicy::sort`] without its empty members.
    #[default]
    All,
    /// Nothing: there is no query.
    Nothing,
    /// All but those with one of these names.
    Except(Vec<Pattern>),
    /// Those with one of these names.
    Only(Vec<Pattern>),
}

impl QueryPolicy {
    fn is_keep(&self) -> bool {
        !self.sort && self.take == Take::All
    }

    fn takes(&self, name: &str) -> bool {
        let among = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
        match &self.take {
            Take::All => true,
            Take::Nothing => false,
            Take::Except(patterns) => !among(patterns),
            Take::Only(patterns) => among(patterns),
        }
    }

    /// What is left of a query; `None` where nothing is, which is no query at all and not an empty one.
    fn apply(&self, query: &str) -> Option<String> {
        let mut parameters: SmallVec<[&str; 16]> = query
            .split('&')
            .filter(|parameter| !parameter.is_empty() && self.takes(name(parameter)))
            .collect();
        if self.sort {
            parameters.sort_by_key(|parameter| name(parameter));
        }
        (!parameters.is_empty()).then(|| parameters.join("&"))
    }
}

fn name(parameter: &str) -> &str {
    parameter.split('=').next().unwrap_or_default()
}

/// A text, or all that begin with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    is_prefix: bool,
}

impl Pattern {
    /// A parameter's name, with a `*` behind it for all that begin so.
    #[must_use]
    pub fn parameter(text: &str) -> Self {
        let (text, is_prefix) = split_star(text);
        // As a query of one name, so that the pattern is spelt as the names that it meets.
        let target = normalize(&format!("/?{text}")).into_owned();
        let text = target.strip_prefix("/?").unwrap_or(text).to_owned();
        Self { text, is_prefix }
    }

    /// A path, with a `*` behind it for all that begin so. It has no dot segments.
    #[must_use]
    pub fn path(text: &str) -> Self {
        let (text, is_prefix) = split_star(text);
        let text = normalize(text).into_owned();
        Self { text, is_prefix }
    }

    fn matches(&self, text: &str) -> bool {
        if self.is_prefix {
            text.starts_with(&self.text)
        } else {
            text == self.text
        }
    }
}

fn split_star(text: &str) -> (&str, bool) {
    text.strip_suffix('*')
        .map_or((text, false), |prefix| (prefix, true))
}

/// A site's policies: the first rule that has the path decides, else the site's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryRules {
    /// Where no rule has the path. Default: the query is kept as it is.
    pub otherwise: QueryPolicy,
    /// Paths in their normal form, and what counts there. Walked for each request: the operator keeps them few.
    pub rules: Vec<(Vec<Pattern>, QueryPolicy)>,
}

impl QueryRules {
    /// The policy of a normal path.
    fn policy(&self, path: &str) -> &QueryPolicy {
        self.rules
            .iter()
            .find(|(paths, _)| paths.iter().any(|pattern| pattern.matches(path)))
            .map_or(&self.otherwise, |(_, policy)| policy)
    }

    /// The target that upstreams are asked for, and that the key is made of. Idempotent, so that each tier may apply it to
    /// what the tier before made of it. Borrows where nothing changes; allocates nothing then unless a rule touches the query.
    #[must_use]
    pub fn target<'a>(&self, path_and_query: &'a str) -> Cow<'a, str> {
        let normal = normalize(path_and_query);
        if self.otherwise.is_keep() && self.rules.is_empty() {
            return normal;
        }
        let once = self.changed(&normal).map_or(normal, Cow::Owned);
        // A parameter that is not well-formed keeps all of its target from being normalised. Where it was dropped, the
        // rest is normalised now, and its names may read otherwise. A third round would change nothing.
        let again = normalize(&once);
        match self.changed(&again) {
            Some(twice) => Cow::Owned(twice),
            None if *again == *once => once,
            None => Cow::Owned(again.into_owned()),
        }
    }

    /// The key of a URL at the site named `site`, as [`CacheKey::of`] makes it from [`QueryRules::target`].
    #[must_use]
    pub fn key(&self, site: &str, scheme: &str, authority: &str, path_and_query: &str) -> CacheKey {
        CacheKey::of_normal(site, scheme, authority, &self.target(path_and_query))
    }

    /// What a policy makes of a target; `None` where that is the same.
    fn changed(&self, target: &str) -> Option<String> {
        let (path, query) = target.split_once('?')?;
        let policy = self.policy(path);
        if policy.is_keep() || !(path.is_empty() || path.starts_with('/')) {
            return None;
        }
        let left = policy.apply(query);
        if left.as_deref() == Some(query) {
            return None;
        }
        Some(left.map_or_else(|| path.to_owned(), |left| format!("{path}?{left}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterns(names: &[&str]) -> Vec<Pattern> {
        names.iter().map(|name| Pattern::parameter(name)).collect()
    }

    fn only(take: Take, sort: bool) -> QueryRules {
        QueryRules {
            otherwise: QueryPolicy { take, sort },
            rules: Vec::new(),
        }
    }

    #[test]
    fn targets_keep_of_their_query_what_the_table_says() {
        let drop = || Take::Except(patterns(&["utm_*", "fbclid", "a%2fb"]));
        #[rustfmt::skip]
        let table = [
            (only(Take::All, false), "/p?b=1&&a=2&", "/p?b=1&&a=2&"),
            (only(Take::All, false), "/p?", "/p?"),
            (only(Take::All, true), "/p?b=1&&a=2&a=1&", "/p?a=2&a=1&b=1"),
            (only(Take::All, true), "/p?", "/p"),
            (only(Take::Nothing, false), "/p?b=1", "/p"),
            (only(Take::Nothing, false), "/%70?%zz", "/p"),
            (only(Take::Nothing, false), "*", "*"),
            (only(drop(), false), "/p?b=1&utm_source=x&a&fbclid", "/p?b=1&a"),
            (only(drop(), false), "/p?utm_a=1&utm_=2", "/p"),
            (only(drop(), false), "/p?utm=1&UTM_a=2&fbclid2", "/p?utm=1&UTM_a=2&fbclid2"),
            // A name is compared as it is spelt after normalising.
            (only(drop(), false), "/p?%75tm%5Fa=1&a%2Fb=1&x", "/p?x"),
            // What hides behind another delimiter goes or stays with the parameter it hides in.
            (only(drop(), false), "/p?utm_a=1;b=2&c=3", "/p?c=3"),
            (only(Take::Only(patterns(&["v", "w*"])), true), "/p?w2=1&x=2&v=3&v2", "/p?v=3&w2=1"),
            (only(Take::Only(patterns(&["v"])), false), "/p?v=1;x=2", "/p?v=1;x=2"),
        ];
        for (rules, given, want) in table {
            assert_eq!(rules.target(given), want, "{given} under {rules:?}");
        }
    }

    #[test]
    fn the_first_rule_that_has_the_path_decides() {
        let rules = QueryRules {
            otherwise: QueryPolicy::default(),
            rules: vec![
                (
                    vec![Pattern::path("/img/raw/*"), Pattern::path("/%7elogo")],
                    QueryPolicy::default(),
                ),
                (
                    vec![Pattern::path("/img/*")],
                    QueryPolicy {
                        take: Take::Nothing,
                        sort: false,
                    },
                ),
            ],
        };
        for (given, want) in [
            ("/img/a?x", "/img/a"),
            ("/x/../img/a?x", "/img/a"),
            ("/%69mg/a?x", "/img/a"),
            ("/img/raw/a?x", "/img/raw/a?x"),
            ("/~logo?x", "/~logo?x"),
            ("/img?x", "/img?x"),
            // An encoded slash is no slash: this is not below /img/.
            ("/img%2Fa?x", "/img%2Fa?x"),
        ] {
            assert_eq!(rules.target(given), want, "{given}");
        }
    }

    fn rules() -> impl Strategy<Value = QueryRules> {
        let policy = || {
            let take = prop_oneof![
                Just(Take::All),
                Just(Take::Nothing),
                Just(Take::Except(patterns(&["a*", "b"]))),
                Just(Take::Only(patterns(&["a", "%7e*"]))),
            ];
            (take, any::<bool>()).prop_map(|(take, sort)| QueryPolicy { take, sort })
        };
        let rule = (prop_oneof![Just("/a*"), Just("/b")], policy())
            .prop_map(|(path, policy)| (vec![Pattern::path(path)], policy));
        (policy(), prop::collection::vec(rule, 0..3))
            .prop_map(|(otherwise, rules)| QueryRules { otherwise, rules })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        // The shield applies its rules to what the edge made of the target with the same ones.
        #[test]
        fn a_second_tier_finds_the_same_key(
            rules in rules(),
            target in "/(%61|%7E|a|b|%zz|\\.\\./|%2e|/){0,4}(\\?(a|b|%61|%7e|~|=|&|%zz|%|\\?|1){0,10})?",
        ) {
            let target_once = rules.target(&target).into_owned();
            prop_assert_eq!(rules.target(&target_once), &*target_once);
            let key = |target: &str| rules.key("s", "https", "h", target);
            prop_assert_eq!(key(&target), key(&target_once));
            prop_assert_eq!(key(&target), CacheKey::of("s", "https", "h", &target_once));
        }
    }
}
