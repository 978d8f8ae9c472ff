//! The binary `stoq-edge`; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    stoq_edge::cli::main()
}
