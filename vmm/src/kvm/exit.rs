//! Why a vCPU came back: KVM's exits, as the few that mean something here.

use guest::contract::{CALL_PORT, DEBUG_PORT, DOORBELL_PORT};
use kvm_ioctls::VcpuExit;

/// An exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A synchronous call; its call page says which.
    Call,
    /// A byte of early output.
    Debug(u8),
    /// A doorbell that came here because its ioeventfd is not registered (yet): ring it.
    Doorbell,
    /// A signal: look whether the thread is to end.
    Interrupted,
    /// Memory of the guest's could not be reached: a mapped file may have shrunk.
    Vanished,
    /// Anything else, which an image in order does not do.
    Unexpected(String),
}

impl Exit {
    /// Reads an exit.
    pub fn from_run(outcome: Result<VcpuExit<'_>, kvm_ioctls::Error>) -> Exit {
        match outcome {
            Ok(VcpuExit::IoOut(CALL_PORT, data)) if data.len() == 4 => Exit::Call,
            Ok(VcpuExit::IoOut(DOORBELL_PORT, _)) => Exit::Doorbell,
            Ok(VcpuExit::IoOut(DEBUG_PORT, &[byte])) => Exit::Debug(byte),
            Ok(VcpuExit::Intr) => Exit::Interrupted,
            Ok(VcpuExit::Shutdown) => Exit::Unexpected("triple fault".into()),
            Ok(VcpuExit::MmioRead(at, data)) => Exit::Unexpected(format!(
                "read of {} bytes at {at:#x}, where nothing is",
                data.len()
            )),
            Ok(VcpuExit::MmioWrite(at, data)) => Exit::Unexpected(format!(
                "write of {} bytes at {at:#x}, where nothing is",
                data.len()
            )),
            Ok(VcpuExit::IoOut(port, data)) => {
                Exit::Unexpected(format!("out of {} bytes to port {port:#x}", data.len()))
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                Exit::Unexpected(format!("in of {} bytes from port {port:#x}", data.len()))
            }
            Ok(VcpuExit::MemoryFault { .. }) => Exit::Vanished,
            Ok(other) => Exit::Unexpected(format!("{other:?}")),
            Err(e) => match e.errno() {
                libc::EINTR | libc::EAGAIN => Exit::Interrupted,
                libc::EFAULT | libc::EHWPOISON => Exit::Vanished,
                _ => Exit::Unexpected(format!("KVM_RUN: {e}")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_what_the_contract_says_or_unexpected() {
        let out = |port, data| Exit::from_run(Ok(VcpuExit::IoOut(port, data)));
        assert_eq!(out(CALL_PORT, &[0; 4]), Exit::Call);
        assert!(matches!(out(CALL_PORT, &[0; 2]), Exit::Unexpected(_)));
        assert_eq!(out(DEBUG_PORT, b"x"), Exit::Debug(b'x'));
        assert!(matches!(out(DEBUG_PORT, b"xy"), Exit::Unexpected(_)));
        assert!(matches!(out(0x80, b"x"), Exit::Unexpected(_)));
        assert_eq!(Exit::from_run(Err(kvm_ioctls::Error::new(libc::EFAULT))), Exit::Vanished);
        assert_eq!(Exit::from_run(Err(kvm_ioctls::Error::new(libc::EINTR))), Exit::Interrupted);
    }
}
