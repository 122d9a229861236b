//! What the backend in memory says of pending work: how many polls are left is what it gave to resume with.

use async_trait::async_trait;

use super::backend::{FakeBackend, Fault, Verb, again};
use crate::{
    error::Error,
    ports::backend::{Asking, Polling, Standing},
};

#[async_trait]
impl Polling for FakeBackend {
    async fn poll(&self, askings: Vec<Asking>) -> Result<Vec<Standing>, Error> {
        self.fuse.pass().await;
        let fault = self.world().hears(Verb::Poll);
        self.fuse.pass().await;
        match fault {
            Some(Fault::Refuse(error) | Fault::LoseAnswer(error)) => return Err(error),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Pending(_) | Fault::Late(_) | Fault::Until(_)) | None => {}
        }
        let standing = |asking: Asking| match asking.resume.first().copied() {
            Some(left) if left > 1 => Standing::Still(again(left - 1)),
            _ => Standing::Ready,
        };
        Ok(askings.into_iter().map(standing).collect())
    }
}
