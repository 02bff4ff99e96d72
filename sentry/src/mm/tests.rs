//! Memory on the fake platform.

use alloc::sync::Arc;
use alloc::vec;

use super::*;
use crate::platform::{Access, AtomicOp, fake};

const RW: Prot = Prot::READ.union(Prot::WRITE);

fn mm() -> Arc<Mm> {
    fake::install();
    Mm::new().unwrap()
}

fn anonymous(mm: &Arc<Mm>, pages: u64, flags: VmaFlags) -> u64 {
    let place = Place::Hint(0);
    mm.mmap(MapRequest { place, len: pages * PAGE, prot: RW, flags, file: None, populate: false })
        .unwrap()
}

fn word(mm: &Mm, addr: u64) -> u64 {
    mm.copy_in_u64(addr).unwrap()
}

fn put(mm: &Mm, addr: u64, value: u64) {
    mm.copy_out(addr, &value.to_le_bytes()).unwrap();
}

#[test]
fn new_memory_is_zero_and_keeps_what_is_written() {
    let mm = mm();
    let at = anonymous(&mm, 40, VmaFlags::empty());
    assert_eq!(word(&mm, at + 39 * PAGE), 0);
    // Across a page border.
    mm.copy_out(at + PAGE - 3, b"border").unwrap();
    let mut back = [0; 6];
    mm.copy_in(at + PAGE - 3, &mut back).unwrap();
    assert_eq!(&back, b"border");
}

#[test]
fn a_copy_stops_where_memory_stops() {
    let mm = mm();
    let at = anonymous(&mm, 2, VmaFlags::empty());
    mm.munmap(at + PAGE, PAGE).unwrap();
    assert_eq!(mm.copy_out_partial(at + PAGE - 10, &[1; 20]), Err((10, Errno::EFAULT)));
    assert_eq!(mm.copy_out(u64::MAX - 3, &[1; 20]), Err(Errno::EFAULT));
    assert_eq!(mm.copy_in_string(at + PAGE - 4, 100), Err(Errno::EFAULT));
}

#[test]
fn parent_and_child_part_at_the_first_write() {
    let mm = mm();
    let at = anonymous(&mm, 3, VmaFlags::empty());
    put(&mm, at, 1);
    put(&mm, at + PAGE, 2);
    let child = mm.fork(false).unwrap();
    put(&mm, at, 10);
    put(&child, at + PAGE, 20);
    assert_eq!((word(&mm, at), word(&mm, at + PAGE)), (10, 2));
    assert_eq!((word(&child, at), word(&child, at + PAGE)), (1, 20));
    let grandchild = child.fork(false).unwrap();
    drop(child);
    assert_eq!(word(&grandchild, at + PAGE), 20);
    put(&grandchild, at, 100);
    assert_eq!(word(&mm, at), 10);
}

#[test]
fn what_is_written_after_each_fork_is_copied_at_the_next() {
    let mm = mm();
    let at = anonymous(&mm, 3, VmaFlags::empty());
    for page in 0..3 {
        put(&mm, at + page * PAGE, page);
    }
    let direct = |mm: &Mm, page: u64| mm.space.copy_out(at + page * PAGE, &[0]).is_ok();
    let child = mm.fork(true).unwrap();
    assert!(!direct(&child, 1) && !direct(&mm, 1));
    put(&child, at + PAGE, 10);
    drop(child);
    for round in 0..100 {
        put(&mm, at + PAGE, round);
        let child = mm.fork(true).unwrap();
        put(&mm, at + PAGE, round + 1);
        assert_eq!(word(&child, at + PAGE), round);
        put(&child, at + PAGE, 1000);
        assert_eq!((word(&mm, at + PAGE), word(&child, at + 2 * PAGE)), (round + 1, 2));
    }
    let child = mm.fork(true).unwrap();
    assert!(direct(&child, 1) && direct(&mm, 1));
    assert!(!direct(&child, 2) && !direct(&mm, 2));
    // With others in the address space, nothing can be copied as it is.
    let child = mm.fork(false).unwrap();
    assert!(!direct(&child, 1) && !direct(&mm, 1));
}

#[test]
fn shared_memory_stays_shared_over_fork() {
    let mm = mm();
    let at = anonymous(&mm, 3, VmaFlags::SHARED);
    let child = mm.fork(false).unwrap();
    put(&child, at + 2 * PAGE, 7);
    assert_eq!(word(&mm, at + 2 * PAGE), 7);
    assert_eq!(mm.futex_key(at, false).unwrap(), child.futex_key(at, false).unwrap());
    assert_ne!(mm.futex_key(at, true).unwrap(), child.futex_key(at, true).unwrap());
}

#[test]
fn protection_is_enforced_and_comes_back() {
    let mm = mm();
    let at = anonymous(&mm, 4, VmaFlags::empty());
    put(&mm, at, 1);
    mm.mprotect(at, PAGE, Prot::READ, false).unwrap();
    assert_eq!(mm.copy_out(at, b"x"), Err(Errno::EFAULT));
    assert_eq!(mm.resolve(at, Access::Write), Err(FaultError::NotAllowed));
    assert_eq!(mm.resolve(at, Access::Exec), Err(FaultError::NotAllowed));
    mm.mprotect(at, PAGE, Prot::empty(), false).unwrap();
    assert_eq!(mm.copy_in_u64(at), Err(Errno::EFAULT));
    mm.mprotect(at, PAGE, RW, false).unwrap();
    assert_eq!(word(&mm, at), 1);
    put(&mm, at, 2);
    assert_eq!(mm.vmas().len(), 1);
    assert_eq!(mm.mprotect(at + 3 * PAGE, 2 * PAGE, RW, false), Err(Errno::ENOMEM));
}

#[test]
fn write_protection_comes_back_without_undoing_copy_on_write() {
    let mm = mm();
    let at = anonymous(&mm, 1, VmaFlags::empty());
    put(&mm, at, 5);
    let child = mm.fork(false).unwrap();
    for m in [&mm, &child] {
        m.mprotect(at, PAGE, Prot::READ, false).unwrap();
        m.mprotect(at, PAGE, RW, false).unwrap();
    }
    put(&child, at, 6);
    assert_eq!((word(&mm, at), word(&child, at)), (5, 6));
}

#[test]
fn a_mapping_moves_with_its_content() {
    let mm = mm();
    let at = anonymous(&mm, 2, VmaFlags::empty());
    put(&mm, at + PAGE, 9);
    let blocker = mm.mmap(MapRequest {
        place: Place::FixedNoReplace(at + 2 * PAGE),
        len: PAGE,
        prot: RW,
        flags: VmaFlags::empty(),
        file: None,
        populate: false,
    });
    assert!(blocker.is_ok() || blocker == Err(Errno::ENOMEM) || blocker == Err(Errno::EEXIST));
    let new = mm.mremap(at, 2 * PAGE, 64 * PAGE, true, None, false).unwrap();
    assert_ne!(new, at);
    assert_eq!(word(&mm, new + PAGE), 9);
    assert_eq!(word(&mm, new + 63 * PAGE), 0);
    assert_eq!(mm.copy_in_u64(at), Err(Errno::EFAULT));
    let shrunk = mm.mremap(new, 64 * PAGE, PAGE, false, None, false).unwrap();
    assert_eq!((shrunk, mm.copy_in_u64(new + PAGE)), (new, Err(Errno::EFAULT)));
}

#[test]
fn the_break_moves_both_ways_and_forgets() {
    let mm = mm();
    mm.set_layout(|l| (l.start_brk, l.brk) = (0x100_0000, 0x100_0000));
    assert_eq!(mm.brk(0), 0x100_0000);
    assert_eq!(mm.brk(0x100_2800), 0x100_2800);
    put(&mm, 0x100_2000, 3);
    assert_eq!(mm.brk(0x100_1000), 0x100_1000);
    assert_eq!(mm.copy_in_u64(0x100_2000), Err(Errno::EFAULT));
    assert_eq!(mm.brk(0x100_3000), 0x100_3000);
    assert_eq!(word(&mm, 0x100_2000), 0);
    assert_eq!(mm.brk(u64::MAX), 0x100_3000);
}

#[test]
fn a_stack_grows_to_its_limit_and_no_further() {
    let mm = mm();
    let top = 0x7000_0000_0000;
    let place = Place::Fixed(top - PAGE);
    let flags = VmaFlags::GROWS_DOWN | VmaFlags::STACK;
    mm.mmap(MapRequest { place, len: PAGE, prot: RW, flags, file: None, populate: false }).unwrap();
    put(&mm, top - 100 * PAGE, 1);
    assert_eq!(mm.vmas()[0].start, top - 100 * PAGE);
    assert_eq!(mm.copy_out(top - (9 << 20), b"x"), Err(Errno::EFAULT));
}

#[test]
fn a_private_file_mapping_reads_the_file_and_keeps_writes_to_itself() {
    struct Donated(crate::platform::FileId);
    impl Mappable for Donated {
        fn page(&self, index: u64, _write: bool) -> Result<FilePage, Errno> {
            if index < 2 { Ok(FilePage::Donated(self.0)) } else { Err(Errno::EFAULT) }
        }
        fn around(&self, index: u64, most: u32) -> u32 {
            most.min(2u64.saturating_sub(index) as u32).max(1)
        }
        fn attach(&self, _mm: &Arc<Mm>) {}
        fn detach(&self, _mm: &Mm) {}
        fn identity(&self) -> (u64, u64) {
            (9, 9)
        }
        fn sync(&self, _first: u64, _pages: u64) -> Result<(), Errno> {
            Ok(())
        }
    }
    let mm = mm();
    let mut content = vec![b'a'; PAGE_SIZE];
    content.extend([b'b'; 100]);
    let id = fake::install().add_file(&content);
    let pages: Arc<dyn Mappable> = Arc::new(Donated(id));
    let file = Some(VmaFile { pages, first: 0, name: Arc::from(&b"/f"[..]) });
    let place = Place::Hint(0);
    let flags = VmaFlags::empty();
    let at = mm
        .mmap(MapRequest { place, len: 3 * PAGE, prot: RW, flags, file, populate: false })
        .unwrap();
    let mut two = [0; 2];
    mm.copy_in(at + PAGE - 1, &mut two).unwrap();
    assert_eq!(&two, b"ab");
    mm.copy_out(at + PAGE, b"X").unwrap();
    mm.copy_in(at + PAGE, &mut two).unwrap();
    assert_eq!(&two, b"Xb");
    assert_eq!(word(&mm, at + PAGE + 200), 0);
    let mut host = [0; 1];
    platform().file_read(id, PAGE, &mut host).unwrap();
    assert_eq!(&host, b"b");
    assert_eq!(mm.resolve(at + 2 * PAGE, Access::Read), Err(FaultError::Unreadable));
}

#[test]
fn dropped_memory_comes_back_zero_and_frames_go_home() {
    let mm = mm();
    let at = anonymous(&mm, 64, VmaFlags::empty());
    for page in 0..64 {
        put(&mm, at + page * PAGE, 1);
    }
    assert_eq!(mm.resident_in(at..at + 64 * PAGE), (64, 64));
    mm.madvise(at, 64 * PAGE, Advice::DontNeed).unwrap();
    assert_eq!(mm.resident_in(at..at + 64 * PAGE), (0, 0));
    assert_eq!(word(&mm, at), 0);
    assert_eq!(mm.madvise(at, 65 * PAGE, Advice::Hint), Err(Errno::ENOMEM));
}

#[test]
fn words_are_changed_atomically_and_only_when_aligned() {
    let mm = mm();
    let at = anonymous(&mm, 1, VmaFlags::empty());
    assert_eq!(mm.atomic(at, AtomicOp::CompareExchange(0, 5)), Ok(0));
    assert_eq!(mm.atomic(at, AtomicOp::CompareExchange(0, 6)), Ok(5));
    assert_eq!(mm.atomic(at, AtomicOp::Add(u32::MAX)), Ok(5));
    assert_eq!(mm.atomic(at, AtomicOp::Load), Ok(4));
    assert_eq!(mm.atomic(at + 2, AtomicOp::Load), Err(Errno::EINVAL));
}

#[test]
fn sizes_at_the_edge_are_refused() {
    let mm = mm();
    for (place, len) in [
        (Place::Hint(0), 0),
        (Place::Hint(0), u64::MAX),
        (Place::Hint(0), 1 << 47),
        (Place::Fixed(1), PAGE),
        (Place::Fixed(u64::MAX - PAGE + 1), PAGE),
        (Place::Fixed(0), PAGE),
    ] {
        let flags = VmaFlags::empty();
        assert!(
            mm.mmap(MapRequest { place, len, prot: RW, flags, file: None, populate: false })
                .is_err()
        );
    }
    assert_eq!(mm.munmap(0, u64::MAX), Err(Errno::EINVAL));
    assert_eq!(mm.munmap(PAGE, 0), Err(Errno::EINVAL));
    assert_eq!(mm.mremap(PAGE, u64::MAX, PAGE, true, None, false), Err(Errno::EINVAL));
}
