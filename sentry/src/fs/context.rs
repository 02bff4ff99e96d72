//! Root, working directory and umask of a process, and who asks for a file.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use super::mount::MountNamespace;
use super::path::Path;
use crate::sync::SpinLock;
use crate::task::{Creds, Current, Task, UserNamespace};

/// What clone(2) shares with CLONE_FS; and the mount namespace, which CLONE_FS cannot cross.
pub struct FsContext {
    inner: SpinLock<Inner>,
    umask: AtomicU32,
    /// Tasks in the middle of exec that count on nobody else sharing this.
    in_exec: AtomicU32,
}

#[derive(Clone)]
struct Inner {
    namespace: Arc<MountNamespace>,
    root: Path,
    cwd: Path,
}

impl FsContext {
    /// The root of a namespace as root and working directory.
    pub fn new(namespace: Arc<MountNamespace>, umask: u32) -> Arc<FsContext> {
        let root = namespace.top();
        Arc::new(FsContext {
            inner: SpinLock::new(Inner { namespace, cwd: root.clone(), root }),
            umask: AtomicU32::new(umask & 0o777),
            in_exec: AtomicU32::new(0),
        })
    }

    /// A copy, for a child without CLONE_FS.
    pub fn fork(&self) -> Arc<FsContext> {
        Arc::new(FsContext {
            inner: SpinLock::new(self.inner.lock().clone()),
            umask: AtomicU32::new(self.umask()),
            in_exec: AtomicU32::new(0),
        })
    }

    /// The mount namespace.
    pub fn namespace(&self) -> Arc<MountNamespace> {
        self.inner.lock().namespace.clone()
    }

    /// The root directory.
    pub fn root(&self) -> Path {
        self.inner.lock().root.clone()
    }

    /// The working directory.
    pub fn cwd(&self) -> Path {
        self.inner.lock().cwd.clone()
    }

    /// Whether the root is another than the mount namespace's (current_chrooted()).
    pub fn is_chrooted(&self) -> bool {
        let inner = self.inner.lock().clone();
        !inner.root.same(&inner.namespace.top())
    }

    /// chroot(2).
    pub fn set_root(&self, root: Path) {
        let old = core::mem::replace(&mut self.inner.lock().root, root);
        drop(old);
    }

    /// chdir(2).
    pub fn set_cwd(&self, cwd: Path) {
        let old = core::mem::replace(&mut self.inner.lock().cwd, cwd);
        drop(old);
    }

    /// Goes over to a copy of the namespace, of `owner`'s (unshare(CLONE_NEWNS)).
    pub fn unshare_namespace(&self, owner: &UserNamespace) {
        let (namespace, pairs) = self.namespace().copy(owner);
        let mut inner = self.inner.lock();
        let moved = |path: &Path| match pairs.iter().find(|(old, _)| Arc::ptr_eq(old, &path.mount))
        {
            Some((_, new)) => Path { mount: new.clone(), dentry: path.dentry.clone() },
            None => path.clone(),
        };
        let new = Inner { namespace, root: moved(&inner.root), cwd: moved(&inner.cwd) };
        let old = core::mem::replace(&mut *inner, new);
        drop(inner);
        drop(old);
    }

    /// Goes over to another namespace, at its root (setns(2)).
    pub fn enter_namespace(&self, namespace: Arc<MountNamespace>) {
        let root = namespace.top();
        let new = Inner { namespace, cwd: root.clone(), root };
        let old = core::mem::replace(&mut *self.inner.lock(), new);
        drop(old);
    }

    /// Goes from `old` to `new` with root and working directory, where they are that (pivot_root(2)).
    pub fn pivot(&self, old: &Path, new: &Path) {
        let mut inner = self.inner.lock();
        let mut before = inner.clone();
        for here in [&mut before.root, &mut before.cwd] {
            if here.same(old) {
                *here = new.clone();
            }
        }
        core::mem::swap(&mut *inner, &mut before);
        drop(inner);
        drop(before);
    }

    /// Whether one that shares this is in the middle of exec, so that nobody new may share it.
    pub fn is_in_exec(&self) -> bool {
        self.in_exec.load(Ordering::Relaxed) != 0
    }

    /// Says that a task is, until what this gives is dropped. Under the table's lock, as whoever asks.
    pub fn enter_exec(self: &Arc<FsContext>) -> InExec {
        self.in_exec.fetch_add(1, Ordering::Relaxed);
        InExec(self.clone())
    }

    /// The umask.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Sets the umask; the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Ordering::Relaxed)
    }
}

/// See [`FsContext::enter_exec`].
pub struct InExec(Arc<FsContext>);

impl Drop for InExec {
    fn drop(&mut self) {
        self.0.in_exec.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who asks.
#[derive(Clone, Copy)]
pub struct Cx<'a> {
    /// Root, working directory, umask.
    pub fs: &'a FsContext,
    /// Identity.
    pub creds: &'a Creds,
    /// The task; `None` where the sentry itself asks.
    pub task: Option<&'a Arc<Task>>,
}

impl Current {
    /// This task, as one who asks for files.
    pub fn cx(&self) -> Cx<'_> {
        Cx { fs: &self.fs, creds: &self.creds, task: Some(&self.task) }
    }
}
