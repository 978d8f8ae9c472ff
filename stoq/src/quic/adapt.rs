//! A connection that adapts: sampled while it carries traffic, its windows raised as its path proves to carry more.
//!
//! One small task a connection, which holds it weakly and ends with it. It looks every two round trips (100 ms to 1 s) while bytes
//! move; after ten looks at nothing it sleeps until a stream is opened or taken, and five seconds at most.
//!
//! What is raised at once: the windows of the connection in both directions. What waits for the next connection to the
//! same address: a stream's window, the initial congestion window and the controller, which the QUIC implementation below
//! fixes at the start. Windows are never lowered on a living connection: what was promised stays promised.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::VarInt;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::connection::PathStats;
use super::transport::TransportConfig;
use crate::path::{Counts, Known, Learnt, PathClass, PathHistograms, Plan, Profile, Sampler};
use crate::path::{Rate, WindowBounds};

/// Looks at a connection that carries nothing until it is left alone.
const IDLE_LOOKS: u32 = 10;

/// The longest sleep.
const SLEEP: Duration = Duration::from_secs(5);

/// What is known of the path of a connection that [adapts](TransportConfig::adapt), as of its last sample.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PathSnapshot {
    /// Where the path belongs.
    pub class: PathClass,
    /// What follows from it; `None` until the bandwidth was measured.
    pub plan: Option<Plan>,
    /// Bytes a second delivered in the last span with traffic; `None` before the first.
    pub rate: Option<Rate>,
    /// Share of packets lost, smoothed; `None`: too few were sent to tell.
    pub loss: Option<f64>,
    /// How often the class changed, the first classification included.
    pub changes: u64,
    /// Round trips, window, MTU and counts.
    pub path: PathStats,
}

/// What a connection began with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    bounds: WindowBounds,
    stream: u32,
    connection: u32,
    send: u32,
}

impl Windows {
    /// Those of these settings; `None` if connections are not to adapt.
    pub(super) fn of(transport: &TransportConfig) -> Option<Self> {
        Some(Self {
            bounds: transport.adapt?,
            stream: transport.stream_window,
            connection: transport.connection_window,
            send: transport.send_window,
        })
    }
}

/// What adapting connections of one endpoint share.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared {
    pub(super) known: Arc<Known>,
    pub(super) histograms: Arc<PathHistograms>,
}

/// One adapting connection. Dropped with its last [`Connection`](super::Connection), it ends its task.
#[derive(Debug)]
pub(super) struct Adapting {
    quinn: quinn::Connection,
    bounds: WindowBounds,
    stream_window: u32,
    shared: Shared,
    state: Mutex<State>,
    wake: Arc<Wake>,
    task: OnceLock<AbortHandle>,
}

/// How the task is woken. Apart from the connection, which a sleeping task must not keep.
#[derive(Debug, Default)]
struct Wake {
    asleep: AtomicBool,
    notify: Notify,
}

impl Wake {
    async fn sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        // Woken or not: either way it is time to look.
        let _ = tokio::time::timeout(SLEEP, self.notify.notified()).await;
        self.asleep.store(false, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct State {
    sampler: Sampler,
    profile: Profile,
    rate: Option<Rate>,
    connection_window: u32,
    send_window: u32,
    snapshot: Option<PathSnapshot>,
}

impl Shared {
    /// These settings, with what was learnt of the path to `addr` put in where it is more, or where nothing was configured.
    pub(super) fn learnt(
        &self,
        transport: &TransportConfig,
        addr: IpAddr,
    ) -> Option<TransportConfig> {
        let bounds = transport.adapt?;
        let known = self.known.of(addr.to_canonical(), Instant::now())?;
        let plan = Plan::of(known.class, known.rtt_min, known.loss, &bounds)?;
        Some(TransportConfig {
            stream_window: transport.stream_window.max(plan.stream_window),
            connection_window: transport.connection_window.max(plan.connection_window),
            send_window: transport.send_window.max(plan.send_window),
            initial_window: transport.initial_window.or(Some(plan.initial_window)),
            controller: transport.controller.or(Some(plan.controller)),
            ..transport.clone()
        })
    }
}

impl Adapting {
    /// Begins to adapt `quinn`, made with these settings. Must be called inside a runtime.
    pub(super) fn start(quinn: quinn::Connection, windows: &Windows, shared: &Shared) -> Arc<Self> {
        let now = Instant::now();
        let learnt = shared.known.of(ip(&quinn), now);
        let profile = learnt.map_or_else(Profile::default, |known| Profile::starting(known.class));
        let adapting = Arc::new(Self {
            quinn,
            bounds: windows.bounds,
            stream_window: windows.stream,
            shared: shared.clone(),
            state: Mutex::new(State {
                sampler: Sampler::default(),
                profile,
                rate: None,
                connection_window: windows.connection,
                send_window: windows.send,
                snapshot: None,
            }),
            wake: Arc::default(),
            task: OnceLock::new(),
        });
        adapting.look(now);
        let task = adapt(Arc::downgrade(&adapting), adapting.wake.clone());
        let task = tokio::spawn(task).abort_handle();
        // Set only here, so it is free.
        let _ = adapting.task.set(task);
        adapting
    }

    /// Something is about to be moved.
    pub(super) fn stir(&self) {
        if self.wake.asleep.load(Ordering::Relaxed) {
            self.wake.notify.notify_one();
        }
    }

    pub(super) fn snapshot(&self) -> Option<PathSnapshot> {
        self.state.lock().snapshot
    }

    /// How many streams a large transfer needs now.
    pub(super) fn streams(&self) -> Option<u16> {
        let plan = self.snapshot()?.plan?;
        Some(plan.streams(self.stream_window))
    }

    /// Samples, classifies, applies. Whether anything was moved, and how long until the next look.
    fn look(&self, now: Instant) -> (bool, Duration) {
        let (path, meter) = PathStats::measure(&self.quinn);
        let counts = Counts {
            acked: meter.acked,
            acked_idle: meter.acked_idle,
            received: path.received_bytes,
            sent_packets: path.sent_packets,
            lost_packets: path.lost_packets,
            rtt_min: path.rtt_min,
        };
        let mut state = self.state.lock();
        let state = &mut *state;
        let active = state.sampler.is_active(&counts);
        if let Some(sample) = state.sampler.take(now, counts) {
            let changed = state.profile.observe(now, &sample);
            if let Some(class) = changed {
                tracing::debug!(remote = %self.quinn.remote_address(), %class, "path classified");
            }
            state.rate = sample.rate.or(state.rate);
            let histograms = &self.shared.histograms;
            if let Some(rate) = sample.rate {
                histograms.rate.record(rate.bytes_per_second);
                histograms.cwnd.record(path.cwnd);
                histograms.mtu.record(path.mtu.into());
            }
            if let Some(loss) = sample.loss {
                histograms.loss_ppm.record(ppm(loss));
            }
        }
        if let Some(class) = state.profile.class() {
            let plan = Plan::of(class, path.rtt_min, state.profile.loss(), &self.bounds);
            if let Some(plan) = plan {
                self.apply(state, &plan);
            }
            if active && plan.is_some() {
                let learnt = Learnt {
                    class,
                    rtt_min: path.rtt_min,
                    loss: state.profile.loss(),
                };
                self.shared.known.learn(ip(&self.quinn), learnt, now);
            }
            state.snapshot = Some(PathSnapshot {
                class,
                plan,
                rate: state.rate,
                loss: state.profile.loss(),
                changes: state.profile.changes(),
                path,
            });
        }
        (active, Sampler::span(path.rtt))
    }

    /// Raises the windows that are smaller than planned.
    fn apply(&self, state: &mut State, plan: &Plan) {
        if plan.connection_window > state.connection_window {
            state.connection_window = plan.connection_window;
            self.quinn
                .set_receive_window(VarInt::from_u32(plan.connection_window));
        }
        if plan.send_window > state.send_window {
            state.send_window = plan.send_window;
            self.quinn.set_send_window(plan.send_window.into());
        }
    }
}

impl Drop for Adapting {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

fn ip(quinn: &quinn::Connection) -> IpAddr {
    quinn.remote_address().ip().to_canonical()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of at most one, in millionths"
)]
fn ppm(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * 1e6) as u64
}

/// Looks at a connection until it is gone.
async fn adapt(connection: Weak<Adapting>, wake: Arc<Wake>) {
    let mut idle = 0;
    let mut span = Sampler::span(Duration::ZERO);
    loop {
        if idle < IDLE_LOOKS {
            tokio::time::sleep(span).await;
        } else {
            wake.sleep().await;
        }
        let Some(adapting) = connection.upgrade() else {
            return;
        };
        if adapting.quinn.close_reason().is_some() {
            return;
        }
        let active;
        (active, span) = adapting.look(Instant::now());
        idle = if active { 0 } else { idle + 1 };
    }
}
