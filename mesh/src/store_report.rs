//! What `store stats`, `store verify` and `store gc` say: as JSON between node and command and for scripts, as text for people.

use std::fmt;

use serde::{Deserialize, Serialize};
use stoq_cache::{
    engine::{self, Checked, Swept},
    store::disk::VolumeStats,
};

/// Where the figures are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Node {
    /// From the node itself.
    Running,
    /// From its volumes: what is counted since the start is 0.
    Stopped,
}

/// What a command answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// `store stats`
    Stats(Stats),
    /// `store verify`
    Verified(Verified),
    /// `store gc`
    Freed(Freed),
}

impl Report {
    /// Whether all is well: no volume ails, nothing was damaged.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        match self {
            Self::Stats(stats) => stats.ok,
            Self::Verified(verified) => verified.ok,
            Self::Freed(_) => true,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stats(stats) => stats.fmt(f),
            Self::Verified(verified) => verified.fmt(f),
            Self::Freed(freed) => freed.fmt(f),
        }
    }
}

/// What volumes are and hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Whether no volume ails.
    pub ok: bool,
    /// Where this is from.
    pub node: Node,
    /// One after the other as configured.
    pub volumes: Vec<Volume>,
    /// What they are worth, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub census: Option<Census>,
}

impl Stats {
    pub(crate) fn new(node: Node, volumes: Vec<VolumeStats>) -> Self {
        let volumes: Vec<Volume> = volumes.into_iter().map(Volume::from).collect();
        Self {
            ok: volumes.iter().all(|volume| volume.ailments.is_empty()),
            node,
            volumes,
            census: None,
        }
    }
}

/// One volume. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Its directory.
    pub path: String,
    /// What moves its blocks.
    pub engine: String,
    /// Whether the page cache is passed by.
    pub direct: bool,
    /// What its segments may have together.
    pub capacity_bytes: u64,
    /// What its log has on the file system.
    pub allocated_bytes: u64,
    /// Records that can be found, headers and padding included. The rest of what is allocated is room, or garbage until it is reclaimed.
    pub live_bytes: u64,
    /// Those records.
    pub records: u64,
    /// Memory of the index.
    pub index_bytes: u64,
    /// New bodies put since the start.
    pub put_bytes: u64,
    /// Bodies put since the start that were there.
    pub present_bytes: u64,
    /// Written since the start.
    pub written_bytes: u64,
    /// All that was put over what of it was new; none before anything was.
    pub dedupe_ratio: Option<f64>,
    /// What was written over what of it was new; none before anything was.
    pub write_amplification: Option<f64>,
    /// Length of a segment.
    pub segment_bytes: u32,
    /// Segments in use younger than a minute, an hour, a day, a week, 30 days, and older.
    pub segments_by_age: [u64; 6],
    /// What is wrong with it, and what to do. Empty when it is well.
    pub ailments: Vec<Ailment>,
}

/// Something a volume does not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ailment {
    /// `writes`, `reads` or `space`, as the metric `stoq_disk_ailing` has it.
    pub what: String,
    /// What the system said.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl From<VolumeStats> for Volume {
    fn from(stats: VolumeStats) -> Self {
        let new = (stats.put_bytes > 0).then_some(stats.put_bytes as f64);
        let ailments = [
            (
                "writes",
                stats.ailments.writes,
                "nothing is stored on it until a write succeeds, which is tried every 30 s: see the kernel's log for the device, make room, or take the volume out of cache.disk",
            ),
            (
                "reads",
                stats.ailments.reads,
                "what is on it is fetched again until a read succeeds, which is tried every 30 s: see the kernel's log for the device, or take the volume out of cache.disk",
            ),
            (
                "space",
                stats.ailments.space,
                "it stays smaller than cache.disk says: make room on its file system, or give it a smaller size",
            ),
        ];
        let ailments = ailments.into_iter().filter_map(|(what, why, fix)| {
            Some(Ailment {
                what: what.to_owned(),
                why: why?,
                fix: fix.to_owned(),
            })
        });
        Self {
            dedupe_ratio: new.map(|new| (new + stats.present_bytes as f64) / new),
            write_amplification: new.map(|new| stats.written_bytes as f64 / new),
            ailments: ailments.collect(),
            path: stats.path,
            engine: stats.engine.to_string(),
            direct: stats.direct,
            capacity_bytes: stats.capacity_bytes,
            allocated_bytes: stats.allocated_bytes,
            live_bytes: stats.live_bytes,
            records: stats.records,
            index_bytes: stats.index_bytes,
            put_bytes: stats.put_bytes,
            present_bytes: stats.present_bytes,
            written_bytes: stats.written_bytes,
            segment_bytes: stats.segment_bytes,
            segments_by_age: stats.segments_by_age,
        }
    }
}

/// What is stored; see [`engine::Census`] for each figure.
#[expect(missing_docs, reason = "each figure is the engine's of the same name")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Census {
    pub urls: u64,
    pub objects: u64,
    pub incomplete_objects: u64,
    pub logical_bytes: u64,
    pub physical_bytes: u64,
    /// `logical_bytes` over `physical_bytes`: how many times larger a store without chunks would have to be. None where nothing is stored.
    pub effective_capacity: Option<f64>,
    pub chunks: u64,
    pub absent_chunks: u64,
    pub partial_objects: u64,
    pub blocks: u64,
    pub unknown_records: u64,
    pub unreadable_segments: u64,
}

impl From<engine::Census> for Census {
    fn from(census: engine::Census) -> Self {
        let physical = (census.physical_bytes > 0).then_some(census.physical_bytes as f64);
        Self {
            effective_capacity: physical.map(|physical| census.logical_bytes as f64 / physical),
            urls: census.urls,
            objects: census.objects,
            incomplete_objects: census.incomplete_objects,
            logical_bytes: census.logical_bytes,
            physical_bytes: census.physical_bytes,
            chunks: census.chunks,
            absent_chunks: census.absent_chunks,
            partial_objects: census.partial_objects,
            blocks: census.blocks,
            unknown_records: census.unknown_records,
            unreadable_segments: census.unreadable_segments,
        }
    }
}

/// Whether what is stored is what was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// Whether all of it is.
    pub ok: bool,
    /// Where this is from.
    pub node: Node,
    /// Records that are what was written.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that were not: dropped, and fetched again when they are asked for.
    pub damaged: u64,
    /// Segments that could not be read.
    pub unreadable_segments: u64,
    /// What is left.
    pub census: Census,
}

impl Verified {
    pub(crate) fn new(node: Node, checked: &Checked) -> Self {
        Self {
            ok: checked.is_clean(),
            node,
            records: checked.survey.records,
            bytes: checked.survey.bytes,
            damaged: checked.survey.damaged,
            unreadable_segments: checked.survey.unreadable,
            census: checked.census.into(),
        }
    }
}

/// What was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    /// Always.
    pub ok: bool,
    /// Where this is from.
    pub node: Node,
    /// Chunks and pages that something names or may name.
    pub named: u64,
    /// Records dropped.
    pub records: u64,
    /// Their bytes in the log.
    pub bytes: u64,
}

impl Freed {
    pub(crate) const fn new(node: Node, swept: Swept) -> Self {
        Self {
            ok: true,
            node,
            named: swept.named,
            records: swept.records,
            bytes: swept.bytes,
        }
    }
}

/// Bytes as people read them.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut size = self.0 as f64;
        let mut unit = "B";
        for larger in units {
            if size < 1024.0 {
                break;
            }
            (size, unit) = (size / 1024.0, larger);
        }
        match unit {
            "B" => write!(f, "{} B", self.0),
            _ => write!(f, "{size:.1} {unit}"),
        }
    }
}

/// A ratio, or that there is none yet.
struct Ratio(Option<f64>);

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ratio) => write!(f, "{ratio:.2}"),
            None => f.write_str("-"),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "the node runs",
            Self::Stopped => "the node does not run: what is counted since its start is missing",
        })
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.node)?;
        for volume in &self.volumes {
            volume.fmt(f)?;
        }
        match &self.census {
            Some(census) => census.fmt(f),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direct = if self.direct {
            "direct"
        } else {
            "through the page cache"
        };
        writeln!(f, "{}: {}, {direct}", self.path, self.engine)?;
        writeln!(
            f,
            "  space      {} of {} allocated, {} live",
            Size(self.allocated_bytes),
            Size(self.capacity_bytes),
            Size(self.live_bytes)
        )?;
        writeln!(
            f,
            "  records    {}, index {}",
            self.records,
            Size(self.index_bytes)
        )?;
        writeln!(
            f,
            "  put        {} new, {} there already: dedupe ratio {}",
            Size(self.put_bytes),
            Size(self.present_bytes),
            Ratio(self.dedupe_ratio)
        )?;
        writeln!(
            f,
            "  written    {}: write amplification {}",
            Size(self.written_bytes),
            Ratio(self.write_amplification)
        )?;
        let ages = ["<1m", "<1h", "<1d", "<7d", "<30d", "older"];
        write!(
            f,
            "  segments   of {}:",
            Size(u64::from(self.segment_bytes))
        )?;
        for (age, count) in ages.iter().zip(self.segments_by_age) {
            write!(f, " {age} {count}")?;
        }
        writeln!(f)?;
        for ailment in &self.ailments {
            writeln!(
                f,
                "  AILS       {}: {}. {}",
                ailment.what, ailment.why, ailment.fix
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "stored: {} objects under {} URLs, {} of them incomplete; {} known by {} blocks",
            self.objects, self.urls, self.incomplete_objects, self.partial_objects, self.blocks
        )?;
        writeln!(
            f,
            "effective capacity {}: {} of objects in {} of {} chunks, {} of those not there",
            Ratio(self.effective_capacity),
            Size(self.logical_bytes),
            Size(self.physical_bytes),
            self.chunks,
            self.absent_chunks
        )?;
        if self.unknown_records > 0 {
            writeln!(
                f,
                "{} records are of another version or cluster, or of a damaged page",
                self.unknown_records
            )?;
        }
        if self.unreadable_segments > 0 {
            writeln!(
                f,
                "{} segments cannot be read: there is more than is counted here",
                self.unreadable_segments
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} records of {} are what was written",
            self.records,
            Size(self.bytes)
        )?;
        match (self.damaged, self.unreadable_segments) {
            (0, 0) => writeln!(f, "no damage")?,
            (damaged, unreadable) => writeln!(
                f,
                "DAMAGE: {damaged} records were not and are dropped, {unreadable} segments cannot be read"
            )?,
        }
        self.census.fmt(f)
    }
}

impl fmt::Display for Freed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "dropped {} records of {} that nothing names; {} are named",
            self.records,
            Size(self.bytes),
            self.named
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> Stats {
        let volume = Volume {
            path: "/var/cache/stoq".to_owned(),
            engine: "io_uring".to_owned(),
            direct: true,
            capacity_bytes: 64 << 20,
            allocated_bytes: 32 << 20,
            live_bytes: 1536,
            records: 7,
            index_bytes: 168,
            put_bytes: 1000,
            present_bytes: 500,
            written_bytes: 1250,
            dedupe_ratio: Some(1.5),
            write_amplification: None,
            segment_bytes: 4 << 20,
            segments_by_age: [1, 2, 3, 4, 5, 6],
            ailments: vec![Ailment {
                what: "space".to_owned(),
                why: "No space left on device".to_owned(),
                fix: "make room".to_owned(),
            }],
        };
        Stats {
            ok: false,
            node: Node::Running,
            volumes: vec![volume],
            census: None,
        }
    }

    #[test]
    fn the_text_says_each_figure_with_its_unit_and_ailments_with_their_fix() {
        let expected = "the node runs
/var/cache/stoq: io_uring, direct
  space      32.0 MiB of 64.0 MiB allocated, 1.5 KiB live
  records    7, index 168 B
  put        1000 B new, 500 B there already: dedupe ratio 1.50
  written    1.2 KiB: write amplification -
  segments   of 4.0 MiB: <1m 1 <1h 2 <1d 3 <7d 4 <30d 5 older 6
  AILS       space: No space left on device. make room
";
        assert_eq!(stats().to_string(), expected);
    }

    #[test]
    fn a_command_reads_what_a_node_writes() {
        let json = serde_json::to_string(&stats()).unwrap();
        assert_eq!(serde_json::from_str::<Stats>(&json).unwrap(), stats());
    }
}
