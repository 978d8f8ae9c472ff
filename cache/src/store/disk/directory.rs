//! placeholder
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {}
#[derive(Debug)]
pub(super) struct Lock;
pub(super) fn prepare(_p: &std::path::Path) -> Result<Lock, DirectoryError> { Ok(Lock) }
