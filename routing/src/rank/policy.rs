//! By what the nodes that could be asked are ordered.

use std::{fmt, str::FromStr};

/// By what the nodes that could be asked are ordered. The cuts hold under each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// Round trip, load, and for large objects the time they take. The default.
    #[default]
    Latency,
    /// Load alone; where it is much the same, the nearer.
    LeastLoaded,
    /// The key: the same one for the same object as long as it is there, wherever it is.
    Affinity,
    /// Where the nodes are on the globe, whatever was measured.
    Geo,
    /// Each in its turn.
    RoundRobin,
}

impl Policy {
    /// All of them, as messages list them.
    pub const ALL: [Self; 5] = [
        Self::Latency,
        Self::LeastLoaded,
        Self::Affinity,
        Self::Geo,
        Self::RoundRobin,
    ];

    /// Its name in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::LeastLoaded => "least-loaded",
            Self::Affinity => "affinity",
            Self::Geo => "geo",
            Self::RoundRobin => "round-robin",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No policy has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no policy is named `{0}`: latency, least-loaded, affinity, geo or round-robin")]
pub struct NoSuchPolicy(String);

impl FromStr for Policy {
    type Err = NoSuchPolicy;

    fn from_str(name: &str) -> Result<Self, NoSuchPolicy> {
        let named = Self::ALL.into_iter().find(|policy| policy.name() == name);
        named.ok_or_else(|| NoSuchPolicy(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_read_by_its_name_and_listed_where_a_name_is_wrong() {
        let wrong = "latencies".parse::<Policy>().unwrap_err().to_string();
        for policy in Policy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
            assert!(wrong.contains(policy.name()), "{wrong}");
        }
    }
}
