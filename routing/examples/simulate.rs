//! Simulates a mesh in virtual time and prints each figure beside its bar. Ends with 1 where a bar is missed.
//!
//! `cargo run --release -p stoq-routing --features sim --example simulate`

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use stoq_routing::sim::{Matrix, NODES_MAX, Plan, Regions};

/// Simulates a mesh in virtual time: lookups of the provider index beside Kademlia's, deaths, partitions, churn.
#[derive(Debug, Parser)]
struct Arguments {
    /// All follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Edges of the usual mesh.
    #[arg(long, default_value_t = 200)]
    edges: usize,
    /// Meshes over which lookups are spread.
    #[arg(long, default_value_t = 5)]
    meshes: u64,
    /// Lookups of a row.
    #[arg(long, default_value_t = 4_000)]
    lookups: usize,
    /// Partitions.
    #[arg(long, default_value_t = 1_000)]
    partitions: usize,
    /// Takes the round trips of this file: a line for each node, `region-metro [latitude,longitude] ms ms …`.
    #[arg(long, value_name = "FILE")]
    matrix: Option<PathBuf>,
    /// Writes the round trips of a mesh of so many edges to this file and ends.
    #[arg(long, value_name = "FILE", conflicts_with = "matrix")]
    write_matrix: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    anyhow::ensure!(
        (8..=NODES_MAX).contains(&arguments.edges),
        "--edges {}: 8 to {NODES_MAX}",
        arguments.edges
    );
    if let Some(file) = &arguments.write_matrix {
        let matrix = Matrix::on_earth(arguments.edges, Regions::Parts, arguments.seed);
        fs::write(file, matrix.to_text()).with_context(|| file.display().to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let matrix = match &arguments.matrix {
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
            Some(Matrix::from_text(&text).with_context(|| file.display().to_string())?)
        }
        None => None,
    };
    let plan = Plan {
        seed: arguments.seed,
        edges: arguments.edges,
        meshes: arguments.meshes,
        lookups: arguments.lookups,
        partitions: arguments.partitions,
        matrix,
    };
    println!(
        "seed {}; virtual time, 0.2 ms of work an answer, connections open",
        plan.seed
    );
    let mut missed = Vec::new();
    for section in plan.sections() {
        print!("{section}");
        missed.extend(section.missed().map(|figure| figure.what.clone()));
    }
    println!(
        "\n{} bars missed{}",
        missed.len(),
        missed
            .iter()
            .map(|what| format!("\n  {what}"))
            .collect::<String>()
    );
    Ok(match missed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
