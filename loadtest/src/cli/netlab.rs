//! `stoq-bench netlab`: builds hosts out of network namespaces, runs a load over the network between them, and removes
//! everything.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::Usage;
use crate::netlab::{self, LinkReport, Options, Report, Scenario};

/// What `netlab` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The scenario file; `loadtest/netlab/` has commented ones.
    #[arg(required_unless_present_any = ["clean", "guard"])]
    scenario: Option<PathBuf>,
    /// Print the commands it would run, in order, and run none. Needs no root.
    #[arg(long)]
    dry_run: bool,
    /// Remove what labs of dead processes left, and do nothing else. (Each start does it too.)
    #[arg(long, conflicts_with = "scenario")]
    clean: bool,
    /// Write the output of the processes to files in DIR, and keep them.
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
    /// Print the result as JSON; the load's own output goes to its log.
    #[arg(long)]
    json: bool,
    /// Write the load's bundle here, with the lab's report in it as `netlab`; for a load without a bundle the report alone.
    #[arg(short, long, value_name = "BUNDLE")]
    output: Option<PathBuf>,
    /// What the lab puts before each command of a host: die with process PID, become COMMAND.
    #[arg(long, hide = true, value_name = "PID", requires = "command")]
    guard: Option<u32>,
    /// See --guard.
    #[arg(last = true, hide = true)]
    command: Vec<String>,
}

/// Exit code 0: the load ended well; 1: it did not, or the lab could not be built; 3: the relay was the bottleneck, or the
/// load's own verdict says INVALID.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(tool) = args.guard {
        let error = netlab::guard(tool, &args.command);
        bail!("{}: {error}", args.command.join(" "));
    }
    let root = rustix::process::geteuid().is_root();
    let Some(path) = &args.scenario else {
        if !root {
            bail!("netlab --clean needs root: it removes network namespaces");
        }
        for namespace in netlab::clean()? {
            println!("removed {namespace}");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let text =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let scenario = Scenario::parse(path, &text).map_err(|refused| Usage(refused.to_string()))?;
    if args.dry_run || !root {
        let plan = netlab::dry_run(&scenario).join("\n");
        println!("{plan}");
        if !args.dry_run {
            bail!(
                "netlab needs root, for it makes network namespaces; above is what it would have done"
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    // On this thread alone, which lives until the end: the processes of the lab die with it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let Some(report) = runtime.block_on(stand(args, &scenario))? else {
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(output) = &args.output {
        write(output, &report).with_context(|| format!("writing {}", output.display()))?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&document(&report)?)?);
    } else {
        print(&report);
    }
    Ok(match report.load.exit_code {
        _ if !report.verdict.valid => ExitCode::from(3),
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(1),
    })
}

/// Runs the scenario until its end or a signal. `None`: a lab without a load was ended by one, as it is to be.
async fn stand(args: &Args, scenario: &Scenario) -> anyhow::Result<Option<Report>> {
    let options = Options {
        logs: args.keep_logs.clone(),
        quiet: args.json,
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let up = |impairer, namespaces: &[String]| {
        eprintln!(
            "netlab: up, impairment by {impairer}: {}",
            namespaces.join(" ")
        );
        if scenario.load.is_none() {
            eprintln!(
                "netlab: enter a host with `ip netns exec NAMESPACE COMMAND`; Ctrl-C ends it"
            );
        }
    };
    // Whichever branch is not taken is dropped, and the lab with it: that removes it.
    tokio::select! {
        report = netlab::run(scenario, &options, up) => Ok(Some(report?)),
        _ = interrupt.recv() => ended(scenario),
        _ = terminate.recv() => ended(scenario),
    }
}

fn ended(scenario: &Scenario) -> anyhow::Result<Option<Report>> {
    if scenario.load.is_some() {
        bail!("interrupted: there is no result, and the lab is removed");
    }
    Ok(None)
}

/// The bundle with the report in it, or the report.
fn document(report: &Report) -> serde_json::Result<serde_json::Value> {
    let lab = serde_json::to_value(report)?;
    let Some(bundle) = &report.bundle else {
        return Ok(lab);
    };
    let mut bundle = serde_json::to_value(bundle)?;
    if let Some(fields) = bundle.as_object_mut() {
        fields.insert("netlab".to_owned(), lab);
    }
    Ok(bundle)
}

fn write(path: &Path, report: &Report) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    serde_json::to_writer_pretty(&mut file, &document(report)?)?;
    writeln!(file)?;
    Ok(())
}

fn print(report: &Report) {
    for link in &report.links {
        println!("{}", line(link));
        if let Some(relay) = &link.relay {
            let ms =
                |us: Option<f64>| us.map_or_else(|| "–".to_owned(), |us| format!("{us:.0} µs"));
            println!(
                "  relay: {:.0} % of a core, {:.0} % in its busiest second; lag p50 {}, p99 {}, max {}",
                relay.cpu_share * 100.0,
                relay.cpu_share_max * 100.0,
                ms(relay.lag_p50_us),
                ms(relay.lag_p99_us),
                ms(relay.lag_max_us),
            );
            for (way, counted) in [("up  ", relay.up), ("down", relay.down)] {
                println!(
                    "  {way}: {} frames in, {} out, {} lost, {} held back",
                    counted.taken, counted.passed, counted.lost, counted.held_back
                );
            }
        }
    }
    println!(
        "load: exit code {} after {:.1} s",
        report.load.exit_code, report.load.elapsed_s
    );
    if report.verdict.valid {
        println!("VALID");
    }
    for reason in &report.verdict.reasons {
        println!("INVALID: {reason}");
    }
}

/// A link as it was set, and what its queue dropped.
fn line(link: &LinkReport) -> String {
    let mut line = format!("{}: mtu {}", link.host, link.mtu);
    if let Some(rate) = link.rate {
        let count =
            |drops: Option<u64>| drops.map_or_else(|| "?".to_owned(), |drops| drops.to_string());
        line.push_str(&format!(
            ", rate {rate} bit/s (queue dropped {} up, {} down)",
            count(link.queue_drops_up),
            count(link.queue_drops_down)
        ));
    }
    if let Some(impairment) = &link.impairment {
        line.push_str(&format!(", {impairment} each way"));
    }
    line
}
