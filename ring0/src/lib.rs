//! x86-64 ring-0 mechanism, and nothing else: descriptor tables, page tables, the trampoline that enters
//! and leaves user mode, exceptions, kernel threads, per-CPU data, vector state, interrupts, time.
//!
//! This crate knows neither the sentry nor the host half. What it needs from above (frames for page tables,
//! a way to start a CPU, what to do at a host interrupt) it is told once at boot, in [`Config`].
//!
//! Two rules carry the whole crate:
//!
//! 1. **Interrupts are off in the kernel**, always, but for the idle loop's `sti; hlt`. Kernel code is
//!    therefore never preempted, per-CPU data needs no more protection than that, and a spin lock can
//!    be taken anywhere. Interrupts are taken in user mode, and there they look like any other trap.
//! 2. **A CPU says what it is doing** ([`percpu::Shared::state`]) with one sequentially consistent store before
//!    it enters user mode or touches user memory, and looks for news after it (kicks, stale
//!    translations). Whoever has news publishes first and looks at the state after. So nobody ever
//!    waits for a CPU that is idle or in the kernel, and nothing is lost.
#![no_std]
extern crate alloc;

pub mod apic;
pub mod arch;
pub mod clock;
mod copy;
mod entry;
pub mod fatal;
pub mod features;
pub mod fpu;
pub mod paging;
pub mod percpu;
pub mod stack;
pub mod tables;
pub mod thread;
pub mod user;

mod boot;
pub use boot::{Config, Hooks, choice, direct, hooks, init_boot_cpu, start_cpu};
pub use copy::Fault as CopyFault;
pub use entry::Registers;
