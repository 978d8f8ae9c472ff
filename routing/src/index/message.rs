//! What nodes say to each other about the index, and what a holder signs of it. How it looks on the wire is `wire`'s.
//!
//! | asked | answered |
//! |---|---|
//! | [`Request::Find`]: who holds this key? | [`Reply::Providers`] |
//! | [`Request::Announce`]: what changed of what I hold, signed | [`Reply::Accepted`], which renews the lease |
//! | [`Request::Renew`]: I am there, and one number for all you know of me, signed | [`Reply::Kept`], or [`Reply::Differs`] with a digest per bucket |
//! | any | [`Reply::Refused`] |
//!
//! A lease is between one holder and one owner, for one generation of the holder. It has no records of its own to renew: one [`Renewal`] of some 200 bytes
//! keeps them all, and tells whether both sides still mean the same ones. Where they do not, the holder clears and fills the buckets that
//! differ. An owner that never heard of the holder, has lost its disk or let the lease lapse needs no words of its own: its digests are zero.

use super::{
    record::{Answer, Digests, Record},
    wire::Codec,
};
use crate::{Distrust, Key, NodeId, Signature, Signer, Verifier};

/// Changes in one announcement: 512 × 74 B = 37 KiB, which with its head fits a control message.
pub const CHANGES_MAX: usize = 512;

/// One change of what an owner knows of a holder. They apply in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Forget all of a bucket: what follows is all there is.
    Clear(u8),
    /// The holder holds this, whatever it said of the key before.
    Add(Record),
    /// The holder holds nothing of this key any more: a tombstone.
    Remove(Key),
}

/// Which lease a message is of, and which of its messages it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Whose records they are, who signs, and from whose connection the message has to come.
    pub holder: NodeId,
    /// For whom the message is.
    pub owner: NodeId,
    /// A holder that lost what it knew of itself begins a greater one; all records of the lesser are void.
    pub generation: u64,
    /// Counts up with each message of a generation; what is not greater than the last is refused.
    pub sequence: u64,
}

/// Changes of what a holder holds. Being accepted renews the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Which lease.
    pub terms: Terms,
    /// At most [`CHANGES_MAX`].
    pub changes: Vec<Change>,
}

/// Keeps all records of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// Which lease.
    pub terms: Terms,
    /// [`root`](super::root) of the digests of what the holder thinks the owner has.
    pub root: u64,
}

/// What a holder signs.
pub trait Statement {
    /// The words that what is signed begins with, so that no signature of one kind serves for another.
    const CONTEXT: &'static [u8];

    /// Which lease it is of.
    fn terms(&self) -> &Terms;

    /// Writes its bytes, of which each statement has one form only.
    fn write(&self, to: &mut Vec<u8>);
}

impl Statement for Announcement {
    const CONTEXT: &'static [u8] = b"stoq-routing index announcement v1\n";

    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn write(&self, to: &mut Vec<u8>) {
        self.put(to);
    }
}

impl Statement for Renewal {
    const CONTEXT: &'static [u8] = b"stoq-routing index renewal v1\n";

    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn write(&self, to: &mut Vec<u8>) {
        self.put(to);
    }
}

/// A statement with its holder's signature, which covers holder, owner and place in the lease: it cannot be shown to another owner or again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<S> {
    /// What is said.
    pub statement: S,
    /// By `terms.holder`, over the context and the statement's bytes.
    pub signature: Signature,
}

impl<S: Statement> Signed<S> {
    fn message(statement: &S) -> Vec<u8> {
        let mut message = S::CONTEXT.to_vec();
        statement.write(&mut message);
        message
    }

    /// Signs as the holder, which the signer has to be: else nobody believes it.
    #[must_use]
    pub fn by(signer: &dyn Signer, statement: S) -> Self {
        let signature = signer.sign(&Self::message(&statement));
        Self {
            statement,
            signature,
        }
    }

    /// Whether `me` may act on it, having got it from `from`. It says nothing of whether it is fresh.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &self,
        me: &NodeId,
        from: &NodeId,
        verifier: &dyn Verifier,
    ) -> Result<(), Refusal> {
        let terms = self.statement.terms();
        if terms.holder != *from {
            return Err(Refusal::ForAnother);
        }
        if terms.owner != *me {
            return Err(Refusal::NotForMe);
        }
        let message = Self::message(&self.statement);
        verifier
            .verify(&terms.holder, &message, &self.signature)
            .map_err(|distrust| match distrust {
                Distrust::Unknown => Refusal::Unknown,
                Distrust::Revoked => Refusal::Revoked,
                Distrust::Forged => Refusal::Forged,
            })
    }
}

/// What a node asks of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Who holds this?
    Find {
        /// The object.
        key: Key,
        /// Whether the asker may not see all members: then closer nodes are named, and where they and the holders are.
        wide: bool,
    },
    /// What changed.
    Announce(Signed<Announcement>),
    /// Nothing changed.
    Renew(Signed<Renewal>),
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To [`Request::Find`].
    Providers(Answer),
    /// To [`Request::Announce`]: all is applied but these.
    Accepted {
        /// Places in the announcement of records that the owner has no room for, ascending.
        refused: Vec<u16>,
    },
    /// To [`Request::Renew`]: both mean the same records.
    Kept {
        /// Whether records that were refused before would be taken now.
        room: bool,
    },
    /// To [`Request::Renew`]: they do not. The lease is renewed all the same.
    Differs {
        /// What the owner has.
        digests: Box<Digests>,
        /// Whether records that were refused before would be taken now.
        room: bool,
    },
    /// To any.
    Refused(Refusal),
}

/// Why something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Its bytes mean nothing.
    #[error("malformed")]
    Malformed,
    /// It came from another node than its holder: a record announced for somebody else.
    #[error("announced for another node")]
    ForAnother,
    /// It was signed for another owner.
    #[error("meant for another owner")]
    NotForMe,
    /// Its holder is no member.
    #[error("its holder is not a member")]
    Unknown,
    /// Its holder is revoked.
    #[error("its holder is revoked")]
    Revoked,
    /// The signature is not its holder's.
    #[error("its signature is not its holder's")]
    Forged,
    /// Not newer than what the owner had from this holder.
    #[error("not newer than {generation}.{sequence}")]
    Stale {
        /// The generation the owner is at.
        generation: u64,
        /// The last message of it that the owner took.
        sequence: u64,
    },
    /// The owner keeps as many leases as it may.
    #[error("no room for another holder")]
    Full,
    /// The owner has more to write to its disk than it may owe; later it will take it.
    #[error("busy")]
    Busy,
}

impl Refusal {
    /// Each kind, in the order of [`Self::at`]: for counters.
    pub const LABELS: [&'static str; 9] = [
        "malformed",
        "for-another",
        "not-for-me",
        "unknown",
        "revoked",
        "forged",
        "stale",
        "full",
        "busy",
    ];

    /// Which of [`Self::LABELS`] it is.
    #[must_use]
    pub fn at(&self) -> usize {
        match self {
            Self::Malformed => 0,
            Self::ForAnother => 1,
            Self::NotForMe => 2,
            Self::Unknown => 3,
            Self::Revoked => 4,
            Self::Forged => 5,
            Self::Stale { .. } => 6,
            Self::Full => 7,
            Self::Busy => 8,
        }
    }
}

#[cfg(test)]
mod tests;
