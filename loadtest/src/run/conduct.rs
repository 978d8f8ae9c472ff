//! The conductor: starts the load threads, gives the signals, watches, and gathers what was found.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Pid;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::live::Live;
use super::outcome::{self, Gathered};
use super::thread::{self, Event, Findings, Orders, Schedule, Signal};
use super::{Options, RunError, idle, learn};
use crate::bundle::{Bundle, Environment, FORMAT};
use crate::lane::Dialer;
use crate::plan::{Plan, Shape};
use crate::record::{Counted, Series, Slice};
use crate::truth::{self, Case, Resident, Watch, Watched};

/// What each thread may tell in all: connected, ramped, over, gone or failed.
const EVENTS_OF_A_THREAD: usize = 4;
/// Slices of each thread on their way, 14 KiB each; further ones wait with the thread.
const SLICES_OF_A_THREAD: usize = 16;
/// Between the signal and the begin, so that all threads have heard it.
const LEAD: Duration = Duration::from_millis(20);
/// What a thread may take beyond all its time-outs.
const GRACE: Duration = Duration::from_secs(5);

pub(super) fn conduct<D: Dialer>(
    plan: Plan,
    options: &Options,
    dialer: &Arc<impl Fn(&Plan, u32) -> anyhow::Result<D> + Send + Sync + 'static>,
) -> Result<Bundle, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let plan = Arc::new(plan);
    let live = Live::new(options.progress, &plan);
    let learning = async {
        let dialer = dialer(&plan, plan.threads).map_err(RunError::Dialer)?;
        live.say("learning the objects");
        tokio::select! {
            biased;
            () = options.interrupt.cancelled() => Err(RunError::Interrupted),
            learned = learn::learn(&dialer, &plan) => learned,
        }
    };
    let workload = Arc::new(runtime.block_on(learning)?);

    let (signal, _) = watch::channel(Signal::Connect);
    let threads = usize::try_from(plan.threads).unwrap_or(usize::MAX);
    let (events, heard) = mpsc::channel(threads.saturating_mul(EVENTS_OF_A_THREAD));
    let (slices, shown) = mpsc::channel(threads.saturating_mul(SLICES_OF_A_THREAD));
    let left = plan
        .stop
        .requests
        .map(|requests| Arc::new(AtomicU64::new(requests)));
    let mut joined = Vec::with_capacity(threads);
    for number in 0..plan.threads {
        let orders = Orders {
            number,
            plan: Arc::clone(&plan),
            workload: Arc::clone(&workload),
            left: left.clone(),
            signal: signal.subscribe(),
            events: events.clone(),
            slices: slices.clone(),
        };
        let dialer = Arc::clone(dialer);
        let started = std::thread::Builder::new()
            .name(format!("load-{number}"))
            .spawn(move || thread::run(orders, |plan, thread| dialer(plan, thread)));
        // Those that were started end when the signal's sender is gone.
        joined.push(started.map_err(RunError::Runtime)?);
    }
    drop((events, slices));
    let mut baton = Baton {
        plan: &plan,
        interrupt: &options.interrupt,
        signal,
        heard,
        shown,
        live,
        series: Series::default(),
        threads,
        pids: Vec::with_capacity(threads),
        ramped: 0,
        over: 0,
        gone: 0,
        failed: false,
        interrupted: false,
    };
    let led = runtime.block_on(baton.lead(options.server_pid));
    // Threads that still wait for a signal end without one.
    let Baton { series, live, .. } = baton;
    live.done();
    let led = match led {
        Ok(led) => led,
        Err(RunError::Stuck) => return Err(RunError::Stuck),
        // A thread's own reason says more than that it is gone.
        Err(error) => return Err(join(joined).err().unwrap_or(error)),
    };
    let findings = join(joined)?;
    let gathered = Gathered::new(&findings, series, &led.schedule, led.interrupted)
        .ok_or(RunError::Interrupted)?;
    Ok(bundle(&plan, options, led, &gathered))
}

/// What came of leading a run.
struct Led {
    began: SystemTime,
    schedule: Schedule,
    environment: Environment,
    watched: Watched,
    interrupted: bool,
    /// Memory before and after the idle connections were opened.
    ramp: (Resident, Resident),
}

/// What the conductor has in hand while the threads run.
struct Baton<'a> {
    plan: &'a Plan,
    interrupt: &'a CancellationToken,
    signal: watch::Sender<Signal>,
    heard: mpsc::Receiver<Event>,
    shown: mpsc::Receiver<Slice>,
    live: Live,
    series: Series,
    threads: usize,
    pids: Vec<Pid>,
    ramped: usize,
    over: usize,
    gone: usize,
    failed: bool,
    interrupted: bool,
}

impl Baton<'_> {
    async fn lead(&mut self, server_pid: Option<u32>) -> Result<Led, RunError> {
        self.live.say("connecting");
        self.hear(|baton| baton.pids.len()).await?;
        let before = Resident::now(server_pid);
        if let Some(idle) = self.plan.idle {
            self.live
                .say(&format!("opening {} idle connections", idle.connections));
        }
        self.signal.send_replace(Signal::Ramp);
        self.hear(|baton| baton.ramped).await?;
        let ramp = (before, Resident::now(server_pid));

        let peer = self.plan.target.resolve().ok();
        let environment = truth::environment(peer)?;
        let mut watch = Watch::start(&self.pids, server_pid, peer)?;
        let schedule = schedule(self.plan, Instant::now());
        let began = SystemTime::now();
        self.signal.send_replace(Signal::Begin(schedule));
        self.load(&schedule, schedule.counted.from).await;
        watch.counted_from_now()?;
        self.load(&schedule, schedule.counted.until).await;
        self.unless_failed()?;
        let watched = watch.finish()?;
        self.signal.send_replace(if self.interrupted {
            Signal::Stop
        } else {
            Signal::Leave
        });

        self.live.say("waiting for what is under way");
        let cut = schedule.cut.saturating_duration_since(Instant::now());
        self.end(cut + GRACE, |baton| baton.over).await?;
        let asking = self.plan.idle.map_or(Duration::ZERO, |idle| {
            self.live.say("asking the idle connections");
            let until = schedule
                .ask_idle_at
                .saturating_duration_since(Instant::now());
            until + idle::ask_time_max(idle.connections, self.plan.timeout)
        });
        self.end(asking + GRACE, |baton| baton.gone).await?;
        Ok(Led {
            began,
            schedule,
            environment,
            watched,
            interrupted: self.interrupted,
            ramp,
        })
    }

    /// Waits until all threads have told what `count` counts, each within time-outs of its own.
    async fn hear(&mut self, count: impl Fn(&Self) -> usize) -> Result<(), RunError> {
        while count(self) < self.threads && !self.failed {
            // Each branch may be cancelled: what was not received stays in its channel.
            tokio::select! {
                biased;
                () = self.interrupt.cancelled() => return Err(RunError::Interrupted),
                event = self.heard.recv() => self.note(event),
            }
        }
        self.unless_failed()
    }

    /// Watches the load until then, until all threads are done, or until an interrupt.
    async fn load(&mut self, schedule: &Schedule, until: Instant) {
        while self.over < self.threads && !self.failed && !self.interrupted {
            tokio::select! {
                biased;
                () = self.interrupt.cancelled() => self.interrupted = true,
                () = tokio::time::sleep_until(until.into()) => return,
                event = self.heard.recv() => self.note(event),
                Some(slice) = self.shown.recv() => {
                    self.show(&slice);
                    self.live.show(schedule.start, Instant::now());
                }
            }
        }
    }

    /// Waits for the threads at the end, where an interrupt does no more than hurry them.
    async fn end(
        &mut self,
        limit: Duration,
        count: impl Fn(&Self) -> usize,
    ) -> Result<(), RunError> {
        let late = tokio::time::sleep(limit);
        tokio::pin!(late);
        while count(self) < self.threads && !self.failed {
            tokio::select! {
                biased;
                () = self.interrupt.cancelled(), if !self.interrupted => {
                    self.interrupted = true;
                    self.signal.send_replace(Signal::Stop);
                }
                event = self.heard.recv() => self.note(event),
                Some(slice) = self.shown.recv() => self.show(&slice),
                () = &mut late => return Err(RunError::Stuck),
            }
        }
        while let Ok(slice) = self.shown.try_recv() {
            self.show(&slice);
        }
        self.unless_failed()
    }

    /// Its thread says why when it is joined; the others hear that the signal's sender is gone.
    fn unless_failed(&self) -> Result<(), RunError> {
        if self.failed {
            return Err(RunError::Interrupted);
        }
        Ok(())
    }

    fn note(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Connected(pid)) => self.pids.push(pid),
            Some(Event::Ramped) => self.ramped += 1,
            Some(Event::Over) => self.over += 1,
            Some(Event::Gone) => self.gone += 1,
            // All senders are gone, and so are the threads, which have not all said so.
            Some(Event::Failed) | None => self.failed = true,
        }
    }

    fn show(&mut self, slice: &Slice) {
        self.series.add(slice);
        self.live.take(slice);
    }
}

fn bundle(plan: &Plan, options: &Options, led: Led, gathered: &Gathered) -> Bundle {
    let (setup, outcome) = (outcome::setup(plan), gathered.outcome(plan, led.ramp));
    let mut watched = led.watched;
    watched.client.lag = gathered.lag.distribution();
    watched.client.socket_drops = gathered.socket_drops;
    watched.account(outcome.requests, outcome.body_bytes);
    let mut verdict = truth::judge(&Case {
        setup: &setup,
        open_loop: plan.shape != Shape::Closed,
        environment: &led.environment,
        outcome: &outcome,
        watched: &watched,
    });
    if led.interrupted {
        verdict.remarks.push(format!(
            "interrupted: {:.1} s were counted of {:.1} s planned",
            outcome.elapsed_s,
            plan.stop.duration.as_secs_f64()
        ));
    }
    Bundle {
        format: FORMAT.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: options.name.clone(),
        began: outcome::rfc3339(led.began),
        setup,
        environment: led.environment,
        verdict,
        outcome,
        client: watched.client,
        server: watched.server,
        interface: watched.interface,
    }
}

fn schedule(plan: &Plan, now: Instant) -> Schedule {
    let start = now + LEAD;
    let from = start + plan.warmup;
    let until = from + plan.stop.duration;
    let hold = plan.idle.map_or(Duration::ZERO, |idle| idle.hold);
    Schedule {
        start,
        counted: Counted { from, until },
        cut: until + plan.timeout,
        ask_idle_at: now + hold,
    }
}

/// All threads' findings, or the first reason why there are none.
fn join(threads: Vec<JoinHandle<Result<Findings, RunError>>>) -> Result<Vec<Findings>, RunError> {
    let mut found = Vec::with_capacity(threads.len());
    let mut reason = None;
    for thread in threads {
        match thread.join() {
            Ok(Ok(findings)) => found.push(findings),
            // That a thread was stopped is the consequence of another's reason.
            Ok(Err(RunError::Interrupted)) if reason.is_some() => {}
            Ok(Err(error)) => {
                if matches!(reason, None | Some(RunError::Interrupted)) {
                    reason = Some(error);
                }
            }
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                reason = Some(RunError::Panicked(text.unwrap_or_default()));
            }
        }
    }
    reason.map_or(Ok(found), Err)
}
