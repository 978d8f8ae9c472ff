//! Who a node is, and how two nodes prove it to each other.
//!
//! ```text
//! cluster root        Ed25519, made once by the operator; signs identities, touches no network
//!   └─ identity       Ed25519 node key; the certificate carries cluster, node name and roles
//!        └─ leaf      a fresh key in memory only, issued by the node itself, at most 72 h
//! ```
//!
//! Every connection between nodes is mutual TLS 1.3. The same function, [`check`], decides about a peer inside
//! the handshake and once more when it has ended, so a peer that resumes an old session is judged by today's
//! clock too. It is a plain function of (certificates, root, now).
//!
//! Trust comes from the cluster root alone; the system's root store plays no part. Roles are read from the
//! identity certificate, which only the root can sign, never from the leaf, which the node signs itself.
//!
//! What certificates cannot say is in [`Trust`]: the clock, the [`Revocations`], how often leaves are issued
//! ([`Rotation`]), and who is told of refusals ([`AuditSink`]). Between a node's leaves there is no break: the next one is
//! shown from a third of a leaf's life on, and a connection is replaced before its last third begins.
//!
//! What a clock may be off by is [`CLOCK_TOLERANCE`]. Not here: which exchanges a role permits
//! ([`KindRules`](crate::peer::KindRules)).

mod allowance;
mod audit;
mod audit_file;
mod check;
mod desk;
mod error;
mod file;
mod handshake;
mod hex;
mod id;
mod issue_log;
mod leaf;
mod names;
mod node;
mod papers;
mod pem_file;
mod registrar;
mod revoked;
mod role;
mod root;
#[cfg(test)]
mod tests;
mod tls;
mod trust;

pub use audit::{AuditEvent, AuditSink, AuditWhat, NoAudit, rfc3339};
pub use audit_file::{AuditFile, AuditLimits};
pub use check::{CLOCK_TOLERANCE, LEAF_LIFETIME_MAX, PeerIdentity, check};
pub(crate) use desk::{DESK_NAME, check_desk, joiner_key, joiner_papers};
pub use error::{IdentityError, Link, Refusal};
pub use file::IdentityFile;
pub(crate) use handshake::{Judge, tls_client, tls_server};
pub use id::{NodeId, NodeIdError};
pub use issue_log::{Head, IssueLog, IssueLogError, Issued, LineFault};
pub use leaf::{Rotation, RotationError};
pub use names::{NAME_BYTES_MAX, NameError};
pub(crate) use node::Term;
pub use node::{Identity, RefusalCounters};
pub use papers::Papers;
pub use registrar::Registrar;
pub use revoked::{REVOKED_MAX, Revocations};
pub use role::{ROLES_MAX, Role, RoleError};
pub(crate) use root::possible;
pub use root::{ClusterRoot, RootCertificate, Validity};
pub use tls::{ALPN, SERVER_NAME};
pub use trust::Trust;
