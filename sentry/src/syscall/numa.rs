//! Memory policies, and where pages are: set_mempolicy, get_mempolicy, mbind, set_mempolicy_home_node, migrate_pages,
//! move_pages. There is one node, so that policies are kept, checked and told, and pages stay where they are.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Args;
use super::remote::target;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::mm::policy::{MAX_NODES, ModeFlags, Nodes, Policy, mode};
use crate::mm::{Mm, page_up};
use crate::platform::PAGE_SIZE;
use crate::task::{Current, cap};

const PAGE: u64 = PAGE_SIZE as u64;

/// Flags of mbind(2), migrate_pages(2) and move_pages(2).
mod move_flags {
    pub const STRICT: u32 = 1;
    pub const MOVE: u32 = 2;
    pub const MOVE_ALL: u32 = 4;
}

/// Reads a mask of `max - 1` nodes, as get_nodes() of mm/mempolicy.c does.
fn read_nodes(cx: &Current, addr: u64, max: u64) -> Result<Nodes, Errno> {
    let mut nodes = Nodes::default();
    let bits = max.wrapping_sub(1);
    if bits == 0 || addr == 0 {
        return Ok(nodes);
    }
    if bits > PAGE * 8 {
        return Err(Errno::EINVAL);
    }
    let words = (bits as usize).div_ceil(64);
    let bytes = cx.mm.copy_in_array(addr, words, 8, PAGE_SIZE)?;
    for n in 0..words {
        let mut word = super::word(&bytes, n);
        let left = (bits as usize).saturating_sub(n * 64);
        if left < 64 {
            word &= (1 << left) - 1;
        }
        match nodes.0.get_mut(n) {
            Some(to) => *to = word,
            // There are no such nodes.
            None if word != 0 => return Err(Errno::EINVAL),
            None => {}
        }
    }
    Ok(nodes)
}

/// Writes a mask of `max - 1` nodes, and zeroes where it has more room.
fn write_nodes(cx: &Current, addr: u64, max: u64, nodes: &Nodes) -> Result<(), Errno> {
    let bytes = max.wrapping_sub(1).div_ceil(64).saturating_mul(8);
    if bytes > PAGE {
        return Err(Errno::EINVAL);
    }
    let mut out: Vec<u8> = nodes.0.iter().flat_map(|word| word.to_le_bytes()).collect();
    out.resize(bytes as usize, 0);
    cx.mm.copy_out(addr, &out)
}

/// A mode with its flags (sanitize_mpol_flags()).
fn split_mode(word: i32) -> Result<(u32, ModeFlags), Errno> {
    let flags = ModeFlags::from_bits_truncate(word as u32);
    let mode = word as u32 & !ModeFlags::all().bits();
    let both = ModeFlags::STATIC_NODES | ModeFlags::RELATIVE_NODES;
    if mode >= mode::MAX
        || flags.contains(both)
        || flags.contains(ModeFlags::NUMA_BALANCING) && mode != mode::BIND
    {
        return Err(Errno::EINVAL);
    }
    Ok((mode, flags))
}

/// set_mempolicy(2).
pub fn set_mempolicy(cx: &mut Current, args: Args) -> SysResult {
    let (mode, flags) = split_mode(args.int(0))?;
    let nodes = read_nodes(cx, args.get(1), args.get(2))?;
    let policy = Policy::new(mode, flags, nodes)?;
    cx.task.sched.lock().mempolicy = policy;
    Ok(0)
}

/// get_mempolicy(2).
pub fn get_mempolicy(cx: &mut Current, args: Args) -> SysResult {
    const NODE: u64 = 1;
    const ADDR: u64 = 2;
    const MEMS_ALLOWED: u64 = 4;
    const INTERLEAVE: u32 = 3;
    let [out, mask, max, addr, flags, _] = args.0;
    // One node has number 0, so that nr_node_ids is 1.
    if mask != 0 && max < 1 || flags & !(NODE | ADDR | MEMS_ALLOWED) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let own = cx.task.sched.lock().mempolicy.clone();
    let (word, nodes) = if flags & MEMS_ALLOWED != 0 {
        if flags & (NODE | ADDR) != 0 {
            return Err(Errno::EINVAL.into());
        }
        (0, Nodes::only())
    } else {
        let policy = if flags & ADDR != 0 {
            cx.mm.policy_at(addr)?
        } else if addr != 0 {
            return Err(Errno::EINVAL.into());
        } else {
            own.clone()
        };
        let word = match &policy {
            _ if flags & (NODE | ADDR) == NODE | ADDR => {
                // The page is brought in to be asked.
                let page = addr & !(PAGE - 1);
                cx.mm.populate(page..page + PAGE, false).map_err(|_| Errno::EFAULT)?;
                0
            }
            // The node that comes next.
            Some(policy) if flags & NODE != 0 && policy.mode == INTERLEAVE => 0,
            _ if flags & NODE != 0 => return Err(Errno::EINVAL.into()),
            Some(policy) => policy.mode | policy.flags.bits(),
            None => mode::DEFAULT,
        };
        (word, policy.map_or(Nodes::default(), |policy| policy.nodes()))
    };
    if out != 0 {
        cx.mm.copy_out(out, &word.to_le_bytes())?;
    }
    if mask != 0 {
        write_nodes(cx, mask, max, &nodes)?;
    }
    Ok(0)
}

/// mbind(2).
pub fn mbind(cx: &mut Current, args: Args) -> SysResult {
    let (mode, mode_flags) = split_mode(args.int(2))?;
    let nodes = read_nodes(cx, args.get(3), args.get(4))?;
    let (start, len, flags) = (args.get(0), args.get(1), args.uint(5));
    if flags & !(move_flags::STRICT | move_flags::MOVE | move_flags::MOVE_ALL) != 0 {
        return Err(Errno::EINVAL.into());
    }
    may_move_all(cx, flags)?;
    if !start.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL.into());
    }
    let end = start.checked_add(page_up(len).unwrap_or(0)).ok_or(Errno::EINVAL)?;
    if end == start {
        return Ok(0);
    }
    let policy = Policy::new(mode, mode_flags, nodes)?;
    cx.mm.set_policy(start..end, policy.as_ref())?;
    Ok(0)
}

/// set_mempolicy_home_node(2): where pages come from first, of the nodes of a policy.
pub fn set_mempolicy_home_node(cx: &mut Current, args: Args) -> SysResult {
    let [start, len, home, flags, ..] = args.0;
    if !start.is_multiple_of(PAGE) || flags != 0 || home != 0 {
        return Err(Errno::EINVAL.into());
    }
    let end = start.checked_add(page_up(len).unwrap_or(0)).ok_or(Errno::EINVAL)?;
    if end == start {
        return Ok(0);
    }
    let fits = |policy: &Arc<Policy>| matches!(policy.mode, mode::BIND | mode::PREFERRED_MANY);
    // Areas without a policy are passed by. Of the one node, it is the home already.
    let areas = cx.mm.vmas();
    let inside = areas.iter().filter(|vma| vma.start < end && vma.end > start);
    match inside.filter_map(|vma| vma.policy.as_ref()).map(fits).reduce(|all, one| all && one) {
        None => Err(Errno::ENOENT.into()),
        Some(false) => Err(Errno::EOPNOTSUPP.into()),
        Some(true) => Ok(0),
    }
}

fn may_move_all(cx: &Current, flags: u32) -> Result<(), Errno> {
    let denied = flags & move_flags::MOVE_ALL != 0 && !cx.creds.capable(cap::SYS_NICE);
    if denied { Err(Errno::EPERM) } else { Ok(()) }
}

/// The memory of a process; 0: of this one.
fn memory_of(cx: &Current, pid: i32) -> Result<Arc<Mm>, Errno> {
    if pid == 0 { Ok(cx.mm.clone()) } else { target(cx, pid) }
}

/// migrate_pages(2): the pages that could not be moved; none, for all are where they may be.
pub fn migrate_pages(cx: &mut Current, args: Args) -> SysResult {
    let _from = read_nodes(cx, args.get(2), args.get(1))?;
    let to = read_nodes(cx, args.get(3), args.get(1))?;
    let _of = memory_of(cx, args.int(0))?;
    let foreign = to != Nodes::only() && !to.is_empty();
    if foreign && !cx.creds.capable(cap::SYS_NICE) {
        return Err(Errno::EPERM.into());
    }
    if !to.has_memory() {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

/// move_pages(2).
pub fn move_pages(cx: &mut Current, args: Args) -> SysResult {
    /// Pages at a time: a bound for what is copied in at once.
    const BATCH: u64 = 512;
    let [_, count, pages, nodes, status, _] = args.0;
    let flags = args.uint(5);
    if flags & !(move_flags::MOVE | move_flags::MOVE_ALL) != 0 {
        return Err(Errno::EINVAL.into());
    }
    may_move_all(cx, flags)?;
    let mm = memory_of(cx, args.int(0))?;
    let mut done = 0;
    while done < count {
        let batch = BATCH.min(count - done);
        let at = |base: u64, size: u64| base.wrapping_add(done.wrapping_mul(size));
        let addrs = cx.mm.copy_in_array(at(pages, 8), batch as usize, 8, PAGE_SIZE)?;
        let wanted = match nodes {
            0 => Vec::new(),
            _ => cx.mm.copy_in_array(at(nodes, 4), batch as usize, 4, PAGE_SIZE)?,
        };
        let mut out = Vec::with_capacity(batch as usize * 4);
        for n in 0..batch as usize {
            if let Some(node) = wanted.as_chunks::<4>().0.get(n) {
                // No other node has memory, nor is there another.
                let node = i32::from_le_bytes(*node);
                if node != 0 {
                    return Err(Errno::ENODEV.into());
                }
            }
            let where_it_is = match mm.is_resident(super::word(&addrs, n)) {
                Ok(true) => 0,
                Ok(false) => Errno::ENOENT.to_rax() as i32,
                Err(e) => e.to_rax() as i32,
            };
            out.extend_from_slice(&where_it_is.to_le_bytes());
        }
        cx.mm.copy_out(at(status, 4), &out)?;
        done = done.saturating_add(batch);
    }
    Ok(0)
}

const _: () = assert!(MAX_NODES.is_multiple_of(64));
