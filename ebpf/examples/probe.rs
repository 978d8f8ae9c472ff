//! What would happen on an interface: `cargo run -p stoq-ebpf --example probe -- eth0 [--json]`. Changes nothing.

use std::{env, process::ExitCode};

use stoq_ebpf::{Mode, Report};

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let Some(interface) = arguments.next() else {
        eprintln!("usage: probe INTERFACE [--json]");
        return ExitCode::from(2);
    };
    let report = match Report::of(&interface, Mode::Native) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{interface}: {error}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.next().as_deref() == Some("--json") {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    } else {
        print!("{report}");
    }
    ExitCode::SUCCESS
}
