//! Whole meshes in this process, in virtual time: chitchat, the gate and the engine of each node, on a network that delays, loses and splits.

pub(super) mod bus;
mod forgeries;
mod meshes;
