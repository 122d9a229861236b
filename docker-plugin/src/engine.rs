//! The other direction, and the only question that we ever ask dockerd: which volumes it has under other drivers.
//! Docker's names are unique across drivers, so one of ours that another driver has too is refused to every
//! container. Nothing here is needed to serve; a dockerd that is not there is an answer like any other.

use std::{path::Path, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use kato_orchestrator::{Error, model::VolumeName, ops::Neighbour};
use tokio::{net::UnixStream, time::timeout};

use crate::protocol::{self, EngineVolumes};

/// dockerd asks all of its drivers, us among them, before it answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest list that is read.
const LIMIT: usize = 256 << 20;

/// The volumes that the dockerd behind this socket has under other drivers than ours.
pub async fn neighbours(socket: &Path, driver: &str) -> Result<Vec<Neighbour>, Error> {
    let about = |error: Error| error.about(format!("dockerd at {}", socket.display()));
    let body = timeout(PATIENCE, ask(socket)).await;
    let body = body.unwrap_or_else(|_| {
        Err(Error::timeout(format!("it did not answer within {} seconds", PATIENCE.as_secs())))
    });
    let answer: EngineVolumes = protocol::answer_from_wire(&body.map_err(about)?).map_err(about)?;
    Ok(answer
        .volumes
        .unwrap_or_default()
        .into_iter()
        .filter(|volume| !is_ours(&volume.driver, driver))
        // What we could not have under that name is no neighbour of ours.
        .filter_map(|volume| {
            Some(Neighbour { name: VolumeName::parse(&volume.name).ok()?, driver: volume.driver })
        })
        .collect())
}

/// A managed plugin is called by its name and its tag.
fn is_ours(named: &str, driver: &str) -> bool {
    named == driver || named.strip_prefix(driver).is_some_and(|rest| rest.starts_with(':'))
}

async fn ask(socket: &Path) -> Result<Bytes, Error> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| Error::unavailable(format!("it cannot be reached ({error})")).caused_by(error))?;
    let cut = |error: hyper::Error| Error::unavailable("it did not answer").caused_by(error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(cut)?;
    let request = Request::get("/volumes")
        .header(header::HOST, "docker")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Error::internal("the question could not be written").caused_by(error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(cut)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LIMIT).collect().await;
        let body = body.map_err(|error| Error::unavailable(format!("its answer was cut short ({error})")))?;
        if status != StatusCode::OK {
            return Err(Error::unavailable(format!("it answered {status}")));
        }
        Ok(body.to_bytes())
    };
    let mut answer = pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // It only moves bytes. When it ends first, the answer is here already, or knows that none comes.
        _ = connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
    };

    use super::*;

    /// What is made of this answer.
    async fn told(answer: &'static str) -> Result<Vec<Neighbour>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 512];
            assert!(stream.read(&mut asked).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(neighbours(&socket, "kato"), serve).0
    }

    #[tokio::test]
    async fn only_volumes_of_others_are_neighbours() {
        let found = told(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"Volumes\":[{\"Name\":\"db\",\"Driver\":\"local\",\"Scope\":\
             \"local\"},{\"Name\":\"ours\",\"Driver\":\"kato\"},{\"Name\":\"managed\",\"Driver\":\"kato:1\"},{\"Name\":\
             \"near\",\"Driver\":\"katonic\"}],\"Warnings\":null}\n",
        );
        let found: Vec<(String, String)> =
            found.await.unwrap().into_iter().map(|one| (one.name.as_str().to_owned(), one.driver)).collect();
        assert_eq!(found, [("db".into(), "local".into()), ("near".into(), "katonic".into())]);
        let none = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"Volumes\":null}";
        assert_eq!(told(none).await.unwrap(), Vec::new());
    }

    #[tokio::test]
    async fn a_dockerd_that_is_away_or_talks_nonsense_is_said_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let error = neighbours(&folder.path().join("none.sock"), "kato").await.unwrap_err();
        assert!(error.to_string().contains("cannot be reached"), "{error}");
        for (answer, word) in [
            ("", "answer"),
            ("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", "500"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", "not what Docker answers"),
        ] {
            let error = told(answer).await.unwrap_err();
            assert!(error.to_string().contains(word), "{answer:?}: {error}");
        }
    }
}
