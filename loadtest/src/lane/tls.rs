//! TLS as the lanes begin it: whom to trust is the [`Target`]'s, whether an earlier connection is resumed is the
//! plan's [`Session`].
//!
//! A run that wants full handshakes must not get resumed ones because a library remembers: tickets are kept only when
//! the plan asks for [`Handshake::Resumed`] or [`Handshake::EarlyData`]. Then each ticket is used once, the newest
//! first, and a connection for which none is left begins with a full handshake, which shows in
//! [`Opened::resumed`](super::Opened) and is never hidden.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, NamedGroup};

use crate::client::{ClientError, Target, Version};
use crate::plan::{Handshake, Session};

/// Tickets kept: 4,096 × about 2 KiB = 8 MiB a thread; the oldest goes. rustls keeps 8 a server, too few for a storm
/// of connections that are opened at once.
const TICKETS_MAX: usize = 4096;

/// The settings of one thread's connections in `version` of HTTP, as `session` wants them.
///
/// # Errors
/// [`ClientError::Target`]: the trust makes no configuration.
pub(crate) fn config(
    target: &Target,
    version: Version,
    session: Session,
) -> Result<ClientConfig, ClientError> {
    let mut config = target.tls(version)?;
    let handshake = match session {
        Session::Kept | Session::Churn(_) => Handshake::Full,
        Session::PerRequest(handshake) => handshake,
    };
    config.resumption = match handshake {
        Handshake::Full => Resumption::disabled(),
        Handshake::Resumed | Handshake::EarlyData => {
            Resumption::store(Arc::new(Tickets::default()))
        }
    };
    config.enable_early_data = handshake == Handshake::EarlyData;
    Ok(config)
}

/// What one server gave for later connections. One server: the name is not looked at.
#[derive(Debug, Default)]
struct Tickets(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("tls13", &self.tls13.len())
            .finish_non_exhaustive()
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.lock().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.lock().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.lock().tls12 = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.lock().tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.lock().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut kept = self.0.lock();
        if kept.tls13.len() == TICKETS_MAX {
            kept.tls13.pop_front();
        }
        kept.tls13.push_back(value);
    }

    //= https://www.rfc-editor.org/rfc/rfc8446#appendix-C.4
    //# Clients SHOULD NOT reuse a ticket for multiple connections.
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        // The newest: a server that remembers sessions itself forgets the oldest first.
        self.0.lock().tls13.pop_back()
    }
}
