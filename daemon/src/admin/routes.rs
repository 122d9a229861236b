//! What the admin door can be asked: one line per request in the table, one short function beneath. Each reads
//! its words, calls the hall once, and writes the answer. `convert.rs` knows the words, `error.rs` the problems,
//! `server.rs` who may ask at all.

use std::{collections::BTreeSet, convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Extension, Path, Query, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use futures_util::stream;
use kato_orchestrator::{
    Error, Outcome,
    model::{BackendName, ClassName, GroupName, GroupRef, NodeId, SnapshotName, VolumeName},
    ops::{
        Context, DeleteGroup, DeleteSnapshot, DeleteVolume, ExamineHouse, ListPage, ReadSnapshot,
        RepairVolume,
    },
};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::{
    convert,
    error::Problem,
    server::Door,
    watch::{self, Noun},
};
use crate::plugins::{COMPONENT_LIMIT, with_uses};

/// Where components are sent.
pub(crate) const COMPONENTS: &str = "/v1/plugins";

/// The largest dump that is taken: well above what a hundred thousand volumes come to.
const DUMP_LIMIT: usize = 512 << 20;

/// The most items on a page.
pub(super) const PAGE_LIMIT: usize = 1000;

/// The request's number, for the log and for whoever asks about it.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

pub(super) type Answer = Result<Response, Problem>;

/// A recovery at work, and what it answers in the end.
type Work = Pin<Box<dyn Future<Output = Vec<Json>> + Send>>;

/// Everything that can be asked.
pub(crate) fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/v1/volumes", get(volumes).post(create))
        .route("/v1/volumes/{name}", get(volume).delete(remove))
        .route("/v1/volumes/{name}/grow", post(grow))
        .route("/v1/volumes/{name}/modify", post(modify))
        .route("/v1/volumes/{name}/repair", post(repair))
        .route("/v1/volumes/{name}/copy", post(copy))
        .route("/v1/volumes/{name}/why", get(why))
        .route("/v1/names", get(names))
        .route("/v1/groups", get(groups).post(cut_group))
        .route("/v1/groups/{name}", get(group).delete(remove_group))
        .route("/v1/snapshots", get(snapshots).post(cut))
        .route("/v1/snapshots/{name}", get(snapshot).delete(remove_snapshot))
        .route("/v1/snapshots/{name}/data", get(snapshot_data))
        .route("/v1/classes", get(classes))
        .route("/v1/classes/{name}", get(class))
        .route("/v1/backends", get(backends))
        .route("/v1/backends/{name}", get(backend))
        .route("/v1/backends/{name}/rebind", post(rebind))
        .route(COMPONENTS, get(plugins).post(install).layer(DefaultBodyLimit::max(COMPONENT_LIMIT)))
        .route("/v1/plugins/{name}", get(plugin))
        .route("/v1/plugins/{name}", delete(remove_plugin))
        .route("/v1/node", get(node))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{name}/drain", post(drain).delete(undrain))
        .route("/v1/nodes/{name}/confirm-down", post(confirm_down))
        .route("/v1/doctor", get(doctor).post(doctor_fix))
        .route("/v1/recover", post(recover).layer(DefaultBodyLimit::max(DUMP_LIMIT)))
        .route("/v1/store/dump", get(dump))
        .route("/v1/config/reload", post(reload))
        .fallback(nowhere)
        .method_not_allowed_fallback(no_such_method)
        .with_state(door)
}

/// How long the caller wants to wait, and what it must not do by mistake.
#[derive(Debug, Default, Deserialize)]
struct Wish {
    timeout_ms: Option<u64>,
    #[serde(default)]
    forget: bool,
    #[serde(default)]
    force: bool,
}

/// Which page, or all of them and then whatever changes.
#[derive(Debug, Default, Deserialize)]
struct Page {
    after: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    watch: bool,
}

/// From where on.
#[derive(Debug, Default, Deserialize)]
struct DataPage {
    from: Option<u64>,
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE_LIMIT).clamp(1, PAGE_LIMIT)
    }
}

fn context(door: &Door, id: RequestId, wish: &Wish) -> Context {
    let wait = wish.timeout_ms.map_or(door.wait, Duration::from_millis);
    Context::new(id.0, "admin", door.clock.now().plus(wait))
}

pub(crate) fn answer(status: StatusCode, body: &Json) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn ok(body: &Json) -> Answer {
    Ok(answer(StatusCode::OK, body))
}

fn made(outcome: Outcome<Json>) -> Answer {
    Ok(match outcome {
        Outcome::Changed(body) => answer(StatusCode::CREATED, &body),
        Outcome::Unchanged(body) => answer(StatusCode::OK, &body),
    })
}

fn page(items: Vec<Json>, next: Option<String>) -> Answer {
    let mut body = json!({ "items": items });
    if let (Some(body), Some(next)) = (body.as_object_mut(), next) {
        body.insert("next".to_owned(), next.into());
    }
    ok(&body)
}

async fn nowhere(uri: axum::http::Uri) -> Problem {
    Problem(Error::not_found(format!("there is no {}: the paths begin with /v1/", uri.path())))
}

async fn no_such_method() -> Problem {
    Problem(Error::unsupported("this cannot be asked with this method"))
}

async fn healthz(State(door): State<Arc<Door>>) -> Answer {
    door.hall.is_alive().await?;
    Ok((StatusCode::OK, "ok\n").into_response())
}

async fn metrics(State(door): State<Arc<Door>>) -> Answer {
    let text = door.metrics.page(&door.hall).await?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

async fn volumes(State(door): State<Arc<Door>>, Query(wish): Query<Page>) -> Answer {
    if wish.watch {
        return watch::watch(door, Noun::Volume).await;
    }
    let ListPage { items, next } = door.hall.list(wish.after.as_deref(), wish.limit()).await?;
    page(items.iter().map(|view| convert::volume_to_wire(view, door.hall.node())).collect(), next)
}

async fn names(State(door): State<Arc<Door>>, Query(wish): Query<Page>) -> Answer {
    let ListPage { items, next } = door.hall.names(wish.after.as_deref(), wish.limit()).await?;
    page(items.iter().map(|name| Json::from(name.as_str())).collect(), next)
}

async fn create(
    State(door): State<Arc<Door>>,
    Extension(id): Extension<RequestId>,
    Query(wish): Query<Wish>,
    body: Bytes,
) -> Answer {
    let command = convert::create_from_wire(&body)?;
    let made_volume = door.hall.create(&context(&door, id, &wish), command).await?;
    made(map(made_volume, |view| convert::volume_to_wire(&view, door.hall.node())))
}

fn map<T>(outcome: Outcome<T>, to: impl FnOnce(T) -> Json) -> Outcome<Json> {
    match outcome {
        Outcome::Changed(value) => Outcome::Changed(to(value)),
        Outcome::Unchanged(value) => Outcome::Unchanged(to(value)),
    }
}

fn gone(outcome: &Outcome<()>) -> Answer {
    ok(&json!({ "changed": matches!(outcome, Outcome::Changed(())) }))
}

async fn volume(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Answer {
    let view = door.hall.inspect(&VolumeName::parse(&name)?).await?;
    ok(&convert::volume_to_wire(&view, door.hall.node()))
}

async fn remove(
    State(door): State<Arc<Door>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    Query(wish): Query<Wish>,
) -> Answer {
    let command = DeleteVolume { volume: VolumeName::parse(&name)?.into(), forget: wish.forget };
    gone(&door.hall.delete(&context(&door, id, &wish), command).await?)
}

async fn grow(
    State(door): State<Arc<Door>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    Query(wish): Query<Wish>,
    body: Bytes,
) -> Answer {
    let command = convert::grow_from_wire(VolumeName::parse(&name)?, &body)?;
    let view = door.hall.grow(&context(&door, id, &wish), command).await?.into_inner();
    ok(&convert::volume_to_wire(&view, door.hall.node()))
}

async fn copy(
    State(door): State<Arc<Door>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    Query(wish): Query<Wish>,
    body: Bytes,
) -> Answer {
    let command = convert::copy_from_wire(VolumeName::parse(&name)?, &body)?;
    let copied = door.hall.copy(&context(&door, id, &wish), command).await?;
    made(map(copied, |view| convert::volume_to_wire(&view, door.hall.node())))
}

async fn modify(
    State(door): State<Arc<Door>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    Query(wish): Query<Wish>,
    body: Bytes,
) -> Answer {
    let command = convert::modify_from_wire(VolumeName::parse(&name)?, &body)?;
    let view = door.hall.modify(&context(&door, id, &wish), command).await?.into_inner();
    ok(&convert::volume_to_wire(&view, door.hall.node()))
}

async fn repair(
    State(door): State<Arc<Door>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    Query(wish): Query<Wish>,
) -> Answer {
    let command = RepairVolume { name: VolumeName::parse(&name)?, force: wish.force };
    let outcome = door.hall.repair(&context(&door, id, &wish), command).await?;
    let changed = matches!(outcome, Outcome::Changed(_));
    let volume = convert::volume_to_wire(&outcome.into_inner(), door.hall.node());
    ok(&json!({ "changed": changed, "volume": volume }))
}

async fn why(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Answer {
    let why = door.hall.why(&VolumeName::parse(&name)?).await?;
    ok(&convert::why_to_wire(&why, door.hall.node()))
}

async fn groups(State(door): State<Arc<Door>>, Query(wish): Query<Page>) -> Answer {
    let ListPage { items, next } = door.hall.list_groups(wish.after.as_deref(), wish.limit()).await?;
    page(items.iter().map(convert::group_to_wire).collect(), next)
}

async fn cut_group(
    State(door): State<Arc<Door>>,
    Extension(id): Extension<RequestId>,
    Query(wish): Query<Wish>,
    body: Bytes,
) -> Answer {
    let command = convert::group_from_wire(&body)?;
    let outcome = door.hall.create_group(&context(&door, id, &wish), command).await?;
    made(map(outcome, |group| convert::group_to_wire(&group)))
}

async fn group(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Answer {
    let which = GroupRef::Name(GroupName::parse(&name)?);
    ok(&convert::group_to_wire(&door.hall.find_group(&which).await?))
}

async fn remove_group(
    State(door): State<Arc<Door>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    Query(wish): Query<Wish>,
) -> Answer {
    let group = GroupRef::Name(GroupName::parse(&name)?);
    let command = DeleteGroup { group, members: BTreeSet::new() };
    gone(&door.hall.delete_group(&context(&door, id, &wish), command).await?)
}

async fn snapshots(State(door): State<Arc<Door>>, Query(wish): Query<Page>) -> Answer {
    if wish.watch {
        return watch::watch(door, Noun::Snapshot).await;
    }
    let ListPage { items, next } = door.hall.list_snapshots(wish.after.as_deref(), wish.limit()).await?;
    page(items.iter().map(convert::snapshot_to_wire).collect(), next)
}

async fn cut(
    State(door): State<Arc<Door>>,
    Extension(id): Extension<RequestId>,
    Query(wish): Query<Wish>,
    body: Bytes,
) -> Answer {
    let command = convert::cut_from_wire(&body)?;
    let outcome = door.hall.create_snapshot(&context(&door, id, &wish), command).await?;
    made(map(outcome, |snapshot| convert::snapshot_to_wire(&snapshot)))
}

async fn snapshot(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Answer {
    ok(&convert::snapshot_to_wire(&door.hall.inspect_snapshot(&SnapshotName::parse(&name)?).await?))
}

async fn remove_snapshot(
    State(door): State<Arc<Door>>,
    Extension(id): Extension<RequestId>,
    Path(name): Path<String>,
    Query(wish): Query<Wish>,
) -> Answer {
    let command = DeleteSnapshot { snapshot: SnapshotName::parse(&name)?.into() };
    gone(&door.hall.delete_snapshot(&context(&door, id, &wish), command).await?)
}

/// A page of what a snapshot holds: a line of JSON that tells what follows, and that.
async fn snapshot_data(
    State(door): State<Arc<Door>>,
    Path(name): Path<String>,
    Query(wish): Query<DataPage>,
) -> Answer {
    let wish = ReadSnapshot {
        snapshot: SnapshotName::parse(&name)?.into(),
        from: kato_orchestrator::model::Bytes(wish.from.unwrap_or(0)),
    };
    let piece = door.hall.read_snapshot(&wish).await?;
    let head = convert::piece_to_wire(&piece).to_string() + "\n";
    let parts = std::iter::once(Bytes::from(head)).chain(piece.blocks.into_iter().map(|(_, bytes)| bytes));
    let body = stream::iter(parts.map(Ok::<_, Infallible>).collect::<Vec<_>>());
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(body)).into_response())
}

async fn classes(State(door): State<Arc<Door>>) -> Answer {
    let catalog = door.hall.catalog();
    let wire = |class: &kato_orchestrator::model::Class| {
        convert::class_to_wire(class, catalog.default_class.as_ref() == Some(&class.name))
    };
    page(catalog.classes.values().map(|class| wire(class)).collect(), None)
}

async fn class(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Answer {
    let catalog = door.hall.catalog();
    let class = catalog.class(Some(&ClassName::parse(&name)?))?;
    ok(&convert::class_to_wire(&class, catalog.default_class.as_ref() == Some(&class.name)))
}

async fn backends(State(door): State<Arc<Door>>) -> Answer {
    let views = door.hall.backends().await?;
    page(views.iter().map(convert::backend_to_wire).collect(), None)
}

async fn backend(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Answer {
    let name = BackendName::parse(&name)?;
    let views = door.hall.backends().await?;
    let view = views.iter().find(|view| view.name == name).ok_or_else(|| {
        let known = views.iter().map(|view| view.name.as_str()).collect::<Vec<_>>().join(", ");
        Error::not_found(format!("it is not configured: the backends are {known}"))
            .about(format!("backend {name}"))
    })?;
    ok(&convert::backend_to_wire(view))
}

async fn rebind(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Answer {
    ok(&convert::backend_to_wire(&door.hall.rebind(&BackendName::parse(&name)?).await?))
}

async fn plugins(State(door): State<Arc<Door>>) -> Answer {
    let plugins = Arc::clone(&door.plugins);
    let (all, made) = (blocking(move || plugins.list()).await?, door.reloader.made());
    page(all.into_iter().map(|plugin| with_uses(plugin, &made)).collect(), None)
}

async fn plugin(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Answer {
    let plugins = Arc::clone(&door.plugins);
    let found = blocking(move || plugins.show(&name)).await?;
    ok(&with_uses(found, &door.reloader.made()))
}

async fn install(State(door): State<Arc<Door>>, body: Bytes) -> Answer {
    let plugins = Arc::clone(&door.plugins);
    let installed = blocking(move || plugins.install(&body)).await?;
    made(installed)
}

async fn remove_plugin(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Answer {
    let (plugins, made) = (Arc::clone(&door.plugins), door.reloader.made());
    let outcome = blocking(move || plugins.remove(&name, &made)).await?;
    gone(&outcome)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("the work was cut short").caused_by(error))?
}

async fn node(State(door): State<Arc<Door>>) -> Answer {
    let facts = door.hall.host().facts().await?;
    let gauges = door.hall.gauges().await?;
    ok(&convert::node_to_wire(door.hall.node(), &door.topology, &facts, &gauges))
}

async fn nodes(State(door): State<Arc<Door>>) -> Answer {
    let views = door.hall.node_views().await?;
    page(views.iter().map(convert::node_view_to_wire).collect(), None)
}

async fn drain(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Answer {
    made(map(door.hall.drain(&NodeId::parse(&name)?, true).await?, |view| convert::node_view_to_wire(&view)))
}

async fn undrain(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Answer {
    made(map(door.hall.drain(&NodeId::parse(&name)?, false).await?, |view| convert::node_view_to_wire(&view)))
}

async fn confirm_down(State(door): State<Arc<Door>>, Path(name): Path<String>) -> Answer {
    made(map(door.hall.confirm_down(&NodeId::parse(&name)?).await?, |view| convert::node_view_to_wire(&view)))
}

async fn doctor(State(door): State<Arc<Door>>) -> Answer {
    examine(&door, false).await
}

async fn doctor_fix(State(door): State<Arc<Door>>) -> Answer {
    examine(&door, true).await
}

/// Asks the neighbours first. One that cannot be asked is a note, for most hosts have none.
async fn examine(door: &Door, fix: bool) -> Answer {
    let mut notes = Vec::new();
    let neighbours = match kato_docker_plugin::neighbours(&door.engine, &door.driver).await {
        Ok(neighbours) => neighbours,
        Err(error) => {
            notes.push(format!(
                "{error}: volumes of the same name under another Docker driver were not looked for"
            ));
            Vec::new()
        }
    };
    let found = door.hall.doctor(&ExamineHouse { fix, neighbours }).await?;
    ok(&json!({ "items": found.iter().map(convert::finding_to_wire).collect::<Json>(), "notes": notes }))
}

/// What a recovery does, one JSON object a line, as it happens: `progress`, then each `finding`, then `end`.
async fn recover(State(door): State<Arc<Door>>, body: Bytes) -> Answer {
    let (mut wish, named) = convert::recover_from_wire(&body)?;
    drop(body);
    let (dumps, notes) = door.journal.dumps(named).await?;
    wish.dumps = dumps;
    let (tell, heard) = mpsc::unbounded_channel();
    let progress = move |text: String| {
        // Whoever does not listen any more needs no telling.
        drop(tell.send(json!({ "event": "progress", "text": text })));
    };
    notes.into_iter().for_each(&progress);
    let work: Work = Box::pin(async move {
        match door.hall.recover(&wish, &progress).await {
            Ok(found) => {
                let found = found
                    .iter()
                    .map(|one| json!({ "event": "finding", "finding": convert::finding_to_wire(one) }));
                found.chain([json!({ "event": "end" })]).collect()
            }
            Err(error) => vec![json!({ "event": "failed", "problem": super::error::to_wire(&error) })],
        }
    });
    let lines = stream::unfold((Some(work), heard), |(work, mut heard)| async move {
        let mut work = work?;
        let (events, left) = tokio::select! {
            biased;
            Some(event) = heard.recv() => (vec![event], Some(work)),
            events = &mut work => {
                let mut said: Vec<Json> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
                said.extend(events);
                (said, None)
            }
        };
        let text = events.iter().fold(String::new(), |text, event| text + &event.to_string() + "\n");
        Some((Ok::<_, Infallible>(Bytes::from(text)), (left, heard)))
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response())
}

async fn dump(State(door): State<Arc<Door>>) -> Answer {
    let text = door.journal.dump().await?;
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

async fn reload(State(door): State<Arc<Door>>) -> Answer {
    ok(&door.reloader.reload().await?)
}
