//! `run`: serve as the configuration says, until a signal.

use std::path::Path;

use anyhow::Context as _;
use stoq_ebpf::give_up_all;
use stoq_node::Signals;
use stoq_node::config::{Config, Env, Role};
use stoq_node::report::{Exit, Output};
use stoq_node::telemetry;
use tokio::runtime::Runtime;

use super::check::print_warnings;
use crate::edge::{Edge, Running};
use crate::prepared::Prepared;

pub(super) fn run(path: &Path, _output: &Output) -> anyhow::Result<Exit> {
    let prepared = prepare(path)?;
    telemetry::init(&prepared.config().log)?;
    print_warnings(&prepared);
    let signalled = Signalled::listen()?;
    let mut bound = Edge::bind(prepared)?;
    let file = path.to_owned();
    bound = bound.with_helper(Box::new(move || {
        let config = Config::load(&file, &Env::from_process(), Role::Edge);
        Ok(config.map_err(|errors| errors.to_string())?.xdp)
    }));
    if bound.gives_up_capabilities() {
        give_up_all().context(
            "xdp: what the helper is for is not to be had here (`keep_capabilities = true` goes on with all of them)",
        )?;
    }
    let running = bound.start()?;
    for addr in running.https_addrs() {
        tracing::info!(%addr, "serving https: HTTP/3, HTTP/2, HTTP/1.1");
    }
    for addr in running.http_addrs() {
        tracing::info!(%addr, "serving http: HTTP/1.1");
    }
    if let Some(dev) = running.dev_tls() {
        tracing::warn!(ca = %dev.ca.display(), "no [tls] certificates: serving under a development CA");
    }
    signalled.until_end(running)
}

/// What `run` and `check` both begin with.
pub(super) fn prepare(path: &Path) -> anyhow::Result<Prepared> {
    let config = Config::load(path, &Env::from_process(), Role::Edge)?;
    Ok(Prepared::new(config)?)
}

/// What waits for the end of an edge, and for signals from before it serves: one that came in between would end the process without a drain.
pub(super) struct Signalled {
    runtime: Runtime,
    signals: Signals,
}

impl Signalled {
    /// To be called before [`Edge::start`].
    pub(super) fn listen() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let signals = {
            let _inside = runtime.enter();
            Signals::listen()?
        };
        Ok(Self { runtime, signals })
    }

    /// Serves until SIGTERM or SIGINT, then drains; a second signal ends at once.
    pub(super) fn until_end(self, running: Running) -> anyhow::Result<Exit> {
        let signals = self.signals;
        self.runtime.block_on(async {
            let drain = running.drain().clone();
            // Ends with the runtime: a signal after the end has nobody to tell.
            let following = tokio::spawn(async move { drain.follow_signals(signals).await });
            let ended = running.wait().await;
            following.abort();
            ended
        })?;
        Ok(Exit::Done)
    }
}
