//! The databases' files, looked at again from time to time: this module's only way to the filesystem.
//!
//! A file counts as another one when its time of change, its length or its inode differ, which finds both a file that is written over and one that is
//! put in place of the old. A new file that is damaged changes nothing: the old database stays, and that is said once for each such file.
//! So does one that is gone. A file that changes while it is read is left for the next look.

use std::{
    fmt, fs, io,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{BadDatabase, Database, Geo, Kind};

/// Bytes of a file, which are held in memory; several times the largest database sold.
const BYTES_MAX: u64 = 1 << 30;

/// Where the operator keeps the databases; neither needs to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GeoPaths {
    /// Places ("City").
    pub places: Option<PathBuf>,
    /// Network numbers ("ASN").
    pub networks: Option<PathBuf>,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum BadGeoFile {
    /// It is not there.
    #[error("there is no such file")]
    Absent,
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is a directory or the like.
    #[error("it is no file")]
    NoFile,
    /// It is too large to be held.
    #[error("it has {bytes} bytes, at most {BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
    /// Somebody is writing it. It is looked at again.
    #[error("it changed while it was read")]
    Changing,
    /// What it holds is no use.
    #[error(transparent)]
    Bad(#[from] BadDatabase),
}

/// What a look at a file found that was not so before.
#[derive(Debug)]
pub enum GeoNews {
    /// It is in use from now on.
    Loaded {
        /// Where.
        path: PathBuf,
        /// What for.
        kind: Kind,
        /// Its type, as it says.
        name: String,
        /// When it was made, seconds since 1970.
        built: u64,
        /// Bytes it takes.
        bytes: u64,
    },
    /// It is not used.
    Refused {
        /// Where.
        path: PathBuf,
        /// What for.
        kind: Kind,
        /// Why.
        why: BadGeoFile,
        /// Whether an earlier file's database stays in use.
        keeps_old: bool,
    },
}

impl fmt::Display for GeoNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loaded {
                path,
                kind,
                name,
                built,
                bytes,
            } => write!(
                f,
                "{}: {kind} from `{}`, made at {built}, {bytes} bytes",
                path.display(),
                name.escape_debug()
            ),
            Self::Refused {
                path,
                kind,
                why,
                keeps_old,
            } => {
                let then = if *keeps_old {
                    "what was read before stays in use"
                } else {
                    "addresses have none"
                };
                write!(f, "{}: {why}; {kind}: {then}", path.display())
            }
        }
    }
}

/// The files, and the databases that were read from them.
#[derive(Debug)]
pub struct GeoFiles {
    places: Watched,
    networks: Watched,
}

impl GeoFiles {
    /// Files that have not been looked at yet.
    #[must_use]
    pub fn new(paths: GeoPaths) -> Self {
        Self {
            places: Watched::new(paths.places, Kind::Places),
            networks: Watched::new(paths.networks, Kind::Networks),
        }
    }

    /// Looks at the files and reads those that are others than before; what is new. Reading blocks; where nothing changed this
    /// costs a look at two names. Once a minute is plenty.
    pub fn look(&mut self) -> Vec<GeoNews> {
        let news = [self.places.look(), self.networks.look()];
        news.into_iter().flatten().collect()
    }

    /// The databases that are in use now.
    #[must_use]
    pub fn geo(&self) -> Geo {
        Geo::new(self.places.database.clone(), self.networks.database.clone())
    }
}

/// What tells one file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    seconds: i64,
    nanoseconds: i64,
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
            length: metadata.len(),
            inode: metadata.ino(),
        }
    }
}

#[derive(Debug)]
struct Watched {
    path: Option<PathBuf>,
    kind: Kind,
    /// The file that was last read to its end, good or bad.
    read: Option<Stamp>,
    /// What was last said of it, so that it is said once.
    said: Option<String>,
    database: Option<Arc<Database>>,
}

impl Watched {
    fn new(path: Option<PathBuf>, kind: Kind) -> Self {
        Self {
            path,
            kind,
            read: None,
            said: None,
            database: None,
        }
    }

    fn look(&mut self) -> Option<GeoNews> {
        let path = self.path.clone()?;
        match self.load(&path) {
            Ok(None) => None,
            Ok(Some(bytes)) => {
                self.said = None;
                let database = self.database.as_ref()?;
                Some(GeoNews::Loaded {
                    path,
                    kind: self.kind,
                    name: database.name().to_owned(),
                    built: database.built(),
                    bytes,
                })
            }
            Err(why) => {
                let says = why.to_string();
                let is_new = self.said.as_ref() != Some(&says) || matches!(why, BadGeoFile::Bad(_));
                self.said = Some(says);
                is_new.then(|| GeoNews::Refused {
                    path,
                    kind: self.kind,
                    why,
                    keeps_old: self.database.is_some(),
                })
            }
        }
    }

    /// Reads the file where it is another one; its bytes then.
    fn load(&mut self, path: &Path) -> Result<Option<u64>, BadGeoFile> {
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The one that comes next is another, whatever its stamp.
                self.read = None;
                return Err(BadGeoFile::Absent);
            }
            metadata => metadata?,
        };
        if !metadata.is_file() {
            return Err(BadGeoFile::NoFile);
        }
        if self.read == Some(Stamp::of(&metadata)) {
            return Ok(None);
        }
        let mut file = fs::File::open(path)?;
        let before = file.metadata()?;
        if before.len() > BYTES_MAX {
            return Err(BadGeoFile::TooLarge {
                bytes: before.len(),
            });
        }
        let mut bytes = Vec::new();
        file.by_ref().take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
        let stamp = Stamp::of(&before);
        let length = bytes.len() as u64;
        if Stamp::of(&file.metadata()?) != stamp || length != stamp.length {
            return Err(BadGeoFile::Changing);
        }
        self.read = Some(stamp);
        self.database = Some(Arc::new(Database::read(bytes, self.kind)?));
        Ok(Some(length))
    }
}

#[cfg(test)]
mod tests;
