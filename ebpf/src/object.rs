//! The compiled programs, as they stand beside their source.
//!
//! Building this crate checks that they are what the manifest says and were made from the sources that are there
//! (`build.rs`); it does not run a compiler. `bpf/build.sh` makes them anew.

/// The XDP program and its maps, an ELF object for little-endian machines. What it needs of a kernel is
/// [`KERNEL_MIN`](crate::KERNEL_MIN); tried on 6.18.
pub const XDP: &[u8] = aya::include_bytes_aligned!("../bpf/xdp.o");

/// The selector of sockets and its maps. As above.
pub const SELECTOR: &[u8] = aya::include_bytes_aligned!("../bpf/selector.o");
