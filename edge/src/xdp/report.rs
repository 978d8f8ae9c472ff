//! How packets are judged now, and what came of it: what the node answers, and what the commands print.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stoq_ebpf::helper::Sample;
use stoq_ebpf::{Counters, Mode};

use super::evidence::Cause;

/// Of those who have smaller budgets, so many are shown: 256 × 100 B of text.
pub(super) const LOWERED_SHOWN_MAX: usize = 256;

/// A source that has smaller budgets for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lowered {
    /// An IPv4 address or an IPv6 /64.
    pub(crate) source: IpNet,
    /// Why.
    pub(crate) cause: Cause,
    /// For so many seconds more.
    pub(crate) left_s: u64,
}

/// The answer to every `xdp` verb.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct XdpReport {
    /// Always true: a failure has another form.
    pub(crate) ok: bool,
    /// What was done, where anything was.
    pub(crate) done: Option<String>,
    /// The mode that the configuration asks for.
    pub(crate) wish: Mode,
    /// The interface that it names.
    pub(crate) interface: String,
    /// Where packets are judged.
    pub(crate) mode: Mode,
    /// Why not where the configuration wants it.
    pub(crate) why: Option<String>,
    /// What is to be dropped passes, and is counted.
    pub(crate) dry_run: bool,
    /// Milliseconds left to confirm; none where nothing waits for it.
    pub(crate) trial_left_ms: Option<u64>,
    /// An enable was confirmed on this machine, so the next start attaches as well.
    pub(crate) confirmed: bool,
    /// The part of newcomers' first packets over QUIC that is dropped, 0 to 1.
    pub(crate) shed: f64,
    /// Newcomers over QUIC prove their address first.
    pub(crate) retry: bool,
    /// The load that follows from: 0 is none.
    pub(crate) pressure: f64,
    /// Who has smaller budgets for a while, at most 256.
    pub(crate) lowered: Vec<Lowered>,
    /// What was counted since the process started.
    pub(crate) counters: Counters,
    /// Some of the packets that were dropped, oldest first, at most 256.
    pub(crate) samples: Vec<Sample>,
}

impl fmt::Display for XdpReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(done) = &self.done {
            writeln!(f, "{done}")?;
        }
        write!(f, "judged     {}", self.mode)?;
        if self.mode != Mode::UserSpace {
            write!(f, " on {}", self.interface)?;
        }
        if self.dry_run {
            f.write_str(", dry run: nothing is dropped")?;
        }
        writeln!(f)?;
        if let Some(why) = &self.why {
            writeln!(f, "because    {why}")?;
        }
        match self.trial_left_ms {
            Some(left) => writeln!(
                f,
                "on trial   taken back in {} s unless `xdp confirm` comes before",
                left.div_ceil(1000)
            )?,
            None => writeln!(
                f,
                "confirmed  {}",
                if self.confirmed {
                    "yes: the next start attaches too"
                } else {
                    "no: the next start does not attach"
                }
            )?,
        }
        let retry = if self.retry {
            ", newcomers prove their address"
        } else {
            ""
        };
        writeln!(
            f,
            "shed       {:.0} % of newcomers{retry} (pressure {:.2})",
            self.shed * 100.0,
            self.pressure
        )?;
        for Lowered {
            source,
            cause,
            left_s,
        } in &self.lowered
        {
            writeln!(f, "lowered    {source} for {left_s} s: {}", cause.word())?;
        }
        Ok(())
    }
}

/// What became of packets between two reports, as a table: reason, packets, packets a second, bytes.
#[derive(Debug)]
pub(crate) struct Verdicts<'a> {
    /// As it is.
    pub(crate) now: &'a Counters,
    /// As it was that many seconds ago.
    pub(crate) before: Option<(&'a Counters, f64)>,
}

impl fmt::Display for Verdicts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<24} {:>14} {:>12} {:>18}",
            "verdict", "packets", "a second", "bytes"
        )?;
        for (reason, counter) in self.now.iter() {
            if counter.packets == 0 {
                continue;
            }
            let rate = self.before.map_or_else(String::new, |(before, seconds)| {
                let more = counter.packets.saturating_sub(before.of(reason).packets);
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "packets of a second, far below 2^52"
                )]
                let rate = more as f64 / seconds.max(f64::MIN_POSITIVE);
                format!("{rate:.0}")
            });
            writeln!(
                f,
                "{:<24} {:>14} {rate:>12} {:>18}",
                reason.word(),
                counter.packets,
                counter.bytes
            )?;
        }
        Ok(())
    }
}
