//! What a node says of itself, signed, so that it may pass through others.
//!
//! ```text
//! statement = version u8 = 1, generation u64, revision u64, signature [64], state
//! signed    = CONTEXT, id [32], generation u64, revision u64, state
//! ```
//!
//! The generation is of the process (it counts up from start to start), the revision of the statement within it. Both are signed, so what a node said before never
//! passes for what it says now: of two statements the one with the greater ([`Order`]) holds.

use super::codec::{self, STATE_BYTES_MAX, StateError};
use crate::node::NodeState;
use crate::space::NodeId;
use crate::trust::{Distrust, SIGNATURE_BYTES, Signature, Signer, Verifier};

/// What the signed bytes begin with.
const CONTEXT: &[u8] = b"stoq statement of a node v1\0";
const VERSION: u8 = 1;
const HEAD: usize = 1 + 8 + 8 + SIGNATURE_BYTES;

/// Longest statement, bytes.
pub const STATEMENT_BYTES_MAX: usize = HEAD + STATE_BYTES_MAX;

/// Which of a node's statements is the later: the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order {
    /// Of the process that said it.
    pub generation: u64,
    /// Of the statement within that generation.
    pub revision: u64,
}

/// A node's word that was found to be its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Where it stands among this node's others.
    pub order: Order,
    /// What it says.
    pub state: NodeState,
}

/// Why bytes are not believed to be a node's statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Of another version of this protocol.
    #[error("version {0} of statements is not known here")]
    Version(u8),
    /// Not readable.
    #[error("malformed: {0}")]
    Malformed(#[from] StateError),
    /// Signed by one node, about another.
    #[error("it speaks for another node than the one that signed it")]
    ForAnother,
    /// Who signed it is not to be believed.
    #[error(transparent)]
    Distrusted(#[from] Distrust),
}

fn signed(id: &NodeId, order: Order, state: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CONTEXT.len() + 32 + 16 + state.len());
    bytes.extend_from_slice(CONTEXT);
    bytes.extend_from_slice(&id.0);
    bytes.extend_from_slice(&order.generation.to_be_bytes());
    bytes.extend_from_slice(&order.revision.to_be_bytes());
    bytes.extend_from_slice(state);
    bytes
}

impl Statement {
    /// Signs and writes a state.
    ///
    /// # Errors
    /// The state says more than is allowed, or is of another node than the signer.
    pub fn seal(
        signer: &dyn Signer,
        order: Order,
        state: &NodeState,
    ) -> Result<Vec<u8>, StatementError> {
        if state.id != signer.id() {
            return Err(StatementError::ForAnother);
        }
        let state = codec::encode(state)?;
        let signature = signer.sign(&signed(&signer.id(), order, &state));
        let mut bytes = Vec::with_capacity(HEAD + state.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&order.generation.to_be_bytes());
        bytes.extend_from_slice(&order.revision.to_be_bytes());
        bytes.extend_from_slice(&signature);
        bytes.extend_from_slice(&state);
        Ok(bytes)
    }

    /// Whose statement it says it is. Nothing is proven by that.
    ///
    /// # Errors
    /// It is no statement.
    pub fn claimed(bytes: &[u8]) -> Result<NodeId, StatementError> {
        let (_, _, state) = split(bytes)?;
        Ok(codec::id(state)?)
    }

    /// Reads a statement that is said to be `by` this node. The signature is checked before the state is looked at.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn open(
        verifier: &dyn Verifier,
        by: &NodeId,
        bytes: &[u8],
    ) -> Result<Self, StatementError> {
        if bytes.len() > STATEMENT_BYTES_MAX {
            return Err(StatementError::Malformed(StateError::TooMany {
                what: "bytes of a statement",
                got: bytes.len(),
                max: STATEMENT_BYTES_MAX,
            }));
        }
        let (order, signature, state) = split(bytes)?;
        verifier.verify(by, &signed(by, order, state), &signature)?;
        let state = codec::decode(state)?;
        if state.id != *by {
            return Err(StatementError::ForAnother);
        }
        Ok(Self { order, state })
    }
}

fn split(bytes: &[u8]) -> Result<(Order, Signature, &[u8]), StatementError> {
    let cut = StatementError::Malformed(StateError::Truncated);
    let (&version, rest) = bytes.split_first().ok_or(cut)?;
    if version != VERSION {
        return Err(StatementError::Version(version));
    }
    let (generation, rest) = rest.split_first_chunk::<8>().ok_or(cut)?;
    let (revision, rest) = rest.split_first_chunk::<8>().ok_or(cut)?;
    let (signature, state) = rest.split_first_chunk::<SIGNATURE_BYTES>().ok_or(cut)?;
    let order = Order {
        generation: u64::from_be_bytes(*generation),
        revision: u64::from_be_bytes(*revision),
    };
    Ok((order, *signature, state))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{Book, Key};
    use super::*;
    use crate::node::Zone;

    const ORDER: Order = Order {
        generation: 3,
        revision: 4,
    };

    fn state(id: NodeId) -> NodeState {
        NodeState::new(id, "a", Zone::unknown())
    }

    #[test]
    fn a_nodes_own_word_is_believed() {
        let (a, book) = (Key(1), Book::of([1, 2]));
        let bytes = Statement::seal(&a, ORDER, &state(a.id())).unwrap();
        let read = Statement::open(&book, &a.id(), &bytes).unwrap();
        assert_eq!((read.order, read.state), (ORDER, state(a.id())));
    }

    #[test]
    fn words_of_others_unknown_and_revoked_are_not() {
        let (a, b) = (Key(1), Key(2));
        let book = Book::of([1, 2]).revoking(4);
        let of_a = Statement::seal(&a, ORDER, &state(a.id())).unwrap();
        let refused = |by: &Key, bytes: &[u8]| Statement::open(&book, &by.id(), bytes).unwrap_err();
        // b hands on what it wrote about a.
        assert_eq!(refused(&b, &of_a), Distrust::Forged.into());
        assert_eq!(
            Statement::seal(&b, ORDER, &state(a.id())),
            Err(StatementError::ForAnother)
        );
        for (key, why) in [(Key(3), Distrust::Unknown), (Key(4), Distrust::Revoked)] {
            let bytes = Statement::seal(&key, ORDER, &state(key.id())).unwrap();
            assert_eq!(refused(&key, &bytes), why.into());
        }
        assert_eq!(refused(&a, &[2, 0]), StatementError::Version(2));
    }

    proptest! {
        #[test]
        fn every_changed_bit_is_found(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let (a, book) = (Key(1), Book::of([1]));
            let mut bytes = Statement::seal(&a, ORDER, &state(a.id())).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Statement::open(&book, &a.id(), &bytes).is_err());
        }

        #[test]
        fn bytes_from_anybody_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            prop_assert!(Statement::open(&Book::of([1]), &Key(1).id(), &bytes).is_err());
        }
    }
}
