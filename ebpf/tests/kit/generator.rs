//! Live frames: the kernel sends one frame again and again by an interface, each with another source, faster than any socket.

use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions,
    programs::{TestRunAttrs, Xdp},
};

/// Frames the kernel hands over at once.
pub(crate) const BATCH: u32 = 64;

/// What changes from frame to frame.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Vary {
    /// 198.18.0.0/15 or /64s of 2001:db8::/32.
    pub(crate) address: bool,
    /// With it: any.
    pub(crate) anywhere: bool,
    pub(crate) port: bool,
    /// Eight bytes of the destination ID behind a long header.
    pub(crate) id: bool,
}

pub(crate) struct Generator {
    bpf: Ebpf,
}

impl Generator {
    pub(crate) fn load(vary: Vary) -> Self {
        let [address, anywhere, port, id] =
            [vary.address, vary.anywhere, vary.port, vary.id].map(u32::from);
        let mut bpf = EbpfLoader::new()
            .override_global("spoof_address", &address, true)
            .override_global("spoof_anywhere", &anywhere, true)
            .override_global("spoof_port", &port, true)
            .override_global("spoof_id", &id, true)
            .load(aya::include_bytes_aligned!("../../bpf/generator.o"))
            .unwrap();
        let program: &mut Xdp = bpf
            .program_mut("stoq_generator")
            .unwrap()
            .try_into()
            .unwrap();
        program.load().unwrap();
        Self { bpf }
    }

    /// Sends `frame` `times` by the interface of this index, which is in this process's network namespace.
    pub(crate) fn send(&self, interface: u32, frame: &[u8], times: u32) {
        let program: &Xdp = self
            .bpf
            .program("stoq_generator")
            .unwrap()
            .try_into()
            .unwrap();
        let mut context = [0; 24];
        context[4..8].copy_from_slice(&u32::try_from(frame.len()).unwrap().to_ne_bytes());
        context[12..16].copy_from_slice(&interface.to_ne_bytes());
        program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(&context),
                repeat: times,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            })
            .unwrap();
    }
}
