use alloc::sync::Arc;

use super::*;
use crate::fs::difftest::{Lab, Rng, Scratch, compare, set_umask};
use crate::fs::{IoDst, IoSrc, OpenFlags};
use crate::platform::fake;

/// A lower layer with the same content as a host folder, made by the same operations.
fn lower(scratch: &Scratch, seed: u64) -> Arc<Tmpfs> {
    let fs = Tmpfs::new("tmpfs", &Options::default()).unwrap();
    let lab = Lab::new(fs.clone());
    compare(&lab, scratch, seed, 200, true);
    // The mount goes, the file system stays.
    fs
}

#[test]
fn an_overlay_does_as_linux_does_on_one_layer() {
    fake::install();
    set_umask();
    for seed in 1000..1030 {
        let scratch = Scratch::new(&std::format!("overlay-{seed}"));
        let overlay = Overlay::new(lower(&scratch, seed)).unwrap();
        compare(&Lab::new(overlay), &scratch, seed + 7_000_000, 300, true);
    }
}

fn layers() -> (Arc<Tmpfs>, Lab) {
    fake::install();
    let fs = Tmpfs::new("tmpfs", &Options::default()).unwrap();
    let below = Lab::new(fs.clone());
    below.cx().mkdir(None, b"d", 0o755).unwrap();
    below.write("d/f", b"lower");
    below.write("d/g", b"other");
    let f = below.cx().walk(None, b"d/f", Default::default()).unwrap();
    below.cx().link(&f, None, b"d/twin").unwrap();
    let lab = Lab::new(Overlay::new(fs.clone()).unwrap());
    (fs, lab)
}

#[test]
fn the_lower_layer_never_changes() {
    let (fs, lab) = layers();
    lab.write("d/f", b"changed");
    lab.cx().unlink(None, b"d/g").unwrap();
    lab.cx().rename((None, b"d"), (None, b"e"), Default::default()).unwrap();
    assert_eq!(lab.read("e/f").unwrap(), b"changed");
    assert_eq!(lab.list("e").unwrap(), [".", "..", "f", "twin"]);
    let below = Lab::new(fs);
    assert_eq!(below.read("d/f").unwrap(), b"lower");
    assert_eq!(below.list("d").unwrap(), [".", "..", "f", "g", "twin"]);
}

#[test]
fn two_names_of_a_lower_file_stay_one_file() {
    let (_fs, lab) = layers();
    let before = lab.stat("d/f").unwrap();
    assert_eq!(before.nlink, 2);
    lab.write("d/f", b"both");
    assert_eq!(lab.read("d/twin").unwrap(), b"both");
    assert_eq!(lab.stat("d/twin").unwrap().ino, before.ino);
    lab.cx().unlink(None, b"d/f").unwrap();
    assert_eq!(lab.stat("d/twin").unwrap().nlink, 1);
    assert_eq!(lab.read("d/twin").unwrap(), b"both");
}

#[test]
fn a_file_open_for_reading_sees_later_writes() {
    let (_fs, lab) = layers();
    let reader = lab.open("d/f", OpenFlags::empty()).unwrap();
    let writer = lab.open("d/f", OpenFlags::RDWR).unwrap();
    let wait = crate::fs::difftest::NoWait;
    writer.pwrite(&wait, &mut IoSrc::kernel(b"U"), 0).unwrap();
    let mut buf = [0; 8];
    assert_eq!(reader.pread(&wait, &mut IoDst::kernel(&mut buf), 0), Ok(5));
    assert_eq!(&buf[..5], b"Uower");
}

#[test]
fn nodes_go_when_nobody_needs_them() {
    let (_fs, lab) = layers();
    let root = lab.fs.root();
    let node = root.inode().unwrap().as_any().downcast_ref::<Node>().unwrap();
    for _ in 0..20 {
        assert!(lab.stat("d/f").is_ok());
    }
    let mut rng = Rng(5);
    lab.write("d/new", &[rng.below(255) as u8; 100]);
    assert_eq!(lab.stat("d/new").unwrap().size, 100);
    assert!(node.attr().is_ok());
}
