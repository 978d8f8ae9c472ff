//! A signature scheme for tests: a keyed checksum that whoever knows the key's number can make. It keeps nobody out.

use std::collections::BTreeSet;

use crate::space::NodeId;
use crate::trust::{Distrust, SIGNATURE_BYTES, Signature, Signer, Verifier};

/// A node's key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key(pub(crate) u8);

impl Key {
    pub(crate) fn id(self) -> NodeId {
        NodeId([self.0; 32])
    }
}

/// 64 bytes in which each byte of the message counts, by its place.
fn checksum(key: u8, message: &[u8]) -> Signature {
    let mut state = 0xcbf2_9ce4_8422_2325u64 ^ u64::from(key);
    for byte in message {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let mut signature = [0; SIGNATURE_BYTES];
    for (at, eight) in signature.chunks_exact_mut(8).enumerate() {
        state = (state ^ at as u64).wrapping_mul(0x0000_0100_0000_01b3);
        eight.copy_from_slice(&state.to_be_bytes());
    }
    signature
}

impl Signer for Key {
    fn id(&self) -> NodeId {
        NodeId([self.0; 32])
    }

    fn sign(&self, message: &[u8]) -> Signature {
        checksum(self.0, message)
    }
}

/// Members and revoked members.
#[derive(Debug, Clone, Default)]
pub(crate) struct Book {
    members: BTreeSet<u8>,
    revoked: BTreeSet<u8>,
}

impl Book {
    pub(crate) fn of(members: impl IntoIterator<Item = u8>) -> Self {
        Self {
            members: members.into_iter().collect(),
            revoked: BTreeSet::new(),
        }
    }

    pub(crate) fn revoking(mut self, member: u8) -> Self {
        self.revoked.insert(member);
        self
    }
}

impl Verifier for Book {
    fn verify(&self, by: &NodeId, message: &[u8], signature: &Signature) -> Result<(), Distrust> {
        let [key, ..] = by.0;
        if self.revoked.contains(&key) {
            return Err(Distrust::Revoked);
        }
        if !self.members.contains(&key) {
            return Err(Distrust::Unknown);
        }
        if checksum(key, message) != *signature {
            return Err(Distrust::Forged);
        }
        Ok(())
    }
}
