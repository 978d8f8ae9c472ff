//! What a node's judgement rests on beside its papers.

use std::sync::Arc;

use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use super::audit::{AuditSink, NoAudit};
use super::leaf::Rotation;
use super::revoked::Revocations;

/// Clock, leaf rotation, revocation list and audit of an [`Identity`](super::Identity).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Trust {
    /// The clock by which certificates are issued and judged, with
    /// [`CLOCK_TOLERANCE`](super::CLOCK_TOLERANCE). Default: the system's.
    pub clock: Arc<dyn TimeProvider>,
    /// When the node issues itself the next leaf. Default: every 24 h.
    pub rotation: Rotation,
    /// Nodes that are refused whatever they show. Default: an empty list. Keep a clone to change it.
    pub revocations: Revocations,
    /// Who is told of each refusal. Default: nobody but the log.
    pub audit: Arc<dyn AuditSink>,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            clock: Arc::new(DefaultTimeProvider),
            rotation: Rotation::default(),
            revocations: Revocations::default(),
            audit: Arc::new(NoAudit),
        }
    }
}
