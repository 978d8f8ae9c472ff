//! `stoq-bench report`: results as an HTML page.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use super::Usage;
use crate::report::{RUNS_MAX, page, runs};
use crate::results::Results;

/// What `report` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Results, each a file that `run` or `ab` wrote.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write the page here.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
    /// Its title [default: the names of the runs].
    #[arg(long)]
    title: Option<String>,
}

/// Writes the page. INVALID runs are shown as such and are no failure of this verb.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let files = args.files.iter().map(|path| Results::load(path));
    let runs = runs(files.collect::<Result<_, _>>()?);
    if runs.len() > RUNS_MAX {
        let many = runs.len();
        return Err(Usage(format!("{many} runs; a page shows at most {RUNS_MAX}")).into());
    }
    let title = args.title.clone().unwrap_or_else(|| {
        let names: Vec<&str> = runs.iter().map(|run| run.label.as_str()).collect();
        names.join(" · ")
    });
    std::fs::write(&args.output, page(&title, &runs))
        .with_context(|| format!("writing {}", args.output.display()))?;
    println!("{}", args.output.display());
    Ok(ExitCode::SUCCESS)
}
