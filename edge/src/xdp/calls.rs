//! The admin listener's side: verbs as calls, handed to the keeper's thread and waited for.

use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use serde_json::Value;
use stoq_ebpf::{TRIAL_MAX, TRIAL_MIN};
use stoq_node::config::{format_duration, parse_duration};
use stoq_node::{CallError, Calls};
use tokio::sync::oneshot;

use super::report::XdpReport;

/// GET: how it stands.
pub(crate) const STATUS: &str = "/v1/xdp";
/// POST: attaches on trial; `?confirm=60s` is for how long.
pub(crate) const ENABLE: &str = "/v1/xdp/enable";
/// POST: what is on trial stays, now and at the next start.
pub(crate) const CONFIRM: &str = "/v1/xdp/confirm";
/// POST: takes the program away, now and for the next start.
pub(crate) const DISABLE: &str = "/v1/xdp/disable";
/// POST: reads budgets and lists from the file again.
pub(crate) const RELOAD: &str = "/v1/xdp/reload";

/// How long an enable waits to be confirmed where nothing is said.
pub(crate) const TRIAL: Duration = Duration::from_secs(60);

/// What the keeper may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Status,
    Enable { trial: Duration },
    Confirm,
    Disable,
    Reload,
}

/// One request.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) verb: Verb,
    pub(super) answer: oneshot::Sender<Result<XdpReport, CallError>>,
}

/// Adds the verbs.
pub(super) fn offer(calls: Calls, asks: &SyncSender<Ask>) -> Calls {
    let to = |verb| {
        let asks = asks.clone();
        move || ask(asks.clone(), Ok(verb))
    };
    let asks = asks.clone();
    calls
        .get(STATUS, to(Verb::Status))
        .post_query(ENABLE, move |query| ask(asks.clone(), enable(query)))
        .post(CONFIRM, to(Verb::Confirm))
        .post(DISABLE, to(Verb::Disable))
        .post(RELOAD, to(Verb::Reload))
}

fn enable(query: Option<&str>) -> Result<Verb, CallError> {
    let trial = match query.map(|query| query.split_once('=')) {
        None => TRIAL,
        Some(Some(("confirm", text))) => {
            let bounds = TRIAL_MIN..=TRIAL_MAX;
            let outside = || {
                let (min, max) = (format_duration(TRIAL_MIN), format_duration(TRIAL_MAX));
                CallError::Failed(format!("confirm: `{text}` is not from {min} to {max}"))
            };
            let trial = parse_duration(text)
                .map_err(|error| CallError::Failed(format!("confirm: {error}")))?;
            Some(trial)
                .filter(|trial| bounds.contains(trial))
                .ok_or_else(outside)?
        }
        Some(_) => {
            return Err(CallError::Failed(
                "only `confirm=60s` is understood".to_owned(),
            ));
        }
    };
    Ok(Verb::Enable { trial })
}

async fn ask(asks: SyncSender<Ask>, verb: Result<Verb, CallError>) -> Result<Value, CallError> {
    let (answer, answered) = oneshot::channel();
    let ask = Ask {
        verb: verb?,
        answer,
    };
    asks.try_send(ask).map_err(|error| match error {
        TrySendError::Full(_) => CallError::Busy("others ask already".to_owned()),
        TrySendError::Disconnected(_) => ended(),
    })?;
    let report = answered.await.map_err(|_| ended())??;
    serde_json::to_value(report).map_err(|error| CallError::Failed(error.to_string()))
}

fn ended() -> CallError {
    CallError::Failed("the node is ending".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_sixty_seconds_unless_it_is_said_and_has_bounds() {
        let trial = |query| match enable(query) {
            Ok(Verb::Enable { trial }) => Ok(trial.as_secs()),
            other => Err(format!("{other:?}")),
        };
        assert_eq!(trial(None), Ok(60));
        assert_eq!(trial(Some("confirm=5m")), Ok(300));
        for (query, said) in [
            ("confirm=2h", "`2h` is not from 1s to 1h"),
            ("confirm=500ms", "is not from"),
            ("confirm=5", "no unit"),
            ("confrim=5s", "only `confirm=60s`"),
            ("", "only"),
        ] {
            let error = trial(Some(query)).unwrap_err();
            assert!(error.contains(said), "{query}: {error}");
        }
    }
}
