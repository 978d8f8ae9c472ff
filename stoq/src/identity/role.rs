//! What the cluster root lets a node be.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::names::{self, NameError};

/// Most roles one identity carries: 128, so that they fit one hello message and a certificate of a few KiB.
pub const ROLES_MAX: usize = 128;

/// A role in the cluster. Stands in the identity certificate as the URI `stoq:role:<role>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Role {
    /// Serves clients, and asks shields and other edges for objects.
    Edge,
    /// Stands before the origins and answers edges.
    Shield,
    /// May issue purges and other commands to the cluster.
    Admin,
    /// May vouch for objects of this site, having fetched them from its origin.
    Fetch(String),
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RoleError {
    /// Not one of the known words.
    #[error("unknown role \"{0}\"; known are edge, shield, admin and fetch:<site>")]
    Unknown(String),
    /// The site of a `fetch:<site>` role is not a possible name.
    #[error(transparent)]
    Site(#[from] NameError),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edge => f.write_str("edge"),
            Self::Shield => f.write_str("shield"),
            Self::Admin => f.write_str("admin"),
            Self::Fetch(site) => write!(f, "fetch:{site}"),
        }
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        match text {
            "edge" => Ok(Self::Edge),
            "shield" => Ok(Self::Shield),
            "admin" => Ok(Self::Admin),
            other => match other.strip_prefix("fetch:") {
                Some(site) => {
                    names::site(site)?;
                    Ok(Self::Fetch(site.to_owned()))
                }
                None => Err(RoleError::Unknown(other.chars().take(80).collect())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_role_are_inverse() {
        for role in [
            Role::Edge,
            Role::Shield,
            Role::Admin,
            Role::Fetch("www.example.org".into()),
            Role::Fetch("*".into()),
        ] {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
    }

    #[test]
    fn what_is_no_role_is_named() {
        assert_eq!(
            "edges".parse::<Role>(),
            Err(RoleError::Unknown("edges".into()))
        );
        assert!(matches!("fetch:".parse::<Role>(), Err(RoleError::Site(_))));
        assert!(matches!(
            "fetch:a b".parse::<Role>(),
            Err(RoleError::Site(_))
        ));
    }
}
