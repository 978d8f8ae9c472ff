//! When a file is read anew, and what stays when it cannot be used.

use std::os::unix::fs::symlink;

use super::*;
use crate::geo::mmdb::{networks, places};

fn files(directory: &tempfile::TempDir) -> (PathBuf, GeoFiles) {
    let path = directory.path().join("city.mmdb");
    let files = GeoFiles::new(GeoPaths {
        places: Some(path.clone()),
        networks: None,
    });
    (path, files)
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The build time of the database that is in use.
fn built(files: &GeoFiles) -> Option<u64> {
    files.geo().databases().next().map(Database::built)
}

/// Puts a file in place of another, as tools that fetch databases do.
fn replace(path: &Path, bytes: &[u8]) {
    let next = path.with_extension("next");
    fs::write(&next, bytes).unwrap();
    fs::rename(next, path).unwrap();
}

fn said(news: &[GeoNews]) -> String {
    let lines: Vec<_> = news.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn a_file_is_read_once_and_again_when_another_is_there() {
    let directory = directory();
    let (path, mut files) = files(&directory);
    fs::write(&path, places(1)).unwrap();
    assert!(matches!(
        files.look()[..],
        [GeoNews::Loaded { built: 1, .. }]
    ));
    assert!(files.look().is_empty());
    let held = files.geo();
    replace(&path, &places(2));
    assert!(matches!(
        files.look()[..],
        [GeoNews::Loaded { built: 2, .. }]
    ));
    assert_eq!(built(&files), Some(2));
    // Who holds the old ones goes on with them.
    assert_eq!(held.databases().next().map(Database::built), Some(1));
}

#[test]
fn a_damaged_new_file_leaves_the_old_database_in_use_and_is_said_once() {
    let directory = directory();
    let (path, mut files) = files(&directory);
    fs::write(&path, places(1)).unwrap();
    files.look();
    let whole = places(2);
    replace(&path, &whole[..whole.len() / 2]);
    let news = files.look();
    assert!(said(&news).contains("damaged"), "{}", said(&news));
    assert!(said(&news).ends_with("what was read before stays in use"));
    assert!(files.look().is_empty());
    assert_eq!(built(&files), Some(1));
    // So is one of something else; a whole one is taken.
    replace(&path, &networks(3));
    assert!(said(&files.look()).contains("has no places"));
    assert_eq!(built(&files), Some(1));
    replace(&path, &whole);
    assert!(matches!(
        files.look()[..],
        [GeoNews::Loaded { built: 2, .. }]
    ));
}

#[test]
fn without_a_file_nothing_is_known_until_it_comes() {
    let directory = directory();
    let (path, mut files) = files(&directory);
    let news = files.look();
    assert!(said(&news).contains("no such file; places: addresses have none"));
    assert!(files.look().is_empty());
    assert_eq!(files.geo().databases().count(), 0);
    fs::write(&path, places(5)).unwrap();
    assert_eq!(files.look().len(), 1);
    // Gone again: what was read stays.
    fs::remove_file(&path).unwrap();
    assert!(said(&files.look()).contains("stays in use"));
    assert_eq!(built(&files), Some(5));
    // And no path is no news.
    let mut none = GeoFiles::new(GeoPaths::default());
    assert!(none.look().is_empty());
}

#[test]
fn what_is_no_file_is_refused_and_a_link_is_followed() {
    let directory = directory();
    let (path, mut files) = files(&directory);
    fs::create_dir(&path).unwrap();
    assert!(said(&files.look()).contains("it is no file"));
    fs::remove_dir(&path).unwrap();
    for version in [1, 2] {
        let target = directory.path().join(format!("city-{version}.mmdb"));
        fs::write(&target, places(version)).unwrap();
        let _ = fs::remove_file(&path);
        symlink(&target, &path).unwrap();
        files.look();
        assert_eq!(built(&files), Some(version));
    }
}
