//! The joiner's side.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{CertificateError, Error};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use thiserror::Error;
use tokio::time::timeout;

use super::ALPN;
use super::token::Token;
use super::wire::{Answer, Ask, read_all, write_all};
use crate::identity::{
    CLOCK_TOLERANCE, DESK_NAME, Identity, IdentityError, IdentityFile, Judge, Refusal,
    RootCertificate, check_desk, joiner_papers, tls_client,
};
use crate::transport::{
    ConnectError, ConnectionError, Link, ReadError, Target, Transport, WriteError,
};
use crate::wire::CloseCode;

/// How a machine joins.
#[derive(Debug, Clone)]
pub struct JoinConfig {
    /// Time for all of it. Default 15 s.
    pub limit: Duration,
    /// The clock by which the desk's certificate and the new identity are judged. Default: the system's.
    pub clock: Arc<dyn TimeProvider>,
}

impl Default for JoinConfig {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(15),
            clock: Arc::new(DefaultTimeProvider),
        }
    }
}

/// What a machine needs to be a node.
#[derive(Debug)]
#[non_exhaustive]
pub struct Joined {
    /// Its key, its identity certificate and the cluster's secret. To be saved before anything else.
    pub file: IdentityFile,
    /// The root of the cluster.
    pub root: RootCertificate,
}

/// Why a machine could not join.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The token's time was over before it was used.
    #[error("the token was good until {}; ask for another one", crate::identity::rfc3339(*.0))]
    Expired(UnixTime),
    /// Whoever answers is not of the cluster in the token. The token was not shown to it.
    #[error("{addr}: not the desk this token is for: {refusal}")]
    Stranger {
        /// The desk's address.
        addr: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// The desk says no.
    #[error("{addr}: refused: {code}: {reason}")]
    Refused {
        /// The desk's address.
        addr: SocketAddr,
        /// Why, as its code says.
        code: CloseCode,
        /// Why, in its words.
        reason: String,
    },
    /// The network failed.
    #[error("{addr}: {source}")]
    Connect {
        /// The desk's address.
        addr: SocketAddr,
        /// How.
        source: ConnectError,
    },
    /// The desk did not answer in time. If it had the token before, that is spent.
    #[error("{addr}: no answer within {limit:?}")]
    Timeout {
        /// The desk's address.
        addr: SocketAddr,
        /// How long was waited.
        limit: Duration,
    },
    /// The answer is not what the protocol prescribes.
    #[error("{addr}: the desk's answer is malformed: {why}")]
    Malformed {
        /// The desk's address.
        addr: SocketAddr,
        /// How.
        why: &'static str,
    },
    /// The identity cannot be used, or no key can be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Makes a key, has the desk sign an identity for it, and makes sure that the identity is of the root in the token. Writes
/// no file.
///
/// # Errors
/// See [`JoinError`].
pub async fn join(
    transport: &dyn Transport,
    token: &Token,
    config: &JoinConfig,
) -> Result<Joined, JoinError> {
    let now = config.clock.current_time().ok_or(IdentityError::NoClock)?;
    if now.as_secs() > token.expires.as_secs() + CLOCK_TOLERANCE.as_secs() {
        return Err(JoinError::Expired(token.expires));
    }
    let (addr, limit) = (token.addr, config.limit);
    timeout(limit, ask(transport, token, config, now))
        .await
        .unwrap_or(Err(JoinError::Timeout { addr, limit }))
}

async fn ask(
    transport: &dyn Transport,
    token: &Token,
    config: &JoinConfig,
    now: UnixTime,
) -> Result<Joined, JoinError> {
    let addr = token.addr;
    let (key, certificate) = joiner_papers(now)?;
    let desk = Arc::new(ByFingerprint {
        root: token.root,
        seen: OnceLock::new(),
    });
    let private = PrivateKeyDer::Pkcs8(key.serialized_der().to_vec().into());
    let mut tls = tls_client(desk.clone(), config.clock.clone())
        .map_err(IdentityError::Tls)?
        .with_client_auth_cert(vec![certificate], private)
        .map_err(IdentityError::Tls)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    let target = Target {
        addr,
        server_name: DESK_NAME,
        tls: Arc::new(tls),
    };
    let link =
        transport
            .connect(target)
            .await
            .map_err(|source| match (desk.seen.get(), source) {
                (Some(Err(refusal)), _) => JoinError::Stranger {
                    addr,
                    refusal: refusal.clone(),
                },
                (_, ConnectError::Connection(error)) => ended(addr, error),
                (_, source) => JoinError::Connect { addr, source },
            })?;
    let answer = exchange(&*link, token).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(Broken::Malformed(why)) => return Err(JoinError::Malformed { addr, why }),
        // Why the stream broke is said by the end of the link, which may be a moment behind.
        Err(Broken::Stream) => return Err(ended(addr, link.closed().await)),
    };
    link.close(CloseCode::Done.code(), b"");
    let Some(Ok(root)) = desk.seen.get() else {
        let why = "it came before a certificate";
        return Err(JoinError::Malformed { addr, why });
    };
    let certificate = CertificateDer::from(answer.certificate);
    let file = IdentityFile::joined(key, certificate, answer.cluster_secret)?;
    // Peers will judge it so, and so do we: signed by this root, for this key, valid now.
    let copy = IdentityFile::from_pem(&file.to_pem())?;
    Identity::with_clock(copy, root.clone(), config.clock.clone())?;
    Ok(Joined {
        file,
        root: root.clone(),
    })
}

enum Broken {
    Malformed(&'static str),
    Stream,
}

impl From<ReadError> for Broken {
    fn from(_: ReadError) -> Self {
        Self::Stream
    }
}

impl From<WriteError> for Broken {
    fn from(_: WriteError) -> Self {
        Self::Stream
    }
}

async fn exchange(link: &dyn Link, token: &Token) -> Result<Answer, Broken> {
    let (mut send, mut recv) = link.open_bi().await.map_err(|_| Broken::Stream)?;
    let ask = Ask {
        id: token.id,
        secret: token.secret,
    };
    write_all(&mut *send, ask.encode()).await?;
    let bytes = read_all(&mut *recv, Answer::BYTES_MAX)
        .await?
        .ok_or(Broken::Malformed("too long"))?;
    Answer::decode(&bytes).ok_or(Broken::Malformed("of another version or length"))
}

fn ended(addr: SocketAddr, error: ConnectionError) -> JoinError {
    if let ConnectionError::Closed { code, reason } = &error
        && let Some(code) = CloseCode::of(*code)
    {
        let reason = String::from_utf8_lossy(reason).into_owned();
        return JoinError::Refused { addr, code, reason };
    }
    JoinError::Connect {
        addr,
        source: error.into(),
    }
}

/// Takes a desk of one root and nobody else.
#[derive(Debug)]
struct ByFingerprint {
    root: [u8; 32],
    seen: OnceLock<Result<RootCertificate, Refusal>>,
}

impl Judge for ByFingerprint {
    fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let judged = check_desk(chain, &self.root, now);
        let is_good = judged.is_ok();
        let _ = self.seen.set(judged);
        match is_good {
            true => Ok(()),
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }
}
