//! What an operator is told of the mesh: who is in it as one node sees it, where, and what changed. As JSON the node answers with it; as text and as a graph a command shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};
use stoq_node::config::Config;
use stoq_node::{AskError, CallError, Calls, ask};
use stoq_routing::membership::{Change, Membership};
use stoq_routing::{NodeId, NodeState, Source};

use super::engine::Gossip;
use crate::bearings::Bearings;

const PATH: &str = "/v1/cluster";

/// The mesh as one node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// The cluster.
    pub cluster: String,
    /// The node that sees it.
    pub seen_by: String,
    /// Counts up with each change of its view.
    pub generation: u64,
    /// Whether all members are in it as far as the node knows.
    pub complete: bool,
    /// The members, by name.
    pub nodes: Vec<NodeReport>,
    /// The last 100 changes, oldest first.
    pub changes: Vec<ChangeReport>,
    /// How many changes there were since that node started.
    pub changes_total: u64,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its id.
    pub id: String,
    /// Its name, as the cluster's root signed it.
    pub name: String,
    /// The larger part of where it stands.
    pub region: String,
    /// The smaller.
    pub metro: String,
    /// Where other nodes reach it.
    pub addresses: Vec<String>,
    /// Names and addresses clients reach it under.
    pub public: Vec<String>,
    /// `well`, `degraded` or `ill`.
    pub health: String,
    /// Whether it is being emptied.
    pub draining: bool,
    /// The part of its capacity that is taken, 0 to 1.
    pub load: f64,
    /// Its version.
    pub software: String,
    /// Whether it serves as a shield.
    #[serde(default)]
    pub is_shield: bool,
    /// Where it is on the globe, degrees of latitude and longitude, where it says so.
    #[serde(default)]
    pub position: Option<[f64; 2]>,
    /// The number of its network, where it says so.
    #[serde(default)]
    pub asn: Option<u32>,
    /// The round trip to it from the node that sees it, milliseconds, where that is known.
    pub rtt_ms: Option<f64>,
    /// How that is known: `path` where it was measured within 5 min, `coordinates`, `geography` or `zones` where it was not.
    #[serde(default)]
    pub rtt_source: Option<String>,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReport {
    /// When that node saw it: RFC 3339, UTC.
    pub time: String,
    /// Whom it is about.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `joined`, `left`, `zone`, `addresses`, `health` or `draining`.
    pub change: String,
    /// The same for people.
    pub detail: String,
}

/// Why there is no report. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The node has no identity.
    #[error("[cluster] is missing: this node belongs to none")]
    NoCluster,
    /// There is nobody to ask.
    #[error("listen.admin is not set, and the node is asked there")]
    NoAdmin,
    /// It runs and did not answer as hoped, or does not run.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Another version runs than this command is of.
    #[error("the node's answer is not understood, it may be of another version: {0}")]
    Answer(serde_json::Error),
}

/// Asks the node of a configuration whom it sees.
///
/// # Errors
/// [`ClusterError`].
pub async fn cluster(config: &Config) -> Result<ClusterReport, ClusterError> {
    if config.cluster.is_none() {
        return Err(ClusterError::NoCluster);
    }
    let addr = config.listen.admin.as_ref().ok_or(ClusterError::NoAdmin)?;
    let answer = ask(addr, Method::GET, PATH).await?;
    serde_json::from_value(answer).map_err(ClusterError::Answer)
}

/// The mesh as this node sees it, to be asked for again and again.
#[derive(Debug, Clone)]
pub struct Seen {
    pub(crate) gossip: Gossip,
    pub(crate) bearings: Arc<Bearings>,
}

impl Seen {
    /// Adds what the admin listener answers about the mesh.
    #[must_use]
    pub fn calls(self, calls: Calls) -> Calls {
        calls.get(PATH, move || {
            let report = serde_json::to_value(ClusterReport::of(&self));
            let report = report.map_err(|error| CallError::Failed(error.to_string()));
            std::future::ready(report)
        })
    }
}

fn hex(id: &NodeId) -> String {
    id.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn milliseconds(rtt: Duration) -> f64 {
    (rtt.as_secs_f64() * 1e6).round() / 1e3
}

impl ClusterReport {
    /// What is seen now.
    #[must_use]
    pub fn of(seen: &Seen) -> Self {
        let Seen { gossip, bearings } = seen;
        let view = gossip.view();
        let mut nodes: Vec<_> = view
            .nodes()
            .iter()
            .map(|node| NodeReport::of(node, bearings.to(&node.id)))
            .collect();
        nodes.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        Self {
            cluster: gossip.cluster().to_owned(),
            seen_by: view
                .get(&view.me)
                .map_or_else(String::new, |me| me.name.clone()),
            generation: view.generation,
            complete: view.complete,
            nodes,
            changes: gossip.changes().iter().map(ChangeReport::of).collect(),
            changes_total: gossip.changes_total(),
        }
    }

    /// What is otherwise than in an earlier report, a line each: `+` who is new, `-` who is gone, `~` who changed.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Vec<String> {
        let by_id = |report: &Self| -> BTreeMap<String, NodeReport> {
            let nodes = report.nodes.iter();
            nodes.map(|node| (node.id.clone(), node.clone())).collect()
        };
        let (before, after) = (by_id(earlier), by_id(self));
        let mut lines = Vec::new();
        for id in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            match (before.get(id), after.get(id)) {
                (None, Some(node)) => lines.push(format!("+ {} in {}", node.name, node.zone())),
                (Some(node), None) => lines.push(format!("- {} in {}", node.name, node.zone())),
                (Some(was), Some(is)) => lines.extend(
                    was.changes_to(is)
                        .into_iter()
                        .map(|change| format!("~ {} {change}", is.name)),
                ),
                (None, None) => {}
            }
        }
        lines
    }

    /// By region and metro.
    fn places(&self) -> BTreeMap<&str, BTreeMap<&str, Vec<&NodeReport>>> {
        let mut places: BTreeMap<&str, BTreeMap<&str, Vec<&NodeReport>>> = BTreeMap::new();
        for node in &self.nodes {
            let region = places.entry(&node.region).or_default();
            region.entry(&node.metro).or_default().push(node);
        }
        places
    }

    /// The mesh as text, by region and metro.
    #[must_use]
    pub fn tree(&self) -> String {
        let mut out = String::new();
        for (region, metros) in self.places() {
            let _ = writeln!(out, "{region}");
            for (metro, nodes) in metros {
                let _ = writeln!(out, "  {metro}");
                for node in nodes {
                    let _ = writeln!(out, "    {}  {}", node.name, self.remarks(node).join(", "));
                }
            }
        }
        let _ = write!(out, "{}", self.footer());
        out
    }

    fn remarks(&self, node: &NodeReport) -> Vec<String> {
        let mut remarks = vec![node.health.clone()];
        if node.draining {
            remarks.push("drains".to_owned());
        }
        if node.name == self.seen_by {
            remarks.push("this node".to_owned());
        }
        if node.is_shield {
            remarks.push("shield".to_owned());
        }
        remarks.extend(node.distance());
        remarks.extend(node.place());
        remarks
    }

    fn footer(&self) -> String {
        format!(
            "{} nodes of {}, as {} sees them; view {}, {}",
            self.nodes.len(),
            self.cluster,
            self.seen_by,
            self.generation,
            if self.complete {
                "complete"
            } else {
                "not known to be complete"
            }
        )
    }

    /// The mesh as a graph in Graphviz's language: nodes in boxes of their metros, and the round trips that the node that sees them has measured.
    #[must_use]
    pub fn dot(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace(['"', '\\'], "_"));
        let mut out = String::from("graph mesh {\n");
        let label = format!("{}, as {} sees it", self.cluster, self.seen_by);
        let _ = writeln!(out, "  label={};\n  node [shape=box];", quoted(&label));
        for (region, metros) in self.places() {
            let _ = writeln!(
                out,
                "  subgraph {} {{",
                quoted(&format!("cluster_{region}"))
            );
            let _ = writeln!(out, "    label={};", quoted(region));
            for (metro, nodes) in metros {
                let name = format!("cluster_{region}_{metro}");
                let _ = writeln!(out, "    subgraph {} {{", quoted(&name));
                let _ = writeln!(out, "      label={};", quoted(metro));
                for node in nodes {
                    let style = match (node.draining, node.health.as_str()) {
                        (false, "well") => "",
                        _ => ", style=dashed",
                    };
                    let _ = writeln!(
                        out,
                        "      {} [label={}{style}];",
                        quoted(&node.id),
                        quoted(&node.labels())
                    );
                }
                out.push_str("    }\n");
            }
            out.push_str("  }\n");
        }
        if let Some(me) = self.nodes.iter().find(|node| node.name == self.seen_by) {
            for node in &self.nodes {
                if let Some(rtt) = node.distance() {
                    let label = quoted(&rtt);
                    let _ = writeln!(
                        out,
                        "  {} -- {} [label={label}];",
                        quoted(&me.id),
                        quoted(&node.id)
                    );
                }
            }
        }
        out.push_str("}\n");
        out
    }
}

impl NodeReport {
    fn of(node: &NodeState, rtt: Option<(Duration, Source)>) -> Self {
        // How far a node is from itself is no news.
        let rtt = rtt.filter(|(_, source)| *source != Source::Itself);
        let names = node.public_names.iter().cloned();
        let addresses = node.public_addresses.iter().map(ToString::to_string);
        Self {
            id: hex(&node.id),
            name: node.name.clone(),
            region: node.zone.region.clone(),
            metro: node.zone.metro.clone(),
            addresses: node.addresses.iter().map(ToString::to_string).collect(),
            public: names.chain(addresses).collect(),
            health: node.health.as_str().to_owned(),
            draining: node.draining,
            load: node.load,
            software: node.software.clone(),
            is_shield: node.is_shield,
            position: node.position.map(|at| [at.latitude, at.longitude]),
            asn: node.asn,
            rtt_ms: rtt.map(|(rtt, _)| milliseconds(rtt)),
            rtt_source: rtt.map(|(_, source)| source.to_string()),
        }
    }

    /// How far it is, and how that is known where it was not measured.
    fn distance(&self) -> Option<String> {
        let rtt = self.rtt_ms?;
        Some(match self.rtt_source.as_deref() {
            None | Some("path") => format!("{rtt} ms"),
            Some(source) => format!("{rtt} ms by {source}"),
        })
    }

    /// Where it is on the globe.
    fn place(&self) -> Option<String> {
        let [latitude, longitude] = self.position?;
        let north = if latitude < 0.0 { 'S' } else { 'N' };
        let east = if longitude < 0.0 { 'W' } else { 'E' };
        let (latitude, longitude) = (latitude.abs(), longitude.abs());
        Some(format!("{latitude:.2}{north} {longitude:.2}{east}"))
    }

    /// Its name and where it is, for a graph.
    fn labels(&self) -> String {
        let place = self.place().map(|place| format!(" {place}"));
        format!("{}{}", self.name, place.unwrap_or_default())
    }

    fn zone(&self) -> String {
        format!("{}-{}", self.region, self.metro)
    }

    fn changes_to(&self, is: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        let mut note = |what: &str, from: String, to: String| {
            if from != to {
                changes.push(format!("{what} {from} -> {to}"));
            }
        };
        note("zone", self.zone(), is.zone());
        note(
            "addresses",
            self.addresses.join(","),
            is.addresses.join(","),
        );
        note("public", self.public.join(","), is.public.join(","));
        note("health", self.health.clone(), is.health.clone());
        note(
            "draining",
            self.draining.to_string(),
            is.draining.to_string(),
        );
        note("software", self.software.clone(), is.software.clone());
        changes
    }
}

impl ChangeReport {
    fn of(change: &Change) -> Self {
        let at = Duration::from_secs(change.at_ms / 1_000);
        Self {
            time: stoq::identity::rfc3339(rustls_pki_types::UnixTime::since_unix_epoch(at)),
            id: hex(&change.node),
            name: change.name.clone(),
            change: change.what.word().to_owned(),
            detail: change.what.to_string(),
        }
    }
}

impl fmt::Display for ChangeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}  {}", self.time, self.name, self.detail)
    }
}

/// The table of members.
impl fmt::Display for ClusterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["NAME", "ZONE", "HEALTH", "LOAD", "RTT", "ADDRESSES", "ID"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.nodes.iter().map(|node| {
            let own = if node.name == self.seen_by { "*" } else { "" };
            let health = match node.draining {
                true => format!("{}, drains", node.health),
                false => node.health.clone(),
            };
            vec![
                format!("{}{own}", node.name),
                node.zone(),
                health,
                format!("{:.0} %", node.load * 100.0),
                node.distance().unwrap_or_else(|| "-".to_owned()),
                node.addresses.join(","),
                node.id.chars().take(8).collect(),
            ]
        }));
        let widths: Vec<usize> = (0..head.len())
            .map(|at| {
                rows.iter()
                    .filter_map(|row| row.get(at))
                    .map(String::len)
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for row in &rows {
            let line: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            writeln!(f, "{}", line.join("  ").trim_end())?;
        }
        write!(f, "{}", self.footer())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, zone: (&str, &str)) -> NodeReport {
        NodeReport {
            id: format!("{name:0>64}"),
            name: name.to_owned(),
            region: zone.0.to_owned(),
            metro: zone.1.to_owned(),
            addresses: vec!["192.0.2.1:7443".to_owned()],
            public: Vec::new(),
            health: "well".to_owned(),
            draining: false,
            load: 0.25,
            software: "x".to_owned(),
            is_shield: false,
            position: (name == "b").then_some([40.71, -74.01]),
            asn: None,
            rtt_ms: (name != "a").then_some(1.5),
            rtt_source: (name != "a").then(|| "coordinates".to_owned()),
        }
    }

    fn report(nodes: Vec<NodeReport>) -> ClusterReport {
        ClusterReport {
            cluster: "demo".to_owned(),
            seen_by: "a".to_owned(),
            generation: 7,
            complete: true,
            nodes,
            changes: Vec::new(),
            changes_total: 0,
        }
    }

    #[test]
    fn a_difference_names_who_is_new_gone_and_changed() {
        let before = report(vec![node("a", ("eu", "fra")), node("b", ("eu", "ber"))]);
        let mut a = node("a", ("eu", "fra"));
        a.draining = true;
        a.load = 0.9;
        let after = report(vec![a, node("c", ("us", "nyc"))]);
        assert_eq!(
            after.since(&before),
            [
                "~ a draining false -> true",
                "- b in eu-ber",
                "+ c in us-nyc"
            ]
        );
        assert!(before.since(&before).is_empty());
    }

    #[test]
    fn table_tree_and_graph_show_every_node_in_its_place() {
        let report = report(vec![node("a", ("eu", "fra")), node("b", ("us", "nyc"))]);
        let table = report.to_string();
        assert!(
            table.contains("a*    eu-fra  well    25 %  -                      192.0.2.1:7443"),
            "{table}"
        );
        assert!(
            table.ends_with("2 nodes of demo, as a sees them; view 7, complete"),
            "{table}"
        );
        let tree = report.tree();
        assert!(
            tree.starts_with(
                "eu\n  fra\n    a  well, this node\nus\n  nyc\n    b  well, 1.5 ms by coordinates, 40.71N 74.01W\n"
            ),
            "{tree}"
        );
        let dot = report.dot();
        assert_eq!(dot.matches('{').count(), dot.matches('}').count());
        assert!(dot.contains("subgraph \"cluster_us_nyc\""), "{dot}");
        assert!(dot.contains("[label=\"1.5 ms by coordinates\"]"), "{dot}");
        assert!(dot.contains("[label=\"b 40.71N 74.01W\"]"), "{dot}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            serde_json::from_value::<ClusterReport>(json).unwrap(),
            report
        );
    }
}
