//! The members of a cluster, and how one of them is asked.
//!
//! One member is asked at a time, and the next one when it does not answer. A call has no short deadline of its own:
//! a member on a slow disk takes seconds and is right to, and giving up on it would only write everything twice. So a
//! call waits for as long as its member answers a small question of this host's ([`Client::deaf`]): a stopped or
//! cut-off member is left within three seconds, a slow one is not. A member that has no leader says so itself, because
//! each request carries the wish for one.
//!
//! Reads are linearizable: what one host was told, the next host finds. Only that small question is answered by a
//! member alone, for it is about the member. Whether an answer comes from the cluster that we know is looked at in
//! each of them (`known.rs`).

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::stream;
use http::uri::PathAndQuery;
use kato_orchestrator::Error;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

use super::{
    EtcdConfig, User,
    error::{Cause, from_wire, told},
    known::Known,
    wire::{
        AuthenticateRequest, Call, LeaseKeepAliveRequest, LeaseKeepAliveResponse, RangeRequest, WATCH,
        WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion,
    },
};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a member may be silent before it is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(1);
/// How long it then may take to say so: a busy host is not a dead one.
const ANSWER: Duration = Duration::from_secs(2);
/// The longest answer. A page has a thousand records of 32 KiB at most.
const LONGEST_ANSWER: usize = 64 << 20;

/// The cluster.
pub(crate) struct Client {
    members: Vec<Member>,
    current: watch::Sender<usize>,
    pass: Option<Pass>,
    /// Asked for to hear whether a member is there.
    question: RangeRequest,
    pub(crate) known: Known,
    patience: Duration,
    born: Instant,
}

struct Member {
    name: String,
    channel: Channel,
    /// When it was last heard, in milliseconds since the client was made.
    heard: AtomicU64,
}

/// Who we are to etcd.
struct Pass {
    user: User,
    token: Mutex<Option<String>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// What the member said, or what became of the connection to it.
    Said(Status),
    /// Who answered is not the cluster that we know.
    Stranger(Error),
}

impl Client {
    /// Of these members; connects to none yet.
    pub(crate) fn new(config: &EtcdConfig, known: Known, question: Vec<u8>) -> Result<Self, Error> {
        let members =
            config.endpoints.iter().map(|name| Member::new(name, config)).collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() {
            return Err(Error::invalid("etcd has no endpoints: write store.etcd.endpoints"));
        }
        let question =
            RangeRequest { key: question, serializable: true, count_only: true, ..RangeRequest::default() };
        let pass = config.user.clone().map(|user| Pass { user, token: Mutex::default() });
        Ok(Self {
            members,
            current: watch::Sender::new(0),
            pass,
            question,
            known,
            patience: config.patience,
            born: Instant::now(),
        })
    }

    /// Until when somebody who asks now is willing to wait.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Which member is asked now.
    pub(crate) fn current(&self) -> usize {
        *self.current.borrow()
    }

    /// Tells when another member is asked.
    pub(crate) fn turns(&self) -> watch::Receiver<usize> {
        self.current.subscribe()
    }

    /// Leaves a member for the next one, unless somebody did so before.
    pub(crate) fn turn(&self, from: usize) {
        let next = (from + 1) % self.members.len().max(1);
        let turned = self.current.send_if_modified(|current| {
            let here = *current == from && next != from;
            if here {
                *current = next;
            }
            here
        });
        if turned {
            tracing::debug!(from = self.name(from), to = self.name(next), "another member of etcd is asked");
        }
    }

    /// What a member is called.
    pub(crate) fn name(&self, member: usize) -> &str {
        self.members.get(member).map_or("", |member| &member.name)
    }

    /// Asks until somebody answers or the patience is at its end. For what may be asked twice.
    pub(crate) async fn ask<C: Call>(&self, message: &C) -> Result<C::Answer, Error> {
        self.ask_until(message, self.deadline()).await
    }

    /// The same, with this deadline.
    pub(crate) async fn ask_until<C: Call>(
        &self,
        message: &C,
        deadline: Instant,
    ) -> Result<C::Answer, Error> {
        let mut pace = Pace::new(deadline);
        loop {
            let member = self.current();
            match timeout_at(deadline, self.attempt(member, message)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Failed::Stranger(error))) => return Err(error),
                Ok(Err(Failed::Said(status))) => {
                    if !Cause::of(&status).mends_itself() {
                        return Err(from_wire(&status));
                    }
                    self.turn(member);
                    pace.wait(status).await?;
                }
                Err(_) => return Err(pace.over()),
            }
        }
    }

    /// Asks one member once.
    pub(crate) async fn attempt<C: Call>(&self, member: usize, message: &C) -> Result<C::Answer, Failed> {
        self.with_pass(member, |token| async move {
            let floor = self.known.seen();
            let answer: C::Answer =
                self.bound(member, self.send(member, C::PATH, message.clone(), token)).await?;
            self.known
                .admit(C::header(&answer), C::OF_THE_CLUSTER.then_some(floor))
                .map_err(Failed::Stranger)?;
            Ok(answer)
        })
        .await
    }

    /// Keeps a lease up, by one member.
    pub(crate) async fn keep_alive(&self, member: usize, id: i64) -> Result<LeaseKeepAliveResponse, Failed> {
        self.with_pass(member, |token| async move {
            let asked = async {
                let (mut grpc, path) = self.line(member, LeaseKeepAliveRequest::PATH).await?;
                let once = stream::iter([LeaseKeepAliveRequest { id }]);
                let request = request(once, token)?;
                let codec = ProstCodec::<LeaseKeepAliveRequest, LeaseKeepAliveResponse>::default();
                let mut answers = grpc.streaming(request, path, codec).await?.into_inner();
                let answer = answers.message().await?;
                answer.ok_or_else(|| Status::unavailable("the member ended the stream without an answer"))
            };
            let answer = self.bound(member, asked).await?;
            self.known.admit(answer.header.as_ref(), None).map_err(Failed::Stranger)?;
            Ok(answer)
        })
        .await
    }

    /// Opens a stream of changes at one member. It ends when what is returned beside it is dropped.
    pub(crate) async fn watch(
        &self,
        member: usize,
        wish: WatchCreateRequest,
    ) -> Result<(Streaming<WatchResponse>, Stay), Failed> {
        let wish = &wish;
        self.with_pass(member, |token| async move {
            let asked = async {
                let (mut grpc, path) = self.line(member, WATCH).await?;
                let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(wish.clone())) };
                let (stay, gone) = tokio::sync::oneshot::channel::<()>();
                // etcd takes the end of our side for the end of the watch.
                let once = stream::unfold((Some(create), Some(gone)), |(create, gone)| async move {
                    match (create, gone) {
                        (Some(create), gone) => Some((create, (None, gone))),
                        (None, Some(gone)) => {
                            drop(gone.await);
                            None
                        }
                        (None, None) => None,
                    }
                });
                let request = request(Box::pin(once), token)?;
                let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
                Ok((grpc.streaming(request, path, codec).await?.into_inner(), Stay(stay)))
            };
            self.bound(member, asked).await
        })
        .await
    }

    /// Returns when a member is deaf: it was silent for a while, and then did not answer a small question.
    pub(crate) async fn deaf(&self, member: usize) {
        loop {
            sleep(SILENCE).await;
            if self.silence(member) < SILENCE {
                continue;
            }
            let question = self.question.clone();
            let asked = self.send::<RangeRequest, <RangeRequest as Call>::Answer>(
                member,
                RangeRequest::PATH,
                question,
                None,
            );
            match timeout(ANSWER, asked).await {
                Ok(Ok(_)) => {}
                // It may refuse, for all that it is there.
                Ok(Err(status)) if Cause::of(&status) != Cause::Lost => self.heard(member),
                // Another question may have been answered meanwhile.
                Ok(Err(_)) | Err(_) if self.silence(member) < SILENCE => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// Notes that a member was heard.
    pub(crate) fn heard(&self, member: usize) {
        if let Some(member) = self.members.get(member) {
            member.heard.store(self.age(), Ordering::Relaxed);
        }
    }

    fn silence(&self, member: usize) -> Duration {
        let heard = self.members.get(member).map_or(0, |member| member.heard.load(Ordering::Relaxed));
        Duration::from_millis(self.age().saturating_sub(heard))
    }

    fn age(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits for an answer as long as its member is there.
    async fn bound<T>(
        &self,
        member: usize,
        asked: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Failed> {
        let answer = tokio::select! {
            biased;
            answer = asked => answer,
            () = self.deaf(member) => {
                Err(Status::unavailable(format!("{} does not answer", self.name(member))))
            }
        };
        self.note(member, answer).map_err(Failed::Said)
    }

    fn note<T>(&self, member: usize, answer: Result<T, Status>) -> Result<T, Status> {
        match &answer {
            Err(status) if Cause::of(status) == Cause::Lost => {}
            Ok(_) | Err(_) => self.heard(member),
        }
        answer
    }

    /// Asks with the pass that we have, and again with a new one if that one is not good any more.
    async fn with_pass<T, F>(&self, member: usize, ask: impl Fn(Option<String>) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let Some(pass) = &self.pass else { return ask(None).await };
        let token = self.token(pass, member, None).await?;
        match ask(Some(token.clone())).await {
            Err(Failed::Said(status)) if Cause::of(&status) == Cause::NoPass => {
                ask(Some(self.token(pass, member, Some(&token)).await?)).await
            }
            answer => answer,
        }
    }

    /// The pass, or a new one in the place of this one.
    async fn token(&self, pass: &Pass, member: usize, stale: Option<&str>) -> Result<String, Failed> {
        let mut token = pass.token.lock().await;
        if let Some(token) = token.as_ref().filter(|token| stale != Some(token.as_str())) {
            return Ok(token.clone());
        }
        let wish =
            AuthenticateRequest { name: pass.user.name.clone(), password: pass.user.password.0.clone() };
        let asked = self.send::<_, <AuthenticateRequest as Call>::Answer>(
            member,
            AuthenticateRequest::PATH,
            wish,
            None,
        );
        let answer = self.bound(member, asked).await?;
        *token = Some(answer.token.clone());
        Ok(answer.token)
    }

    /// Asks one member, with nothing around it.
    pub(crate) async fn send<Q, A>(
        &self,
        member: usize,
        path: &'static str,
        message: Q,
        token: Option<String>,
    ) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let (mut grpc, path) = self.line(member, path).await?;
        let answer = grpc.unary(request(message, token)?, path, ProstCodec::<Q, A>::default()).await;
        self.note(member, answer.map(tonic::Response::into_inner))
    }

    async fn line(&self, member: usize, path: &'static str) -> Result<(Grpc<Channel>, PathAndQuery), Status> {
        let channel = self.members.get(member).map(|member| member.channel.clone());
        let channel = channel.ok_or_else(|| Status::internal("there is no such member"))?;
        let mut grpc = Grpc::new(channel).max_decoding_message_size(LONGEST_ANSWER);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok((grpc, PathAndQuery::from_static(path)))
    }
}

/// A request with the pass, and with the wish that its member has a leader.
fn request<T>(message: T, token: Option<String>) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    if let Some(token) = token {
        let token = token.parse().map_err(|_| Status::internal("etcd gave a pass that is no text"))?;
        request.metadata_mut().insert("token", token);
    }
    Ok(request)
}

impl Member {
    fn new(name: &str, config: &EtcdConfig) -> Result<Self, Error> {
        let about = |error: tonic::transport::Error| {
            Error::invalid(format!("store.etcd.endpoints: {name} cannot be used: {}", told(&error)))
                .caused_by(error)
        };
        let mut endpoint = Endpoint::from_shared(name.to_owned())
            .map_err(about)?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(10)));
        if let Some(tls) = &config.tls {
            let mut trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
            if let Some((cert, key)) = &tls.identity {
                trust = trust.identity(Identity::from_pem(cert, &key.0));
            }
            endpoint = endpoint.tls_config(trust).map_err(about)?;
        }
        Ok(Self { name: name.to_owned(), channel: endpoint.connect_lazy(), heard: AtomicU64::new(0) })
    }
}

/// Keeps a watch open.
#[derive(Debug)]
pub(crate) struct Stay(
    #[expect(dead_code, reason = "its end is all that is of interest")] tokio::sync::oneshot::Sender<()>,
);

/// How fast something is tried again.
pub(crate) struct Pace {
    deadline: Instant,
    pause: Duration,
    last: Option<Status>,
}

impl Pace {
    /// Until then.
    pub(crate) fn new(deadline: Instant) -> Self {
        Self { deadline, pause: Duration::from_millis(20), last: None }
    }

    /// For what is tried for ever.
    pub(crate) fn endless() -> Self {
        Self::new(Instant::now() + Duration::from_secs(365 * 86_400))
    }

    /// Waits before the next try, longer each time, and not all hosts at once.
    pub(crate) async fn wait(&mut self, last: Status) -> Result<(), Error> {
        self.last = Some(last);
        let pause = self.pause.mul_f64(0.5 + jitter());
        if Instant::now() + pause >= self.deadline {
            return Err(self.over());
        }
        sleep(pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(1));
        Ok(())
    }

    /// What is said at the end.
    pub(crate) fn over(&self) -> Error {
        match &self.last {
            Some(status) => from_wire(status),
            None => Error::unavailable("etcd did not answer in time"),
        }
    }
}

/// Something between nothing and one, another each time.
pub(crate) fn jitter() -> f64 {
    f64::from(u16::try_from(random() & 0xffff).unwrap_or(0)) / 65_536.0
}

/// Bits that nobody else has: the standard library seeds its maps from the system.
pub(crate) fn random() -> u64 {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_usize(COUNT.fetch_add(1, Ordering::Relaxed));
    hasher.finish()
}
