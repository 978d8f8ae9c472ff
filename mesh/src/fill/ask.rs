//! Reaching a holder, and the small questions: what it has of a URL, and which chunks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stoq::identity::{NodeId, Role};
use stoq::peer::{Ask, Exchange, ExchangeError, Part, PeerConn};
use stoq::pool::Pool;
use stoq_cache::content::ChunkId;
use stoq_cache::key::CacheKey;
use tokio::time::Instant;

use super::holders::Candidate;
use super::quarantine::Quarantine;
use crate::object::{ShieldClient, VoucherError};
use crate::wire::{self, DecodeError, Holdings, HoldingsRequest, Manifests, ManifestsRequest};

/// Addresses of a holder that are tried.
const ADDRESSES_MAX: usize = 8;

/// How long a holder may take to say which chunks it has: 1 s.
pub(super) const SAYS_WITHIN: Duration = Duration::from_secs(1);

/// Why a holder is not asked, or what came of it is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// No connection, or no exchange on it.
    #[error("{0}")]
    Unreachable(String),
    /// Somebody else answers there.
    #[error("{got} answers in the place of {wanted}")]
    Another {
        /// Who was expected.
        wanted: NodeId,
        /// Who is there.
        got: NodeId,
    },
    /// Its certificate names neither the role edge nor shield.
    #[error("{0} is neither an edge nor a shield")]
    Role(NodeId),
    /// It stands outside the site's zones.
    #[error("{0} stands outside the zones of the site")]
    Outside(NodeId),
    /// It sent wrong bytes not long ago.
    #[error("{0} is in quarantine")]
    Quarantined(NodeId),
    /// It was not reached, or did not say all, in the time there was for it.
    #[error("no answer in time")]
    Silent,
    /// The exchange broke.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The message is none.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It is said that somebody vouches for it, and nobody to be believed does.
    #[error("a voucher that is not believed: {0}")]
    Voucher(#[from] VoucherError),
    /// It answers something else than was asked.
    #[error("an answer without a head, or to another question")]
    Answer,
}

/// How a holder is reached.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// Another edge.
    Peer(Candidate),
    /// The shield, whichever node of it is there for this URL.
    Shield(Arc<ShieldClient>, Arc<str>, CacheKey),
}

impl Way {
    /// A connection to it, once it is known to be who it should be.
    pub(super) async fn connect(
        &self,
        pool: &Pool,
        quarantine: &Quarantine,
    ) -> Result<PeerConn, AskError> {
        match self {
            Self::Shield(shield, site, key) => {
                let conn = shield.connection(site, key).await;
                conn.map_err(AskError::Unreachable)
            }
            Self::Peer(candidate) => {
                let mut last = AskError::Unreachable("it has no address".to_owned());
                for addr in candidate.addresses.iter().take(ADDRESSES_MAX) {
                    match pool.get(*addr).await {
                        Ok(conn) => match judge(&conn, candidate.node, quarantine) {
                            Ok(()) => return Ok(conn),
                            Err(error) => last = error,
                        },
                        Err(error) => last = AskError::Unreachable(error.to_string()),
                    }
                }
                Err(last)
            }
        }
    }
}

fn judge(conn: &PeerConn, wanted: Option<NodeId>, quarantine: &Quarantine) -> Result<(), AskError> {
    let peer = &conn.peer().identity;
    let got = peer.node_id;
    if let Some(wanted) = wanted.filter(|wanted| *wanted != got) {
        return Err(AskError::Another { wanted, got });
    }
    if !peer.has(&Role::Edge) && !peer.has(&Role::Shield) {
        return Err(AskError::Role(got));
    }
    if quarantine.holds(&got, Instant::now()) {
        return Err(AskError::Quarantined(got));
    }
    Ok(())
}

/// Which of these chunks of a site a peer holds, at most [`CHUNKS_MAX`](wire::CHUNKS_MAX) of them.
pub(super) async fn holdings(
    conn: &PeerConn,
    site: &str,
    chunk_key_id: [u8; 16],
    chunks: &[ChunkId],
) -> Result<Vec<bool>, AskError> {
    let request = HoldingsRequest {
        chunk_key_id,
        site: site.to_owned(),
        chunks: chunks.iter().map(|id| *id.as_bytes()).collect(),
    };
    let answer = head(conn, wire::HOLDINGS, request.encode()?, SAYS_WITHIN).await?;
    let Holdings { held } = Holdings::decode(&answer)?;
    if held.len() == chunks.len() {
        Ok(held)
    } else {
        Err(AskError::Answer)
    }
}

/// What a peer has stored of a URL.
pub(super) async fn manifests(
    conn: &PeerConn,
    request: &ManifestsRequest,
) -> Result<Manifests, AskError> {
    let answer = head(conn, wire::MANIFESTS, request.encode()?, SAYS_WITHIN).await?;
    Ok(Manifests::decode(&answer)?)
}

/// An exchange whose answer is a head alone.
async fn head(
    conn: &PeerConn,
    kind: u16,
    control: Bytes,
    within: Duration,
) -> Result<Bytes, AskError> {
    let ask = Ask::new(kind, control).within(within).replay_safe();
    let Exchange { send, mut recv } = conn.ask(ask).await?;
    send.finish().await?;
    let Some(Part::Head(head)) = recv.next().await? else {
        return Err(AskError::Answer);
    };
    match recv.next().await? {
        None => Ok(head),
        Some(_) => Err(AskError::Answer),
    }
}
