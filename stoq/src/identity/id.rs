//! The name of a node that nobody can choose: a hash of its public key.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::hex;

/// BLAKE3 of the identity key's SubjectPublicKeyInfo (DER). Stable for the life of the key, whatever
/// certificates are issued for it; two nodes share one only if they share a private key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// The id of the node that holds the key with this SubjectPublicKeyInfo.
    #[must_use]
    pub fn of_spki(spki_der: &[u8]) -> Self {
        Self(*blake3::hash(spki_der).as_bytes())
    }

    /// The first eight hex digits: for log lines, never for decisions.
    #[must_use]
    pub fn short(&self) -> String {
        let [a, b, c, d, ..] = self.0;
        format!("{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// A text that is no node id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is no node id: 64 hexadecimal digits are")]
pub struct NodeIdError(String);

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        hex::decode(&text.to_ascii_lowercase())
            .map(Self)
            .ok_or_else(|| NodeIdError(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_form_is_the_head_of_the_long_one() {
        let id = NodeId::of_spki(b"a key");
        assert_eq!(id.to_string().len(), 64);
        assert!(id.to_string().starts_with(&id.short()));
        assert_eq!(id.short().len(), 8);
    }

    #[test]
    fn text_and_id_are_inverse() {
        let id = NodeId::of_spki(b"a key");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", &id.short(), &format!("{id}0"), &"g".repeat(64)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }
}
