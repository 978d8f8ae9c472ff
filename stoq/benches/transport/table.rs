//! The figures as a table, and what they say of the bars.

use crate::Who;
use crate::contender::Outcome;
use crate::work::Work;

/// A row of work with the rounds of each contender.
pub(crate) struct Row {
    work: Work,
    contenders: Vec<(Who, Vec<Outcome>)>,
}

/// Lower quartiles of one contender, in the unit of its row.
#[derive(Debug, Clone, Copy)]
struct Figures {
    server: f64,
    client: f64,
    /// Units a second, the upper quartile.
    rate: f64,
}

impl Row {
    pub(crate) fn new(work: Work, who: &[Who]) -> Self {
        Self {
            work,
            contenders: who.iter().map(|who| (*who, Vec::new())).collect(),
        }
    }

    pub(crate) fn contenders(&mut self) -> impl Iterator<Item = (Who, &mut Vec<Outcome>)> {
        self.contenders
            .iter_mut()
            .map(|(who, outcomes)| (*who, outcomes))
    }

    /// Fails if anyone stalled who should not.
    pub(crate) fn assert_walked(&self) {
        for (who, outcomes) in &self.contenders {
            let walked = outcomes.iter().all(|outcome| !outcome.is_stalled());
            let may = who.may_stall(self.work);
            assert!(
                walked || may,
                "{} stalled in {}",
                who.name(),
                self.work.name()
            );
        }
    }

    fn figures(&self, of: Who) -> Option<Figures> {
        let (_, outcomes) = self.contenders.iter().find(|(who, _)| *who == of)?;
        let (mut server, mut client, mut wall) = (Vec::new(), Vec::new(), Vec::new());
        for outcome in outcomes {
            let Outcome::Done {
                server: of_server,
                client: of_client,
                wall: took,
            } = outcome
            else {
                return None;
            };
            server.push(of_server.as_secs_f64());
            client.push(of_client.as_secs_f64());
            wall.push(took.as_secs_f64());
        }
        let amount = self.work.amount();
        Some(Figures {
            server: quartile(server) / amount,
            client: quartile(client) / amount,
            rate: amount / quartile(wall),
        })
    }

    pub(crate) fn print(&self) {
        let name = self.work.name();
        let quinn = self.figures(Who::Plain);
        let (scale, unit, rate_scale, rate_unit) = match self.work {
            Work::Bulk { .. } => (1.0, "s/GB", 8.0, "Gbit/s"),
            Work::Rpc { .. } => (1e6, "µs", 1e-3, "k/s"),
            Work::Handshakes { .. } => (1e6, "µs", 1.0, "/s"),
        };
        for (who, _) in &self.contenders {
            let Some(figures) = self.figures(*who) else {
                println!("{name:<22} {:<15} stalled: no end in time", who.name());
                continue;
            };
            let ratio = quinn.map_or_else(
                || "–".to_owned(),
                |quinn| format!("{:.2}", figures.server / quinn.server),
            );
            println!(
                "{name:<22} {:<15} {:>8.3} {:>8.3} {unit:<5} {:>8.1} {rate_unit:<7} {ratio:>8}",
                who.name(),
                figures.server * scale,
                figures.client * scale,
                figures.rate * rate_scale,
            );
        }
    }

    fn is_bulk_at(&self, size: u16) -> bool {
        matches!(self.work, Work::Bulk { mtu, .. } if mtu == size)
    }
}

/// The lower quartile: what else runs on the machine only ever adds.
fn quartile(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 4]
}

pub(crate) fn head(machine: &str) {
    println!("{machine}");
    println!(
        "{:<22} {:<15} {:>8} {:>8} {:<5} {:>8} {:<7} {:>8}",
        "", "", "server", "client", "", "", "", "of quinn"
    );
}

/// What was to be reached, as far as its rows were run.
pub(crate) fn bars(rows: &[Row]) {
    println!();
    for row in rows {
        let (ours, quinn) = (row.figures(Who::Streams), row.figures(Who::Plain));
        if let (Some(ours), Some(quinn)) = (ours, quinn) {
            say(
                &format!(
                    "{}: server CPU of stoq streams over quinn's",
                    row.work.name()
                ),
                ours.server / quinn.server,
                1.0,
            );
        }
    }
    let at = |mtu| {
        rows.iter()
            .find(|row| row.is_bulk_at(mtu))?
            .figures(Who::Streams)
    };
    if let (Some(jumbo), Some(usual)) = (at(8952), at(1452)) {
        say(
            "bulk: server CPU of stoq streams at 8952 over 1452",
            jumbo.server / usual.server,
            0.35,
        );
    }
}

fn say(what: &str, ratio: f64, most: f64) {
    // To the second digit, which is as far as rounds agree.
    let holds = (ratio * 100.0).round() <= most * 100.0;
    let verdict = if holds { "holds" } else { "MISSED" };
    println!("{verdict:<7} {what}: {ratio:.2}, at most {most:.2}");
}
