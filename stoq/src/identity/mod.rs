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
//! Not here: what a role permits (the layers above decide), revocation, and enrolment by token. Enrolment will
//! sign a joiner's public key where [`ClusterRoot::issue`] now makes the key as well.

mod check;
mod error;
mod file;
mod id;
mod leaf;
mod names;
mod node;
mod pem_file;
mod role;
mod root;
#[cfg(test)]
mod tests;
mod tls;

pub use check::{CLOCK_TOLERANCE, LEAF_LIFETIME_MAX, PeerIdentity, check};
pub use error::{IdentityError, Link, Refusal};
pub use file::IdentityFile;
pub use id::NodeId;
pub use names::{NAME_BYTES_MAX, NameError};
pub use node::{Identity, RefusalCounters};
pub use role::{ROLES_MAX, Role, RoleError};
pub use root::{ClusterRoot, RootCertificate, Validity};
pub(crate) use tls::Verdict;
pub use tls::{ALPN, SERVER_NAME};
