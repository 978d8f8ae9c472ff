//! `xdp enable`, `confirm`, `disable`, `reload`, `top`: asked of the node that runs, over its admin listener.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use http::Method;
use stoq_node::ask;
use stoq_node::config::{AdminAddr, Config, Env, Role, XdpMode, format_duration, parse_duration};
use stoq_node::report::{Exit, Output};

use crate::xdp::{CONFIRM, DISABLE, ENABLE, RELOAD, STATUS, TRIAL, Verdicts, XdpReport};

/// How often `top` looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Moves a terminal to its first line and clears it.
const HOME: &str = "\x1b[H\x1b[2J";

/// Which node.
#[derive(Debug, Args)]
pub(in crate::cli) struct Node {
    /// The configuration file (TOML) of a node that runs on this machine.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Enable {
    #[command(flatten)]
    node: Node,
    /// Taken back after this time unless `xdp confirm` comes before: 1s to 1h.
    #[arg(long, value_name = "TIME", default_value_t = format_duration(TRIAL), value_parser = time)]
    confirm: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Top {
    #[command(flatten)]
    node: Node,
    /// Show it once, and end.
    #[arg(long)]
    once: bool,
}

fn time(text: &str) -> Result<String, String> {
    parse_duration(text)
        .map(format_duration)
        .map_err(|error| error.to_string())
}

/// Where the node's admin listener is.
fn admin(node: &Node) -> anyhow::Result<AdminAddr> {
    let config = load(&node.config)?;
    if config.xdp.mode == XdpMode::Off {
        bail!(
            "{}",
            config.error(
                "xdp.mode",
                "is off (write \"native\" and the interface, and start the node anew)"
            )
        );
    }
    let missing = || {
        config.error(
            "listen.admin",
            "is needed to ask the node (write admin = \"127.0.0.1:9100\", and start it anew)",
        )
    };
    config
        .listen
        .admin
        .clone()
        .with_context(|| missing().to_string())
}

fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(path, &Env::from_process(), Role::Edge)?)
}

async fn report(admin: &AdminAddr, method: Method, path: &str) -> anyhow::Result<XdpReport> {
    let value = ask(admin, method, path).await?;
    serde_json::from_value(value)
        .context("the node's answer was not understood: is it of another version?")
}

/// 3 where packets are not judged where the configuration wants it.
fn exit(report: &XdpReport) -> Exit {
    if report.mode == report.wish {
        Exit::Done
    } else {
        Exit::Degraded
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn post(node: &Node, path: &str, output: &Output) -> anyhow::Result<XdpReport> {
    let admin = admin(node)?;
    let report = block_on(report(&admin, Method::POST, path))?;
    output.result(&report)?;
    Ok(report)
}

pub(super) fn enable(args: &Enable, output: &Output) -> anyhow::Result<Exit> {
    let path = format!("{ENABLE}?confirm={}", args.confirm);
    Ok(exit(&post(&args.node, &path, output)?))
}

pub(super) fn confirm(node: &Node, output: &Output) -> anyhow::Result<Exit> {
    Ok(exit(&post(node, CONFIRM, output)?))
}

pub(super) fn disable(node: &Node, output: &Output) -> anyhow::Result<Exit> {
    post(node, DISABLE, output)?;
    Ok(Exit::Done)
}

pub(super) fn reload(node: &Node, output: &Output) -> anyhow::Result<Exit> {
    post(node, RELOAD, output)?;
    Ok(Exit::Done)
}

pub(super) fn top(args: &Top, json: bool, output: &Output) -> anyhow::Result<Exit> {
    let admin = admin(&args.node)?;
    block_on(async {
        let mut before: Option<(XdpReport, Instant)> = None;
        loop {
            let now = report(&admin, Method::GET, STATUS).await?;
            let at = Instant::now();
            if json {
                output.result(&now)?;
                return Ok(exit(&now));
            }
            let since = before
                .as_ref()
                .map(|(report, then)| (&report.counters, at.duration_since(*then).as_secs_f64()));
            show(&now, since)?;
            if args.once {
                return Ok(exit(&now));
            }
            before = Some((now, at));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
}

/// How many samples a screen has room for.
const SAMPLES: usize = 8;

fn show(now: &XdpReport, before: Option<(&stoq_ebpf::Counters, f64)>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if before.is_some() && out.is_terminal() {
        out.write_all(HOME.as_bytes())?;
    }
    let verdicts = Verdicts {
        now: &now.counters,
        before,
    };
    writeln!(out, "{now}\n{verdicts}")?;
    let first = now.samples.len().saturating_sub(SAMPLES);
    for sample in now.samples.iter().skip(first) {
        writeln!(
            out,
            "{:<24} {} B from {} to port {}{}",
            sample.reason,
            sample.frame_bytes,
            sample.source,
            sample.port,
            if sample.spared { ", spared" } else { "" }
        )?;
    }
    out.flush()
}
