//! Directories that cannot be a volume: `run` and `check` refuse each in words of its own, and touch nothing.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use integration::tools;

use crate::rig::Setup;

/// A node of its own before a directory, so that `check` has an origin that answers.
fn setup(directory: &Path, name: &str) -> Option<Setup> {
    let site = directory.join("site");
    fs::create_dir_all(&site).expect("a directory is made");
    let mut setup = Setup::edge("refusals", directory, &site.display().to_string())?.named(name);
    setup.size = "64MiB";
    setup.disk = directory.join(format!("{name}-disk"));
    Some(setup)
}

/// Fails unless both verbs end with 1 and one line that has all of `parts` and the directory.
async fn refuses(setup: &Setup, parts: &[&str]) {
    for verb in ["run", "check"] {
        let output = setup.ends(verb).await;
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{verb}: {said}");
        let disk = setup.disk.display().to_string();
        let line = said.lines().find(|line| line.contains(&disk));
        let line = line.unwrap_or_else(|| panic!("{verb} does not name {disk}: {said}"));
        for part in parts {
            assert!(line.contains(part), "{verb} does not say `{part}`: {line}");
        }
        println!("{verb}: {line}");
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether this test may mount, and give files away.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn a_directory_that_others_write_to_or_that_is_none_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(open) = setup(directory.path(), "open") else {
        return;
    };
    fs::create_dir(&open.disk).expect("a directory is made");
    fs::set_permissions(&open.disk, Permissions::from_mode(0o777)).expect("a mode is set");
    refuses(&open, &["mode 777", "chmod go-w"]).await;
    assert_eq!(entries(&open.disk), 0, "nothing was put into it");

    let file = setup(directory.path(), "file").expect("it is built");
    fs::write(&file.disk, "a file").expect("a file is written");
    refuses(&file, &["is not a directory", "name another path"]).await;
    assert_eq!(fs::read(&file.disk).expect("it is there"), b"a file");

    let mut astray = setup(directory.path(), "astray").expect("it is built");
    astray.disk = directory.path().join("not-mounted").join("disk");
    refuses(&astray, &["does not exist", "mount the disk"]).await;
}

#[tokio::test]
async fn another_format_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(foreign) = setup(directory.path(), "foreign") else {
        return;
    };
    make(&foreign.disk);
    let diary = b"my diary".repeat(2_000);
    fs::write(foreign.disk.join("log"), &diary).expect("a file is written");
    refuses(&foreign, &["something else than a volume"]).await;
    assert_eq!(fs::read(foreign.disk.join("log")).expect("a file"), diary);

    let damaged = setup(directory.path(), "damaged").expect("it is built");
    assert!(damaged.start().await.stop().await.success());
    let log = damaged.disk.join("log");
    let mut bytes = fs::read(&log).expect("a log");
    for copy in [0, 4096] {
        bytes[copy + 20] ^= 1;
    }
    fs::write(&log, &bytes).expect("a file is written");
    refuses(
        &damaged,
        &["superblocks are damaged", "empty the directory"],
    )
    .await;
}

#[tokio::test]
async fn a_volume_that_a_running_edge_has_is_refused_by_its_process_id() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(first) = setup(directory.path(), "first") else {
        return;
    };
    let mut second = setup(directory.path(), "second").expect("it is built");
    second.disk.clone_from(&first.disk);
    let running = first.start().await;
    let holder = format!("in use by process {}", running.id());
    refuses(&second, &[&holder, "stop that, or name another path"]).await;
    assert!(running.stop().await.success());
    let again = second.start().await;
    assert!(again.stop().await.success());
}

#[tokio::test]
async fn a_check_makes_nothing_and_finds_a_good_volume_good() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(good) = setup(directory.path(), "good") else {
        return;
    };
    let output = good.ends("check").await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(!good.disk.exists(), "check made the volume");
    assert!(good.start().await.stop().await.success());
    let output = good.ends("check").await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let running = good.start().await;
    let output = good.ends("check").await;
    assert_eq!(
        output.status.code(),
        Some(0),
        "a check beside the running node that has the volume: {}",
        said(&output)
    );
    assert!(running.stop().await.success());
}

#[tokio::test]
async fn a_directory_of_another_user_or_on_a_read_only_mount_is_refused() {
    if !is_root() {
        return tools::skipped("refusals", "giving files away and mounting needs root");
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(foreign) = setup(directory.path(), "foreign") else {
        return;
    };
    make(&foreign.disk);
    chown(&foreign.disk, Some(65_534), None).expect("root gives it away");
    refuses(&foreign, &["belongs to user 65534", "chown 0"]).await;

    let mut sealed = setup(directory.path(), "sealed").expect("it is built");
    let mount = Tmpfs::new(&directory.path().join("mount"), "size=1m");
    sealed.disk = mount.0.join("disk");
    make(&sealed.disk);
    mount.read_only();
    refuses(&sealed, &["mounted read-only", "remount,rw"]).await;
}

fn make(path: &Path) {
    fs::create_dir(path).expect("a directory is made");
    fs::set_permissions(path, Permissions::from_mode(0o700)).expect("a mode is set");
}

fn entries(path: &Path) -> usize {
    fs::read_dir(path).expect("a directory").count()
}

/// A filesystem in memory, mounted until it is dropped. Needs root.
#[derive(Debug)]
pub(crate) struct Tmpfs(pub(crate) PathBuf);

impl Tmpfs {
    /// Mounts one with these options on a directory that it makes.
    pub(crate) fn new(path: &Path, options: &str) -> Self {
        fs::create_dir(path).expect("a directory is made");
        mount(&["-t", "tmpfs", "-o", options, "tmpfs"], path);
        Self(path.to_owned())
    }

    fn read_only(&self) {
        mount(&["-o", "remount,ro"], &self.0);
    }
}

fn mount(arguments: &[&str], path: &Path) {
    let mounted = Command::new("mount").args(arguments).arg(path).status();
    assert!(
        mounted.is_ok_and(|status| status.success()),
        "mount {arguments:?} {}",
        path.display()
    );
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, so that a node which is being killed keeps nobody waiting.
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}
