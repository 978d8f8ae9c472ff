//! What a machine refuses is found out, said, and made up for.

use std::{fs, thread};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::geteuid,
    thread::{UnshareFlags, unshare_unsafe},
};
use tokio::runtime::Builder;

use super::*;
use crate::store::disk::device::IoBuf;

const FIRST: Extent = Extent {
    offset: 0,
    len: BLOCK_BYTES,
};

/// Makes setting up a ring fail with this error for this thread, for good.
#[expect(unsafe_code, reason = "seccomp has no safe wrapper")]
fn refuse_rings(errno: i32) {
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    };
    let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let errno = u32::try_from(errno).unwrap();
    // The number of the system call is the first word of what the filter sees.
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, setup),
        statement(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        statement(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its statements outlive the calls, which copy them.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) == 0
    };
    assert!(done, "{}", io::Error::last_os_error());
}

fn read_back(device: &dyn Device) {
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let mut buffer = IoBuf::zeroed(BLOCK_BYTES);
        buffer.fill(3);
        device.write(0, Arc::new(buffer)).await.unwrap();
        device.sync().await.unwrap();
        let read = device.read(FIRST).await.unwrap();
        assert!(read.iter().all(|byte| *byte == 3));
    });
}

#[test]
fn a_machine_without_io_uring_gets_threads_and_the_reason() {
    for (errno, word) in [
        (libc::ENOSYS, "no io_uring"),
        (libc::EPERM, "forbidden"),
        (libc::ENOMEM, "LimitMEMLOCK"),
    ] {
        let refused = thread::spawn(move || {
            refuse_rings(errno);
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("log");
            let (device, opened) = open(&path, None).unwrap();
            assert_eq!(opened.engine, Engine::Threads);
            assert!(
                opened.why.iter().any(|why| why.contains(word)),
                "{opened:?}"
            );
            read_back(&*device);
            let error = open(&path, Some(Engine::IoUring)).unwrap_err().to_string();
            assert!(
                error.contains(word) && error.contains("`threads`"),
                "{error}"
            );
            let (_, forced) = open(&path, Some(Engine::Threads)).unwrap();
            assert!(!forced.why.iter().any(|why| why.contains(word)));
        });
        refused.join().unwrap();
    }
}

#[test]
fn a_thread_that_gets_no_ring_of_its_own_is_served_by_threads() {
    let directory = tempfile::tempdir().unwrap();
    let (device, opened) = open(&directory.path().join("log"), None).unwrap();
    assert_eq!(opened.engine, Engine::IoUring);
    let refused = thread::spawn(move || {
        refuse_rings(libc::ENOMEM);
        read_back(&*device);
        device
    });
    read_back(&*refused.join().unwrap());
}

#[test]
fn an_opened_file_is_as_long_as_it_was_and_its_owners_alone() {
    use std::os::unix::fs::MetadataExt;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    for len in [0, 100, 8192] {
        if len > 0 {
            fs::write(&path, vec![5; len]).unwrap();
        }
        let (device, _) = open(&path, None).unwrap();
        assert_eq!(device.len(), len as u64);
        assert_eq!(fs::read(&path).unwrap(), vec![5; len]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
    let error = open(directory.path(), None).unwrap_err();
    assert!(matches!(error, OpenError::File { .. }), "{error}");
    std::os::unix::fs::symlink(&path, directory.path().join("link")).unwrap();
    open(&directory.path().join("link"), None).unwrap_err();
}

#[test]
#[expect(unsafe_code, reason = "a mount that this thread alone sees")]
fn a_filesystem_without_direct_access_is_used_by_the_page_cache_and_a_full_one_says_so() {
    let test = "a_filesystem_without_direct_access";
    if !geteuid().is_root() {
        let required = std::env::var_os("STOQ_REQUIRE_PRIVILEGED").is_some_and(|one| one == "1");
        assert!(!required, "{test}: not root, and STOQ_REQUIRE_PRIVILEGED=1");
        println!("SKIPPED: {test}: needs root to mount");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let mounted = thread::spawn(move || {
        // SAFETY: file descriptors stay shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).unwrap();
        // The one filesystem of every kernel that has no direct access.
        mount(c"none", &path, c"ramfs", MountFlags::empty(), c"").unwrap();
        let (device, opened) = open(&path.join("log"), None).unwrap();
        assert!(!opened.direct);
        assert!(opened.why[0].contains("O_DIRECT"), "{opened:?}");
        read_back(&*device);
        // It promises no room either, and the file is as long as was asked for all the same.
        device
            .allocate(Extent {
                offset: 0,
                len: 1 << 20,
            })
            .unwrap();
        assert_eq!(device.len(), 1 << 20);
        drop(device);

        fs::create_dir(path.join("small")).unwrap();
        let small = path.join("small");
        mount(c"none", &small, c"tmpfs", MountFlags::empty(), c"size=1m").unwrap();
        for engine in [Engine::IoUring, Engine::Threads] {
            let (device, _) = open(&small.join(engine.to_string()), Some(engine)).unwrap();
            let full = device
                .allocate(Extent {
                    offset: 0,
                    len: 2 << 20,
                })
                .unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull);
            let runtime = Builder::new_current_thread().enable_io().build().unwrap();
            let buffer = Arc::new(IoBuf::zeroed(2 << 20));
            let full = runtime.block_on(device.write(0, buffer)).unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{engine}");
            drop(device);
            fs::remove_file(small.join(engine.to_string())).unwrap();
        }
    });
    mounted.join().unwrap();
}
