//! Asking another edge for what a shield has vouched for: who it is and what it names, believed before a byte is used.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use stoq::identity::Identity;
use stoq::peer::{Ask, Exchange, Part, PeerConn};
use stoq_cache::content::{ChunkId, GrowingManifest, Manifest, Profile, Validators};
use tokio::time::{Instant, timeout_at};

use super::ask::{AskError, SAYS_WITHIN};
use crate::object::{Voucher, VoucherError};
use crate::wire::{self, ObjectRequest};

/// Chunks that an object may have that is put together without a shield: 65,536, which is 3 MiB of names and, in the smallest, some 1 GiB. A longer one is not.
const NAMES_MAX: usize = 65_536;

/// How long the names of an object may take: 5 s.
pub(super) const NAMED_WITHIN: Duration = Duration::from_secs(5);

/// An object as a shield has vouched for it, and the names of its chunks.
#[derive(Debug)]
pub(super) struct Vouched {
    pub(super) voucher: Voucher,
    /// The voucher as it came, to be kept.
    pub(super) sealed: Bytes,
    pub(super) manifest: Manifest,
}

/// What a node has of the object that is asked for, for a request with these fields, of which it is told a part. It is to begin until `begun_by`.
///
/// # Errors
/// It has nothing, or what it says is not to be believed.
pub(super) async fn ask(
    conn: &PeerConn,
    request: &ObjectRequest,
    fields: &HeaderMap,
    identity: &Identity,
    begun_by: Instant,
) -> Result<Vouched, AskError> {
    let ask = Ask::new(wire::VOUCHED, request.encode()?);
    let ask = ask.within(SAYS_WITHIN + NAMED_WITHIN).replay_safe();
    let Exchange { send, mut recv } = conn.ask(ask).await?;
    send.finish().await?;
    let first = timeout_at(begun_by, recv.next()).await;
    let Ok(Some(Part::Head(sealed))) = first.map_err(|_| AskError::Silent)? else {
        return Err(AskError::Answer);
    };
    let voucher = Voucher::open(&sealed, identity)?;
    let is_asked = voucher.key == request.key
        && voucher.chunk_key_id == request.chunk_key_id
        && voucher.site == request.site
        && voucher.answers(fields);
    if !is_asked {
        return Err(AskError::Answer);
    }
    let mut growing: Option<GrowingManifest> = None;
    let mut sealing = None;
    while let Some(part) = recv.next().await? {
        let Part::Frame { kind, payload } = part else {
            return Err(AskError::Answer);
        };
        match (kind, &mut growing, sealing) {
            (wire::PROFILE, None, None) => {
                let code = payload.first().copied().filter(|_| payload.len() == 1);
                let profile = code.and_then(Profile::from_code).ok_or(AskError::Answer)?;
                growing = Some(GrowingManifest::new(profile));
            }
            (wire::HELD, Some(growing), None) if growing.len() < NAMES_MAX => {
                let (id, len) = wire::decode_chunk(&payload)?;
                let pushed = growing.push(ChunkId::from_bytes(id), len);
                pushed.map_err(|_| AskError::Answer)?;
            }
            (wire::SEALED, Some(_), None) => sealing = Some(wire::decode_sealed(&payload)?),
            _ => return Err(AskError::Answer),
        }
    }
    let (Some(growing), Some(_)) = (growing, sealing) else {
        return Err(AskError::Answer);
    };
    let manifest = growing.seal(Validators {
        etag: voucher.response.get(http::header::ETAG).cloned(),
        last_modified: voucher.response.get(http::header::LAST_MODIFIED).cloned(),
    });
    // What it names is what was signed, or nothing of it is used.
    if manifest.root() != voucher.root || manifest.total_len() != voucher.total {
        return Err(AskError::Voucher(VoucherError::Manifest));
    }
    Ok(Vouched {
        voucher,
        sealed,
        manifest,
    })
}
