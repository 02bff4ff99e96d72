//! KVM's own counters, read from its binary statistics descriptor
//! (Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// Counters of a virtual machine or of a vCPU.
#[derive(Debug)]
pub struct Stats {
    file: File,
    /// Name, and where its values begin in the file, and how many there are.
    counters: Vec<(String, u64, u16)>,
}

/// A file that says this much about itself is not one of KVM's.
const MAX: u64 = 1 << 20;

impl Stats {
    /// Opens the counters of a VM or a vCPU. Linux has them since 5.14.
    pub fn open(fd: &impl AsRawFd) -> io::Result<Stats> {
        vmm_sys_util::ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);
        // SAFETY: no memory arguments; the descriptor that comes back is ours.
        let file = unsafe {
            let fd = libc::ioctl(fd.as_raw_fd(), KVM_GET_STATS_FD() as _);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from_raw_fd(fd)
        };
        let mut header = [0; 24];
        read_exact_at(&file, &mut header, 0)?;
        let header = Header::parse(&header).ok_or_else(invalid)?;
        let size = u64::from(header.count) * header.descriptor_size() as u64;
        if size > MAX {
            return Err(invalid());
        }
        let mut descriptors = vec![0; size as usize];
        read_exact_at(&file, &mut descriptors, header.descriptors.into())?;
        let counters = header.counters(&descriptors).ok_or_else(invalid)?;
        Ok(Stats { file, counters })
    }

    /// The counters now; of histograms, the sum.
    pub fn read(&self) -> io::Result<BTreeMap<String, u64>> {
        self.counters
            .iter()
            .map(|(name, at, count)| {
                let mut values = vec![0; usize::from(*count) * 8];
                read_exact_at(&self.file, &mut values, *at)?;
                let sum = values
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .fold(0u64, |sum, v| sum.wrapping_add(u64::from_le_bytes(*v)));
                Ok((name.clone(), sum))
            })
            .collect()
    }
}

fn read_exact_at(file: &File, buf: &mut [u8], at: u64) -> io::Result<()> {
    let at = i64::try_from(at).map_err(|_| invalid())?;
    // KVM gives all that there is.
    match crate::host::read_at(file, buf, at)? {
        n if n == buf.len() => Ok(()),
        _ => Err(invalid()),
    }
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "KVM's statistics have an unknown form")
}

/// struct kvm_stats_header.
struct Header {
    name_size: u32,
    count: u32,
    descriptors: u32,
    data: u32,
}

/// struct kvm_stats_desc without its name.
const DESCRIPTOR: usize = 16;

impl Header {
    fn parse(bytes: &[u8]) -> Option<Header> {
        let word =
            |n: usize| Some(u32::from_le_bytes(bytes.get(n * 4..n * 4 + 4)?.try_into().ok()?));
        let header =
            Header { name_size: word(1)?, count: word(2)?, descriptors: word(4)?, data: word(5)? };
        (header.name_size <= 4096).then_some(header)
    }

    fn descriptor_size(&self) -> usize {
        DESCRIPTOR + self.name_size as usize
    }

    fn counters(&self, descriptors: &[u8]) -> Option<Vec<(String, u64, u16)>> {
        descriptors
            .chunks_exact(self.descriptor_size())
            .map(|d| {
                let count = u16::from_le_bytes(d.get(6..8)?.try_into().ok()?);
                let offset = u32::from_le_bytes(d.get(8..12)?.try_into().ok()?);
                let name = d.get(DESCRIPTOR..)?.split(|&b| b == 0).next()?;
                let name = String::from_utf8_lossy(name).into_owned();
                Some((name, u64::from(self.data) + u64::from(offset), count))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_read_as_the_kernel_lays_them_out() {
        let mut bytes = Vec::new();
        for word in [0u32, 16, 2, 24, 24, 100] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let header = Header::parse(&bytes).unwrap();
        let mut table = Vec::new();
        for (name, offset, count) in [("exits", 8u32, 1u16), ("halt_hist", 16, 32)] {
            table.extend_from_slice(&[0; 6]);
            table.extend_from_slice(&count.to_le_bytes());
            table.extend_from_slice(&offset.to_le_bytes());
            table.extend_from_slice(&[0; 4]);
            let mut padded = name.as_bytes().to_vec();
            padded.resize(16, 0);
            table.extend_from_slice(&padded);
        }
        assert_eq!(
            header.counters(&table).unwrap(),
            [("exits".to_string(), 108, 1), ("halt_hist".to_string(), 116, 32)]
        );
        assert!(Header::parse(&bytes[..20]).is_none());
    }
}
