//! A lab of two hosts for the length of a test: `server` at 10.77.0.1, `client` at 10.77.0.2, a bridge between them.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use integration::tools::{built, skipped};
use parking_lot::{Mutex, MutexGuard};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// One lab at a time: they measure on the same cores, and are named after the process.
static ALONE: Mutex<()> = Mutex::new(());

/// Hosts that stand until the value is dropped: made and watched over by `stoq-bench netlab`.
#[derive(Debug)]
pub(crate) struct Lab {
    namespaces: Vec<String>,
    end: PathBuf,
    tool: Option<Child>,
    _directory: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Lab {
    /// Links in the words of a scenario file. `None`, said aloud, without root or `stoq-bench`.
    pub(crate) fn up(test: &str, server: &str, client: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skipped(test, "network namespaces need root");
            return None;
        }
        let Some(bench) = built("stoq-bench") else {
            skipped(
                test,
                "stoq-bench is not built: `cargo build -p stoq-loadtest`",
            );
            return None;
        };
        let alone = ALONE.lock();
        let directory = tempfile::tempdir().unwrap();
        let end = directory.path().join("end");
        // The load ends when the test says so; the lab then reports on its relays.
        let text = format!(
            "impairment = \"relay\"\n\
             [[host]]\nname = \"server\"\nlink = {{ {server} }}\n\
             [[host]]\nname = \"client\"\nlink = {{ {client} }}\n\
             [load]\nhost = \"client\"\ntimeout = \"10m\"\n\
             command = \"until [ -e {} ]; do sleep 0.1; done\"\n",
            end.display()
        );
        let scenario = directory.path().join("links.toml");
        fs::write(&scenario, text).unwrap();
        let mut tool = Command::new(bench)
            .args(["netlab", "--json"])
            .arg(scenario)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut stderr = BufReader::new(tool.stderr.take().expect("piped"));
        while !said.contains("netlab: up") {
            said.clear();
            assert!(stderr.read_line(&mut said).unwrap() > 0, "no lab");
        }
        let namespaces = said.split_whitespace().map(str::to_owned).collect();
        Some(Self {
            namespaces,
            end,
            tool: Some(tool),
            _directory: directory,
            _alone: alone,
        })
    }

    fn namespace(&self, host: &str) -> &str {
        let end = format!("-{host}");
        let found = self.namespaces.iter().find(|name| name.ends_with(&end));
        found.expect("a host of this lab")
    }

    /// Runs `what` on a thread that is on `host`.
    pub(crate) fn on<T: Send + 'static>(
        &self,
        host: &str,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = File::open(Path::new("/run/netns").join(self.namespace(host))).unwrap();
        std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            what()
        })
    }

    /// From now on the link of `client` carries packets of `mtu` bytes, and nobody is told.
    pub(crate) fn shrink(&self, mtu: u32) {
        let mtu = mtu.to_string();
        for (host, device) in [("bridge", "client"), ("client", "eth0")] {
            let status = Command::new("ip")
                .args(["-n", self.namespace(host), "link", "set", "dev", device])
                .args(["mtu", &mtu])
                .status()
                .unwrap();
            assert!(status.success());
        }
    }

    /// Removes the lab; why figures measured over it cannot be believed, if so.
    pub(crate) fn end(mut self) -> Vec<String> {
        let tool = self.tool.take().expect("a lab ends once");
        fs::write(&self.end, "").unwrap();
        let done = tool.wait_with_output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).expect("a report");
        assert_eq!(report["load"]["exit_code"], 0, "the lab ended by itself");
        let reasons = report["verdict"]["reasons"].as_array().expect("reasons");
        reasons.iter().map(ToString::to_string).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A test that failed has its own reason; the lab goes all the same.
        if let Some(tool) = self.tool.take() {
            let _ = fs::write(&self.end, "");
            let _ = tool.wait_with_output();
        }
    }
}
