//! Signatures that say whose they are and of what, without keys: nothing in the simulator forges.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::{Distrust, NodeId, SIGNATURE_BYTES, Signature, Signer, Verifier};

/// Signs as one edge.
#[derive(Debug, Clone, Copy)]
pub struct Seal(pub NodeId);

/// Verifies what a [`Seal`] signed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seals;

fn seal(by: &NodeId, message: &[u8]) -> Signature {
    let mut hasher = DefaultHasher::new();
    by.hash(&mut hasher);
    message.hash(&mut hasher);
    let mut signature = [0; SIGNATURE_BYTES];
    for (at, part) in signature.chunks_mut(8).enumerate() {
        at.hash(&mut hasher);
        part.copy_from_slice(&hasher.finish().to_be_bytes());
    }
    signature
}

impl Signer for Seal {
    fn id(&self) -> NodeId {
        self.0
    }

    fn sign(&self, message: &[u8]) -> Signature {
        seal(&self.0, message)
    }
}

impl Verifier for Seals {
    fn verify(&self, by: &NodeId, message: &[u8], signature: &Signature) -> Result<(), Distrust> {
        match seal(by, message) == *signature {
            true => Ok(()),
            false => Err(Distrust::Forged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_of_one_node_and_one_message() {
        let (one, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let signature = Seal(one).sign(b"so");
        assert_eq!(Seals.verify(&one, b"so", &signature), Ok(()));
        assert_eq!(
            Seals.verify(&other, b"so", &signature),
            Err(Distrust::Forged)
        );
        assert_eq!(Seals.verify(&one, b"no", &signature), Err(Distrust::Forged));
    }
}
