//! What two nodes settle before the first exchange: version, capabilities, who takes part as what.
//!
//! Only the decision is here, as a function of both hellos and of the peer's certificate; sending and waiting are
//! [`peer`](crate::peer)'s.

use thiserror::Error;

use crate::identity::{PeerIdentity, Role};
use crate::wire::{CloseCode, Hello};

/// All capabilities that this version knows. A bit gets its meaning in the [wire document](crate::wire).
pub const CAPABILITIES: u64 = Hello::DATAGRAMS;

/// Which peers may take part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RoleRule {
    /// Any node of the cluster.
    #[default]
    Any,
    /// Nodes that hold, and take part in, at least one of these roles.
    AnyOf(Vec<Role>),
}

impl RoleRule {
    /// Whether somebody with these roles may take part.
    #[must_use]
    pub fn admits(&self, roles: &[Role]) -> bool {
        match self {
            Self::Any => true,
            Self::AnyOf(wanted) => wanted.iter().any(|role| roles.contains(role)),
        }
    }
}

/// What both sides go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The version of all frames from here on.
    pub version: u8,
    /// The capabilities that both have.
    pub capabilities: u64,
}

/// Why a peer is refused for its hello.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HelloRefusal {
    /// Not in time.
    #[error("no hello within {0:?}")]
    Timeout(std::time::Duration),
    /// Not readable, or something else in its place.
    #[error("hello expected: {0}")]
    Malformed(String),
    /// No version in common.
    #[error("the peer speaks versions {}–{}, we speak {}–{}", theirs.0, theirs.1, ours.0, ours.1)]
    Version {
        /// The peer's lowest and highest.
        theirs: (u8, u8),
        /// Our lowest and highest.
        ours: (u8, u8),
    },
    /// It will not talk without something unknown to us.
    #[error("the peer insists on unknown capabilities {0:#018x}")]
    Capability(u64),
    /// It takes part in none of the roles asked for.
    #[error(
        "the peer \"{name}\" has none of the roles that may talk here; it takes part as {roles:?}"
    )]
    WrongRole {
        /// Its name.
        name: String,
        /// The roles of its hello.
        roles: Vec<Role>,
    },
    /// It claims to be more than its certificate says.
    #[error("the peer claims {claim}, its certificate does not say so")]
    Claim {
        /// The name or role.
        claim: String,
    },
}

impl HelloRefusal {
    /// The code with which the connection is closed.
    #[must_use]
    pub fn code(&self) -> CloseCode {
        match self {
            Self::Timeout(_) => CloseCode::HelloTimeout,
            Self::Malformed(_) => CloseCode::HelloMalformed,
            Self::Version { .. } => CloseCode::Version,
            Self::Capability(_) => CloseCode::Capability,
            Self::WrongRole { .. } => CloseCode::WrongRole,
            Self::Claim { .. } => CloseCode::Claim,
        }
    }
}

/// Settles what holds between us and a peer whose certificates were found good.
///
/// # Errors
/// The first reason found not to talk to it.
pub fn agree(
    ours: &Hello,
    theirs: &Hello,
    peer: &PeerIdentity,
    rule: &RoleRule,
) -> Result<Agreement, HelloRefusal> {
    let version = ours.version_max.min(theirs.version_max);
    if version < ours.version_min.max(theirs.version_min) {
        return Err(HelloRefusal::Version {
            theirs: (theirs.version_min, theirs.version_max),
            ours: (ours.version_min, ours.version_max),
        });
    }
    let unknown = theirs.capabilities & Hello::CRITICAL & !ours.capabilities;
    if unknown != 0 {
        return Err(HelloRefusal::Capability(unknown));
    }
    if theirs.name != peer.name {
        return Err(HelloRefusal::Claim {
            claim: format!("the name \"{}\"", theirs.name),
        });
    }
    if let Some(role) = theirs.roles.iter().find(|role| !peer.has(role)) {
        return Err(HelloRefusal::Claim {
            claim: format!("the role {role}"),
        });
    }
    if !rule.admits(&theirs.roles) {
        return Err(HelloRefusal::WrongRole {
            name: theirs.name.clone(),
            roles: theirs.roles.clone(),
        });
    }
    Ok(Agreement {
        version,
        capabilities: ours.capabilities & theirs.capabilities,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls_pki_types::UnixTime;

    use super::*;
    use crate::identity::NodeId;
    use crate::wire::Versions;

    fn peer(roles: &[Role]) -> PeerIdentity {
        PeerIdentity::for_test(
            NodeId([7; 32]),
            "edge-1",
            roles,
            UnixTime::since_unix_epoch(Duration::from_secs(9)),
        )
    }

    fn range(version_min: u8, version_max: u8) -> Hello {
        Hello {
            version_min,
            version_max,
            ..Hello::new("edge-1", &[Role::Edge], Versions::default())
        }
    }

    #[test]
    fn highest_common_version_is_taken_and_none_is_refused() {
        let peer = peer(&[Role::Edge]);
        for (ours, theirs, want) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 2), (1, 1), Some(1)),
            ((2, 3), (1, 2), Some(2)),
            ((1, 3), (1, 4), Some(3)),
            ((2, 2), (1, 1), None),
            ((1, 1), (2, 9), None),
        ] {
            let got = agree(
                &range(ours.0, ours.1),
                &range(theirs.0, theirs.1),
                &peer,
                &RoleRule::Any,
            );
            assert_eq!(
                got.as_ref().ok().map(|agreed| agreed.version),
                want,
                "{ours:?} {theirs:?}"
            );
            if let Err(refusal) = got {
                assert_eq!(refusal.code(), CloseCode::Version);
            }
        }
    }

    #[test]
    fn unknown_capability_refuses_only_if_critical() {
        let peer = peer(&[Role::Edge]);
        let ours = Hello {
            capabilities: 0b110,
            ..range(1, 1)
        };
        let optional = Hello {
            capabilities: 0b011,
            ..range(1, 1)
        };
        assert_eq!(
            agree(&ours, &optional, &peer, &RoleRule::Any)
                .unwrap()
                .capabilities,
            0b010
        );
        let critical = Hello {
            capabilities: 1 << 40,
            ..range(1, 1)
        };
        assert_eq!(
            agree(&ours, &critical, &peer, &RoleRule::Any),
            Err(HelloRefusal::Capability(1 << 40))
        );
        assert!(agree(&critical, &critical, &peer, &RoleRule::Any).is_ok());
    }

    #[test]
    fn hello_claims_nothing_beyond_the_certificate() {
        let (ours, rule) = (range(1, 1), RoleRule::AnyOf(vec![Role::Shield]));
        let shield = Hello::new("edge-1", &[Role::Shield], Versions::default());
        let code = |theirs: &Hello, held: &[Role]| {
            agree(&ours, theirs, &peer(held), &rule).map_err(|e| e.code())
        };
        assert_eq!(code(&shield, &[Role::Edge]), Err(CloseCode::Claim));
        assert_eq!(
            code(&range(1, 1), &[Role::Edge, Role::Shield]),
            Err(CloseCode::WrongRole)
        );
        assert_eq!(
            code(
                &Hello::new("edge-2", &[Role::Shield], Versions::default()),
                &[Role::Shield]
            ),
            Err(CloseCode::Claim)
        );
        assert!(code(&shield, &[Role::Edge, Role::Shield]).is_ok());
    }
}
