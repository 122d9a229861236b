//! Workers: children of our own program that do what may stall. A process that waits for a dead device is in
//! D state, and not even SIGKILL ends it; so would be a thread of the daemon, and with it sooner or later the
//! daemon. A worker that misses its deadline is killed, left to the kernel, counted and replaced; until it is
//! really gone its volume answers `Timeout`, and all others go on.
//!
//! Workers are few and used again, since starting one costs a millisecond. They hear jobs on their standard
//! input, end when it closes, and finish what they are at when the daemon ends, so that a restart never cuts
//! an mkfs short; the volume's lock (`work.rs`) keeps the next daemon away meanwhile.

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    os::{fd::AsFd as _, unix::net::UnixStream as StdStream},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kato_orchestrator::Error;
use rustix::process::{Pid, Signal};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    process::Child,
    sync::{Semaphore, oneshot},
};
use tokio_util::task::TaskTracker;

use crate::{
    command,
    errno::failed,
    task::{self, Answer, Job, Word},
    work,
};

/// How many idle workers are kept.
const SPARE: usize = 4;

/// The end that hears: what the daemon's hidden subcommand runs.
#[must_use]
pub fn worker_main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "a worker cannot hear its daemon");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let mut daemon = StdStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    loop {
        let job: Job = match task::receive_job(&mut daemon) {
            Ok(job) => job,
            Err(error) if is_end(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let answer = work::perform(job, &mut daemon);
        match task::send_with_load(&mut daemon, &Word::from(answer)) {
            Ok(()) => {}
            // The daemon has gone while we worked.
            Err(error) if is_end(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Whether the daemon has hung up; a reset says that it did so without hearing our last word.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | BrokenPipe | ConnectionReset)
}

/// The end that asks.
#[derive(Debug)]
pub(crate) struct Pool {
    line: Vec<OsString>,
    idle: Mutex<Vec<Worker>>,
    stuck: Mutex<HashMap<String, Vec<u32>>>,
    slots: Arc<Semaphore>,
    /// Work goes on when its caller stops waiting.
    tasks: TaskTracker,
}

/// A child that waits for a job, or does one.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    stream: UnixStream,
}

impl Worker {
    /// Starts one.
    pub(crate) fn start(line: &[OsString]) -> Result<Self, Error> {
        let what = |error| failed("start a worker of our own program", error);
        let (child, stream) = command::start_worker(line).map_err(what)?;
        stream.set_nonblocking(true).map_err(what)?;
        Ok(Self { child, stream: UnixStream::from_std(stream).map_err(what)? })
    }

    /// Gives it a job.
    pub(crate) async fn say(&mut self, job: &Job) -> io::Result<()> {
        self.stream.write_all(&task::frame(job)?).await?;
        for bytes in &job.bytes {
            self.stream.write_all(bytes).await?;
        }
        Ok(())
    }

    /// Says the one byte that ends a freeze.
    pub(crate) async fn say_over(&mut self) -> io::Result<()> {
        self.stream.write_all(&crate::freeze::word()).await
    }

    /// Hears its next word.
    pub(crate) async fn hear(&mut self) -> io::Result<Word> {
        let mut header = [0; 4];
        self.stream.read_exact(&mut header).await?;
        let mut body = vec![0; task::length(header)?];
        self.stream.read_exact(&mut body).await?;
        let mut word: Word = serde_json::from_slice(&body)?;
        if let Word::Answer(Answer::Blocks { load, bytes, .. }) = &mut word {
            let mut heard = vec![0; task::load(*load)?];
            self.stream.read_exact(&mut heard).await?;
            *bytes = heard.into();
        }
        Ok(word)
    }

    /// Waits until it has ended.
    pub(crate) async fn gone(mut self) {
        drop(self.stream);
        if let Err(error) = self.child.wait().await {
            tracing::warn!(%error, "a worker could not be waited for");
        }
    }

    /// Kills it and the programs that it runs; the kernel decides when that comes true.
    pub(crate) fn kill(&self) {
        let group = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(group) = group
            && let Err(error) = rustix::process::kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "a worker had ended before it was killed");
        }
    }
}

impl Pool {
    /// A pool of workers with this command line, so many at once.
    pub(crate) fn new(line: Vec<OsString>, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            line,
            idle: Mutex::new(Vec::new()),
            stuck: Mutex::new(HashMap::new()),
            slots: Arc::new(Semaphore::new(workers.max(1))),
            tasks: TaskTracker::new(),
        })
    }

    /// What our workers are started with.
    pub(crate) fn line(&self) -> &[OsString] {
        &self.line
    }

    /// Where tasks go that outlive their request.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Has a job done for this subject (a volume, or a path), within the deadline. The job goes on when the
    /// caller stops waiting.
    pub(crate) async fn run(
        self: &Arc<Self>,
        subject: String,
        job: Job,
        patience: Duration,
    ) -> Result<Answer, Error> {
        self.refuse_stuck(&subject)?;
        let (tell, hear) = oneshot::channel();
        let pool = Arc::clone(self);
        self.tasks.spawn(async move {
            let answer = pool.work(subject, job, patience).await;
            // Nobody may be waiting any more.
            drop(tell.send(answer));
        });
        hear.await.map_err(|_| Error::internal("the task of a worker was lost").pending())?
    }

    async fn work(self: &Arc<Self>, subject: String, job: Job, patience: Duration) -> Result<Answer, Error> {
        let slot = tokio::time::timeout(patience, Arc::clone(&self.slots).acquire_owned()).await;
        let Ok(Ok(_slot)) = slot else {
            return Err(Error::busy("all workers of this node are busy: try again"));
        };
        let mut worker = match self.idle().pop() {
            Some(worker) => worker,
            None => Worker::start(&self.line)?,
        };
        let mut asked = worker.say(&job).await;
        if asked.is_err() {
            // It died while it was idle; it has heard nothing of this job.
            self.tasks.spawn(worker.gone());
            worker = Worker::start(&self.line)?;
            asked = worker.say(&job).await;
        }
        asked.map_err(|error| failed("talk to a worker", error))?;
        let mut patience = patience;
        loop {
            match tokio::time::timeout(patience, worker.hear()).await {
                Ok(Ok(Word::Patience(more))) => patience = more,
                Ok(Ok(last)) => {
                    self.put_back(worker);
                    return last.answer();
                }
                Ok(Err(error)) => {
                    worker.kill();
                    self.tasks.spawn(worker.gone());
                    return Err(Error::unavailable("the worker that did this has died: try again")
                        .caused_by(error)
                        .pending());
                }
                Err(_) => return Err(self.abandon(subject, worker, patience)),
            }
        }
    }

    fn put_back(&self, worker: Worker) {
        let mut idle = self.idle();
        if idle.len() < SPARE {
            idle.push(worker);
        } else {
            drop(idle);
            self.tasks.spawn(worker.gone());
        }
    }

    /// Leaves a worker to the kernel.
    fn abandon(self: &Arc<Self>, subject: String, worker: Worker, patience: Duration) -> Error {
        let pid = worker.child.id().unwrap_or_default();
        worker.kill();
        tracing::error!(subject, pid, ?patience, "a worker missed its deadline and was abandoned");
        metrics::counter!("kato_node_workers_abandoned_total").increment(1);
        metrics::gauge!("kato_node_workers_stuck").increment(1.0);
        self.stuck().entry(subject.clone()).or_default().push(pid);
        let error = slow(&[pid]);
        let pool = Arc::clone(self);
        self.tasks.spawn(async move {
            worker.gone().await;
            metrics::gauge!("kato_node_workers_stuck").decrement(1.0);
            let mut stuck = pool.stuck();
            if let Some(pids) = stuck.get_mut(&subject) {
                pids.retain(|other| *other != pid);
                if pids.is_empty() {
                    stuck.remove(&subject);
                }
            }
        });
        error
    }

    fn refuse_stuck(&self, subject: &str) -> Result<(), Error> {
        self.stuck().get(subject).map_or(Ok(()), |pids| Err(slow(pids)))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stuck(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<u32>>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The volume's bytes do not answer.
fn slow(pids: &[u32]) -> Error {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    Error::timeout(format!(
        "the volume's device does not answer; the process {} waits for it in the kernel. See to the device or \
         to the network behind it: the rest follows by itself",
        pids.join(", ")
    ))
    .pending()
}
