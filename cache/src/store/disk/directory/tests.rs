//! Which directories are taken, and what is said of the others.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown, symlink},
    thread,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::*;

/// Says that a test is skipped, or fails it where skips are failures.
fn is_root(test: &str) -> bool {
    if geteuid().is_root() {
        return true;
    }
    let required = std::env::var_os("STOQ_REQUIRE_PRIVILEGED").is_some_and(|value| value == "1");
    assert!(!required, "{test}: not root, and STOQ_REQUIRE_PRIVILEGED=1");
    println!("SKIPPED: {test}: needs root");
    false
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn an_absent_directory_is_made_for_its_owner_alone() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("volume");
    let directory = Directory::open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("LOCK")), 0o600);
    assert_eq!(directory.path(), path);
    assert!(directory.log().starts_with(&path));
    directory.sync().unwrap();
    drop(directory);
    Directory::open(&path).unwrap();
}

#[test]
fn a_directory_is_not_made_where_a_disk_should_be_mounted() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("disk1/volume");
    let error = Directory::open(&path).unwrap_err();
    assert!(matches!(error, DirectoryError::NoParent { .. }), "{error}");
    assert!(error.to_string().contains("disk1/volume"), "{error}");
    assert!(!above.path().join("disk1").exists());
}

#[test]
fn a_file_is_not_a_directory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Directory::open(file.path()).unwrap_err();
    assert!(
        matches!(error, DirectoryError::NotADirectory { .. }),
        "{error}"
    );
    let below = Directory::open(&file.path().join("volume")).unwrap_err();
    assert!(
        matches!(below, DirectoryError::NotADirectory { .. }),
        "{below}"
    );
}

#[test]
fn a_directory_that_others_may_write_to_is_refused_with_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for refused in [0o770, 0o702, 0o777] {
        fs::set_permissions(path, Permissions::from_mode(refused)).unwrap();
        let error = Directory::open(path).unwrap_err();
        assert!(
            matches!(error, DirectoryError::WritableByOthers { mode, .. } if mode == refused),
            "{error}"
        );
        let fix = format!("chmod go-w {}", path.display());
        assert!(error.to_string().contains(&fix), "{error}");
    }
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    Directory::open(path).unwrap();
}

#[test]
fn a_directory_of_another_user_is_refused_with_the_fix() {
    if !is_root("a_directory_of_another_user_is_refused_with_the_fix") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    chown(directory.path(), Some(65_534), None).unwrap();
    let error = Directory::open(directory.path()).unwrap_err();
    assert!(
        matches!(
            error,
            DirectoryError::ForeignOwner {
                owner: 65_534,
                user: 0,
                ..
            }
        ),
        "{error}"
    );
    let fix = format!("chown 0 {}", directory.path().display());
    assert!(error.to_string().contains(&fix), "{error}");
}

#[test]
#[expect(unsafe_code, reason = "a mount that this thread alone sees")]
fn a_directory_on_a_read_only_mount_is_refused() {
    if !is_root("a_directory_on_a_read_only_mount_is_refused") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let refused = thread::spawn(move || {
        // SAFETY: file descriptors stay shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        mount_bind(&path, &path).unwrap();
        mount_remount(&path, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
        [
            Directory::open(&path),
            Directory::open(&path.join("absent")),
        ]
    });
    for refused in refused.join().unwrap() {
        let error = refused.unwrap_err();
        assert!(matches!(error, DirectoryError::ReadOnly { .. }), "{error}");
    }
    Directory::open(directory.path()).unwrap();
}

#[test]
fn a_directory_in_use_is_refused_with_the_holder_until_it_lets_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    // Left behind by a process that was killed: no lock, so no holder.
    fs::write(path.join("LOCK"), "12345678901234567890\n").unwrap();
    let held = Directory::open(path).unwrap();
    let us = std::process::id();
    let error = Directory::open(path).unwrap_err();
    assert!(
        matches!(error, DirectoryError::Locked { holder: Some(pid), .. } if pid == us),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("process {us}")),
        "{error}"
    );
    drop(held);
    Directory::open(path).unwrap();
}

#[test]
fn a_link_in_place_of_the_lock_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("target");
    fs::write(&target, "precious").unwrap();
    symlink(&target, directory.path().join("LOCK")).unwrap();
    let error = Directory::open(directory.path()).unwrap_err();
    assert!(matches!(error, DirectoryError::Io { .. }), "{error}");
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}

#[test]
fn a_check_says_what_opening_would_and_makes_nothing() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("volume");
    Directory::check(&path).unwrap();
    assert!(!path.exists());
    let error = Directory::check(&above.path().join("disk1/volume")).unwrap_err();
    assert!(matches!(error, DirectoryError::NoParent { .. }), "{error}");

    let held = Directory::open(&path).unwrap();
    let error = Directory::check(&path).unwrap_err();
    let holder = Some(std::process::id());
    assert!(
        matches!(&error, DirectoryError::Locked { holder: found, .. } if *found == holder),
        "{error}"
    );
    drop(held);
    Directory::check(&path).unwrap();
    // It leaves the lock to others.
    Directory::open(&path).unwrap();

    fs::set_permissions(&path, Permissions::from_mode(0o770)).unwrap();
    let error = Directory::check(&path).unwrap_err();
    assert!(
        matches!(error, DirectoryError::WritableByOthers { mode: 0o770, .. }),
        "{error}"
    );
    let error = Directory::check(&path.join("LOCK")).unwrap_err();
    assert!(
        matches!(error, DirectoryError::NotADirectory { .. }),
        "{error}"
    );
}
