//! Which roles may ask which kind of exchange.

use std::collections::BTreeMap;

use crate::hello::RoleRule;
use crate::identity::{PeerIdentity, Role};

/// What each kind of exchange asks of the peer's roles, given to a [`PeerServer`](super::PeerServer). The roles are those
/// that the cluster's root signed into its identity certificate, whatever its hello says. An exchange that is not
/// permitted is reset with [`StreamCode::Forbidden`](crate::wire::StreamCode::Forbidden) before the handler sees it; the
/// connection goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KindRules {
    by_kind: BTreeMap<u16, RoleRule>,
    others: RoleRule,
}

impl KindRules {
    /// Every kind for every peer: the default.
    #[must_use]
    pub fn open() -> Self {
        Self::default()
    }

    /// No kind for anybody, until [`permit`](Self::permit) says otherwise.
    #[must_use]
    pub fn closed() -> Self {
        Self {
            by_kind: BTreeMap::new(),
            others: RoleRule::AnyOf(Vec::new()),
        }
    }

    /// This kind for peers with at least one of these roles, and for no others.
    #[must_use]
    pub fn permit(mut self, kind: u16, roles: impl Into<Vec<Role>>) -> Self {
        self.by_kind.insert(kind, RoleRule::AnyOf(roles.into()));
        self
    }

    /// Whether this peer may ask this.
    #[must_use]
    pub fn permits(&self, kind: u16, peer: &PeerIdentity) -> bool {
        self.by_kind
            .get(&kind)
            .unwrap_or(&self.others)
            .admits(&peer.roles)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls_pki_types::UnixTime;

    use super::*;
    use crate::identity::NodeId;

    #[test]
    fn kind_is_for_the_roles_it_names_and_for_no_others() {
        let peer = |roles: &[Role]| {
            let end = UnixTime::since_unix_epoch(Duration::ZERO);
            PeerIdentity::for_test(NodeId([0; 32]), "x", roles, end)
        };
        let (edge, admin, nobody) = (peer(&[Role::Edge]), peer(&[Role::Admin]), peer(&[]));
        let both = peer(&[Role::Shield, Role::Admin]);
        for (rules, kind, permitted) in [
            (KindRules::open(), 1, [true; 4]),
            (KindRules::closed(), 1, [false; 4]),
            (
                KindRules::open().permit(1, [Role::Admin]),
                1,
                [false, true, false, true],
            ),
            (KindRules::open().permit(1, [Role::Admin]), 2, [true; 4]),
            (
                KindRules::closed().permit(1, [Role::Edge, Role::Shield]),
                1,
                [true, false, false, true],
            ),
        ] {
            let found = [&edge, &admin, &nobody, &both].map(|peer| rules.permits(kind, peer));
            assert_eq!(found, permitted, "{rules:?} {kind}");
        }
    }
}
