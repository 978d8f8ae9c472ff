//! `stoq-bench ab`: two servers in turn, and the ratio of their medians with its range.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::flags::Flags;
use super::run::on_ctrl_c;
use super::{INVALID, Usage};
use crate::ab::{Letter, Setting, Side, ab};
use crate::compare::{compare, rate, short};
use crate::plan::{Plan, Protocol};
use crate::results::Results;
use crate::run::Options;
use crate::{Client, Version};

/// How long one look whether a server answers may take.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// What `ab` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Server A: one simple command for `sh`.
    #[arg(long, value_name = "COMMAND")]
    a: String,
    /// Server B.
    #[arg(long, value_name = "COMMAND")]
    b: String,
    /// What both are asked for. `{addr}` stands for the address in a server's line `listening on ADDR`.
    #[arg(long, default_value = "https://{addr}/1024")]
    url: String,
    /// What A is asked for, if not the same.
    #[arg(long, value_name = "URL")]
    url_a: Option<String>,
    /// What B is asked for, if not the same.
    #[arg(long, value_name = "URL")]
    url_b: Option<String>,
    /// Believe the certificates in this PEM file of A, and no others.
    #[arg(long, value_name = "FILE")]
    cacert_a: Option<String>,
    /// Believe the certificates in this PEM file of B, and no others.
    #[arg(long, value_name = "FILE")]
    cacert_b: Option<String>,
    /// What A is called [default: its program's name].
    #[arg(long)]
    name_a: Option<String>,
    /// What B is called [default: its program's name].
    #[arg(long)]
    name_b: Option<String>,
    /// Rounds of each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Rounds of which a half is INVALID are set aside and measured again, so many in all.
    #[arg(long, default_value_t = 3)]
    repeats: u8,
    /// Cores of the servers: `0`, `0-1,3`.
    #[arg(long, value_name = "LIST")]
    cpu_server: Option<String>,
    /// Cores of this client.
    #[arg(long, value_name = "LIST", requires = "cpu_server")]
    cpu_client: Option<String>,
    /// Write all rounds here, as JSON.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the comparison as JSON.
    #[arg(long)]
    json: bool,
    /// Flags of `run` for both, after `--`: `-- -c 10 -m 32 -d 5s --insecure`.
    #[arg(last = true, value_name = "RUN FLAGS")]
    flags: Vec<String>,
}

/// Exit code 3: a round is INVALID, and the repeats are used up, and with it the comparison.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let side = |letter: Letter| {
        let (command, url, name, cacert) = match letter {
            Letter::A => (&args.a, &args.url_a, &args.name_a, &args.cacert_a),
            Letter::B => (&args.b, &args.url_b, &args.name_b, &args.cacert_b),
        };
        let url = url.as_ref().unwrap_or(&args.url).clone();
        let name = name.clone().unwrap_or_else(|| program(command));
        (command.clone(), url, name, cacert.as_deref())
    };
    let (a, b) = (side(Letter::A), side(Letter::B));
    let plan = |letter: Letter, url: &str| {
        let cacert = if letter == Letter::A { a.3 } else { b.3 };
        plan(url, cacert, &args.flags)
    };
    // Before anything is started: flags that make no sense.
    plan(Letter::A, &a.1.replace("{addr}", "127.0.0.1:1"))?;
    plan(Letter::B, &b.1.replace("{addr}", "127.0.0.1:1"))?;
    if let Some(list) = &args.cpu_client {
        // Threads begun from here on inherit it; servers are moved to their own cores.
        let cores = cores(list).ok_or_else(|| Usage(format!("`{list}` is no list of cores")))?;
        sched_setaffinity(None, &cores).with_context(|| format!("running on cores {list}"))?;
    }
    let interrupt = on_ctrl_c()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let setting = Setting {
        name: format!("{} and {}", a.2, b.2),
        a: Side {
            command: a.0.clone(),
            url: a.1.clone(),
        },
        b: Side {
            command: b.0.clone(),
            url: b.1.clone(),
        },
        rounds: args.rounds.into(),
        repeats: args.repeats.into(),
        server_cores: args.cpu_server.clone(),
    };
    let ready = |letter: Letter, url: &str| {
        let plan = plan(letter, url).map_err(|error| format!("{error:#}"))?;
        runtime.block_on(look(&plan))
    };
    let pair = ab(&setting, &interrupt, ready, |letter, round, url, pid| {
        let options = Options {
            name: if letter == Letter::A { &a.2 } else { &b.2 }.clone(),
            server_pid: Some(pid),
            progress: !args.json,
            interrupt: interrupt.clone(),
        };
        let bundle = crate::run::run(plan(letter, url)?, &options)?;
        let cpu = bundle
            .server
            .as_ref()
            .and_then(|server| server.cpu_s_per_million);
        let cpu = cpu.map_or_else(|| "–".to_owned(), short);
        let verdict = if bundle.verdict.valid {
            "VALID"
        } else {
            "INVALID"
        };
        let rate = short(rate(&bundle));
        eprintln!(
            "round {round} {letter}: {rate} answers a second, {cpu} CPU s per million, {verdict}"
        );
        Ok(bundle)
    })?;
    let mut comparison = compare(&pair.a, &pair.b);
    comparison.set_aside.clone_from(&pair.set_aside);
    if let Some(path) = &args.output {
        Results::Pair(Box::new(pair)).save(path)?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        print!("{}", comparison.table());
        if comparison.invalid.is_empty() {
            println!("\nevery round was VALID");
        } else {
            println!(
                "\nINVALID: the rounds above say nothing about the servers, nor do these ratios"
            );
        }
    }
    Ok(if comparison.invalid.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INVALID)
    })
}

/// The flags of `run` with this URL.
fn plan(url: &str, cacert: Option<&str>, flags: &[String]) -> anyhow::Result<Plan> {
    let cacert = cacert.map(|file| ["--cacert", file]);
    let words = [url].into_iter();
    let words = words.chain(cacert.into_iter().flatten());
    let words = words.chain(flags.iter().map(String::as_str));
    Ok(Flags::of_words(words)?.plan()?.0)
}

/// Whether the server answers the first object, however it does: the run looks at the answer. A server of STOQ is taken
/// at its word that it listens.
async fn look(plan: &Plan) -> Result<(), String> {
    let version = match plan.protocol {
        Protocol::Http3 => Version::Http3,
        Protocol::Http2 => Version::Http2,
        Protocol::Http1 => Version::Http1,
        Protocol::Stoq => return Ok(()),
    };
    let objects = plan.workload.objects();
    let path = objects.first().map_or("/", |object| &object.path);
    let asked = async {
        let client = Client::connect(&plan.target, version).await?;
        client.get(path).await?.whole().await?;
        client.close().await;
        Ok::<(), crate::ClientError>(())
    };
    match tokio::time::timeout(LOOK_LIMIT, Box::pin(asked)).await {
        Ok(answered) => answered.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {LOOK_LIMIT:?}")),
    }
}

/// The file name of a command's first word.
fn program(command: &str) -> String {
    let word = command.split_whitespace().next().unwrap_or(command);
    let name = Path::new(word).file_name();
    name.map_or_else(
        || word.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// `0-1,3`.
pub(super) fn cores(list: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (
            first.trim().parse::<usize>().ok()?,
            last.trim().parse::<usize>().ok()?,
        );
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        for core in first..=last {
            set.set(core);
        }
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_listed_singly_and_in_ranges() {
        let set = cores("0-1,3").unwrap();
        assert_eq!(
            [0, 1, 2, 3].map(|core| set.is_set(core)),
            [true, true, false, true]
        );
        for wrong in ["", "a", "2-1", "0-999999", "1,"] {
            assert!(cores(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn flags_of_run_are_taken_for_both_and_wrong_ones_refused() {
        let flags = ["-c", "3", "--insecure"].map(str::to_owned);
        let made = plan("https://127.0.0.1:1/x", None, &flags).unwrap();
        assert_eq!(made.connections, 3);
        let error = plan("https://127.0.0.1:1/x", None, &["--hurry".to_owned()]).unwrap_err();
        assert!(error.is::<Usage>());
    }
}
