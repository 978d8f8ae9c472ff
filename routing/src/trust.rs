//! What routing needs of identity: to sign as this node, and to be told whether a signature is another's.

use crate::NodeId;

/// Bytes of a [`Signature`].
pub const SIGNATURE_BYTES: usize = 64;

/// An Ed25519 signature (RFC 8032).
pub type Signature = [u8; SIGNATURE_BYTES];

/// Why what a node is said to have said is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Distrust {
    /// No certificate of it is known, or none that the cluster's root signed.
    #[error("not a member of the cluster")]
    Unknown,
    /// It is on the revocation list.
    #[error("revoked")]
    Revoked,
    /// The signature is not by its key, or not of these bytes.
    #[error("the signature is not its own")]
    Forged,
}

/// Signs as this node.
pub trait Signer: Send + Sync {
    /// Who signs.
    fn id(&self) -> NodeId;

    /// Signs a message. What is signed begins with words that say what it is, so that no signature serves for something else.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// Tells whose a signature is.
pub trait Verifier: Send + Sync {
    /// Whether `by` is a member and signed exactly this.
    ///
    /// # Errors
    /// Why it is not to be believed.
    fn verify(&self, by: &NodeId, message: &[u8], signature: &Signature) -> Result<(), Distrust>;
}
