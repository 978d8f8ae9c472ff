//! What chitchat is shown of a message that came in: only what the nodes it speaks of have signed.
//!
//! chitchat believes whoever sends: any member could say anything of any other, and a version number high enough would keep the true values out for good. So each message is read
//! here first, judged value by value, and written anew with what is left. What is refused is counted by reason and audited; the rest of the message is used, since an
//! honest node may pass on what it does not know to be revoked yet.
//!
//! The rules. A process has two values: [`CERTIFICATE`], its node's identity certificate, with version 1, and [`STATE`], its [statement](Statement) with the version
//! that is signed into it. So nobody can give a process another version than it gave itself, and nothing is ever deleted. The process's name, generation and address must be
//! those of the statement. Nobody speaks for this process but itself.
//!
//! What no signature covers is whether a process lives: chitchat's heartbeats. A member can make a dead node seem alive, or, with a heartbeat that is ahead, a
//! living one seem dead; the latter's node notices when it sees its own heartbeat ([`Alarm`]) and goes on under another generation. How many processes a member can make up is
//! bounded by the [`Room`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use parking_lot::Mutex;
use stoq::identity::Refusal;
use stoq_routing::membership::{STATEMENT_BYTES_MAX, Statement, StatementError};
use stoq_routing::{Distrust, NodeId, Signer};
use tokio::time::Instant;

use super::metrics::{GossipMetrics, Reason};
use super::papers::Papers;
use super::room::Room;
use super::wire::{Entry, Id, Message, NodeDelta, Value, WireError};

/// The key of a node's identity certificate, base64 of DER.
pub(super) const CERTIFICATE: &str = "c";
/// The key of a node's statement, base64.
pub(super) const STATE: &str = "s";
/// The version of [`CERTIFICATE`]: it is set first and never again.
const CERTIFICATE_VERSION: u64 = 1;
/// Longest certificate that is read.
const CERTIFICATE_BYTES_MAX: usize = 4 << 10;

/// Heartbeats and versions beyond this are of nobody: chitchat would count over.
const COUNT_MAX: u64 = 1 << 48;
/// The same refusal of the same process is audited once in this time.
const AUDIT_EVERY: Duration = Duration::from_secs(60);
/// Refusals of which it is known when they were audited: the next ones are counted, and audited when there is room again.
const AUDITED_MAX: usize = 256;

/// The part of a node's id that is its processes' name in chitchat: what names them in its log. Digests have it for every process, so it is short. Two nodes that share it are told
/// apart by generation and address, and nothing rests on it.
pub(super) fn short(id: &NodeId) -> String {
    let [a, b, c, d, ..] = id.0;
    format!("{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// The certificate as a value.
pub(super) fn certificate_value(der: &[u8]) -> String {
    BASE64.encode(der)
}

/// A statement as a value.
pub(super) fn state_value(statement: &[u8]) -> String {
    BASE64.encode(statement)
}

/// A value as bytes, if it is no longer than `max`.
pub(super) fn bytes_of(value: &str, max: usize) -> Option<Vec<u8>> {
    if value.len() > max.div_ceil(3) * 4 {
        return None;
    }
    BASE64.decode(value).ok()
}

/// A message that is refused whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum GateError {
    #[error("not a message of chitchat's: {0}")]
    Wire(#[from] WireError),
}

/// What makes this process go on under another generation, greater than the one given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alarm {
    pub(super) generation: u64,
    pub(super) why: &'static str,
}

/// Who sent a message.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    /// The name of its certificate, and its node as its processes are named: the connection proves both.
    pub(super) name: String,
    pub(super) node: String,
    /// Where the connection comes from.
    pub(super) addr: SocketAddr,
    /// Where it says that it listens.
    pub(super) listens: SocketAddr,
}

#[derive(Debug)]
pub(super) struct Gate {
    papers: Papers,
    metrics: Arc<GossipMetrics>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// This process.
    own: Option<Own>,
    room: Room,
    alarm: Option<Alarm>,
    /// By whom it is, or who named it.
    audited: BTreeMap<(String, Reason), Instant>,
}

#[derive(Debug)]
struct Own {
    id: Id,
    /// The highest heartbeat that others have said it has.
    said: u64,
}

impl Gate {
    pub(super) fn new(papers: Papers, metrics: Arc<GossipMetrics>) -> Self {
        Self {
            papers,
            metrics,
            inner: Mutex::default(),
        }
    }

    /// Told what chitchat knows, now and then: this process with its heartbeat, and all others. Returns whether one was left out of late.
    pub(super) fn look(
        &self,
        own: Id,
        heartbeat: u64,
        others: impl IntoIterator<Item = Id>,
        now: Instant,
    ) -> bool {
        let mut known: BTreeSet<Id> = others.into_iter().collect();
        known.insert(own.clone());
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let said = inner.own.take_if(|before| before.id == own);
        let said = said.map_or(0, |before| before.said);
        // It never falls, and what others say of it they had from here: so nobody says more than it is now.
        if said > heartbeat {
            self.metrics.refused(Reason::Heartbeat);
            inner.alarm = Some(Alarm {
                generation: own.generation,
                why: "another node made up its heartbeat",
            });
        }
        inner.own = Some(Own { id: own, said: 0 });
        inner.room.look(known, now)
    }

    /// Why this process should go on under another generation, if something came in that says so.
    pub(super) fn alarm(&self) -> Option<Alarm> {
        self.inner.lock().alarm.take()
    }

    /// Judges a message. What is returned is for chitchat, once there was [room](Self::make_room) for it.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn admit(
        &self,
        bytes: &[u8],
        by: &Sender,
        now: Instant,
    ) -> Result<Message, GateError> {
        let mut message = Message::read(bytes)?;
        if let Some(digest) = message.digest_mut() {
            digest.retain(|entry| self.entry(entry));
        }
        if let Some(delta) = message.delta_mut() {
            let mut seen = BTreeSet::new();
            delta.retain(|node| {
                let judged = match seen.insert(node.id.clone()) {
                    true => self.node(node),
                    // chitchat would refuse the whole.
                    false => Err(No::of(Reason::Malformed, "named twice in one message")),
                };
                judged
                    .map_err(|no| self.refuse(&node.id, &no, by, now))
                    .is_ok()
            });
        }
        Ok(message)
    }

    /// Takes out of a message's digest the processes that there is no room for. To be asked right before chitchat is given it.
    pub(super) fn make_room(&self, message: &mut Message, by: &Sender, now: Instant) {
        let Some(digest) = message.digest_mut() else {
            return;
        };
        let left_out = self.inner.lock().room.admit(digest, by, now);
        if left_out == 0 {
            return;
        }
        self.metrics.refused_times(Reason::NoRoom, left_out);
        let no = No::of(Reason::NoRoom, "");
        let detail = format!(
            "{left_out} processes that \"{}\" names are more than there is room for",
            by.name
        );
        self.note(&by.node, &no, by, &detail, now);
    }

    /// Whether what a digest says of a process can be.
    fn entry(&self, entry: &Entry) -> bool {
        let Entry {
            id,
            heartbeat,
            last_gc_version,
            max_version,
        } = entry;
        let sound = is_sound(id)
            && *heartbeat < COUNT_MAX
            && *max_version < COUNT_MAX
            && *last_gc_version == 0;
        if !sound {
            self.metrics.refused(Reason::Malformed);
            return false;
        }
        let mut inner = self.inner.lock();
        if let Some(own) = inner.own.as_mut().filter(|own| own.id == *id) {
            own.said = own.said.max(*heartbeat);
        }
        true
    }

    fn node(&self, node: &NodeDelta) -> Result<(), No> {
        if !is_sound(&node.id) || node.last_gc_version != 0 || node.max_version.is_some() {
            return Err(No::of(Reason::Malformed, "not as any node of ours writes"));
        }
        if self
            .inner
            .lock()
            .own
            .as_ref()
            .is_some_and(|own| own.id == node.id)
        {
            return Err(No::of(Reason::Own, "said of this process, by another"));
        }
        // A process that is told of without it would be known, and never be believed: chitchat asks for no version below the ones it has.
        let first = node.values.first().map(|value| value.version);
        if node.from_version_excluded < CERTIFICATE_VERSION
            && first.is_some_and(|first| first != CERTIFICATE_VERSION)
        {
            return Err(No::of(Reason::Malformed, "its certificate is left out"));
        }
        let mut last = 0;
        for value in &node.values {
            if value.status != 0 || value.version <= last {
                return Err(No::of(Reason::Malformed, "not as any node of ours writes"));
            }
            last = value.version;
            match value.key.as_str() {
                CERTIFICATE => self.certificate(&node.id, value)?,
                STATE => self.state(&node.id, value)?,
                _ => {
                    return Err(No::of(
                        Reason::Malformed,
                        "a value that no node of ours has",
                    ));
                }
            }
        }
        Ok(())
    }

    fn certificate(&self, id: &Id, value: &Value) -> Result<(), No> {
        if value.version != CERTIFICATE_VERSION {
            return Err(No::of(Reason::Malformed, "a certificate that changes"));
        }
        let der = bytes_of(&value.value, CERTIFICATE_BYTES_MAX)
            .ok_or_else(|| No::of(Reason::Malformed, "not base64, or too long"))?;
        let papers = self.papers.learn(&der).map_err(|refusal| {
            let (reason, about) = match &refusal {
                Refusal::Revoked { node_id, .. } => (Reason::Revoked, Some(*node_id)),
                _ => (Reason::Certificate, None),
            };
            No {
                reason,
                about,
                detail: refusal.to_string(),
            }
        })?;
        if short(&super::papers::node_id(papers.node_id)) != id.node {
            return Err(No::of(
                Reason::ForAnother,
                "the certificate of another node",
            ));
        }
        Ok(())
    }

    fn state(&self, id: &Id, value: &Value) -> Result<(), No> {
        let bytes = bytes_of(&value.value, STATEMENT_BYTES_MAX)
            .ok_or_else(|| No::of(Reason::Malformed, "not base64, or too long"))?;
        let statement = self.open(&bytes)?;
        let about = Some(stoq::identity::NodeId(statement.state.id.0));
        let no = |reason, detail: &str| No {
            reason,
            about,
            detail: detail.to_owned(),
        };
        if short(&statement.state.id) != id.node || !statement.state.addresses.contains(&id.addr) {
            return Err(no(Reason::ForAnother, "the statement of another process"));
        }
        if statement.order.generation != id.generation || statement.order.revision != value.version
        {
            return Err(no(
                Reason::Version,
                "under another version than it was signed with",
            ));
        }
        if statement.state.id == self.papers.id() {
            self.own_word(statement.order.generation);
        }
        Ok(())
    }

    /// Reads a statement as bytes, whoever it is by.
    fn open(&self, bytes: &[u8]) -> Result<Statement, No> {
        let by = Statement::claimed(bytes)
            .map_err(|error| No::of(Reason::Malformed, &error.to_string()))?;
        Statement::open(&self.papers, &by, bytes).map_err(|error| No {
            reason: match error {
                StatementError::Version(_) | StatementError::Malformed(_) => Reason::Malformed,
                StatementError::ForAnother => Reason::ForAnother,
                StatementError::Distrusted(Distrust::Unknown) => Reason::Unknown,
                StatementError::Distrusted(Distrust::Revoked) => Reason::Revoked,
                StatementError::Distrusted(Distrust::Forged) => Reason::Forged,
            },
            about: Some(stoq::identity::NodeId(by.0)),
            detail: error.to_string(),
        })
    }

    /// This node's own word came back. Of an older process that is as it should be.
    fn own_word(&self, generation: u64) {
        let mut inner = self.inner.lock();
        let ours = inner.own.as_ref().map_or(0, |own| own.id.generation);
        if generation > ours {
            inner.alarm = Some(Alarm {
                generation,
                why: "there is a later process of this node, or its clock was set back",
            });
        }
    }

    fn refuse(&self, id: &Id, no: &No, by: &Sender, now: Instant) {
        self.metrics.refused(no.reason);
        let detail = format!(
            "said to be of {} at {}, passed on by \"{}\": {}",
            id.node, id.addr, by.name, no.detail
        );
        self.note(&id.node, no, by, &detail, now);
    }

    /// Has a refusal audited: the same, of the same node, once in [`AUDIT_EVERY`].
    fn note(&self, node: &str, no: &No, by: &Sender, detail: &str, now: Instant) {
        {
            let audited = &mut self.inner.lock().audited;
            audited.retain(|_, at| now.duration_since(*at) < AUDIT_EVERY);
            let what = (node.to_owned(), no.reason);
            if audited.contains_key(&what) || audited.len() >= AUDITED_MAX {
                return;
            }
            audited.insert(what, now);
        }
        tracing::warn!(
            reason = no.reason.word(),
            "a node's word is not believed: {detail}"
        );
        self.papers
            .identity()
            .audit_statement(no.about, Some(by.addr), detail);
    }

    /// A statement that chitchat holds, once more: what was good may be revoked or expired by now. Its name is the certificate's.
    pub(super) fn again(&self, certificate: &str, state: &str) -> Option<Statement> {
        let statement = bytes_of(state, STATEMENT_BYTES_MAX)?;
        let by = Statement::claimed(&statement).ok()?;
        let papers = match self.papers.get(&by) {
            // It was forgotten for others.
            Err(Distrust::Unknown) => {
                let der = bytes_of(certificate, CERTIFICATE_BYTES_MAX)?;
                self.papers.learn(&der).ok()?
            }
            found => found.ok()?,
        };
        let mut statement = Statement::open(&self.papers, &by, &statement).ok()?;
        statement.state.name.clone_from(&papers.name);
        Some(statement)
    }

    /// Whether a node that was believed still is.
    pub(super) fn is_current(&self, id: &NodeId) -> bool {
        self.papers.get(id).is_ok()
    }
}

/// Why a value is refused.
#[derive(Debug)]
struct No {
    reason: Reason,
    about: Option<stoq::identity::NodeId>,
    detail: String,
}

impl No {
    fn of(reason: Reason, detail: &str) -> Self {
        Self {
            reason,
            about: None,
            detail: detail.to_owned(),
        }
    }
}

fn is_sound(id: &Id) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    id.node.len() == 8
        && id.node.bytes().all(hex)
        && id.generation < COUNT_MAX
        && id.addr.port() != 0
        && !id.addr.ip().is_unspecified()
        && !id.addr.ip().is_multicast()
}
