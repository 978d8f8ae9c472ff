//! The desk's side.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{CertificateError, Error, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::ALPN;
use super::token::{ID_BYTES, SECRET_BYTES, Token, id_text};
use super::wire::{Answer, Ask, read_all, write_all};
use crate::identity::{
    AuditEvent, AuditSink, AuditWhat, ClusterRoot, Head, IdentityError, Judge, NoAudit, NodeId,
    Registrar, Role, Validity, joiner_key, possible, tls_server,
};
use crate::quic::TlsServer;
use crate::transport::{Incoming, Link, Transport};
use crate::wire::CloseCode;

/// Tokens a desk knows, used and expired ones included: 1,024, some 200 KiB.
pub const TOKENS_MAX: usize = 1024;

/// Joiners whose tokens are looked at at once: 16.
pub const JOINERS_MAX: usize = 16;

/// Settings of a [`Desk`].
#[derive(Debug, Clone)]
pub struct DeskConfig {
    /// Time for a joiner from the end of its handshake to its answer, and as much to confirm that it has it. Default 5 s.
    pub patience: Duration,
    /// The clock by which tokens expire and identities begin. Default: the system's.
    pub clock: Arc<dyn TimeProvider>,
    /// Who is told of joiners that were let in or refused. Default: nobody but the log.
    pub audit: Arc<dyn AuditSink>,
}

impl Default for DeskConfig {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(5),
            clock: Arc::new(DefaultTimeProvider),
            audit: Arc::new(NoAudit),
        }
    }
}

/// What the node that comes with a token will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Its name.
    pub node: String,
    /// Its roles.
    pub roles: Vec<Role>,
    /// For how long its identity will be valid, from the moment it joins.
    pub lifetime: Duration,
}

impl Wish {
    /// A node with these roles, for [`ClusterRoot::IDENTITY_LIFETIME`].
    #[must_use]
    pub fn new(node: &str, roles: &[Role]) -> Self {
        Self {
            node: node.to_owned(),
            roles: roles.to_vec(),
            lifetime: ClusterRoot::IDENTITY_LIFETIME,
        }
    }
}

/// Why a desk makes no token.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WishError {
    /// As many tokens as a desk knows can still be used.
    #[error("{TOKENS_MAX} tokens are waiting to be used, which is the bound")]
    Full,
    /// No such node can be.
    #[error(transparent)]
    Node(#[from] IdentityError),
}

/// A node that was given an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enrolled {
    /// Its id.
    pub node_id: NodeId,
    /// Its name.
    pub node: String,
    /// Where it came from.
    pub addr: SocketAddr,
    /// The id of the token it used.
    pub token: String,
    /// Whether it has said that it has its papers. Without that they may have been lost on the way, or be with somebody who took the token.
    pub confirmed: bool,
}

/// Lets nodes into a cluster, one for each token. Cheap to clone; the clones are one desk. Tokens are in memory only: those
/// not used when the desk is gone can never be.
#[derive(Debug, Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    registrar: Mutex<Registrar>,
    tokens: Mutex<HashMap<[u8; ID_BYTES], Known>>,
    /// What it shows, from when until when.
    papers: Mutex<Option<(Arc<CertifiedKey>, Range<UnixTime>)>>,
    config: DeskConfig,
    last: watch::Sender<Option<Enrolled>>,
    places: Arc<Semaphore>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A token that was given out.
struct Known {
    /// Of the secret, which itself is kept nowhere.
    hash: blake3::Hash,
    expires: UnixTime,
    wish: Wish,
    used: bool,
}

impl Known {
    fn is_dead(&self, now: UnixTime) -> bool {
        self.used || now > self.expires
    }
}

/// Why a joiner is sent away.
struct Refused {
    code: CloseCode,
    why: String,
}

impl Refused {
    fn new(code: CloseCode, why: impl fmt::Display) -> Self {
        Self {
            code,
            why: why.to_string(),
        }
    }
}

impl Desk {
    /// A desk that does nothing until [`serve`](Self::serve).
    #[must_use]
    pub fn new(registrar: Registrar, config: DeskConfig) -> Self {
        Self(Arc::new(Inner {
            registrar: Mutex::new(registrar),
            tokens: Mutex::default(),
            papers: Mutex::default(),
            config,
            last: watch::Sender::new(None),
            places: Arc::new(Semaphore::new(JOINERS_MAX)),
        }))
    }

    /// For the QUIC endpoint that joiners reach. Covers every certificate to come.
    ///
    /// # Errors
    /// No certificate can be made now.
    pub fn server_tls(&self) -> Result<TlsServer, IdentityError> {
        Ok(TlsServer::new(self.server_config()?)?)
    }

    /// The rustls configuration to accept joiners.
    ///
    /// # Errors
    /// No certificate can be made now.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        self.0.papers()?;
        let papers = Arc::new(Papers(self.clone()));
        let mut config =
            tls_server(papers.clone(), self.0.config.clock.clone())?.with_cert_resolver(papers);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Makes a token that is good once within `lifetime`, at `addr`, which is where joiners reach this desk.
    ///
    /// # Errors
    /// [`WishError`].
    pub fn token(
        &self,
        wish: Wish,
        lifetime: Duration,
        addr: SocketAddr,
    ) -> Result<Token, WishError> {
        possible(&wish.node, &wish.roles)?;
        let now = self.0.now();
        let expires = Duration::from_secs(now.as_secs()).saturating_add(lifetime);
        let token = Token {
            root: self.0.registrar.lock().root().certificate().fingerprint(),
            id: rand::random(),
            secret: rand::random(),
            expires: UnixTime::since_unix_epoch(expires),
            addr,
        };
        let mut tokens = self.0.tokens.lock();
        if tokens.len() >= TOKENS_MAX {
            let oldest = tokens
                .iter()
                .filter(|(_, known)| known.is_dead(now))
                .min_by_key(|(_, known)| known.expires)
                .map(|(id, _)| *id);
            tokens.remove(&oldest.ok_or(WishError::Full)?);
        }
        tokens.insert(
            token.id,
            Known {
                hash: blake3::hash(&token.secret),
                expires: token.expires,
                wish,
                used: false,
            },
        );
        Ok(token)
    }

    /// Attends to joiners until the transport is closed. The transport must have been given this desk's TLS
    /// configuration, and bound the joiners that are there at once. Dropping the future sends everybody away.
    pub async fn serve(&self, transport: &dyn Transport) {
        let mut joiners = JoinSet::new();
        loop {
            // Both may be cancelled: what was not taken stays in its queue.
            let incoming = tokio::select! {
                incoming = transport.accept() => incoming,
                Some(ended) = joiners.join_next() => {
                    log_panic(&ended);
                    continue;
                }
            };
            let Some(incoming) = incoming else { break };
            let inner = self.0.clone();
            joiners.spawn(async move { inner.attend(incoming).await });
            while let Some(ended) = joiners.try_join_next() {
                log_panic(&ended);
            }
        }
        while let Some(ended) = joiners.join_next().await {
            log_panic(&ended);
        }
    }

    /// The last node that was given an identity; changes with each, and once more when it confirms that it has it.
    #[must_use]
    pub fn last_enrolled(&self) -> watch::Receiver<Option<Enrolled>> {
        self.0.last.subscribe()
    }

    /// Where the log of issued identities ends now.
    #[must_use]
    pub fn log_head(&self) -> Head {
        self.0.registrar.lock().log_head()
    }
}

fn log_panic(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "attending to a joiner panicked");
    }
}

impl Inner {
    /// Without a clock every token counts as expired and every certificate as of the last second there is.
    fn now(&self) -> UnixTime {
        self.config
            .clock
            .current_time()
            .unwrap_or_else(|| UnixTime::since_unix_epoch(Duration::from_secs(u64::from(u32::MAX))))
    }

    fn papers(&self) -> Result<Arc<CertifiedKey>, IdentityError> {
        let now = self.now();
        let mut papers = self.papers.lock();
        // A clock that was set back makes them papers from the future.
        if let Some((certified, times)) = &*papers
            && times.contains(&now)
        {
            return Ok(certified.clone());
        }
        let (certified, next) = self.registrar.lock().root().desk_papers(now)?;
        Ok(papers.insert((certified, now..next)).0.clone())
    }

    async fn attend(self: &Arc<Self>, incoming: Box<dyn Incoming>) {
        let addr = incoming.remote_addr();
        let link = match incoming.establish().await {
            Ok(link) => link,
            Err(error) => return tracing::debug!(%addr, %error, "handshake failed"),
        };
        let patience = self.config.patience;
        let late = || {
            let why = format!("not done within {patience:?}");
            Refused::new(CloseCode::JoinMalformed, why)
        };
        let enrolled = timeout(patience, self.talk(&*link)).await;
        let refused = match enrolled.unwrap_or_else(|_| Err(late())) {
            // It closes when it has the answer; to close first could cut it off.
            Ok(enrolled) => match timeout(patience, link.closed()).await {
                Ok(_) => {
                    tracing::info!(%addr, node = %enrolled.node, "node enrolled");
                    self.last.send_replace(Some(Enrolled {
                        confirmed: true,
                        ..enrolled
                    }));
                    return;
                }
                Err(_) => Refused {
                    why: format!("{} was not confirmed within {patience:?}", enrolled.node_id),
                    ..late()
                },
            },
            Err(refused) => refused,
        };
        tracing::warn!(%addr, why = %refused.why, "joiner refused");
        link.close(refused.code.code(), refused.why.as_bytes());
        let what = AuditWhat::JoinRefused(refused.code);
        let event = AuditEvent::new(self.config.clock.current_time(), what, &refused.why);
        self.config.audit.record(&event.seen_at(Some(addr)));
    }

    async fn talk(self: &Arc<Self>, link: &dyn Link) -> Result<Enrolled, Refused> {
        let malformed = |why: &dyn fmt::Display| Refused::new(CloseCode::JoinMalformed, why);
        let key = joiner_key(&link.peer_certificates().unwrap_or_default())
            .map_err(|refusal| malformed(&refusal))?;
        let (mut send, mut recv) = link.accept_bi().await.map_err(|error| malformed(&error))?;
        let ask = read_all(&mut *recv, Ask::BYTES)
            .await
            .map_err(|error| malformed(&error))?
            .and_then(|bytes| Ask::decode(&bytes))
            .ok_or_else(|| malformed(&"no enrolment of version 1"))?;
        // Only now: who is silent keeps nobody waiting. The semaphore is never closed.
        let _place = self.places.acquire().await;
        let (inner, addr) = (self.clone(), link.remote_addr());
        // The log waits for the disk.
        let redeemed = tokio::task::spawn_blocking(move || inner.redeem(&ask, &key, addr)).await;
        let (answer, enrolled) =
            redeemed.map_err(|error| Refused::new(CloseCode::JoinFailed, error))??;
        write_all(&mut *send, answer.encode())
            .await
            .map_err(|error| malformed(&error))?;
        Ok(enrolled)
    }

    /// Turns a token into an identity. Blocks on the disk.
    fn redeem(
        &self,
        ask: &Ask,
        key: &[u8],
        addr: SocketAddr,
    ) -> Result<(Answer, Enrolled), Refused> {
        let now = self.now();
        let wish = self.claim(ask, now)?;
        let token = id_text(&ask.id);
        let validity = Validity::starting(now, wish.lifetime);
        let mut registrar = self.registrar.lock();
        let via = format!("join {token}");
        let enrolled = registrar.enrol(key, &wish.node, &wish.roles, validity, &via, now);
        let cluster_secret = *registrar.root().cluster_secret();
        drop(registrar);
        let certificate = enrolled.map_err(|error| {
            tracing::error!(%error, "cannot enrol a node");
            self.unclaim(ask);
            // What failed here is not the joiner's to know.
            Refused::new(CloseCode::JoinFailed, "see the log of the desk")
        })?;
        let node_id = NodeId::of_spki(key);
        let mut event = AuditEvent::new(
            Some(now),
            AuditWhat::Joined,
            &format!("token {token}, roles {:?}", wish.roles),
        );
        (event.node_id, event.name) = (Some(node_id), Some(wish.node.clone()));
        self.config.audit.record(&event.seen_at(Some(addr)));
        let answer = Answer {
            cluster_secret,
            certificate: certificate.to_vec(),
        };
        let enrolled = Enrolled {
            node_id,
            node: wish.node,
            addr,
            token,
            confirmed: false,
        };
        // From here on there is such an identity, whatever becomes of the conversation.
        self.last.send_replace(Some(enrolled.clone()));
        Ok((answer, enrolled))
    }

    /// Marks a token as used, if it can be: from then on it is nobody else's.
    fn claim(&self, ask: &Ask, now: UnixTime) -> Result<Wish, Refused> {
        let mut tokens = self.tokens.lock();
        // Compared in constant time, and by hash: how long it takes tells nothing about the secret.
        let shown: [u8; SECRET_BYTES] = ask.secret;
        let known = tokens
            .get_mut(&ask.id)
            .filter(|known| known.hash == blake3::hash(&shown))
            .ok_or_else(|| Refused::new(CloseCode::TokenUnknown, "this desk never gave it out"))?;
        if known.used {
            let why = "ask for another one";
            return Err(Refused::new(CloseCode::TokenUsed, why));
        }
        if now > known.expires {
            let why = "ask for another one";
            return Err(Refused::new(CloseCode::TokenExpired, why));
        }
        known.used = true;
        Ok(known.wish.clone())
    }

    fn unclaim(&self, ask: &Ask) {
        if let Some(known) = self.tokens.lock().get_mut(&ask.id) {
            known.used = false;
        }
    }
}

/// The desk's side of a handshake.
#[derive(Debug)]
struct Papers(Desk);

impl ResolvesServerCert for Papers {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if !hello
            .signature_schemes()
            .contains(&SignatureScheme::ED25519)
        {
            return None;
        }
        let papers = self.0.0.papers();
        papers
            .inspect_err(|error| tracing::error!(%error, "cannot make a certificate"))
            .ok()
    }
}

impl Judge for Papers {
    /// Takes anybody with a key. That it is theirs is proven by the handshake, and what it may become by the token.
    fn judge(&self, chain: &[CertificateDer<'_>], _now: UnixTime) -> Result<(), Error> {
        match joiner_key(chain).is_ok() {
            true => Ok(()),
            false => Err(CertificateError::BadEncoding.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk(folder: &std::path::Path) -> Desk {
        let validity = Validity::starting(UnixTime::now(), ClusterRoot::LIFETIME);
        let root = ClusterRoot::generate("demo", validity).unwrap();
        let registrar = Registrar::open(root, &folder.join("issued.log")).unwrap();
        Desk::new(registrar, DeskConfig::default())
    }

    fn addr() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn token_is_good_once_in_time_and_with_its_secret() {
        let folder = tempfile::tempdir().unwrap();
        let desk = desk(folder.path());
        let wish = Wish::new("edge-1", &[Role::Edge]);
        let token = desk.token(wish.clone(), MINUTE, addr()).unwrap();
        let ask = |id, secret| Ask { id, secret };
        let code = |ask: &Ask, now| desk.0.claim(ask, now).map_err(|refused| refused.code);
        let good = ask(token.id, token.secret);
        let (last, late) = (
            token.expires,
            UnixTime::since_unix_epoch(Duration::from_secs(token.expires.as_secs() + 1)),
        );
        let mut wrong = token.secret;
        wrong[31] ^= 1;
        assert_eq!(
            code(&ask(token.id, wrong), last),
            Err(CloseCode::TokenUnknown)
        );
        assert_eq!(
            code(&ask([0; ID_BYTES], token.secret), last),
            Err(CloseCode::TokenUnknown)
        );
        assert_eq!(code(&good, late), Err(CloseCode::TokenExpired));
        assert_eq!(code(&good, last), Ok(wish.clone()));
        assert_eq!(code(&good, last), Err(CloseCode::TokenUsed));
        desk.0.unclaim(&good);
        assert_eq!(code(&good, last), Ok(wish));
    }

    #[test]
    fn number_of_tokens_is_bounded_and_dead_ones_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let desk = desk(folder.path());
        let wish = Wish::new("edge-1", &[]);
        let mut tokens = Vec::new();
        for _ in 0..TOKENS_MAX {
            tokens.push(desk.token(wish.clone(), MINUTE, addr()).unwrap());
        }
        assert!(matches!(
            desk.token(wish.clone(), MINUTE, addr()),
            Err(WishError::Full)
        ));
        assert!(
            desk.token(Wish::new("no name", &[]), MINUTE, addr())
                .is_err()
        );
        let used = Ask {
            id: tokens[7].id,
            secret: tokens[7].secret,
        };
        assert!(desk.0.claim(&used, UnixTime::now()).is_ok());
        desk.token(wish, MINUTE, addr()).unwrap();
        let after = desk.0.claim(&used, UnixTime::now());
        assert!(after.is_err_and(|refused| refused.code == CloseCode::TokenUnknown));
        assert_eq!(desk.0.tokens.lock().len(), TOKENS_MAX);
    }
}
