//! Worker threads: each one current-thread runtime with a name, and one place that hears how each of them ended.
//!
//! A worker that ends before it was told to is news whatever its reason: its share of the sockets answers nobody any
//! more. [`Workers::ended`] brings that news to the one who can end the process with an error. Panics of tasks that a
//! worker spawned stay in those tasks; this is about the worker's own future.

use std::{
    any::Any,
    error::Error,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{runtime, sync::mpsc, time::Instant};

/// A worker's number, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub usize);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a worker's future gives back.
pub type WorkerResult = Result<(), Box<dyn Error + Send + Sync>>;

/// How a worker came to a bad end.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Its future panicked. A bug of ours.
    #[error("worker {worker} panicked: {message}")]
    Panicked {
        /// Which.
        worker: WorkerId,
        /// The panic's message.
        message: String,
    },
    /// Its future returned an error.
    #[error("worker {worker} failed: {source}")]
    Failed {
        /// Which.
        worker: WorkerId,
        /// What it returned.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It had not ended when the deadline passed. Its thread ends with the process.
    #[error("{count} workers had not ended after {waited:?}")]
    Late {
        /// How many.
        count: usize,
        /// How long was waited.
        waited: Duration,
    },
}

type Ended = (WorkerId, Result<(), WorkerError>);

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    /// One message a worker, so the channel's bound is their number.
    ended: mpsc::Receiver<Ended>,
    running: usize,
}

impl Workers {
    /// Starts `count` threads named `name-0`, `name-1`, …; each builds its runtime and runs `work` on it to the end.
    ///
    /// `work` is called on the worker's own thread, inside its runtime, so what it makes need not be `Send`.
    ///
    /// # Errors
    /// The system has no thread or no event queue to give. Threads already started end as soon as they notice that nobody waits.
    pub fn spawn<F, Fut>(count: usize, name: &str, work: F) -> io::Result<Self>
    where
        F: Fn(WorkerId) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = WorkerResult>,
    {
        let count = count.max(1);
        let (sender, ended) = mpsc::channel(count);
        let work = Arc::new(work);
        // All runtimes first: after the last thing that can fail, threads start.
        let runtimes = (0..count)
            .map(|_| runtime::Builder::new_current_thread().enable_all().build())
            .collect::<io::Result<Vec<_>>>()?;
        for (index, runtime) in runtimes.into_iter().enumerate() {
            let (worker, work, sender) = (WorkerId(index), work.clone(), sender.clone());
            thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || {
                    let result = catch_unwind(AssertUnwindSafe(|| {
                        runtime.block_on(async { work(worker).await })
                    }));
                    let result = match result {
                        Ok(Ok(())) => Ok(()),
                        Ok(Err(source)) => Err(WorkerError::Failed { worker, source }),
                        Err(panic) => Err(WorkerError::Panicked {
                            worker,
                            message: panic_message(&*panic),
                        }),
                    };
                    // Tasks that are left must not hold the thread: blocking ones are given up after this.
                    runtime.shutdown_timeout(Duration::from_secs(1));
                    // The channel holds one message for each worker; it is closed only when nobody asks any more.
                    let _nobody_asks = sender.try_send((worker, result));
                })?;
        }
        Ok(Self {
            ended,
            running: count,
        })
    }

    /// The number of workers that have not ended, as far as [`Workers::ended`] and [`Workers::join`] have heard.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Waits for the next worker to end, in whatever way. None once all have. Cancel safe.
    pub async fn ended(&mut self) -> Option<(WorkerId, Result<(), WorkerError>)> {
        if self.running == 0 {
            return None;
        }
        let ended = self.ended.recv().await;
        self.running = if ended.is_some() { self.running - 1 } else { 0 };
        ended
    }

    /// Waits until all have ended, at most until `deadline`.
    ///
    /// # Errors
    /// The first worker that failed or panicked; else [`WorkerError::Late`] with those that still run.
    pub async fn join(mut self, deadline: Instant) -> Result<(), WorkerError> {
        let begun = Instant::now();
        let mut first = Ok(());
        loop {
            match tokio::time::timeout_at(deadline, self.ended()).await {
                Ok(Some((_, result))) => first = first.and(result),
                Ok(None) => return first,
                Err(_) => {
                    return first.and(Err(WorkerError::Late {
                        count: self.running,
                        waited: begun.elapsed(),
                    }));
                }
            }
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn each_worker_runs_on_its_own_named_thread() {
        let (sender, mut names) = mpsc::channel(3);
        let workers = Workers::spawn(3, "w", move |id| {
            let sender = sender.clone();
            async move {
                let name = thread::current().name().unwrap_or_default().to_owned();
                sender.send((id, name)).await?;
                Ok(())
            }
        })
        .unwrap();
        workers.join(soon()).await.unwrap();
        let mut seen = Vec::new();
        while let Some((id, name)) = names.recv().await {
            seen.push((id.0, name));
        }
        seen.sort();
        assert_eq!(
            seen,
            [
                (0, "w-0".to_owned()),
                (1, "w-1".to_owned()),
                (2, "w-2".to_owned())
            ]
        );
    }

    #[tokio::test]
    async fn a_panic_is_reported_with_its_message_while_the_others_run() {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let mut workers = Workers::spawn(2, "w", move |id| {
            let stop = stopped.clone();
            async move {
                assert!(id.0 != 1, "worker one has had enough");
                stop.cancelled().await;
                Ok(())
            }
        })
        .unwrap();
        let (id, result) = workers.ended().await.unwrap();
        assert_eq!((id, workers.running()), (WorkerId(1), 1));
        assert!(
            result
                .unwrap_err()
                .to_string()
                .contains("worker 1 panicked: worker one has had enough")
        );
        stop.cancel();
        workers.join(soon()).await.unwrap();
    }

    #[tokio::test]
    async fn an_error_ends_join_with_that_error() {
        let workers = Workers::spawn(1, "w", |_| async { Err("no socket".into()) }).unwrap();
        assert_eq!(
            workers.join(soon()).await.unwrap_err().to_string(),
            "worker 0 failed: no socket"
        );
    }

    #[tokio::test]
    async fn join_gives_up_at_its_deadline() {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let workers = Workers::spawn(2, "w", move |_| {
            let stop = stopped.clone();
            async move {
                stop.cancelled().await;
                Ok(())
            }
        })
        .unwrap();
        let error = workers.join(Instant::now()).await.unwrap_err();
        assert!(
            matches!(error, WorkerError::Late { count: 2, .. }),
            "{error}"
        );
        stop.cancel();
    }
}
