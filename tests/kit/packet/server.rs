//! What stands between HTTP and the model: who may ask, how often, what goes wrong with it on command, and to which action
//! it goes. Every answer has the headers that the API's have: who counts requests, and where a proxy answered, is seen by
//! them.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use serde_json::{Value, json};

use super::{
    Shared,
    asked::Asked,
    error::Refusal,
    fault::Fault,
    route::{Action, Route},
    shown::{facility_json, plan_json},
    world::{FACILITIES, PLANS, World},
};
use crate::http::{Answering, Lost, Request};

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    body: String,
    /// What stands before the API answered, and knows nothing of its headers.
    foreign: bool,
    /// When there is room again, and whether that is told twice.
    room: Option<(Duration, bool)>,
}

impl Answer {
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self { status, body: body.to_string(), foreign: false, room: None }
    }

    pub(super) fn empty(status: u16) -> Self {
        Self { status, body: String::new(), foreign: false, room: None }
    }

    fn of_proxy(status: u16) -> Self {
        let body =
            format!("<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>\n");
        Self { status, body, foreign: true, room: None }
    }

    fn full(room: Duration, told: bool) -> Self {
        Self { room: Some((room, told)), ..Refusal::too_many().into_answer() }
    }

    fn into_response(self, shared: &Shared) -> Result<Response<Full<Bytes>>, Lost> {
        let mut response = Response::builder().status(self.status);
        if self.foreign {
            response = response.header("content-type", "text/html");
        } else {
            let (limit, left, reset) = shared.rate().told();
            let room = self.room.map(|(room, _)| room);
            let reset = room.map_or(reset, |room| UNIX_EPOCH.elapsed().unwrap_or_default() + room);
            let left = if self.status == 429 { 0 } else { left };
            response = response
                .header("content-type", "application/json; charset=utf-8")
                .header("x-request-id", shared.request_id())
                .header("x-ratelimit-limit", limit)
                .header("x-ratelimit-remaining", left)
                .header("x-ratelimit-reset", reset.as_secs_f64().ceil().to_string());
        }
        if let Some((room, true)) = self.room {
            response = response.header("retry-after", room.as_secs_f64().ceil().to_string());
        }
        response.body(Full::new(self.body.into())).map_err(|_| Lost)
    }
}

/// How many requests are taken in a while.
#[derive(Debug)]
pub(super) struct Rate {
    limit: u64,
    window: Duration,
    /// Since when, in time since 1970, and how many came.
    current: (Duration, u64),
}

impl Rate {
    pub(super) fn new((limit, window): (u64, Duration)) -> Self {
        Self { limit, window, current: (UNIX_EPOCH.elapsed().unwrap_or_default(), 0) }
    }

    /// Counts one more: nothing if there was room for it, and otherwise how long there is none.
    fn count(&mut self) -> Option<Duration> {
        let now = UNIX_EPOCH.elapsed().unwrap_or_default();
        if now >= self.current.0 + self.window {
            self.current = (now, 0);
        }
        self.current.1 += 1;
        (self.current.1 > self.limit).then(|| (self.current.0 + self.window).saturating_sub(now))
    }

    /// The limit, how many are left, and when all are there again.
    fn told(&self) -> (u64, u64, Duration) {
        (self.limit, self.limit.saturating_sub(self.current.1), self.current.0 + self.window)
    }
}

/// The API, as whoever comes finds it.
#[derive(Clone, Debug)]
pub(super) struct Api(pub(super) Arc<Shared>);

impl Answering for Api {
    async fn answer(&self, request: Request) -> Result<Response<Full<Bytes>>, Lost> {
        let Self(shared) = self;
        let believed = shared.believes(request.header("x-auth-token"));
        let Some(route) = Route::of(&request.method, &request.path) else {
            let refusal = if believed { Refusal::not_found() } else { Refusal::not_believed() };
            return refusal.into_answer().into_response(shared);
        };
        shared.count(route.action);
        if !believed {
            return Refusal::not_believed().into_answer().into_response(shared);
        }
        let full = shared.rate().count();
        if let Some(room) = full {
            return Answer::full(room, false).into_response(shared);
        }
        let action = route.action;
        befall(shared, action, |world, fault| {
            let asked = Asked::of(&request)?;
            act(world, &route, &asked, fault)
        })
        .await
    }
}

/// The metadata service, as one device finds it. It asks nobody who he is.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub(super) shared: Arc<Shared>,
    pub(super) device: String,
}

impl Answering for Metadata {
    async fn answer(&self, request: Request) -> Result<Response<Full<Bytes>>, Lost> {
        let Self { shared, device } = self;
        let path = request.path.trim_matches('/');
        if request.method != "GET" || path != "metadata" {
            return Answer::json(404, &json!({ "error": "not found" })).into_response(shared);
        }
        shared.count(Action::Metadata);
        befall(shared, Action::Metadata, |world, _| Ok(Answer::json(200, &world.metadata(device)?))).await
    }
}

/// Does what is asked, as the fault that is due lets it be done.
async fn befall(
    shared: &Shared,
    action: Action,
    act: impl FnOnce(&mut World, Option<&Fault>) -> Result<Answer, Refusal>,
) -> Result<Response<Full<Bytes>>, Lost> {
    let fault = shared.fault_of(action);
    let refused = match &fault {
        Some(Fault::Throttled(room)) => Some(Answer::full(*room, false)),
        Some(Fault::ThrottledTold(room)) => Some(Answer::full(*room, true)),
        Some(Fault::ServerError) => Some(Refusal::internal().into_answer()),
        Some(Fault::Proxy(status)) => Some(Answer::of_proxy(*status)),
        Some(Fault::Refused(status, text)) => Some(Refusal::new(*status, *text).into_answer()),
        Some(Fault::Silence) => match std::future::pending::<Infallible>().await {},
        _ => None,
    };
    if let Some(refused) = refused {
        return refused.into_response(shared);
    }
    let answer = {
        let mut world = shared.world();
        world.settle();
        act(&mut world, fault.as_ref()).unwrap_or_else(Refusal::into_answer)
    };
    match fault {
        Some(Fault::LostAnswer) => Err(Lost),
        Some(Fault::DoneButProxy) => Answer::of_proxy(502).into_response(shared),
        Some(Fault::DoneButServerError) => Refusal::internal().into_answer().into_response(shared),
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            answer.into_response(shared)
        }
        _ => answer.into_response(shared),
    }
}

/// What the API can do.
fn act(
    world: &mut World,
    route: &Route<'_>,
    asked: &Asked,
    fault: Option<&Fault>,
) -> Result<Answer, Refusal> {
    let id = route.ids.first().copied().unwrap_or_default();
    let second = route.ids.get(1).copied().unwrap_or_default();
    match route.action {
        Action::ListVolumes => world.list_volumes(id, asked),
        Action::CreateVolume => world.create_volume(id, asked, fault),
        Action::GetVolume => world.get_volume(id, asked),
        Action::UpdateVolume => world.update_volume(id, asked),
        Action::DeleteVolume => world.delete_volume(id),
        Action::GetCustomdata => world.get_customdata(id),
        Action::ListEvents => world.list_events(id, asked),
        Action::ListAttachments => world.list_attachments(id, asked),
        Action::Attach => world.attach(id, asked, fault),
        Action::GetAttachment => world.get_attachment(id, asked),
        Action::Detach => world.detach(id),
        Action::ListSnapshots => world.list_snapshots(id),
        Action::Cut => world.cut(id, fault),
        Action::DeleteSnapshot => world.delete_snapshot(id, second),
        Action::CreatePolicy => world.create_policy(id, asked),
        Action::UpdatePolicy => world.update_policy(id, asked),
        Action::DeletePolicy => world.delete_policy(id),
        Action::Restore => world.restore(id, asked),
        Action::Clone => world.clone_volume(id, asked, fault),
        Action::ListPlans => {
            in_project(world, id)?;
            let plans: Vec<_> = PLANS.iter().map(|(_, slug, ..)| plan_json(slug)).collect();
            Ok(Answer::json(200, &json!({ "plans": plans })))
        }
        Action::ListFacilities => {
            in_project(world, id)?;
            let facilities: Vec<_> = FACILITIES.iter().map(|(_, code, ..)| facility_json(code)).collect();
            Ok(Answer::json(200, &json!({ "facilities": facilities })))
        }
        Action::ListDevices => world.list_devices(id, asked),
        Action::GetDevice => world.get_device(id),
        Action::DeleteDevice => world.delete_device(id, asked),
        // Devices have an address of their own for it.
        Action::Metadata => Err(Refusal::not_found()),
    }
}

fn in_project(world: &World, id: &str) -> Result<(), Refusal> {
    if id.is_empty() { Ok(()) } else { world.project(id) }
}
