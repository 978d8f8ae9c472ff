//! Before a run: each object that is not known is asked for once, so that every answer of the run can be checked.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::stream::{FuturesUnordered, TryStreamExt as _};

use super::RunError;
use crate::lane::{Conn, Dialer, Failure, Lane, Learned, Sink};
use crate::plan::Plan;
use crate::workload::{Ask, Known, Object, Verb, Workload};

/// Bodies kept, all together; of those beyond only length and hash are known.
const KEPT_BYTES_MAX: u64 = 256 << 20;
/// Connections used.
const CONNECTIONS_MAX: usize = 8;
/// Requests under way on each, unless the plan allows fewer: 8 × 16 = 128 in all.
const LANES_MAX: usize = 16;
/// Attempts for an object whose connection was closed, which some servers do after a number of requests.
const ATTEMPTS: u32 = 3;

/// The workload with all its objects known.
pub(super) async fn learn<D: Dialer>(dialer: &D, plan: &Plan) -> Result<Workload, RunError> {
    let objects = plan.workload.objects();
    let unknown: Vec<usize> = (0..objects.len())
        .filter(|index| {
            let known = objects.get(*index).map(|object| &object.known);
            matches!(known, Some(Known::Nothing | Known::Length(_)))
        })
        .collect();
    let mut learned = objects.to_vec();
    // One each for every object while there are few, then more lanes on each.
    let connections = unknown.len().min(CONNECTIONS_MAX);
    let lanes = unknown
        .len()
        .div_ceil(CONNECTIONS_MAX)
        .min(usize::try_from(plan.streams).unwrap_or(usize::MAX))
        .clamp(1, LANES_MAX);
    let search = Search {
        dialer,
        plan,
        unknown,
        next: Cell::new(0),
        budget: AtomicU64::new(KEPT_BYTES_MAX),
    };
    let asked = FuturesUnordered::new();
    for number in 0..connections {
        asked.push(search.connection(u32::try_from(number).unwrap_or(0), lanes));
    }
    let found: Vec<Vec<(usize, Learned)>> = asked.try_collect().await?;
    for (index, learned_one) in found.into_iter().flatten() {
        if let Some(object) = learned.get_mut(index) {
            *object = Arc::new(known(object, learned_one, plan.zeros)?);
        }
    }
    Ok(plan.workload.learned(learned))
}

fn known(object: &Object, learned: Learned, zeros: bool) -> Result<Object, RunError> {
    if learned.zeros && !zeros {
        return Err(RunError::Zeros {
            path: object.path.to_string(),
            length: learned.length,
        });
    }
    let known = match learned.body {
        Some(body) => Known::Body(body),
        None => Known::Hash {
            length: learned.length,
            hash: learned.hash,
        },
    };
    Ok(Object {
        path: Arc::clone(&object.path),
        authority: object.authority.clone(),
        known,
    })
}

/// What those who learn share.
struct Search<'a, D: Dialer> {
    dialer: &'a D,
    plan: &'a Plan,
    unknown: Vec<usize>,
    next: Cell<usize>,
    budget: AtomicU64,
}

type Holding<D> = (Rc<<D as Dialer>::Conn>, <<D as Dialer>::Conn as Conn>::Lane);

impl<D: Dialer> Search<'_, D> {
    /// Opens one connection and learns over it, until there is nothing left to learn.
    async fn connection(
        &self,
        number: u32,
        lanes: usize,
    ) -> Result<Vec<(usize, Learned)>, RunError> {
        let conn = tokio::time::timeout(self.plan.timeout, self.dialer.dial(number))
            .await
            .unwrap_or(Err(Failure::TimedOut))
            .map_err(|failure| RunError::Connect {
                number,
                target: self.plan.target.authority().to_string(),
                failure,
            })?;
        let conn = Rc::new(conn);
        let lanes: FuturesUnordered<_> = (0..lanes)
            .map(|_| self.lane(number, (Rc::clone(&conn), conn.lane())))
            .collect();
        let found: Vec<Vec<(usize, Learned)>> = lanes.try_collect().await?;
        if let Some(conn) = Rc::into_inner(conn) {
            conn.close().await;
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Takes one object after the other. When the connection is lost, goes on over one of its own.
    async fn lane(
        &self,
        number: u32,
        holding: Holding<D>,
    ) -> Result<Vec<(usize, Learned)>, RunError> {
        let mut held = Some(holding);
        let mut found = Vec::new();
        while let Some(index) = self.unknown.get(self.next.get()) {
            self.next.set(self.next.get() + 1);
            let Some(object) = self.plan.workload.objects().get(*index) else {
                continue;
            };
            let ask = Ask {
                verb: Verb::Get,
                object: Arc::clone(object),
            };
            let mut attempt = 1;
            let learned = loop {
                match self.ask(number, &ask, &mut held).await {
                    Ok(learned) => break learned,
                    Err(Failure::Closed(_) | Failure::Unsent(_)) if attempt < ATTEMPTS => {
                        attempt += 1;
                        held = None;
                    }
                    Err(failure) => {
                        return Err(RunError::Learn {
                            path: object.path.to_string(),
                            failure,
                        });
                    }
                }
            };
            found.push((*index, learned));
        }
        Ok(found)
    }

    async fn ask(
        &self,
        number: u32,
        ask: &Ask,
        held: &mut Option<Holding<D>>,
    ) -> Result<Learned, Failure> {
        let asking = async {
            let (_, lane) = match held {
                Some(holding) => holding,
                None => {
                    let conn = self.dialer.dial(number).await?;
                    let lane = conn.lane();
                    held.insert((Rc::new(conn), lane))
                }
            };
            let mut sink = Sink::learning(ask, &self.budget);
            lane.exchange(ask, &mut sink).await?;
            sink.learned()
                .ok_or_else(|| Failure::Protocol("an end without a response".to_owned()))
        };
        tokio::time::timeout(self.plan.timeout, asking)
            .await
            .unwrap_or(Err(Failure::TimedOut))
    }
}
