//! Checks that the compiled programs in `bpf/` are the ones that the manifest names, made from the sources that stand there.
//!
//! It runs no compiler: `bpf/build.sh` does, where clang 14 is, and writes the manifest. A source that was changed without it
//! fails here, so an object never says something else than its source.

use std::{collections::BTreeMap, error::Error, fmt::Write, fs, path::Path};

use sha2::{Digest, Sha256};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new("bpf");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut listed = BTreeMap::new();
    for line in fs::read_to_string(folder.join("manifest.txt"))?.lines() {
        if !line.starts_with('#') {
            let (hash, name) = line.split_once("  ").ok_or("a line of no hash and name")?;
            listed.insert(name.to_owned(), hash.to_owned());
        }
    }
    let mut problems = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Others, as an editor's, are nobody's source.
        if ![".c", ".h", ".sh", ".o"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            continue;
        }
        match (listed.remove(name.as_ref()), hash(&path)?) {
            (None, _) => problems.push(format!("{name} is not in the manifest")),
            (Some(listed), found) if listed != found => {
                problems.push(format!("{name} is not what the manifest says"));
            }
            (Some(_), _) => {}
        }
    }
    problems.extend(
        listed
            .keys()
            .map(|name| format!("{name} is in the manifest and not there")),
    );
    if problems.is_empty() {
        return Ok(());
    }
    Err(format!("ebpf/bpf: {}; run ebpf/bpf/build.sh", problems.join(", ")).into())
}

fn hash(path: &Path) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    for byte in Sha256::digest(fs::read(path)?) {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}
