//! What a process does with each signal (sigaction(2)).

use super::{SigSet, Signal};

/// Flags of `struct sigaction` (asm/signal.h).
#[allow(missing_docs)] // the names are sigaction(2)'s
pub mod sa {
    pub const SA_NOCLDSTOP: u64 = 0x0000_0001;
    pub const SA_NOCLDWAIT: u64 = 0x0000_0002;
    pub const SA_SIGINFO: u64 = 0x0000_0004;
    pub const SA_UNSUPPORTED: u64 = 0x0000_0400;
    pub const SA_EXPOSE_TAGBITS: u64 = 0x0000_0800;
    pub const SA_RESTORER: u64 = 0x0400_0000;
    pub const SA_ONSTACK: u64 = 0x0800_0000;
    pub const SA_RESTART: u64 = 0x1000_0000;
    pub const SA_NODEFER: u64 = 0x4000_0000;
    pub const SA_RESETHAND: u64 = 0x8000_0000;
    /// Flags that are kept; the others are cleared, so that a program can see which there are.
    pub const KNOWN: u64 = SA_NOCLDSTOP
        | SA_NOCLDWAIT
        | SA_SIGINFO
        | SA_EXPOSE_TAGBITS
        | SA_RESTORER
        | SA_ONSTACK
        | SA_RESTART
        | SA_NODEFER
        | SA_RESETHAND;
}

/// The kernel's `struct sigaction`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SigAction {
    /// SIG_DFL (0), SIG_IGN (1), or the handler's address.
    pub handler: u64,
    /// `sa` flags.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: SigSet,
}

/// What an action means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// SIG_DFL.
    Default,
    /// SIG_IGN.
    Ignore,
    /// A handler.
    Handler,
}

impl SigAction {
    /// What it means.
    pub fn disposition(&self) -> Disposition {
        match self.handler {
            0 => Disposition::Default,
            1 => Disposition::Ignore,
            _ => Disposition::Handler,
        }
    }
}

/// The actions of all signals. Processes share it where clone(2) had CLONE_SIGHAND.
#[derive(Clone, Debug)]
pub struct Actions([SigAction; 64]);

impl Default for Actions {
    fn default() -> Self {
        Actions([SigAction::default(); 64])
    }
}

impl Actions {
    /// The action of a signal.
    pub fn get(&self, signal: Signal) -> SigAction {
        self.0.get(signal.index()).copied().unwrap_or_default()
    }

    /// Sets the action of a signal.
    pub fn set(&mut self, signal: Signal, action: SigAction) {
        if let Some(slot) = self.0.get_mut(signal.index()) {
            *slot = action;
        }
    }

    /// Whether it is ignored, by SIG_IGN or by default.
    pub fn ignores(&self, signal: Signal) -> bool {
        let action = self.get(signal);
        match action.disposition() {
            Disposition::Ignore => true,
            Disposition::Default => signal.default_action() == super::DefaultAction::Ignore,
            Disposition::Handler => false,
        }
    }

    /// The actions after exec: handlers are gone, ignored signals stay ignored.
    pub fn after_exec(&self) -> Actions {
        let mut new = Actions::default();
        for (to, from) in new.0.iter_mut().zip(&self.0) {
            if from.disposition() == Disposition::Ignore {
                to.handler = from.handler;
            }
        }
        new
    }

    /// All defaults, for CLONE_CLEAR_SIGHAND: what is ignored stays ignored.
    pub fn cleared(&self) -> Actions {
        self.after_exec()
    }

    /// SIGCHLD's effect on children: whether they leave no zombie.
    pub fn reaps_children(&self) -> bool {
        let action = self.get(Signal::SIGCHLD);
        action.disposition() == Disposition::Ignore || action.flags & sa::SA_NOCLDWAIT != 0
    }
}
