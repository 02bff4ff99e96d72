//! Memory policies (set_mempolicy(2), mbind(2)): kept and shown, for all memory is on one node.

use alloc::sync::Arc;
use core::ops::Range;

use super::{Mm, Vma};
use crate::errno::Errno;

/// Nodes that a mask can name: Debian's CONFIG_NODES_SHIFT is 10.
pub const MAX_NODES: usize = 1 << 10;

/// The modes (linux/mempolicy.h).
#[allow(missing_docs)]
pub mod mode {
    pub const DEFAULT: u32 = 0;
    pub const PREFERRED: u32 = 1;
    pub const BIND: u32 = 2;
    pub const LOCAL: u32 = 4;
    pub const PREFERRED_MANY: u32 = 5;
    /// One more than the last.
    pub const MAX: u32 = 6;
}

bitflags::bitflags! {
    /// Flags that come with a mode.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ModeFlags: u32 {
        /// The nodes are meant by number (MPOL_F_STATIC_NODES).
        const STATIC_NODES = 1 << 15;
        /// The nodes are meant by their place among those that are allowed (MPOL_F_RELATIVE_NODES).
        const RELATIVE_NODES = 1 << 14;
        /// Moves pages to who uses them (MPOL_F_NUMA_BALANCING).
        const NUMA_BALANCING = 1 << 13;
    }
}

/// A set of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Nodes(pub [u64; MAX_NODES / 64]);

impl Nodes {
    /// The one node that there is.
    pub fn only() -> Nodes {
        let mut nodes = Nodes::default();
        if let Some(first) = nodes.0.first_mut() {
            *first = 1;
        }
        nodes
    }

    /// Whether none is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether the one node that there is is in it.
    pub fn has_memory(&self) -> bool {
        self.0.first().is_some_and(|word| word & 1 != 0)
    }
}

/// A policy other than the default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// One of [`mode`].
    pub mode: u32,
    /// Its flags.
    pub flags: ModeFlags,
    /// The nodes as they were asked for.
    asked: Nodes,
}

impl Policy {
    /// What mode, flags and nodes mean (mpol_new() and mpol_set_nodemask() of mm/mempolicy.c); `None`: the default.
    pub fn new(mode: u32, flags: ModeFlags, nodes: Nodes) -> Result<Option<Arc<Policy>>, Errno> {
        let by_number = flags.intersects(ModeFlags::STATIC_NODES | ModeFlags::RELATIVE_NODES);
        let mut mode = mode;
        match mode {
            mode::DEFAULT if nodes.is_empty() => return Ok(None),
            mode::DEFAULT => return Err(Errno::EINVAL),
            mode::PREFERRED if nodes.is_empty() && !by_number => mode = mode::LOCAL,
            mode::LOCAL if nodes.is_empty() && !by_number => {}
            mode::LOCAL => return Err(Errno::EINVAL),
            _ if nodes.is_empty() => return Err(Errno::EINVAL),
            _ => {}
        }
        // Places among the allowed nodes wrap around: any is the one.
        let relative = flags.contains(ModeFlags::RELATIVE_NODES);
        if mode != mode::LOCAL && !relative && !nodes.has_memory() {
            return Err(Errno::EINVAL);
        }
        Ok(Some(Arc::new(Policy { mode, flags, asked: nodes })))
    }

    /// The nodes that get_mempolicy(2) tells.
    pub fn nodes(&self) -> Nodes {
        if self.mode == mode::LOCAL {
            Nodes::default()
        } else if self.flags.intersects(ModeFlags::STATIC_NODES | ModeFlags::RELATIVE_NODES) {
            self.asked
        } else {
            Nodes::only()
        }
    }
}

impl Mm {
    /// Sets the policy of a range of whole pages. `EFAULT` where something of it is not mapped.
    pub fn set_policy(&self, range: Range<u64>, policy: Option<&Arc<Policy>>) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if !state.vmas.covers(range.clone()) {
            return Err(Errno::EFAULT);
        }
        for vma in state.vmas.remove(range) {
            state.vmas.insert(Vma { policy: policy.cloned(), ..vma });
        }
        Ok(())
    }

    /// The policy of the area at `addr`. `EFAULT` where there is none.
    pub fn policy_at(&self, addr: u64) -> Result<Option<Arc<Policy>>, Errno> {
        let state = self.state.lock();
        state.vmas.find(addr).map(|vma| vma.policy.clone()).ok_or(Errno::EFAULT)
    }

    /// Whether a page is there: `EFAULT` where nothing is mapped.
    pub fn is_resident(&self, addr: u64) -> Result<bool, Errno> {
        let state = self.state.lock();
        state.vmas.find(addr).ok_or(Errno::EFAULT)?;
        Ok(state.pages.contains_key(&(addr / super::PAGE)))
    }
}
