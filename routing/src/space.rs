//! The 256-bit space that nodes and keys share, and how far apart two of its points are.

use std::fmt;

/// A node's place: the hash of its identity key, as its certificates name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub [u8; 32]);

/// An object's place: its cache key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

/// How far two points are apart: their XOR, as a number with the first byte the greatest (Kademlia, Maymounkov and Mazières 2002, §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Distance(pub [u8; 32]);

impl Distance {
    fn between(one: &[u8; 32], other: &[u8; 32]) -> Self {
        Self(std::array::from_fn(|at| one[at] ^ other[at]))
    }

    /// Leading bits that both points share: 256 for a point and itself.
    #[must_use]
    pub fn shared_bits(&self) -> u32 {
        let zeros = self.0.iter().take_while(|byte| **byte == 0).count();
        let rest = self.0.get(zeros).map_or(0, |byte| byte.leading_zeros());
        u32::try_from(zeros).unwrap_or(32) * 8 + rest
    }
}

impl NodeId {
    /// How far this node is from a key.
    #[must_use]
    pub fn distance(&self, key: &Key) -> Distance {
        Distance::between(&self.0, &key.0)
    }
}

/// The first eight hexadecimal digits: what logs and tables show.
fn short(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes[..4]
        .iter()
        .try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        short(&self.0, f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        short(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_orders_by_the_first_bit_that_differs() {
        let key = Key([0; 32]);
        let mut near = [0; 32];
        near[31] = 0xff;
        let mut far = [0; 32];
        far[0] = 1;
        assert!(NodeId(near).distance(&key) < NodeId(far).distance(&key));
        assert_eq!(NodeId(far).distance(&key).shared_bits(), 7);
        assert_eq!(NodeId(near).distance(&key).shared_bits(), 248);
        assert_eq!(NodeId([0; 32]).distance(&key).shared_bits(), 256);
    }
}
