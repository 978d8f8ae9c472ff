//! A site's rules for queries, from the operator's file to the cache: one way for edge and shield, whose keys must agree.

use stoq_cache::query::{Pattern, QueryPolicy, QueryRules, Take};
use stoq_node::config::{Query, Site, Take as Configured};

/// What of a query counts at this site.
#[must_use]
pub fn query_rules(site: &Site) -> QueryRules {
    let rules = site.rules.iter().map(|rule| {
        let paths = rule.paths.iter().map(|path| Pattern::path(path)).collect();
        (paths, policy(&rule.query))
    });
    QueryRules {
        otherwise: policy(&site.query),
        rules: rules.collect(),
    }
}

fn policy(query: &Query) -> QueryPolicy {
    let patterns = |names: &[String]| names.iter().map(|name| Pattern::parameter(name)).collect();
    let take = match &query.take {
        Configured::All => Take::All,
        Configured::Nothing => Take::Nothing,
        Configured::Except(names) => Take::Except(patterns(names)),
        Configured::Only(names) => Take::Only(patterns(names)),
    };
    QueryPolicy {
        take,
        sort: query.sort,
    }
}
