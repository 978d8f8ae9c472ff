//! `stoq-bench`: see [`stoq_loadtest::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    stoq_loadtest::cli::main()
}
