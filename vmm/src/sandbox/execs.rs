//! Processes that were started in containers beside their inits: for whom, and what the sentry has said
//! of each.
//!
//! The sentry may say that a process has ended before it says that it has begun: it answers a request
//! on one thread, and the process ends on another. Such an end is kept until the answer comes.

use std::os::fd::RawFd;

use sentry::control::{ExitStatus, Failure, Reply};
use sentry::platform::StreamId;

use super::supervisor::Error;

/// All of them.
#[derive(Debug, Default)]
pub struct Execs {
    all: Vec<Exec>,
    /// Ends of processes that have not been said to have begun.
    early: Vec<(String, u32, ExitStatus)>,
}

/// One, from its request to its end.
#[derive(Debug)]
pub struct Exec {
    /// The request's number.
    number: u64,
    /// Who has asked for it, while that is there.
    client: Option<RawFd>,
    id: String,
    pid: Option<u32>,
    streams: Vec<StreamId>,
}

/// What has become of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nothing; these streams are nobody's.
    Failed(Vec<StreamId>),
    /// A process.
    Runs {
        /// Its container.
        id: String,
        /// Its id there.
        pid: u32,
        /// Who has asked for it.
        client: Option<RawFd>,
    },
    /// A process, which has ended already.
    Over {
        /// Who has asked for it.
        client: Option<RawFd>,
        /// How.
        status: ExitStatus,
    },
}

impl Exec {
    /// Whether it is this process.
    pub fn is(&self, id: &str, pid: u32) -> bool {
        self.id == id && self.pid == Some(pid)
    }

    /// What the platform calls the stream that the client calls `own`.
    pub fn stream(&self, own: StreamId) -> Option<StreamId> {
        self.streams.get(own.0 as usize).copied()
    }
}

impl Execs {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The sentry has been asked for one.
    pub fn begin(&mut self, number: u64, client: RawFd, id: String, streams: Vec<StreamId>) {
        self.all.push(Exec { number, client: Some(client), id, pid: None, streams });
    }

    /// The one that a client has asked for.
    pub fn of(&self, client: RawFd) -> Option<&Exec> {
        self.all.iter().find(|exec| exec.client == Some(client))
    }

    /// The sentry has answered a request; `None` where that was no exec. An error for an answer that is
    /// none to an exec.
    pub fn answered(
        &mut self,
        number: u64,
        result: &Result<Reply, Failure>,
    ) -> Result<Option<Begun>, Error> {
        let Some(at) = self.all.iter().position(|exec| exec.number == number) else {
            return Ok(None);
        };
        let pid = match result {
            Ok(Reply::Pid(pid)) => *pid,
            Ok(_) => return Err(Error::Sentry("a process without an id")),
            Err(_) => return Ok(Some(Begun::Failed(self.all.swap_remove(at).streams))),
        };
        let id = self.all[at].id.clone();
        if self.all.iter().any(|exec| exec.is(&id, pid)) {
            return Err(Error::Sentry("two processes with one id"));
        }
        if let Some(early) = self.early.iter().position(|e| e.0 == id && e.1 == pid) {
            let (_, _, status) = self.early.swap_remove(early);
            let client = self.all.swap_remove(at).client;
            return Ok(Some(Begun::Over { client, status }));
        }
        self.all[at].pid = Some(pid);
        Ok(Some(Begun::Runs { id, pid, client: self.all[at].client }))
    }

    /// A process has ended: whom to tell; `None` where that will turn out, or nobody wants to know because
    /// the container has `gone`. An error where there can be no such process.
    pub fn ended(
        &mut self,
        id: &str,
        pid: u32,
        status: ExitStatus,
        gone: bool,
    ) -> Result<Option<Option<RawFd>>, Error> {
        if let Some(at) = self.all.iter().position(|exec| exec.is(id, pid)) {
            return Ok(Some(self.all.swap_remove(at).client));
        }
        let unanswered = self.all.iter().filter(|exec| exec.pid.is_none() && exec.id == id).count();
        if self.early.iter().filter(|early| early.0 == id).count() < unanswered {
            self.early.push((id.to_owned(), pid, status));
            return Ok(None);
        }
        if gone { Ok(None) } else { Err(Error::Sentry("the end of no process")) }
    }

    /// A container has ended: whom to tell that their processes have too.
    pub fn container_ended(&mut self, id: &str) -> Vec<Option<RawFd>> {
        let begun = |exec: &Exec| exec.id == id && exec.pid.is_some();
        let over = self.all.iter().filter(|exec| begun(exec)).map(|exec| exec.client).collect();
        self.all.retain(|exec| !begun(exec));
        over
    }

    /// A client has gone: the process that is to end with it.
    pub fn client_gone(&mut self, client: RawFd) -> Option<(String, u32)> {
        let exec = self.all.iter_mut().find(|exec| exec.client == Some(client))?;
        exec.client = None;
        // One that has not begun is killed when it has.
        Some((exec.id.clone(), exec.pid?))
    }
}

#[cfg(test)]
mod tests {
    use sentry::control::FailureKind;

    use super::*;

    const OVER: ExitStatus = ExitStatus::Exited(3);

    #[test]
    fn a_process_begins_and_ends_whatever_is_heard_first() {
        let mut execs = Execs::default();
        execs.begin(1, 10, "a".into(), vec![StreamId(5)]);
        execs.begin(2, 11, "a".into(), vec![]);
        assert_eq!(execs.of(10).unwrap().stream(StreamId(0)), Some(StreamId(5)));
        assert_eq!(execs.of(10).unwrap().stream(StreamId(1)), None);
        let runs = Begun::Runs { id: "a".into(), pid: 7, client: Some(10) };
        assert_eq!(execs.answered(1, &Ok(Reply::Pid(7))).unwrap(), Some(runs));
        assert_eq!(execs.answered(9, &Ok(Reply::Done)).unwrap(), None);
        assert!(execs.of(10).unwrap().is("a", 7));
        assert_eq!(execs.ended("a", 8, OVER, false).unwrap(), None);
        assert_eq!(execs.ended("a", 7, OVER, false).unwrap(), Some(Some(10)));
        let over = Begun::Over { client: Some(11), status: OVER };
        assert_eq!(execs.answered(2, &Ok(Reply::Pid(8))).unwrap(), Some(over));
        assert!(execs.ended("a", 9, OVER, false).is_err());
        assert_eq!(execs.ended("a", 9, OVER, true).unwrap(), None);
    }

    #[test]
    fn who_goes_takes_the_process_along() {
        let mut execs = Execs::default();
        execs.begin(1, 10, "a".into(), vec![]);
        execs.begin(2, 11, "a".into(), vec![StreamId(1)]);
        assert_eq!(execs.client_gone(10), None);
        let runs = Begun::Runs { id: "a".into(), pid: 7, client: None };
        assert_eq!(execs.answered(1, &Ok(Reply::Pid(7))).unwrap(), Some(runs));
        let no = Failure { kind: FailureKind::Other, message: String::new() };
        let failed = Begun::Failed(vec![StreamId(1)]);
        assert_eq!(execs.answered(2, &Err(no)).unwrap(), Some(failed));
        execs.begin(3, 12, "a".into(), vec![]);
        assert!(execs.answered(3, &Ok(Reply::Pid(7))).is_err());
        assert_eq!(execs.container_ended("a"), [None]);
        assert_eq!(execs.client_gone(12), None);
    }
}
