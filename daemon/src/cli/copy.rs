//! `kato volume copy`: the daemon copies, and goes on when nobody watches; here somebody watches. The same words again
//! watch the same copy.

use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCompleter;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::{
    Exit, Failure, Global,
    client::Client,
    complete, pairs,
    progress::Bar,
    volume::{done, place, tell_held},
};

/// How long the daemon is asked to wait before it is looked how far it came.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub(super) struct Copy {
    /// Which
    #[arg(add = ArgValueCompleter::new(complete::volumes))]
    source: String,
    /// What to call the copy
    name: String,
    /// By which recipe it is made, on whatever backend
    #[arg(long, short = 'c', value_name = "CLASS", visible_alias = "class", add = ArgValueCompleter::new(complete::classes))]
    to_class: String,
    /// How large, such as 10GiB: as large as the source, where nothing is said
    #[arg(long, short)]
    size: Option<String>,
    /// What the backend is told, on top of the class
    #[arg(long = "parameter", short, value_name = "KEY=VALUE")]
    parameters: Vec<String>,
    /// What to write on it
    #[arg(long = "label", short, value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Keep a snapshot of this moment on both sides: the next copy moves only what has changed since
    #[arg(long)]
    keep: bool,
    /// Come back as soon as it is begun
    #[arg(long)]
    no_wait: bool,
}

impl Copy {
    pub(super) fn run(self, global: &Global, client: &Client) -> Result<Exit, Failure> {
        let path = format!("{}/copy", place(&self.source));
        let mut body = json!({
            "name": self.name,
            "class": self.to_class,
            "parameters": pairs(&self.parameters)?,
            "labels": pairs(&self.labels)?,
            "keep": self.keep,
        });
        if let (Some(body), Some(size)) = (body.as_object_mut(), self.size) {
            body.insert("size".to_owned(), size.into());
        }
        let began = Instant::now();
        let mut bar = Bar::new(global, &self.name);
        loop {
            match client.post_within(&path, &body, LOOK_EVERY) {
                Ok(made) => {
                    bar.end();
                    tell_held(&made)?;
                    return done(global, made);
                }
                Err(failure) if failure.exit != Exit::Timeout => {
                    bar.end();
                    return Err(failure);
                }
                Err(failure) => {
                    let over = client.timeout().is_some_and(|timeout| began.elapsed() >= timeout);
                    let copy = client.get(&place(&self.name)).ok();
                    if let Some(copying) = copy.as_ref().and_then(|copy| copy.get("copying")) {
                        let number =
                            |word: &str| copying.get(word).and_then(Json::as_u64).unwrap_or_default();
                        bar.show(number("at_bytes"), number("of_bytes"), number("moved_bytes"));
                    }
                    match copy {
                        Some(copy) if self.no_wait => {
                            bar.end();
                            return done(global, copy);
                        }
                        _ if over => {
                            bar.end();
                            return Err(failure.next("the same words again watch it further"));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}
