//! A wall clock that is wrong, for one process: a library loaded into it before the C library moves what that says of the time of day. Its monotonic clock stays right, as on a machine
//! whose clock was set wrongly.
//!
//! The program is the one that is shipped; whether it really lives in another time is for the test to look at.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Seconds by which the clock of the process is ahead, in its environment.
pub(crate) const SKEW: &str = "STOQ_TEST_CLOCK_SKEW";

const SOURCE: &str = r#"
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long skew(void) {
    const char *seconds = getenv("STOQ_TEST_CLOCK_SKEW");
    return seconds ? atol(seconds) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += skew();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    long failed = syscall(SYS_gettimeofday, now, zone);
    if (!failed)
        now->tv_sec += skew();
    return failed;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into)
        *into = now.tv_sec;
    return now.tv_sec;
}
"#;

/// Makes the library in this directory; `None` where there is no C compiler.
pub(crate) fn library(directory: &Path) -> Option<PathBuf> {
    let source = directory.join("clock.c");
    let library = directory.join("clock.so");
    std::fs::write(&source, SOURCE).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .status()
        .ok()?;
    assert!(made.success(), "the clock does not compile");
    Some(library)
}
