//! The thread that keeps the limiter: it says ten times a second that the edge lives and how much is shed, hands on who completed a
//! handshake, and does what the operator asks for.
//!
//! **At a start** the program is attached where exactly what would be attached was confirmed on this machine before: interface, mode, driver, and the
//! program itself. An upgrade that brings another program therefore needs another `enable` and `confirm`: nobody has seen the machine
//! survive it. Until then, and wherever anything is in the way, packets are judged at the sockets, and the log says why.
//!
//! **It ends** with the edge, after the last connection; the program goes with it, also where the process is killed.

#[cfg(test)]
mod tests;
mod verbs;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rand::TryRngCore as _;
use stoq::quic::{Alarm, CidKeys, Screen};
use stoq_ebpf::abi::Reason;
use stoq_ebpf::helper::{Held, Helper, HelperError};
use stoq_ebpf::{
    Counters, Fallback, Judged, Limiter as _, LimiterError, Mode, Record, RuleEdit, Rules,
    Treatment, edits,
};
use stoq_node::config::Xdp;
use stoq_node::{Calls, Registry};

use super::calls::{self, Ask};
use super::evidence::{Change, Evidence};
use super::forecast::{Forecast, allowed};
use super::load::Gauge;
use super::metrics::{Figures, Shown};
use super::policy::{self, Ports, wish};
use super::shed::{EVERY, Load, Shed};
use super::witness::Witness;

/// Requests of the operator that wait. Each is done in milliseconds, but for an enable.
const ASKS_MAX: usize = 8;
/// How long who completed a handshake is known for it: an evening's visit. 65,536 of them fit.
const VALIDATED_FOR: Duration = Duration::from_secs(4 * 3600);
/// Ticks between two looks at what was counted.
const COUNT_EVERY: u32 = 5;
/// Ticks between two looks at what speaks against whom.
const JUDGE_EVERY: u32 = 10;

/// Reads `[xdp]` from the file again; the error is for the operator.
pub(crate) type Reload = Box<dyn Fn() -> Result<Xdp, String> + Send>;

/// What a keeper is made of.
pub(crate) struct Setup {
    pub(crate) config: Xdp,
    pub(crate) state_dir: PathBuf,
    pub(crate) ports: Ports,
    pub(crate) keys: CidKeys,
    pub(crate) helper: Result<Helper, HelperError>,
    pub(crate) reload: Option<Reload>,
    /// Networks of those who speak for others: nothing that comes from there is held against them.
    pub(crate) proxies: Vec<IpNet>,
    pub(crate) workers: usize,
    /// `limits.memory`, bytes.
    pub(crate) memory: u64,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("config", &self.config)
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
}

/// A handle on the thread; dropping it ends the thread, and takes the program away.
#[derive(Debug)]
pub(crate) struct Keeper {
    limiter: Arc<Fallback>,
    alarm: Alarm,
    witness: Witness,
    asks: SyncSender<Ask>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts it. What follows from the record of an earlier enable happens on the thread.
    ///
    /// # Errors
    /// No randomness, no thread, or a configuration with more ports than a limiter takes.
    pub(crate) fn start(setup: Setup, registry: &Registry) -> io::Result<Self> {
        let duty = Duty::new(setup)?;
        let shown = Box::new(duty.shown.clone());
        registry.with(|registry| registry.register_collector(shown));
        let limiter = Arc::clone(&duty.limiter);
        let (alarm, witness) = (duty.alarm.clone(), duty.witness.clone());
        let (asks, asked) = sync_channel(ASKS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("xdp".to_owned())
            .spawn(move || duty.run(&asked, &stopped))?;
        Ok(Self {
            limiter,
            alarm,
            witness,
            asks,
            stop,
            thread: Some(thread),
        })
    }

    /// Judges what a UDP socket of `port` receives, while nothing judges it before.
    pub(crate) fn screen(&self, port: u16) -> Arc<dyn Screen> {
        Arc::new(AtPort {
            limiter: Arc::clone(&self.limiter),
            port,
        })
    }

    /// Raised while newcomers prove their address.
    pub(crate) fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// What the listeners tell.
    pub(crate) fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Adds the operator's verbs.
    pub(crate) fn calls(&self, calls: Calls) -> Calls {
        calls::offer(calls, &self.asks)
    }
}

impl Drop for Keeper {
    /// Waits for the thread: at most a tenth of a second and what the helper takes.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that keeps the packet limiter panicked");
        }
    }
}

/// The limiter at one port's sockets.
#[derive(Debug)]
struct AtPort {
    limiter: Arc<Fallback>,
    port: u16,
}

impl Screen for AtPort {
    fn is_watching(&self) -> bool {
        self.limiter.mode() == Mode::UserSpace
    }

    fn admits(&self, from: std::net::SocketAddr, datagram: &[u8]) -> bool {
        !matches!(
            self.limiter.judge(from.ip(), self.port, datagram),
            Judged::Drops(_)
        )
    }
}

/// The thread's own.
struct Duty {
    config: Xdp,
    state_dir: PathBuf,
    ports: Ports,
    keys: CidKeys,
    reload: Option<Reload>,
    proxies: Vec<IpNet>,
    evidence: Evidence,
    hash_key: [u64; 2],
    /// There is one to ask. Else the limiter knows why not, and is not asked again, since it would say only that there is none.
    has_helper: bool,
    limiter: Arc<Fallback>,
    alarm: Alarm,
    witness: Witness,
    /// The operator's lists, as the limiter has them but for what is doubtful.
    lists: Rules,
    /// Prefixes of which it is not known what the limiter has, since an edit of them failed.
    doubtful: BTreeSet<IpNet>,
    gauge: Gauge,
    shed: Shed,
    load: Option<Load>,
    figures: Figures,
    last_mode: Mode,
    /// Why nothing was attached at the start; none once anything was.
    not_at_start: Option<String>,
    ticks: u32,
    shown: Shown,
}

impl Duty {
    fn new(setup: Setup) -> io::Result<Self> {
        let mut seed = [0; 16];
        rand::rngs::OsRng
            .try_fill_bytes(&mut seed)
            .map_err(io::Error::other)?;
        let seed = u128::from_ne_bytes(seed);
        #[expect(clippy::cast_possible_truncation, reason = "two halves of it")]
        let hash_key = [(seed >> 64) as u64, seed as u64];
        let policy = policy::policy(&setup.config, &setup.ports, &setup.keys, hash_key);
        let has_helper = setup.helper.is_ok();
        let limiter = Fallback::new(setup.helper, &policy).map_err(io::Error::other)?;
        let witness = Witness::default();
        Ok(Self {
            gauge: Gauge::new(witness.doorstep().clone(), setup.workers, setup.memory),
            config: setup.config,
            state_dir: setup.state_dir,
            ports: setup.ports,
            keys: setup.keys,
            reload: setup.reload,
            proxies: setup.proxies,
            evidence: Evidence::default(),
            hash_key,
            has_helper,
            limiter: Arc::new(limiter),
            alarm: Alarm::default(),
            witness,
            lists: Rules::new(),
            doubtful: BTreeSet::new(),
            shed: Shed::default(),
            load: None,
            figures: Figures::default(),
            last_mode: Mode::UserSpace,
            not_at_start: None,
            ticks: 0,
            shown: Shown::default(),
        })
    }

    fn run(mut self, asked: &Receiver<Ask>, stop: &AtomicBool) {
        self.begin();
        let mut next = Instant::now();
        while !stop.load(Ordering::Acquire) {
            let now = Instant::now();
            if now >= next {
                self.tick(now);
                // A tick that came late is not made up for.
                next = (next + EVERY).max(now);
            }
            match asked.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(ask) => {
                    let answer = self.answer(ask.verb);
                    // Who asked may have left.
                    let _ = ask.answer.send(answer);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // Before the last handle on the limiter goes, which endpoints may hold for longer.
        if self.has_helper
            && let Err(error) = self.limiter.disable()
        {
            tracing::warn!(%error, "the packet limiter's program was not given back in order; it ends with its helper");
        }
    }

    /// Lists, and the program where that was confirmed.
    fn begin(&mut self) {
        let lists = policy::lists(&self.config);
        if let Err(error) = self.put_lists(lists) {
            tracing::error!(%error, "xdp.allow and xdp.deny do not hold in full");
        }
        self.note(self.limiter.beat(0));
        let interface = self.interface().to_owned();
        match self.attach_as_confirmed(&interface) {
            Ok(held) => {
                for finding in &held.passed_over {
                    tracing::info!("xdp: {finding}");
                }
                tracing::info!(mode = %held.mode, %interface, "xdp: packets are judged before they reach the sockets");
            }
            Err(why) => {
                tracing::warn!(
                    %interface,
                    "xdp: packets are judged at the sockets of listen.https, TCP is not: {why}"
                );
                self.not_at_start = Some(why);
            }
        }
        self.last_mode = self.limiter.mode();
    }

    fn interface(&self) -> &str {
        self.config.interface.as_deref().unwrap_or_default()
    }

    /// Attaches where exactly that was confirmed before.
    fn attach_as_confirmed(&mut self, interface: &str) -> Result<Held, String> {
        if !self.has_helper {
            return Err(self.limiter.why_at_socket().unwrap_or_default());
        }
        let record = Record::load(&self.state_dir).map_err(|error| error.to_string());
        let wish = wish(self.config.mode);
        let report = self
            .limiter
            .with_helper(|helper| helper.probe(interface, wish))
            .map_err(|error| error.to_string())?;
        let forecast = Forecast::new(&report, wish, interface, record.clone());
        if !forecast.attaches {
            return Err(forecast.why.unwrap_or_default());
        }
        let held = self
            .limiter
            .enable(interface, wish, None)
            .map_err(|error| error.to_string())?;
        // What would be and what came of it differ where the driver refused at the last moment.
        let driver = held.driver.as_deref();
        if let Err(why) = allowed(record?.as_ref(), interface, held.mode, driver) {
            self.noted(self.limiter.disable());
            return Err(why);
        }
        Ok(held)
    }

    /// Makes `lists` hold in place of those before, also for those who have less at the moment: their rules would be longer prefixes, which win. What
    /// fails is made up for by the next call.
    fn put_lists(&mut self, lists: Rules) -> Result<(), LimiterError> {
        let changed = edits(&self.lists, &lists);
        self.lists = lists;
        let mut changed: BTreeSet<IpNet> = changed.into_iter().map(|(prefix, _)| prefix).collect();
        changed.append(&mut self.doubtful);
        let listed = |source: &IpNet| self.lists.keys().any(|prefix| prefix.contains(source));
        changed.extend(self.evidence.forget(listed));
        let mut edits: Vec<RuleEdit> = changed
            .iter()
            .map(|prefix| (*prefix, self.lists.get(prefix).copied()))
            .collect();
        // What goes makes room for what comes.
        edits.sort_by_key(|(_, treatment)| treatment.is_some());
        let put = self.limiter.edit_rules(&edits);
        if put.is_err() {
            self.doubtful = changed;
        }
        put
    }

    fn tick(&mut self, now: Instant) {
        if self.ticks.is_multiple_of(COUNT_EVERY) {
            match self.limiter.counters() {
                Ok(counters) => self.figures.counters = counters,
                Err(error) => self.note(Err(error)),
            }
        }
        if self.ticks.is_multiple_of(JUDGE_EVERY) {
            self.judge(now);
        }
        self.ticks = self.ticks.wrapping_add(1);
        let load = self.gauge.look(now, turned_away(&self.figures.counters));
        self.shed.tick(now, &load);
        self.load = Some(load);
        self.alarm.set(self.shed.is_retrying());
        let proven = self.witness.take_proven();
        if !proven.is_empty() {
            match self.limiter.validate(&proven, VALIDATED_FOR) {
                Ok(refused) => {
                    let entered = proven.len().saturating_sub(refused);
                    self.figures.validated += entered as u64;
                    self.figures.validated_refused += refused as u64;
                }
                Err(error) => self.note(Err(error)),
            }
        }
        self.note(self.limiter.beat(self.shed.of_all()));
        let mode = self.limiter.mode();
        if mode == Mode::UserSpace && self.last_mode != Mode::UserSpace {
            let why = self.limiter.why_at_socket().unwrap_or_default();
            tracing::warn!("xdp: packets are judged at the sockets from now on: {why}");
        }
        self.last_mode = mode;
        self.figures.mode = mode;
        self.figures.shed = self.shed.level();
        self.figures.retry = self.shed.is_retrying();
        self.figures.pressure = load.pressure();
        let mut figures = self.figures.clone();
        figures.validated_refused += self.witness.missed();
        *self.shown.0.lock() = figures;
    }

    /// Lowers the budgets of those whom something speaks against, and lets go of those whose time is over.
    fn judge(&mut self, now: Instant) {
        for (source, counts) in self.witness.take_told() {
            if !self.is_exempt(source.addr()) {
                self.evidence.note(source, counts, now);
            }
        }
        let mut edits = Vec::new();
        for (source, change) in self.evidence.turn(now) {
            let listed = self.lists.get(&source).copied();
            let treatment = match change {
                Change::Lower(cause) => {
                    tracing::info!(%source, cause = cause.word(), "xdp: has smaller budgets for a while");
                    *self.figures.lowerings.entry(cause).or_default() += 1;
                    Some(listed.unwrap_or(Treatment::Profile(policy::LOWERED)))
                }
                // The operator may have listed it meanwhile.
                Change::LetGo => listed,
            };
            edits.push((source, treatment));
        }
        if !edits.is_empty() {
            self.note(self.limiter.edit_rules(&edits));
        }
        self.figures.lowered = self.evidence.lowered().count() as u64;
        self.figures.overlooked = self.evidence.overlooked;
    }

    /// Whether nothing is held against an address: of this machine, of those who speak for others, or in the operator's lists, which say what is to
    /// become of it.
    fn is_exempt(&self, address: IpAddr) -> bool {
        address.is_loopback()
            || self
                .proxies
                .iter()
                .any(|proxies| proxies.contains(&address))
            || self.lists.keys().any(|listed| listed.contains(&address))
    }

    /// Counts what the helper did not do. It is said where the mode changes, not ten times a second.
    fn note(&mut self, done: Result<(), LimiterError>) {
        match done {
            Err(LimiterError::Helper(error)) => self.noted(Err(error)),
            Err(error) => tracing::error!(%error, "xdp"),
            Ok(()) => {}
        }
    }

    fn noted(&mut self, done: Result<(), HelperError>) {
        let Err(error) = done else {
            return;
        };
        self.figures.helper_failures += 1;
        match error {
            HelperError::Gone | HelperError::Silent(_) | HelperError::Io(_) => {
                self.has_helper = false;
            }
            HelperError::Refused(_) | HelperError::Malformed(_) => {}
        }
        tracing::debug!(%error, "xdp: the helper");
    }
}

/// Newcomers that were sent away for the load's sake, not for anything they did.
fn turned_away(counters: &Counters) -> u64 {
    [Reason::Shed, Reason::GlobalInitial, Reason::GlobalToken]
        .into_iter()
        .map(|reason| counters.of(reason).packets)
        .fold(0, u64::saturating_add)
}
