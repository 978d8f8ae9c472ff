//! Asks other nodes what the index asks.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use stoq::identity::{NodeId, Role};
use stoq::peer::{Ask, PeerConn};
use stoq::pool::Pool;
use stoq_routing::index::{ADDRESSES_MAX, Contact, Reply, Request, Rpc, RpcError};

use super::INDEX;

/// How long a node may take to answer who holds something: 2 s. Lookups ask the next one long before, and end sooner.
const FIND_WITHIN: Duration = Duration::from_secs(2);

/// How long it may take to answer an announcement or a renewal: 5 s, as long as the holder waits.
const TELL_WITHIN: Duration = Duration::from_secs(5);

/// Asks over the connections of one worker. Cheap to clone; the clones are one.
#[derive(Clone, Default)]
pub struct Asker {
    pool: Arc<OnceLock<Pool>>,
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker")
            .field("pool", &self.pool.get())
            .finish()
    }
}

impl Asker {
    /// Over these connections. Must be used on their runtime.
    #[must_use]
    pub fn over(pool: Pool) -> Self {
        let asker = Self::default();
        asker.begin(pool);
        asker
    }

    /// One that was made before there were connections has these from here on. Once.
    pub fn begin(&self, pool: Pool) {
        // One that has some keeps them.
        let _ = self.pool.set(pool);
    }

    /// A connection to the node, by the first of its addresses at which it is.
    async fn connect(&self, to: &Contact) -> Result<PeerConn, RpcError> {
        let none = |why: &str| RpcError::Unreachable(why.to_owned());
        let Some(pool) = self.pool.get() else {
            return Err(none("this node has no connections yet"));
        };
        let mut last = none("it has no address");
        for addr in to.addresses.iter().take(ADDRESSES_MAX) {
            match pool.get(*addr).await {
                Ok(conn) => match judge(&conn, to) {
                    Ok(()) => return Ok(conn),
                    Err(error) => last = error,
                },
                Err(error) => last = RpcError::Unreachable(error.to_string()),
            }
        }
        Err(last)
    }
}

/// Whether it is the node that was meant, in a role that has a part in the index.
fn judge(conn: &PeerConn, wanted: &Contact) -> Result<(), RpcError> {
    let peer = &conn.peer().identity;
    let wanted = NodeId(wanted.id.0);
    if peer.node_id != wanted {
        let got = peer.node_id;
        let text = format!("{got} answers in the place of {wanted}");
        return Err(RpcError::Unreachable(text));
    }
    if !peer.has(&Role::Edge) && !peer.has(&Role::Shield) {
        let text = format!("{wanted} is neither an edge nor a shield");
        return Err(RpcError::Unreachable(text));
    }
    Ok(())
}

impl Rpc for Asker {
    async fn ask(&self, to: &Contact, request: Request) -> Result<Reply, RpcError> {
        let conn = self.connect(to).await?;
        let ask = Ask::new(INDEX, request.encode());
        let ask = match request {
            // A question may be asked twice. What is announced has its place in a lease, and is refused the second time.
            Request::Find { .. } => ask.within(FIND_WITHIN).replay_safe(),
            Request::Announce(_) | Request::Renew(_) => ask.within(TELL_WITHIN),
        };
        let reply = conn.call(ask).await;
        let reply = reply.map_err(|error| RpcError::Unreachable(error.to_string()))?;
        Ok(Reply::decode(&reply)?)
    }
}
