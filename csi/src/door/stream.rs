//! Calls whose answer is many messages. The work sends them one by one and waits for a client that reads slowly; when the
//! client has gone, or its time is over, the work is dropped where it stands, so it may change nothing.
//!
//! How a stream ended is told apart from its messages: one that breaks off must never look complete, and a client that
//! does not read keeps nobody waiting who has that to say.

use std::{
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use futures_util::Stream;
use kato_orchestrator::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::{Answer, Door, Visit, patience};
use crate::{
    check::{Asked, Checked},
    error,
    operation::Operation,
};

/// How many streams are worked on at once. They have seats of their own: a client keeps one for as long as it reads.
pub(super) const AT_ONCE: usize = 16;

/// How long a stream may take whose client names no deadline.
const WAIT: Duration = Duration::from_secs(600);

/// How many messages may wait for a client that reads slowly.
const AHEAD: usize = 4;

impl Door {
    /// Has a call carried out whose answer is many messages.
    pub(crate) async fn stream<R, A, W, F>(
        self: &Arc<Self>,
        request: Request<R>,
        work: W,
    ) -> Answer<Messages<A>>
    where
        R: Asked,
        A: Checked + Send + 'static,
        W: FnOnce(Arc<Self>, R, Outlet<A>) -> F + Send + 'static,
        F: Future<Output = Result<(), Error>> + Send,
    {
        self.offers(R::OPERATION)?;
        let wait = patience(request.metadata()).unwrap_or(WAIT);
        let visit = Visit::begin(self, request.get_ref(), wait);
        let (operation, id) = (R::OPERATION, visit.ctx.request.clone());
        let gone = visit.ctx.abandoned.clone().drop_guard();
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (tell, end) = oneshot::channel();
        let span = visit.span.clone();
        self.tasks.spawn(
            async move {
                let outcome = match visit.admit(request.get_ref(), &visit.door.streams).await {
                    Ok(_admitted) => {
                        let work = work(Arc::clone(&visit.door), request.into_inner(), Outlet(sender));
                        visit.while_wanted(work, wait).await
                    }
                    Err(error) => Err(error),
                };
                // Whoever has gone does not hear it.
                drop(tell.send(visit.end(outcome)));
            }
            .instrument(span),
        );
        Ok(Response::new(Messages { receiver, end: Some(end), operation, id, _gone: gone }))
    }
}

impl Visit {
    /// Works until the client has gone or its time is over.
    async fn while_wanted(
        &self,
        work: impl Future<Output = Result<(), Error>>,
        wait: Duration,
    ) -> Result<(), Error> {
        tokio::select! {
            outcome = work => outcome,
            () = self.door.orchestrator.clock().sleep_until(self.ctx.deadline) => Err(Error::timeout(format!(
                "it was not all told and read within {} s: go on where the last block ended",
                wait.as_secs()
            ))),
            () = self.ctx.abandoned.cancelled() => Err(Error::timeout("whoever asked has hung up")),
        }
    }
}

/// The way out for the messages of a stream.
#[derive(Debug)]
pub(crate) struct Outlet<A>(mpsc::Sender<A>);

impl<A: Checked> Outlet<A> {
    /// Sends a message, when there is room for it.
    pub(crate) async fn send(&self, message: A) -> Result<(), Error> {
        message.check().map_err(|fault| fault.of_answer())?;
        self.0.send(message).await.map_err(|_| Error::timeout("whoever asked has hung up"))
    }
}

/// The messages of a stream, and how it ended.
#[derive(Debug)]
pub(crate) struct Messages<A> {
    receiver: mpsc::Receiver<A>,
    end: Option<oneshot::Receiver<Result<(), Status>>>,
    operation: Operation,
    id: String,
    _gone: DropGuard,
}

impl<A> Stream for Messages<A> {
    type Item = Result<A, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(message) = task::ready!(self.receiver.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(message)));
        }
        let Some(end) = &mut self.end else { return Poll::Ready(None) };
        let ended = task::ready!(Pin::new(end).poll(cx));
        self.end = None;
        Poll::Ready(match ended {
            Ok(outcome) => outcome.err().map(Err),
            Err(panic) => {
                let broken = Error::internal("the call broke off inside of kato").caused_by(panic).pending();
                Some(Err(error::to_wire(self.operation, &broken, &self.id)))
            }
        })
    }
}
