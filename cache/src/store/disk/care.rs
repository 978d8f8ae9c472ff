//! What an operator has done to volumes: a look at all that lies there, and the removal of what nobody needs.
//!
//! While names are collected ([`Disk::collect`]) a volume notes every chunk and page that is put, whether it was there or not, and a sweep passes those
//! over. A sweep decides about a record and drops it under the lock under which a put notes its name: so either the sweep sees the note, or the put
//! finds the record gone and writes it anew.

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use parking_lot::MutexGuard;

use super::{
    Kind, Name, OpenError, VolumeConfig,
    format::superblock::SUPERBLOCKS_BYTES,
    index::Place,
    names::NameSet,
    open,
    survey::{self, Pace, Survey, Wanted},
    tier::Disk,
    volume::Volume,
};

/// How far the log of each volume went at a moment.
#[derive(Clone, Debug)]
pub struct Ends(Vec<u64>);

/// Names are collected as long as this lives.
#[derive(Debug)]
pub struct Collecting<'a>(&'a Disk);

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        for volume in self.0.volumes() {
            volume.is_collecting.store(false, Ordering::SeqCst);
            *volume.collected.lock() = None;
        }
    }
}

impl Disk {
    /// Walks through records of these kinds, those that were put last included, and shows each that is what was written. Records that are not are
    /// dropped. `since`: only through what the logs got from then on, for what moved while an earlier walk was under way.
    pub async fn walk_kinds(
        &self,
        kinds: &[Kind],
        since: Option<&Ends>,
        see: &mut (dyn FnMut(Kind, &Name, &[u8]) + Send),
    ) -> Survey {
        let mut survey = Survey::default();
        for (place, volume) in self.volumes().enumerate() {
            // What the device does not take now is lost, or in nobody's way.
            let _ = volume.flush().await;
            let wanted = Wanted {
                kinds,
                since: since.and_then(|ends| ends.0.get(place)).copied(),
                unsealed: true,
            };
            let mut pace = Pace::new(None);
            survey.add(&survey::some(volume, wanted, &mut pace, see).await);
        }
        survey
    }

    /// How far the logs go now.
    #[must_use]
    pub fn ends(&self) -> Ends {
        let newest = |volume: &Arc<Volume>| volume.segments.sequences().into_iter().max();
        Ends(
            self.volumes()
                .map(|volume| newest(volume).unwrap_or(0))
                .collect(),
        )
    }

    /// Notes the names of chunks and pages put from now on, for sweeps to pass over. One at a time: `None` while another lives.
    #[must_use]
    pub fn collect(&self) -> Option<Collecting<'_>> {
        let mut volumes = self.volumes();
        let first = volumes.next()?;
        if first.collected.lock().replace(NameSet::default()).is_some() {
            return None;
        }
        first.is_collecting.store(true, Ordering::SeqCst);
        for volume in volumes {
            *volume.collected.lock() = Some(NameSet::default());
            volume.is_collecting.store(true, Ordering::SeqCst);
        }
        Some(Collecting(self))
    }

    /// Whether opening would find what was stored: says why not. Changes nothing.
    ///
    /// # Errors
    /// A volume is not there, cannot be read, is another build's, or would begin empty.
    pub fn inspect(volumes: &[VolumeConfig], key_id: [u8; 16]) -> Result<(), OpenError> {
        volumes
            .iter()
            .try_for_each(|config| inspect(config, key_id))
    }
}

fn inspect(config: &VolumeConfig, key_id: [u8; 16]) -> Result<(), OpenError> {
    let why = match read_superblocks(&config.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some("there is no volume yet: the node makes it at its first start".to_owned())
        }
        Err(source) => {
            return Err(OpenError::Io {
                path: config.path.clone(),
                source,
            });
        }
        Ok(region) => {
            let wanted = open::geometry(config)?;
            let decided = open::decide(&region, wanted, key_id);
            let (_, emptied) = decided.map_err(|source| OpenError::Superblock {
                path: config.path.clone(),
                source,
            })?;
            emptied
        }
    };
    match why {
        None => Ok(()),
        Some(why) => Err(OpenError::Nothing {
            path: config.path.clone(),
            why,
        }),
    }
}

fn read_superblocks(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut region = Vec::new();
    let file = std::fs::File::open(super::directory::log_in(path))?;
    file.take(SUPERBLOCKS_BYTES as u64)
        .read_to_end(&mut region)?;
    Ok(region)
}

impl Volume {
    /// Notes a name that is put, while names are collected.
    pub(super) fn note(&self, kind: Kind, name: &Name) {
        if kind != Kind::Head
            && self.is_collecting.load(Ordering::SeqCst)
            && let Some(collected) = &mut *self.collected.lock()
        {
            collected.insert(name);
        }
    }

    /// Drops a record that `keep` does not want and that was not put since names are collected. Whether it was dropped.
    pub(super) fn drop_unwanted(
        &self,
        name: &Name,
        place: Place,
        keep: &(dyn Fn(&Name) -> bool + Sync),
    ) -> bool {
        if keep(name) {
            return false;
        }
        let collected: MutexGuard<'_, Option<NameSet>> = self.collected.lock();
        let was_put = collected.as_ref().is_some_and(|names| names.contains(name));
        !was_put && self.drop_place(name, place)
    }
}
