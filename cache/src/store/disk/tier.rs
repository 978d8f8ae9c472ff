//! Volumes behind one face: names are spread over them, and each answers for its own.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use prometheus_client::registry::Registry;

use super::{
    Ailments, Check, DiskFuture, DiskMetrics, DiskRead, DiskTier, Kind, Name, Put, Refused,
    device::Engine,
    metrics::Ailing,
    open::{self, Found, OpenError, VolumeConfig},
    running::Running,
    survey::{self, Pace, Survey},
    volume::{Retained, Volume},
};

/// What a volume is and holds.
#[derive(Clone, Debug)]
pub struct VolumeStats {
    /// Its directory.
    pub path: String,
    /// What moves its blocks.
    pub engine: Engine,
    /// Whether the page cache is passed by.
    pub direct: bool,
    /// Bytes its segments may have together.
    pub capacity_bytes: u64,
    /// Bytes its file has.
    pub allocated_bytes: u64,
    /// Bytes of records that can be found, headers and padding included.
    pub live_bytes: u64,
    /// Records that can be found.
    pub records: u64,
    /// Bytes of memory its index takes.
    pub index_bytes: u64,
    /// Bytes of bodies put since the start that were new.
    pub put_bytes: u64,
    /// Bytes of bodies put since the start that were there.
    pub present_bytes: u64,
    /// Bytes written since the start. Over `put_bytes`: the write amplification.
    pub written_bytes: u64,
    /// The length of a segment.
    pub segment_bytes: u32,
    /// Segments in use by age: below each of [`AGE_BOUNDS_SECONDS`](super::AGE_BOUNDS_SECONDS), and older.
    pub segments_by_age: [u64; 6],
    /// What is wrong with it.
    pub ailments: Ailments,
}

/// Volumes behind one face. Names are spread over them by their sizes.
pub struct Disk {
    volumes: Vec<Arc<Running>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.volumes.iter().map(|running| &running.volume))
            .finish()
    }
}

impl Disk {
    pub(super) fn volumes(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.volumes.iter().map(|running| &running.volume)
    }

    /// Opens volumes. `key_id` tells under which key chunks are named: what was written under another is of no use and leaves.
    ///
    /// Blocks for as long as their indexes take to load: about a second for ten million records.
    ///
    /// # Errors
    /// [`OpenError`]: the first volume that cannot be opened.
    pub fn open(volumes: &[VolumeConfig], key_id: [u8; 16]) -> Result<Self, OpenError> {
        let volumes = volumes
            .iter()
            .map(|config| Running::start(config, key_id).map(Arc::new));
        Ok(Self {
            volumes: volumes.collect::<Result<_, _>>()?,
        })
    }

    /// What [`Disk::open`] would say of the directories and what lies in them; makes and changes nothing.
    ///
    /// # Errors
    /// As [`Disk::open`].
    pub fn check(volumes: &[VolumeConfig]) -> Result<(), OpenError> {
        volumes.iter().try_for_each(open::check)
    }

    /// What was found in each volume, with its directory.
    pub fn found(&self) -> impl Iterator<Item = (&str, &Found)> {
        self.volumes
            .iter()
            .map(|running| (running.volume.label.as_str(), &running.found))
    }

    /// What is wrong with each volume.
    pub fn ailments(&self) -> impl Iterator<Item = (&str, Ailments)> {
        self.volumes.iter().map(|running| {
            (
                running.volume.label.as_str(),
                running.volume.health.ailments(),
            )
        })
    }

    /// The counters of each volume.
    pub fn metrics(&self) -> impl Iterator<Item = &DiskMetrics> {
        self.volumes.iter().map(|running| &running.volume.metrics)
    }

    /// Bytes of records that can be found now, headers included.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        let live = |running: &Arc<Running>| running.volume.live_bytes.load(Ordering::Relaxed);
        self.volumes.iter().map(live).sum()
    }

    /// Records that can be found now.
    #[must_use]
    pub fn records(&self) -> u64 {
        let records = |running: &Arc<Running>| running.volume.index.len() as u64;
        self.volumes.iter().map(records).sum()
    }

    /// Bytes of the largest body of work: what all volumes may hold.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.volumes
            .iter()
            .map(|running| {
                let geometry = running.volume.layout.geometry;
                u64::from(geometry.segments()) * u64::from(geometry.segment_bytes())
            })
            .sum()
    }

    /// Walks through everything that lies on the devices and shows each record that is what was written. Records that are not are dropped. As fast as the devices read;
    /// what is in memory alone is not looked at.
    pub async fn walk(&self, see: &mut (dyn FnMut(Kind, &Name, &[u8]) + Send)) -> Survey {
        let mut survey = Survey::default();
        for running in &self.volumes {
            let mut pace = Pace::new(None);
            survey.add(&survey::all(&running.volume, &mut pace, see).await);
        }
        survey
    }

    /// Drops records of this kind that `keep` does not want, of those in segments that are older than `seconds`: what is younger may be part of
    /// something that is still arriving. How many, and their bytes in the log.
    ///
    /// # Errors
    /// What the device says.
    pub async fn sweep(
        &self,
        kinds: &[Kind],
        seconds: u64,
        keep: &(dyn Fn(&Name) -> bool + Sync),
    ) -> io::Result<(u64, u64)> {
        let mut swept = (0, 0);
        for running in &self.volumes {
            let (records, bytes) = survey::sweep(&running.volume, kinds, seconds, keep).await?;
            swept = (swept.0 + records, swept.1 + bytes);
        }
        Ok(swept)
    }

    /// What each volume is and holds.
    ///
    /// # Errors
    /// What a device says.
    pub async fn stats(&self) -> io::Result<Vec<VolumeStats>> {
        let mut all = Vec::with_capacity(self.volumes.len());
        for Running { volume, found, .. } in self.volumes.iter().map(|running| &**running) {
            let geometry = volume.layout.geometry;
            let allocated = volume.device.len();
            all.push(VolumeStats {
                path: volume.label.clone(),
                engine: found.device.engine,
                direct: found.device.direct,
                capacity_bytes: u64::from(geometry.segments())
                    * u64::from(geometry.segment_bytes()),
                allocated_bytes: allocated,
                live_bytes: volume.live_bytes.load(Ordering::Relaxed),
                records: volume.index.len() as u64,
                index_bytes: volume.index.bytes() as u64,
                put_bytes: volume.metrics.put_bytes.get(),
                present_bytes: volume.metrics.present_bytes.get(),
                written_bytes: volume.metrics.written_bytes.get(),
                segment_bytes: geometry.segment_bytes(),
                segments_by_age: survey::ages(volume, SystemTime::now()).await?,
                ailments: volume.health.ailments(),
            });
        }
        Ok(all)
    }

    /// Where what belongs to the whole cache is kept: the first volume's file of marks.
    #[must_use]
    pub fn marks(&self) -> Option<PathBuf> {
        self.volumes
            .first()
            .map(|running| running.directory.marks())
    }

    /// Says what the tiers above hold: a reason to keep it when its segment is reclaimed. The first answer counts.
    pub fn retain(&self, retained: &Retained) {
        for running in &self.volumes {
            let _ = running.volume.retained.set(Arc::clone(retained));
        }
    }

    /// Adds the counters to a registry, a label a volume.
    pub fn register(&self, registry: &mut Registry) {
        for running in &self.volumes {
            let label = running.volume.label.clone();
            let registry = registry.sub_registry_with_label(("volume".into(), label.into()));
            running.volume.metrics.register(registry);
            registry.register_collector(Box::new(Ailing(Arc::clone(&running.volume))));
        }
    }

    /// Ends all volumes: takes no more, writes what is in memory, saves the indexes. Blocks, at most 10 s a volume. Whether all was written.
    pub fn close(&self) -> bool {
        for running in &self.volumes {
            running.end();
        }
        let unfinished = self.volumes.iter().filter(|running| !running.join());
        unfinished.count() == 0
    }

    fn of(&self, name: &Name) -> Option<&Arc<Volume>> {
        if let [only] = self.volumes.as_slice() {
            return Some(&only.volume);
        }
        self.volumes
            .iter()
            .max_by(|a, b| a.score(name).total_cmp(&b.score(name)))
            .map(|running| &running.volume)
    }
}

impl DiskTier for Disk {
    fn put(&self, kind: Kind, name: Name, body: &[u8]) -> Put {
        self.of(&name).map_or(Put::Refused(Refused::Off), |volume| {
            volume.put(kind, name, body)
        })
    }

    fn forget(&self, name: &Name) {
        if let Some(volume) = self.of(name) {
            volume.forget(name);
        }
    }

    fn contains(&self, name: &Name) -> bool {
        self.of(name)
            .is_some_and(|volume| volume.index.get(name).is_some())
    }

    fn read<'a>(
        &'a self,
        kind: Kind,
        name: &'a Name,
        check: Check<'a>,
    ) -> DiskFuture<'a, DiskRead> {
        Box::pin(async move {
            match self.of(name) {
                Some(volume) => volume.read(kind, name, check).await,
                None => DiskRead::Miss,
            }
        })
    }

    fn read_run<'a>(
        &'a self,
        names: &'a [Name],
        check: &'a (dyn Fn(usize, &[u8]) -> bool + Send + Sync),
    ) -> DiskFuture<'a, Vec<DiskRead>> {
        Box::pin(async move {
            let mut answers = vec![DiskRead::Miss; names.len()];
            let of_volumes = self.volumes.iter().map(|running| {
                let names = names.iter().copied().enumerate();
                let here = names.filter(|(_, name)| {
                    self.of(name)
                        .is_some_and(|volume| Arc::ptr_eq(volume, &running.volume))
                });
                (&running.volume, here.collect::<Vec<_>>())
            });
            let reads = of_volumes
                .filter(|(_, names)| !names.is_empty())
                .map(|(volume, names)| async move { volume.read_run(&names, check).await });
            for (at, read) in futures_util::future::join_all(reads)
                .await
                .into_iter()
                .flatten()
            {
                if let Some(answer) = answers.get_mut(at) {
                    *answer = read;
                }
            }
            answers
        })
    }

    fn room(&self) -> DiskFuture<'_, ()> {
        Box::pin(async move {
            for running in &self.volumes {
                running.volume.room().await;
            }
        })
    }

    fn flush(&self) -> DiskFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let flushes = self.volumes.iter().map(|running| running.volume.flush());
            futures_util::future::join_all(flushes)
                .await
                .into_iter()
                .collect()
        })
    }
}
