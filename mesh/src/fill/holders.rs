//! Where holders of an object come from.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::BoxFuture;
use stoq::identity::NodeId;
use stoq::pool::Pool;
use stoq_cache::content::ManifestId;
use stoq_cache::key::CacheKey;

/// What is looked for, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Sought<'a> {
    /// The site's name.
    pub site: &'a str,
    /// The URL's key.
    pub key: CacheKey,
    /// The fingerprint of the key that names the site's chunks.
    pub chunk_key_id: [u8; 16],
    /// The connections of the worker that looks, for whoever has to ask other nodes.
    pub pool: &'a Pool,
}

/// A node that is said to hold an object or a part of it. It is a hint: what it gives is verified, and that it does not have it costs time alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who it must prove to be, where that is known.
    pub node: Option<NodeId>,
    /// Where it takes connections from other nodes, in the order in which to try them; at most 8 are.
    pub addresses: Vec<SocketAddr>,
    /// Root of the manifest whose chunks it holds.
    pub manifest: ManifestId,
    /// Whether it holds all of them. Of another it is asked which.
    pub whole: bool,
    /// The round trip to it, where that is known.
    pub rtt: Option<Duration>,
}

impl Candidate {
    /// Whether both are one node, as far as is known.
    pub(super) fn is_same_node(&self, other: &Self) -> bool {
        match (self.node, other.node) {
            (Some(one), Some(other)) => one == other,
            _ => self.addresses.first() == other.addresses.first(),
        }
    }
}

/// Each node once, where it is named first.
pub(super) fn nodes<'a>(candidates: impl IntoIterator<Item = &'a Candidate>) -> Vec<&'a Candidate> {
    let mut nodes: Vec<&Candidate> = Vec::new();
    for candidate in candidates {
        if !nodes.iter().any(|known| known.is_same_node(candidate)) {
            nodes.push(candidate);
        }
    }
    nodes
}

/// Knows who holds what: the provider index, or a list of nodes that are asked.
pub trait Holders: Send + Sync + fmt::Debug {
    /// Nodes that hold the object under this key, or another version of it, the best first. Not this node itself. Empty where nobody is known.
    ///
    /// Who asks stops waiting after a while, and goes to the shield. Cancel safe.
    fn find<'a>(&'a self, sought: Sought<'a>) -> BoxFuture<'a, Vec<Candidate>>;

    /// Whether the object is fetched for nobody who waits, ahead of need: its chunks are asked for after all else. Default: no.
    fn is_for_later(&self, key: &CacheKey) -> bool {
        let _ = key;
        false
    }
}

/// The manifest that most nodes among the candidates hold, of equals that of the first; and those who hold it.
pub(super) fn agree(candidates: Vec<Candidate>) -> Option<(ManifestId, Vec<Candidate>)> {
    let of = |root: &ManifestId| nodes(candidates.iter().filter(|one| one.manifest == *root)).len();
    let mut best: Option<(usize, ManifestId)> = None;
    for candidate in &candidates {
        let count = of(&candidate.manifest);
        if best.is_none_or(|(most, _)| count > most) {
            best = Some((count, candidate.manifest));
        }
    }
    let (_, root) = best?;
    let those = candidates.into_iter().filter(|one| one.manifest == root);
    Some((root, those.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_most_hold_is_taken_and_the_first_of_equals() {
        let candidate = |byte, port| Candidate {
            node: None,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], port))],
            manifest: ManifestId::from_bytes([byte; 32]),
            whole: true,
            rtt: None,
        };
        let ports = |of: Vec<Candidate>| {
            agree(of).map(|(root, those)| {
                let ports: Vec<_> = those.iter().map(|one| one.addresses[0].port()).collect();
                (root.as_bytes()[0], ports)
            })
        };
        assert_eq!(ports(Vec::new()), None);
        let mixed = vec![candidate(1, 1), candidate(2, 2), candidate(2, 3)];
        assert_eq!(ports(mixed), Some((2, vec![2, 3])));
        let equal = vec![candidate(1, 1), candidate(2, 2)];
        assert_eq!(ports(equal), Some((1, vec![1])));
        // One node is one, however often it is named and wherever it is.
        let named = |port| Candidate {
            node: Some(NodeId([9; 32])),
            ..candidate(1, port)
        };
        let often = vec![
            named(1),
            named(2),
            named(3),
            candidate(2, 4),
            candidate(2, 5),
        ];
        assert_eq!(ports(often), Some((2, vec![4, 5])));
    }
}
