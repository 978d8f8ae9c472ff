//! `stoq-shield`.

fn main() -> std::process::ExitCode {
    stoq_origin_shield::main()
}
