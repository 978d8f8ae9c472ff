//! This side as a node of a cluster: the flags of a STOQ target, and the files behind them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use stoq::identity::{Identity, IdentityFile, RootCertificate};

use super::Usage;
use crate::client::{Site, Target};

/// What a `stoq://` target needs beside its URL.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct NodeFlags {
    /// For stoq://: the identity to show, as the cluster's root issued it.
    #[arg(long, value_name = "FILE", requires = "root")]
    identity: Option<PathBuf>,
    /// For stoq://: the cluster's root certificate.
    #[arg(long, value_name = "FILE", requires = "identity")]
    root: Option<PathBuf>,
    /// For stoq://: ask a shield for objects of this site, by its name in the cluster's configuration. Without it the
    /// paths are /bulk/BYTES and /rpc/REQUEST/ANSWER of a stoq-server.
    #[arg(long, value_name = "NAME", requires = "identity")]
    site: Option<String>,
    /// For --site: the site's dedupe domain [default: its name].
    #[arg(long, value_name = "NAME", requires = "site")]
    dedupe_domain: Option<String>,
    /// For --site: the site's URLs begin with http:// instead of https://.
    #[arg(long, requires = "site")]
    site_over_http: bool,
    /// For stoq://: largest UDP payload to send and to take, bytes [default: what nodes use].
    #[arg(long, value_name = "BYTES", requires = "identity", value_parser = clap::value_parser!(u16).range(1200..=9000))]
    mtu: Option<u16>,
}

impl NodeFlags {
    /// The target of `url`, `stoq://host:port` and perhaps a path.
    pub(crate) fn target(&self, url: &str) -> anyhow::Result<Target> {
        let (Some(identity), Some(root)) = (&self.identity, &self.root) else {
            let why = "a `stoq://` target needs `--identity FILE --root FILE`";
            return Err(Usage(why.to_owned()).into());
        };
        let target = Target::node(url, load(identity, root)?);
        let mut target = target.map_err(|error| Usage(error.to_string()))?;
        if let Some(mtu) = self.mtu {
            target = target.with_mtu(mtu);
        }
        Ok(match &self.site {
            None => target,
            Some(name) => target.of_site(Site {
                name: name.clone(),
                dedupe_domain: self.dedupe_domain.clone(),
                https: !self.site_over_http,
            }),
        })
    }
}

/// A node's papers: its identity, and the root that issued it.
pub(crate) fn load(identity: &Path, root: &Path) -> anyhow::Result<Identity> {
    let root = RootCertificate::load(root)?;
    let file = IdentityFile::load(identity)?;
    Identity::new(file, root)
        .with_context(|| format!("{} is no identity of that cluster", identity.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use rustls_pki_types::UnixTime;
    use stoq::identity::{ClusterRoot, Role, Validity};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        node: NodeFlags,
    }

    fn flags(line: &[&str]) -> Result<NodeFlags, clap::Error> {
        let words = ["x"].iter().chain(line);
        Line::try_parse_from(words).map(|line| line.node)
    }

    #[test]
    fn a_node_is_its_identity_and_root_and_perhaps_a_site() {
        let valid = Validity::starting(UnixTime::now(), Duration::from_secs(3600));
        let root = ClusterRoot::generate("bench", valid).unwrap();
        let papers = tempfile::tempdir().unwrap();
        let file = |name: &str| papers.path().join(name).display().to_string();
        root.save(file("key.pem").as_ref(), file("root.pem").as_ref())
            .unwrap();
        let node = root.issue("edge-1", &[Role::Edge], valid).unwrap();
        node.save(file("edge.pem").as_ref()).unwrap();
        let (identity, root) = (file("edge.pem"), file("root.pem"));
        let both = ["--identity", &*identity, "--root", &*root];
        let target = flags(&both).unwrap().target("stoq://a:1/rpc").unwrap();
        assert_eq!(target.member().unwrap().identity.name(), "edge-1");
        assert_eq!(target.member().unwrap().site, None);
        let with_site = [&both[..], &["--site", "www", "--site-over-http"]].concat();
        let target = flags(&with_site).unwrap().target("stoq://a:1").unwrap();
        let site = target.member().unwrap().site.clone().unwrap();
        assert_eq!((&*site.name, site.https), ("www", false));
        let jumbo = [&both[..], &["--mtu", "8952"]].concat();
        let target = flags(&jumbo).unwrap().target("stoq://a:1").unwrap();
        assert_eq!(target.member().unwrap().mtu, Some(8952));
        assert!(flags(&[&both[..], &["--mtu", "9001"]].concat()).is_err());
        for url in ["stoq://a", "https://a:1"] {
            let refused = flags(&both).unwrap().target(url).unwrap_err();
            assert!(refused.is::<Usage>(), "{refused}");
        }
        assert!(
            flags(&[])
                .unwrap()
                .target("stoq://a:1")
                .unwrap_err()
                .is::<Usage>()
        );
        assert!(flags(&["--identity", &identity]).is_err());
        assert!(flags(&["--site", "www"]).is_err());
    }
}
