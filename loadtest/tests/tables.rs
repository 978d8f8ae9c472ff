//! The tables of this repository's documents are what its result files give; and `stoq-bench tables` finds one that is
//! not, as a process, with a result that `stoq-bench run` made.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the check")]

#[expect(dead_code, reason = "the other user of the server scripts more of it")]
mod plain_server;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use plain_server::{Reply, serve};
use stoq_loadtest::bundle::Bundle;
use stoq_loadtest::results::Results;
use stoq_loadtest::tables::blocks;

/// What makes them anew.
const COMMAND: &str = "cargo run -p stoq-loadtest --bin stoq-bench -- tables";

fn stoq_bench(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stoq-bench"));
    let command = command.args(arguments).current_dir(directory);
    command.stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(error)
}

/// Lines that begin a block, counted without the code that reads them; an example in fenced code is none.
fn begun(text: &str) -> usize {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        fenced ^= line.starts_with("```");
        !fenced && line.starts_with("<!-- stoq-bench:")
    });
    lines.count()
}

#[test]
fn tables_of_the_documents_are_what_the_results_give() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let documents: Vec<PathBuf> = [root.join("README.md")].into_iter().chain(docs).collect();
    let results = fs::canonicalize(root.join("loadtest/results")).unwrap();
    let mut expected = 0;
    for path in &documents {
        let text = fs::read_to_string(path).unwrap();
        expected += begun(&text);
        for block in blocks(&text).unwrap_or_else(|error| panic!("{}:{error}", path.display())) {
            for file in &block.files {
                let file = path.parent().unwrap().join(file);
                let place = fs::canonicalize(&file);
                let place = place.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
                assert!(
                    place.starts_with(&results),
                    "{}:{}: {} is not in loadtest/results",
                    path.display(),
                    block.line,
                    file.display()
                );
            }
        }
    }
    let output = stoq_bench(root, &["tables", "--check"]);
    let said = said(&output);
    assert!(
        output.status.success(),
        "{said}\nrun `{COMMAND}` and look at what changed"
    );
    let plural =
        |count: usize, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (tables, looked) = (
        plural(expected, "table"),
        plural(documents.len(), "document"),
    );
    let count = format!("{tables} in {looked}, 0 stale\n");
    assert!(said.ends_with(&count), "not `{count}` but {said}");
}

/// A directory with a result and a README that shows it.
fn repository() -> tempfile::TempDir {
    let server = serve(|_, _| Reply::Right(1000));
    let directory = tempfile::tempdir().unwrap();
    let url = format!("http://{}/object", server.address);
    let flags = [
        "--warmup",
        "0s",
        "--duration",
        "1s",
        "--name",
        "one",
        "--quiet",
    ];
    let words = ["run", &url, "--output", "one.json"];
    let made = stoq_bench(directory.path(), &[&words[..], &flags[..]].concat());
    let file = directory.path().join("one.json");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}: {}", said(&made)));
    // On a machine with other work a run may be INVALID; here the document is looked at and not the server.
    let mut bundle: Bundle = serde_json::from_str(&text).unwrap();
    bundle.verdict.valid = true;
    Results::Rounds(vec![bundle]).save(&file).unwrap();
    let readme = "# x\n\n<!-- stoq-bench: one.json -->\n<!-- end of table -->\n";
    fs::write(directory.path().join("README.md"), readme).unwrap();
    directory
}

#[test]
fn a_stale_table_is_found_made_anew_and_then_left_alone() {
    let directory = repository();
    let (here, readme) = (directory.path(), directory.path().join("README.md"));
    let read = || fs::read_to_string(&readme).unwrap();
    let empty = read();
    let output = stoq_bench(here, &["tables", "--check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("+++ README.md:4, from the results\n+\n+| run "),
        "{}",
        said(&output)
    );
    assert_eq!(read(), empty, "a check changes nothing");

    let mode = || fs::metadata(&readme).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(&readme, fs::Permissions::from_mode(0o640)).unwrap();
    let output = stoq_bench(here, &["tables"]);
    assert_eq!(mode(), 0o640);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("README.md: 1 of 1 table changed"));
    let whole = read();
    assert!(
        whole.contains("| one | h1 closed |") && whole.contains("| VALID "),
        "{whole}"
    );
    assert_eq!(
        stoq_bench(here, &["tables", "--check"]).status.code(),
        Some(0)
    );

    let written = fs::metadata(&readme).unwrap().modified().unwrap();
    assert!(said(&stoq_bench(here, &["tables"])).contains("1 table in 1 document, 0 changed"));
    assert_eq!(fs::metadata(&readme).unwrap().modified().unwrap(), written);
    assert_eq!(
        fs::read_dir(here).unwrap().count(),
        2,
        "nothing is left beside it"
    );

    // One figure that nobody measured.
    fs::write(&readme, whole.replace("| h1 closed |", "| h3 closed |")).unwrap();
    let output = stoq_bench(here, &["tables", "--check", "README.md"]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(
        said.contains("\n-| one | h3 closed |") && said.contains("\n+| one | h1 closed |"),
        "{said}"
    );
}

#[test]
fn a_block_that_cannot_be_made_is_named_with_file_and_line_and_nothing_is_written() {
    let directory = repository();
    let here = directory.path();
    let docs = here.join("docs");
    fs::create_dir(&docs).unwrap();
    let gone = "\n<!-- stoq-bench: ../gone.json -->\n<!-- end of table -->\n";
    fs::write(docs.join("a.md"), gone).unwrap();
    fs::write(docs.join("b.md"), "<!-- stoq-bench: ../one.json -->\n").unwrap();
    let before = fs::read_to_string(here.join("README.md")).unwrap();
    let output = stoq_bench(here, &["tables"]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("docs/a.md:2: docs/../gone.json: "), "{said}");
    assert!(
        said.contains("docs/b.md:1: this block has no end"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(here.join("README.md")).unwrap(), before);
    // Where no README.md is, it is not guessed what is meant.
    let elsewhere = stoq_bench(&docs, &["tables"]);
    assert_eq!(elsewhere.status.code(), Some(2));
}
