//! The flags that say what a run does: the keys of a profile, the profile itself, and who this side is to a node.

use std::path::PathBuf;

use clap::Parser as _;

use super::Usage;
use super::node::NodeFlags;
use crate::plan::{Plan, Profile, Wishes};

/// What is asked, of whom, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Take what is not said here from this TOML file, whose keys are these flags' names with `_` for `-`.
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    node: NodeFlags,
}

/// The flags of `run` by themselves.
#[derive(Debug, clap::Parser)]
#[command(name = "stoq-bench … --")]
struct Alone {
    #[command(flatten)]
    flags: Flags,
}

impl Flags {
    /// As they would stand behind `stoq-bench run`.
    ///
    /// # Errors
    /// [`Usage`]: what clap says of them.
    pub(crate) fn of_words<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, Usage> {
        let parsed = Alone::try_parse_from(["run"].into_iter().chain(words));
        parsed
            .map(|alone| alone.flags)
            .map_err(|error| Usage(error.to_string()))
    }

    /// The plan they make, and what the run is called.
    ///
    /// # Errors
    /// [`Usage`]: what cannot be, with its place in the profile where it stands there.
    pub(crate) fn plan(&self) -> anyhow::Result<(Plan, String)> {
        let wishes = &self.wishes;
        let profile = self.profile.as_deref().map(Profile::load).transpose();
        let profile = profile.map_err(|error| Usage(error.to_string()))?;
        let under = profile
            .as_ref()
            .map(|profile| profile.wishes.clone())
            .unwrap_or_default();
        let merged = wishes.clone().over(under);
        let node = match &merged.url {
            Some(url) if url.starts_with("stoq://") => Some(self.node.target(url)?),
            _ => None,
        };
        let plan = merged.plan(node).map_err(|refused| {
            // A flag's own value cannot be found in the profile; one that both have is the flag's.
            let placed = profile
                .as_ref()
                .filter(|_| wishes.plan(None).err().is_none_or(|own| own != refused))
                .and_then(|profile| profile.place(&refused));
            Usage(placed.map_or_else(
                || {
                    let flag = refused.key.rsplit('.').next().unwrap_or(refused.key);
                    let flag = flag.replace('_', "-");
                    let dashes = if flag == "url" { "" } else { "--" };
                    format!("{dashes}{flag}: {}", refused.reason)
                },
                |placed| placed.to_string(),
            ))
        })?;
        Ok((plan, merged.title()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn plan(line: &[&str]) -> anyhow::Result<(Plan, String)> {
        let words = ["x"].iter().chain(line);
        Line::try_parse_from(words)?.flags.plan()
    }

    #[test]
    fn flags_and_a_profile_make_one_plan() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        std::fs::write(&path, "connections = 7\nstreams = 3\nname = \"mine\"\n").unwrap();
        let path = path.display().to_string();
        let (plan, name) = plan(&["https://a.test/x", "--profile", &path, "-c", "2"]).unwrap();
        assert_eq!((plan.connections, plan.streams), (2, 3));
        assert_eq!(name, "mine");
    }

    #[test]
    fn what_is_wrong_is_told_by_its_flag_or_its_place_in_the_profile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        std::fs::write(&path, "streams = 1\n\nduration = \"0s\"\n").unwrap();
        let path = path.display().to_string();
        let said = |line: &[&str]| {
            let error = plan(line).unwrap_err();
            assert!(error.is::<Usage>(), "{error}");
            error.to_string()
        };
        let url = "https://a.test/x";
        let error = said(&[url, "--profile", &path]);
        assert!(error.contains("p.toml:3:1: `duration`"), "{error}");
        let error = said(&[url, "--profile", &path, "--duration", "0"]);
        assert!(error.starts_with("--duration: "), "{error}");
        let error = said(&[url, "--read-rate", "0"]);
        assert!(error.starts_with("--read-rate: "), "{error}");
        assert!(said(&[]).starts_with("url: "));
        assert!(said(&["stoq://a:1/rpc/1/1"]).contains("--identity"));
    }
}
