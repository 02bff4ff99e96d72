//! Files: the VFS, its file systems, and the descriptors of processes.

/// A process's descriptor table.
#[derive(Default)]
pub struct FdTable {}

/// Root, working directory and umask: what clone(2) shares with CLONE_FS.
#[derive(Default)]
pub struct FsContext {}
