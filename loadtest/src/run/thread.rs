//! One load thread: a runtime, a dialer and a share of the connections of its own.
//!
//! It connects, opens its idle connections, waits for the begin, lets its lanes run until the counted time is over and what
//! was under way is answered or cut, and asks the idle connections.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::{self, FuturesUnordered};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use super::RunError;
use super::gate::Gate;
use super::idle::{Found, Idlers};
use super::slot::{Backoff, Live, Post, Slot};
use super::worker::{self, Source, State, Work};
use crate::arrival::Arrivals;
use crate::lane::{Conn, Dialer, Failure};
use crate::plan::{Plan, Session, Shape};
use crate::record::{Connects, Counted, Slice, Tally, Times};
use crate::truth::Lag;
use crate::workload::Workload;

/// Connections that a thread opens at the same time before the run.
const CONNECTING_MAX: usize = 64;
/// Attempts to open each.
const CONNECT_ATTEMPTS: u32 = 3;
/// How long connections may take to close when the run is over; then they are dropped.
const CLOSE_TIME_MAX: Duration = Duration::from_millis(250);

/// What the threads are told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Signal {
    /// Connect, and say so.
    Connect,
    /// Open the idle connections, and say so.
    Ramp,
    /// Begin.
    Begin(Schedule),
    /// The lanes are done and the watching is too: ask the idle connections, and end.
    Leave,
    /// End now.
    Stop,
}

/// When everything happens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    /// The warm-up begins, or the counted time if there is none.
    pub(super) start: Instant,
    pub(super) counted: Counted,
    /// What is under way then is given up.
    pub(super) cut: Instant,
    /// The idle connections are asked, when the load is over.
    pub(super) ask_idle_at: Instant,
}

/// What the threads tell. Each tells each of it once at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Its connections are open; its kernel thread.
    Connected(rustix::process::Pid),
    /// So are its idle ones.
    Ramped,
    /// Its lanes are done.
    Over,
    /// It is at its end, with findings.
    Gone,
    /// It is at its end without any.
    Failed,
}

/// What a thread is given.
pub(super) struct Orders {
    pub(super) number: u32,
    pub(super) plan: Arc<Plan>,
    /// With all objects known.
    pub(super) workload: Arc<Workload>,
    /// Requests that may begin in the counted time, of all threads.
    pub(super) left: Option<Arc<AtomicU64>>,
    pub(super) signal: watch::Receiver<Signal>,
    /// Room for all that is told.
    pub(super) events: mpsc::Sender<Event>,
    pub(super) slices: mpsc::Sender<Slice>,
}

/// What a thread found.
pub(super) struct Findings {
    pub(super) tally: Tally,
    /// Those that were not told while it ran.
    pub(super) slices: Vec<Slice>,
    pub(super) connects: Connects,
    pub(super) idle: Found,
    pub(super) socket_drops: Option<u64>,
    pub(super) lag: Times,
}

/// Runs a thread to its end.
pub(super) fn run<D: Dialer>(
    orders: Orders,
    dialer: impl FnOnce(&Plan, u32) -> anyhow::Result<D>,
) -> Result<Findings, RunError> {
    let mut end = End(orders.events.clone(), Event::Failed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let found = LocalSet::new().block_on(&runtime, async {
        let dialer = dialer(&orders.plan, orders.number).map_err(RunError::Dialer)?;
        Box::pin(Thread::new(orders, dialer).run()).await
    });
    // A name lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    if found.is_ok() {
        end.1 = Event::Gone;
    }
    found
}

/// Tells the thread's end, also when it panics.
struct End(mpsc::Sender<Event>, Event);

impl Drop for End {
    fn drop(&mut self) {
        // Fails only when nobody waits any more.
        let _ = self.0.try_send(self.1);
    }
}

struct Thread<D: Dialer> {
    orders: Orders,
    post: Rc<Post<D>>,
}

impl<D: Dialer> Thread<D> {
    fn new(orders: Orders, dialer: D) -> Self {
        Self {
            orders,
            post: Rc::new(Post::new(dialer)),
        }
    }

    async fn run(self) -> Result<Findings, RunError> {
        let Self { orders, post } = self;
        let plan = &orders.plan;
        let mut signal = orders.signal.clone();
        let closer = Rc::clone(&post);
        let closer = tokio::task::spawn_local(async move { closer.close_given_up().await });
        let connecting = connect(&post, plan, orders.number);
        let live = unless_stopped(&mut signal, connecting).await??;
        tell(&orders, Event::Connected(rustix::thread::gettid()));
        told(&mut signal, |signal| matches!(signal, Signal::Ramp)).await?;
        let ramp = Idlers::ramp(&post, plan, orders.number);
        let idlers = unless_stopped(&mut signal, ramp).await?;
        tell(&orders, Event::Ramped);
        let Signal::Begin(schedule) =
            told(&mut signal, |signal| matches!(signal, Signal::Begin(_))).await?
        else {
            return Err(RunError::Interrupted);
        };

        let slots = slots(plan, orders.number, live);
        let work = Rc::new(work(&orders, &post, &schedule)?);
        post.connects
            .borrow_mut()
            .warm_up(schedule.start, schedule.counted.from);
        let lag = Lag::watch(schedule.counted).map_err(RunError::Runtime)?;
        let unsent = Rc::new(RefCell::new(Vec::new()));
        let ticker = tokio::task::spawn_local(tick(
            Rc::clone(&work),
            orders.slices.clone(),
            Rc::clone(&unsent),
        ));
        load(&work, &slots, plan, schedule, &mut signal).await?;
        ticker.abort();
        tell(&orders, Event::Over);
        let lag = lag.finish();

        // Who watches needs the thread to be there. A run that is stopped goes on from here too.
        let leave = told(&mut signal, |signal| matches!(signal, Signal::Leave));
        drop(leave.await);

        // The load's connections go before the idle ones are asked: they are no part of it.
        drop(slots);
        let asked = tokio::time::sleep_until(schedule.ask_idle_at.into());
        // A run that is stopped asks them at once.
        drop(unless_stopped(&mut signal, asked).await);
        let (idle, conns) = idlers.ask(&orders.workload, plan.timeout).await;
        closer.abort();
        close(&post, conns).await;

        let socket_drops = post.dialer.socket_drops();
        let mut tally = work.tally.borrow_mut();
        let mut slices = unsent.take();
        slices.extend(tally.take_slices());
        Ok(Findings {
            tally: tally.clone(),
            slices,
            connects: post.connects.take(),
            idle,
            socket_drops,
            lag,
        })
    }
}

fn tell(orders: &Orders, event: Event) {
    // The channel has room for all that is ever told.
    let _ = orders.events.try_send(event);
}

/// Waits for a signal; an error if it is to stop.
async fn told(
    signal: &mut watch::Receiver<Signal>,
    wanted: impl Fn(&Signal) -> bool,
) -> Result<Signal, RunError> {
    let told = signal
        .wait_for(|told| wanted(told) || matches!(told, Signal::Stop))
        .await;
    match told.as_deref() {
        Ok(Signal::Stop) | Err(_) => Err(RunError::Interrupted),
        Ok(told) => Ok(*told),
    }
}

async fn unless_stopped<T>(
    signal: &mut watch::Receiver<Signal>,
    future: impl Future<Output = T>,
) -> Result<T, RunError> {
    // A wait that is cancelled loses nothing; a future that is cancelled is of a run that is over.
    tokio::select! {
        biased;
        _ = signal.wait_for(|told| matches!(told, Signal::Stop)) => Err(RunError::Interrupted),
        done = future => Ok(done),
    }
}

/// This thread's connections, by number: every `threads`-th of all.
fn numbers(plan: &Plan, thread: u32) -> impl Iterator<Item = u32> {
    (thread..plan.connections).step_by(plan.threads.max(1) as usize)
}

async fn connect<D: Dialer>(
    post: &Rc<Post<D>>,
    plan: &Plan,
    thread: u32,
) -> Result<Vec<(u32, Rc<Live<D>>)>, RunError> {
    if matches!(plan.session, Session::PerRequest(_)) {
        return Ok(Vec::new());
    }
    let opened = stream::iter(numbers(plan, thread))
        .map(|number| async move {
            let backoff = Backoff::default();
            let mut attempt = 1;
            let opening = async {
                loop {
                    match post.open(number).await {
                        Ok(live) => return Ok((number, live)),
                        Err(failure) if attempt >= CONNECT_ATTEMPTS => return Err(failure),
                        Err(_) => {
                            attempt += 1;
                            backoff.failed(Instant::now());
                            if let Some(until) = backoff.until() {
                                tokio::time::sleep_until(until.into()).await;
                            }
                        }
                    }
                }
            };
            tokio::time::timeout(plan.timeout, opening)
                .await
                .unwrap_or(Err(Failure::TimedOut))
                .map_err(|failure| RunError::Connect {
                    number,
                    target: plan.target.authority().to_string(),
                    failure,
                })
        })
        .buffer_unordered(CONNECTING_MAX);
    futures_util::TryStreamExt::try_collect(opened).await
}

/// Connection numbers; with a slot where connections are kept.
type Slots<D> = Vec<(u32, Option<Rc<Slot<D>>>)>;

fn slots<D: Dialer>(plan: &Plan, thread: u32, live: Vec<(u32, Rc<Live<D>>)>) -> Slots<D> {
    let age = match plan.session {
        Session::Churn(age) => Some(age),
        Session::Kept => None,
        Session::PerRequest(_) => {
            return numbers(plan, thread).map(|number| (number, None)).collect();
        }
    };
    live.into_iter()
        .map(|(number, live)| {
            let first = f64::from(number + 1) / f64::from(plan.connections.max(1));
            (number, Some(Rc::new(Slot::new(number, live, age, first))))
        })
        .collect()
}

fn work<D: Dialer>(
    orders: &Orders,
    post: &Rc<Post<D>>,
    schedule: &Schedule,
) -> Result<Work<D>, RunError> {
    let plan = &orders.plan;
    let gate = match arrivals(plan, orders.number) {
        None => None,
        Some(arrivals) => Some(Gate::new(schedule.start, arrivals).map_err(RunError::Runtime)?),
    };
    let carry = plan.stop.requests.is_none();
    Ok(Work {
        post: Rc::clone(post),
        tally: RefCell::new(Tally::new(schedule.counted, carry, schedule.start)),
        asks: RefCell::new(orders.workload.asks(plan.seed, orders.number)),
        exhausted: false.into(),
        gate,
        left: orders.left.clone(),
        meter: AtomicU64::new(0),
        timeout: plan.timeout,
        read_rate: plan.read_rate,
    })
}

/// The intended starts of this thread, from the begin of the warm-up on. A ramp begins after it; until then its first
/// rate is kept. Recorded times begin with the warm-up.
fn arrivals(plan: &Plan, thread: u32) -> Option<Box<dyn Iterator<Item = Duration>>> {
    let (warmup, duration) = (plan.warmup, plan.stop.duration);
    let of = |shape, duration| Arrivals::new(shape, duration, plan.seed, thread, plan.threads);
    match plan.shape {
        Shape::Closed => None,
        Shape::Recorded { speed } => {
            let times = plan.workload.times(speed, thread, plan.threads)?;
            Some(Box::new(times))
        }
        Shape::Ramp { from, .. } => {
            let ramp = of(plan.shape, duration)?.map(move |offset| warmup + offset);
            let steady = (from > 0.0 && !warmup.is_zero())
                .then(|| of(Shape::Constant { rate: from }, warmup))
                .flatten();
            Some(Box::new(steady.into_iter().flatten().chain(ramp)))
        }
        shape => Some(Box::new(of(shape, warmup + duration)?)),
    }
}

/// Lets the lanes run, and counts what is left when they are done.
async fn load<D: Dialer>(
    work: &Rc<Work<D>>,
    slots: &Slots<D>,
    plan: &Plan,
    schedule: Schedule,
    signal: &mut watch::Receiver<Signal>,
) -> Result<(), RunError> {
    tokio::time::sleep_until(schedule.start.into()).await;
    let (mut lanes, mut states) = (JoinSet::new(), Vec::new());
    for (number, slot) in slots {
        for _ in 0..plan.streams.max(1) {
            let source = match slot {
                Some(slot) => Source::Kept(Rc::clone(slot)),
                None => Source::PerRequest(*number, Backoff::default()),
            };
            let state = Rc::new(State::default());
            states.push(Rc::clone(&state));
            lanes.spawn_local(worker::run(Rc::clone(work), source, state));
        }
    }
    let done = async {
        while let Some(lane) = lanes.join_next().await {
            lane.map_err(|error| RunError::Panicked(error.to_string()))?;
        }
        Ok(())
    };
    let keep = async {
        match &work.gate {
            Some(gate) => gate.keep().await,
            None => std::future::pending().await,
        }
    };
    // Whichever comes first ends the load; the others are of no use then.
    let stopped = tokio::select! {
        done = done => done.map(|()| false),
        kept = keep => kept.map(|()| false).map_err(RunError::Runtime),
        () = tokio::time::sleep_until(schedule.cut.into()) => Ok(false),
        _ = signal.wait_for(|told| matches!(told, Signal::Stop)) => Ok(true),
    }?;
    if let Some(gate) = &work.gate {
        gate.shut();
    }
    let now = Instant::now();
    lanes.shutdown().await;
    let mut tally = work.tally.borrow_mut();
    if stopped {
        tally.end_at(now);
    }
    for state in states {
        if let Some(intended) = state.under_way.take() {
            tally.cut(intended, now);
        }
    }
    let until = tally.counted().until.min(now);
    drop(tally);
    if !work.exhausted.get() {
        while let Some(at) = work.take_due(until) {
            work.tally.borrow_mut().never_begun(at, now);
        }
    }
    let meter = work.metered();
    let mut tally = work.tally.borrow_mut();
    tally.end_at(now);
    tally.turn(now, meter);
    Ok(())
}

/// Ends slices on time also when nothing comes, and hands them on. What finds no room stays in `unsent`.
async fn tick<D: Dialer>(
    work: Rc<Work<D>>,
    slices: mpsc::Sender<Slice>,
    unsent: Rc<RefCell<Vec<Slice>>>,
) {
    while let Some(end) = { work.tally.borrow().slice_end() } {
        tokio::time::sleep_until(end.into()).await;
        let mut tally = work.tally.borrow_mut();
        tally.turn(Instant::now(), work.metered());
        let mut unsent = unsent.borrow_mut();
        unsent.extend(tally.take_slices());
        while let Some(slice) = unsent.pop() {
            if let Err(refused) = slices.try_send(slice) {
                unsent.push(refused.into_inner());
                break;
            }
        }
    }
}

/// Closes what is left, within [`CLOSE_TIME_MAX`].
async fn close<D: Dialer>(post: &Post<D>, idle: Vec<D::Conn>) {
    let closing: FuturesUnordered<_> = post
        .take_given_up()
        .into_iter()
        .chain(idle)
        .map(Conn::close)
        .collect();
    let all = closing.for_each(|()| std::future::ready(()));
    drop(tokio::time::timeout(CLOSE_TIME_MAX, all).await);
}
