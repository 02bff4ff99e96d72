//! Host threads that outlive the sentry's: one that has nothing to run waits for the next, since a
//! new host thread costs as much as two system calls of an application.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sys;

/// Bytes of stack that each gets; what it does not touch costs nothing.
const STACK: usize = 256 * 1024;
/// Threads that wait; more than that end.
const IDLE: usize = 16;

/// What to run.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// The threads that wait for a job.
#[derive(Default)]
pub(crate) struct Workers(Mutex<Vec<Arc<Worker>>>);

struct Worker {
    /// 1: there is a job.
    bell: AtomicU32,
    job: Mutex<Option<Job>>,
    tid: AtomicI32,
}

impl Workers {
    /// Runs `job` in a thread of its own, on the caller's CPU at first.
    pub(crate) fn run(&'static self, job: Job) -> io::Result<()> {
        let idle = self.lock().pop();
        match idle {
            Some(worker) => {
                sys::bind_to_cpu(worker.tid.load(Ordering::Relaxed), sys::current_cpu());
                worker.give(job);
            }
            None => {
                let worker = Arc::new(Worker {
                    bell: AtomicU32::new(0),
                    job: Mutex::default(),
                    tid: AtomicI32::new(0),
                });
                worker.give(job);
                std::thread::Builder::new().stack_size(STACK).spawn(move || self.work(&worker))?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Worker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, worker: &Arc<Worker>) {
        worker.tid.store(sys::gettid(), Ordering::Relaxed);
        loop {
            worker.take()();
            let mut idle = self.lock();
            if idle.len() >= IDLE {
                return;
            }
            idle.push(Arc::clone(worker));
        }
    }
}

impl Worker {
    fn give(&self, job: Job) {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        self.bell.store(1, Ordering::Release);
        sys::futex_wake(&self.bell);
    }

    fn take(&self) -> Job {
        loop {
            while self.bell.swap(0, Ordering::Acquire) == 0 {
                sys::futex_wait(&self.bell, 0, None);
            }
            let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(job) = job {
                return job;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn every_job_runs_also_many_at_a_time() {
        let workers: &'static Workers = Box::leak(Box::default());
        for round in 1..40 {
            let (tell, hear) = mpsc::channel();
            for n in 0..round {
                let tell = tell.clone();
                workers.run(Box::new(move || tell.send(n).unwrap())).unwrap();
            }
            drop(tell);
            let mut seen: Vec<_> = hear.iter().collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..round).collect::<Vec<_>>());
        }
        assert!(workers.lock().len() <= IDLE);
    }
}
