//! Whether exchanges are answered, told to whoever chooses between peers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::ExchangeError;
use crate::transport::ConnectionError;

/// Hears of each exchange of a connection, once, whether the peer answered.
pub(crate) trait Witness: fmt::Debug + Send + Sync {
    /// Something came back: the beginning of an answer, an error, a reset.
    fn answered(&self);

    /// Nothing did until the deadline, or until the connection was lost.
    fn unanswered(&self);

    /// Nobody waited for either.
    fn given_up(&self);
}

/// One exchange's word to its witness, if it has one. Dropped without it, the exchange was given up by this side.
#[derive(Debug, Default)]
pub(super) struct Report {
    witness: Option<Arc<dyn Witness>>,
    told: AtomicBool,
}

impl Report {
    pub(super) fn to(witness: Option<&Arc<dyn Witness>>) -> Self {
        Self {
            witness: witness.cloned(),
            told: AtomicBool::new(false),
        }
    }

    fn first(&self) -> Option<&dyn Witness> {
        let witness = self.witness.as_deref()?;
        (!self.told.swap(true, Ordering::Relaxed)).then_some(witness)
    }

    pub(super) fn answered(&self) {
        if let Some(witness) = self.first() {
            witness.answered();
        }
    }

    pub(super) fn failed(&self, error: &ExchangeError) {
        match error {
            ExchangeError::Deadline
            | ExchangeError::NoStream(_)
            | ExchangeError::Connection(
                ConnectionError::TimedOut
                | ConnectionError::Reset
                | ConnectionError::TransportClosed { .. },
            ) => {
                if let Some(witness) = self.first() {
                    witness.unanswered();
                }
            }
            ExchangeError::Cancelled { .. }
            | ExchangeError::Remote { .. }
            | ExchangeError::Protocol(_) => self.answered(),
            // Somebody closed the connection for a reason of its own, or nothing was asked.
            ExchangeError::Connection(_)
            | ExchangeError::TooLarge(_)
            | ExchangeError::Draining
            | ExchangeError::Expired
            | ExchangeError::Revoked
            | ExchangeError::TooOld(_)
            | ExchangeError::Finished => {}
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(witness) = self.first() {
            witness.given_up();
        }
    }
}
