//! What an auditor wants to read later: who was refused when and why, and who was let into the cluster.
//!
//! Each refusal of a peer by this node is one [`AuditEvent`], given to the [`AuditSink`] of its
//! [`Trust`](super::Trust). [`AuditFile`](super::AuditFile) is the sink that writes files.

use std::fmt;
use std::net::SocketAddr;

use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Serialize;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::check::PeerIdentity;
use super::id::NodeId;
use super::names::NAME_BYTES_MAX;
use super::root::{NODE_URI, uris};
use crate::wire::{CloseCode, StreamCode};

/// Longest text from a peer that is kept of it: 512 characters.
const TEXT_CHARS_MAX: usize = 512;

/// Where audit events go. Called on the paths that refuse, so it must not block; [`AuditFile`](super::AuditFile) writes
/// on a thread of its own.
pub trait AuditSink: fmt::Debug + Send + Sync {
    /// Takes note of an event.
    fn record(&self, event: &AuditEvent);
}

/// Keeps nothing. The log has a line for each refusal all the same.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAudit;

impl AuditSink for NoAudit {
    fn record(&self, _event: &AuditEvent) {}
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditWhat {
    /// A peer was refused for its certificates, in the handshake or right after it.
    Handshake(CloseCode),
    /// A peer was refused for its hello.
    Hello(CloseCode),
    /// A living connection was closed, for what has come to be known of its peer or has ended meanwhile.
    Connection(CloseCode),
    /// An exchange was refused; its connection goes on.
    Exchange(StreamCode),
    /// A node was given an identity for its token.
    Joined,
    /// A node was given none.
    JoinRefused(CloseCode),
    /// Something that is said to be a node's word was not believed; who passed it on may be another node.
    Statement,
}

impl AuditWhat {
    /// The word in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Handshake(_) => "handshake_refused",
            Self::Hello(_) => "hello_refused",
            Self::Connection(_) => "connection_closed",
            Self::Exchange(_) => "exchange_refused",
            Self::Joined => "joined",
            Self::JoinRefused(_) => "join_refused",
            Self::Statement => "statement_refused",
        }
    }

    /// The code with which the peer was told, if it was refused.
    #[must_use]
    pub fn code(self) -> Option<u64> {
        match self {
            Self::Handshake(code)
            | Self::Hello(code)
            | Self::Connection(code)
            | Self::JoinRefused(code) => Some(code.code()),
            Self::Exchange(code) => Some(code.code()),
            Self::Joined | Self::Statement => None,
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEvent {
    /// When, by this node's clock; `None` if it has none.
    pub at: Option<UnixTime>,
    /// What.
    pub what: AuditWhat,
    /// The peer, as the identity certificate it showed says. Proven unless it was refused as foreign or malformed.
    pub node_id: Option<NodeId>,
    /// The peer's name, likewise.
    pub name: Option<String>,
    /// Its address. `None` for who was refused inside a handshake that it began: TLS does not know addresses.
    pub addr: Option<SocketAddr>,
    /// For people, cut after 512 characters.
    pub detail: String,
}

impl AuditEvent {
    /// Something about which no more is known than this.
    #[must_use]
    pub fn new(at: Option<UnixTime>, what: AuditWhat, detail: &str) -> Self {
        Self {
            at,
            what,
            node_id: None,
            name: None,
            addr: None,
            detail: detail.chars().take(TEXT_CHARS_MAX).collect(),
        }
    }

    pub(crate) fn of(mut self, peer: &PeerIdentity) -> Self {
        (self.node_id, self.name) = (Some(peer.node_id), Some(peer.name.clone()));
        self
    }

    /// Of whoever these certificates say it is.
    pub(super) fn claiming(mut self, certs: &[CertificateDer<'_>]) -> Self {
        let Some(identity) = certs.get(1) else {
            return self;
        };
        if let Ok((_, identity)) = X509Certificate::from_der(identity) {
            self.node_id = Some(NodeId::of_spki(identity.public_key().raw));
            let name = uris(&identity).find_map(|uri| uri.strip_prefix(NODE_URI));
            self.name = name.map(|name| name.chars().take(NAME_BYTES_MAX).collect());
        }
        self
    }

    /// The node, where it is sure that this is about it.
    pub(super) fn proven(&self) -> Option<NodeId> {
        let is_stranger = match self.what {
            AuditWhat::Handshake(code) => matches!(
                code,
                CloseCode::NoCertificate
                    | CloseCode::MalformedCertificate
                    | CloseCode::Foreign
                    | CloseCode::Cluster
            ),
            AuditWhat::JoinRefused(_) => true,
            _ => false,
        };
        self.node_id.filter(|_| !is_stranger)
    }

    pub(crate) fn seen_at(mut self, addr: Option<SocketAddr>) -> Self {
        self.addr = addr;
        self
    }

    /// The event as one line of JSON, without its end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let line = Line {
            time: self.at.map(rfc3339),
            event: self.what.word(),
            code: self.what.code(),
            node: self.node_id.map(|id| id.to_string()),
            name: self.name.as_deref(),
            addr: self.addr.map(|addr| addr.to_string()),
            detail: &self.detail,
        };
        // No map and no foreign type is in it, so nothing can fail.
        serde_json::to_string(&line).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: Option<String>,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<String>,
    detail: &'a str,
}

/// `2026-01-31T23:59:59Z`, or the bare seconds where the calendar ends.
#[must_use]
pub fn rfc3339(time: UnixTime) -> String {
    let stamp = i64::try_from(time.as_secs())
        .ok()
        .and_then(|secs| ASN1Time::from_timestamp(secs).ok());
    let Some(at) = stamp.map(|stamp| stamp.to_datetime()) else {
        return time.as_secs().to_string();
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn line_says_everything_once_and_cannot_be_forged_by_a_name() {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(951_782_399));
        let what = AuditWhat::Handshake(CloseCode::Revoked);
        let mut event = AuditEvent::new(Some(at), what, "on the \"list\"\n");
        event.name = Some("a\",\"event\":\"joined".into());
        event.addr = Some("192.0.2.1:7443".parse().unwrap());
        assert_eq!(
            event.to_json(),
            "{\"time\":\"2000-02-28T23:59:59Z\",\"event\":\"handshake_refused\",\"code\":39,\
             \"name\":\"a\\\",\\\"event\\\":\\\"joined\",\"addr\":\"192.0.2.1:7443\",\
             \"detail\":\"on the \\\"list\\\"\\n\"}"
        );
        let long = AuditEvent::new(None, AuditWhat::Joined, &"ä".repeat(9999));
        assert_eq!(long.detail.chars().count(), TEXT_CHARS_MAX);
        assert!(long.to_json().starts_with("{\"time\":null,"));
    }
}
