//! Asks a backend about much pending work in one call. A thousand volumes that are being made are a thousand
//! drivers that each wake when their backend said "ask again"; a cloud that allows twenty calls a second would
//! be asked a thousand times by that, and answers one `describe` of a hundred things as fast as of one.
//!
//! ```text
//!   driver ── due ──► the backend's line ──► after WINDOW, or when it is full: one poll ──► each its answer
//!   driver ── due ──►     (one a backend)                                                    │
//!        ▲                                                                                   │
//!        └─ still: resume recorded, next try later ◄──────────────────┬──────────────────────┘
//!                                   ready: the step is taken as ever ◄┘
//! ```
//!
//! A driver comes here as part of its step, with the claim of what it drives, so nobody else asks about the
//! same work. It comes when its record says that it is time and not before, so the backend's "not before then"
//! holds for every one of them; the window makes the first wait a moment for the others. What was asked about
//! together is told the same pause, as a rule, and is due together again: lines draw together by themselves.
//!
//! A poll decides nothing. It changes nothing at the backend, and its `ready` only lets the step go on that
//! without it would have been taken at once. So whatever happens to it is harmless: it fails (the work is
//! postponed, with what it stands at kept), it lies (the effect is asked, and answers `pending` again), the
//! process dies with a line full of askings (each driver finds its record as it was, and asks again). After
//! [`ENOUGH`] failures in a row the effect is asked itself: polls that are broken must not hold up work that is
//! not.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    error::Error,
    house::House,
    model::{BackendName, Intent},
    ports::backend::{Asking, Standing, Verb, Which},
};

/// How long the first that is due waits for others.
const WINDOW: Duration = Duration::from_millis(200);
/// About how much is asked in one call, as the contract says.
const MOST: usize = 100;
/// Failures in a row after which the effect is asked itself.
const ENOUGH: u32 = 3;

/// What waits to be asked, by backend.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    lines: Mutex<HashMap<BackendName, Vec<Waiting>>>,
}

#[derive(Debug)]
struct Waiting {
    asking: Asking,
    answer: oneshot::Sender<Result<Standing, Error>>,
}

impl Polls {
    /// Puts one into a backend's line. Answers a full line, which is to be asked now, and whether this one opened
    /// the line, which is to be asked after the window.
    fn enter(&self, backend: &BackendName, waiting: Waiting) -> (Option<Vec<Waiting>>, bool) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.entry(backend.clone()).or_default();
        let opened = line.is_empty();
        line.push(waiting);
        let full = (line.len() >= MOST).then(|| std::mem::take(line));
        (full, opened)
    }

    fn take(&self, backend: &BackendName) -> Vec<Waiting> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).remove(backend).unwrap_or_default()
    }
}

impl House {
    /// How work stands that a backend answered `pending` to. `Ready`, at once, where it cannot be polled: then
    /// the effect itself is asked, as it is the first time.
    pub(crate) async fn standing(
        self: &Arc<Self>,
        backend: &BackendName,
        intent: Option<&Intent>,
        verb: Verb,
        which: Which,
        node: Option<String>,
    ) -> Result<Standing, Error> {
        // A copy that nobody saw the end of is thrown away, not asked about.
        let asked = intent.filter(|intent| intent.attempts < ENOUGH && !intent.copying);
        let Some(resume) = asked.and_then(|intent| intent.resume.clone()) else { return Ok(Standing::Ready) };
        if self.catalog().backend(backend).map_err(Error::pending)?.polling().is_none() {
            return Ok(Standing::Ready);
        }
        let (answer, heard) = oneshot::channel();
        let waiting = Waiting { asking: Asking { verb, which, node, resume }, answer };
        let (full, opened) = self.polls.enter(backend, waiting);
        let (house, name) = (Arc::clone(self), backend.clone());
        if let Some(line) = full {
            self.spawn(async move { house.ask(&name, line).await });
        } else if opened {
            self.spawn(async move {
                house.ports.clock.sleep_until(house.now().plus(WINDOW)).await;
                let line = house.polls.take(&name);
                house.ask(&name, line).await;
            });
        }
        // A failed poll ends nothing, whatever it says.
        heard.await.map_err(|_ended| Error::unavailable("the daemon is stopping"))?.map_err(Error::pending)
    }

    /// One call about a line.
    async fn ask(&self, backend: &BackendName, line: Vec<Waiting>) {
        if line.is_empty() {
            return;
        }
        let (askings, ears): (Vec<_>, Vec<_>) =
            line.into_iter().map(|waiting| (waiting.asking, waiting.answer)).unzip();
        let answers = match self.poll(backend, askings).await {
            Ok(standings) if standings.len() == ears.len() => standings.into_iter().map(Ok).collect(),
            Ok(_) => vec![
                Err(Error::internal("the backend answered another number than it was asked"));
                ears.len()
            ],
            Err(error) => vec![Err(error); ears.len()],
        };
        for (ear, answer) in ears.into_iter().zip(answers) {
            // A driver that is gone has left its record as it was.
            let _gone = ear.send(answer);
        }
    }

    async fn poll(&self, backend: &BackendName, askings: Vec<Asking>) -> Result<Vec<Standing>, Error> {
        let backend = self.backend(backend).await?;
        match backend.polling() {
            Some(polling) => polling.poll(askings).await,
            // It was replaced meanwhile by one that cannot.
            None => Ok(vec![Standing::Ready; askings.len()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Token;

    fn waiting() -> Waiting {
        let which = Which { token: Token::parse("t").unwrap(), handle: None };
        let asking = Asking { verb: Verb::Create, which, node: None, resume: vec![1] };
        Waiting { asking, answer: oneshot::channel().0 }
    }

    #[test]
    fn the_first_opens_a_line_and_the_hundredth_fills_it() {
        let polls = Polls::default();
        let (one, other) = (BackendName::parse("one").unwrap(), BackendName::parse("other").unwrap());
        assert!(matches!(polls.enter(&one, waiting()), (None, true)));
        for _ in 1..MOST - 1 {
            assert!(matches!(polls.enter(&one, waiting()), (None, false)));
        }
        assert!(matches!(polls.enter(&other, waiting()), (None, true)));
        let (full, _) = polls.enter(&one, waiting());
        assert_eq!(full.map(|line| line.len()), Some(MOST));
        assert!(matches!(polls.enter(&one, waiting()), (None, true)), "the next one opens another");
        assert_eq!((polls.take(&one).len(), polls.take(&one).len(), polls.take(&other).len()), (1, 0, 1));
    }
}
