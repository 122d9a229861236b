//! What is said while nobody knows what became of a wish: nothing that a caller would take for the end of it. A backend
//! loses its answers, or is at work for longer than anybody waits; every call is only ever told to be made again, and
//! the one that is answered finds one thing.

use std::{sync::Arc, time::Duration};

use kato_csi::protocol::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerGetVolumeRequest, ControllerModifyVolumeRequest,
    ListSnapshotsRequest, Volume,
};
use kato_orchestrator::{
    Error,
    testing::{FakeBackend, Fault, Verb},
};
use tokio::{sync::Notify, task::JoinSet, time::timeout};
use tonic::{Code, Status};

use super::{
    fakes::{Scene, attachment, behind, code, is_open, until},
    ground::{House, MIB, usual, wish},
};

/// What is wished of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Create,
    Delete,
    Expand,
    Modify,
    Publish,
    Unpublish,
    Cut,
    DeleteSnapshot,
}

/// Each call, what it is to the backend, and how many volumes, snapshots and attached volumes there are when it is done.
const CALLS: [(Call, Verb, [usize; 3]); 8] = [
    (Call::Create, Verb::Create, [1, 0, 0]),
    (Call::Delete, Verb::Delete, [0, 0, 0]),
    (Call::Expand, Verb::Grow, [1, 0, 0]),
    (Call::Modify, Verb::Modify, [1, 0, 0]),
    (Call::Publish, Verb::Attach, [1, 0, 1]),
    (Call::Unpublish, Verb::Detach, [1, 0, 0]),
    (Call::Cut, Verb::Cut, [1, 1, 0]),
    (Call::DeleteSnapshot, Verb::DeleteSnapshot, [1, 0, 0]),
];

/// A house in which a call is about to be made.
struct Eve {
    scene: Scene,
    house: House,
    volume: Volume,
    snapshot: String,
}

impl Eve {
    /// Everything is as a call needs it.
    async fn of(call: Call) -> Self {
        let scene = Scene::default();
        let house = scene.open(|backend| backend).await;
        let (mut volume, mut snapshot) = (Volume::default(), String::new());
        if !matches!(call, Call::Create) {
            volume = house.create(wish("db", 64)).await.unwrap();
        }
        match call {
            Call::Create | Call::Delete | Call::Expand | Call::Modify | Call::Publish => {}
            Call::Unpublish => drop(house.attach(attachment(&volume, "here", usual())).await.unwrap()),
            Call::Cut => house.use_once(&volume).await,
            Call::DeleteSnapshot => {
                house.use_once(&volume).await;
                snapshot = house.cut("monday", &volume.volume_id).await.unwrap().snapshot_id;
            }
        }
        Self { scene, house, volume, snapshot }
    }

    /// The same behind a door that waits for hardly a moment.
    async fn hurried(self) -> Self {
        let house = behind(self.house, |config| config.wait = Duration::from_millis(100)).await;
        Self { house, ..self }
    }

    async fn ask(&self, call: Call) -> Result<(), Status> {
        let (house, id) = (&self.house, &self.volume.volume_id);
        match call {
            Call::Create => house.create(wish("db", 64)).await.map(drop),
            Call::Delete => house.delete(id).await,
            Call::Expand => expand(house, id, 96).await.map(drop),
            Call::Modify => modify(house, id, "gold").await,
            Call::Publish => house.attach(attachment(&self.volume, "here", usual())).await.map(drop),
            Call::Unpublish => house.detach(id, "here").await,
            Call::Cut => house.cut("monday", id).await.map(drop),
            Call::DeleteSnapshot => house.delete_snapshot(&self.snapshot).await,
        }
    }

    /// Makes a call until it is answered; answers how often it was told to be made again, and nothing else.
    async fn until_answered(&self, call: Call) -> usize {
        let mut open = 0;
        while let Err(status) = self.ask(call).await {
            assert!(is_open(&status), "{call:?}: {status:?}");
            assert!(!status.message().is_empty() && status.details().is_empty(), "{call:?}: {status:?}");
            open += 1;
            assert!(open < 100, "{call:?} was not answered: {status:?}");
        }
        open
    }

    /// It was done once, and a repeat changes nothing.
    async fn comes_to(self, call: Call, there: [usize; 3]) {
        self.ask(call).await.unwrap();
        assert_eq!(self.scene.has(), there, "{call:?}");
        let handle = self.volume.volume_id.trim_start_matches("fake/").to_owned();
        match call {
            Call::Expand => assert_eq!(size(&self.house, &self.volume).await, 96 * MIB),
            Call::Modify => {
                assert_eq!(self.scene.world().parameters(&handle).unwrap()["tier"], "gold");
            }
            _ => {}
        }
        let records = self.house.hall.list(None, 10).await.unwrap().items;
        assert_eq!(records.len(), there[0], "{call:?}: {records:#?}");
        self.house.close().await;
    }
}

async fn expand(house: &House, id: &str, mib: i64) -> Result<i64, Status> {
    let request = ControllerExpandVolumeRequest {
        volume_id: id.into(),
        capacity_range: Some(CapacityRange { required_bytes: mib * MIB, limit_bytes: 0 }),
        ..Default::default()
    };
    let answer = house.clients.controller.clone().controller_expand_volume(request).await?;
    Ok(answer.into_inner().capacity_bytes)
}

async fn modify(house: &House, id: &str, tier: &str) -> Result<(), Status> {
    let request = ControllerModifyVolumeRequest {
        volume_id: id.into(),
        mutable_parameters: [("tier".to_owned(), tier.to_owned())].into(),
        ..Default::default()
    };
    house.clients.controller.clone().controller_modify_volume(request).await.map(drop)
}

async fn size(house: &House, volume: &Volume) -> i64 {
    let request = ControllerGetVolumeRequest { volume_id: volume.volume_id.clone() };
    let told = house.clients.controller.clone().controller_get_volume(request).await.unwrap().into_inner();
    told.volume.unwrap().capacity_bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_is_asked_for_again_and_everything_is_done_once() {
    for (call, verb, there) in CALLS {
        let eve = Eve::of(call).await.hurried().await;
        for _ in 0..4 {
            let lost = Error::internal("the plugin trapped").pending();
            eve.scene.fault(verb, Fault::LoseAnswer(lost));
        }
        let open = eve.until_answered(call).await;
        assert!(open > 0, "{call:?} was answered although every answer was lost");
        assert_eq!(eve.scene.world().heard(verb), 5, "{call:?}");
        eve.comes_to(call, there).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_true_after_everybody_has_given_up_is_found_and_not_done_again() {
    for (call, verb, there) in CALLS {
        let eve = Eve::of(call).await.hurried().await;
        // The call was cut off, and is carried out when its repeats have been.
        eve.scene.fault(verb, Fault::Late(Duration::from_secs(3600)));
        eve.until_answered(call).await;
        eve.scene.world().come_true(true);
        eve.comes_to(call, there).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_backend_is_at_work_nobody_hears_an_end_and_it_is_not_asked_twice() {
    for (call, verb, there) in CALLS {
        let eve = Eve::of(call).await.hurried().await;
        let bell = Arc::<Notify>::default();
        let before = eve.scene.world().heard(verb);
        eve.scene.fault(verb, Fault::Until(Arc::clone(&bell)));
        for _ in 0..3 {
            let status = eve.ask(call).await.unwrap_err();
            assert!(is_open(&status), "{call:?}: {status:?}");
        }
        assert_eq!(eve.scene.world().heard(verb), before + 1, "{call:?}");
        bell.notify_one();
        eve.until_answered(call).await;
        // Whoever takes a volume from a node has the backend asked each time: another daemon may have attached it.
        if call != Call::Unpublish {
            assert_eq!(eve.scene.world().heard(verb), before + 1, "{call:?}");
        }
        eve.comes_to(call, there).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backend_is_said_to_be_full_and_nothing_is_left_of_the_wish() {
    let refusable = [Call::Create, Call::Expand, Call::Modify, Call::Publish, Call::Cut];
    for (call, verb, there) in CALLS.into_iter().filter(|(call, ..)| refusable.contains(call)) {
        let eve = Eve::of(call).await;
        let before = eve.scene.has();
        eve.scene.fault(verb, Fault::Refuse(Error::exhausted("it is full")));
        let status = eve.ask(call).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{call:?}: {status:?}");
        assert!(status.message().contains("it is full"), "{call:?}: {status:?}");
        assert_eq!(eve.scene.has(), before, "{call:?}");
        let hall = &eve.house.hall;
        let settled = async || {
            let views = hall.list(None, 10).await.unwrap().items;
            views.iter().all(|view| view.attachments.is_empty())
        };
        until("nothing is attached", settled).await;
        let views = hall.list(None, 10).await.unwrap().items;
        assert_eq!(views.len(), before[0], "{call:?}: {views:#?}");
        for view in &views {
            let volume = &view.volume;
            assert!(volume.intent.is_none() && volume.dependants.is_empty(), "{call:?}: {volume:#?}");
            assert_eq!(volume.wanted.parameters, volume.actual_parameters, "{call:?}");
            assert_eq!(volume.actual, Some(volume.wanted.size.required), "{call:?}");
        }
        let listed = ListSnapshotsRequest::default();
        let listed = eve.house.clients.controller.clone().list_snapshots(listed).await.unwrap();
        assert_eq!(listed.into_inner().entries.len(), 0, "{call:?}");
        // Nothing asks by itself either.
        assert_eq!(eve.scene.world().heard(verb), 1, "{call:?}");
        eve.ask(call).await.unwrap();
        eve.comes_to(call, there).await;
    }
}

/// A door whose own patience ends no test, and whatever is answered at once is answered in time.
async fn patient(change: impl FnOnce(FakeBackend) -> FakeBackend) -> (Scene, House) {
    let scene = Scene::default();
    let house = scene.open(change).await;
    (scene, behind(house, |config| config.wait = Duration::from_secs(600)).await)
}

/// The call is turned away because another one is at work, while that is.
async fn is_turned_away<T>(what: &str, answer: impl Future<Output = Result<T, Status>>) {
    let answer = timeout(Duration::from_secs(60), answer);
    let answer = answer.await.unwrap_or_else(|_| panic!("{what} stands in line"));
    let Err(status) = answer else { panic!("{what} was let through") };
    assert_eq!(status.code(), Code::Aborted, "{what}: {status:?}");
    assert!(status.message().contains("at work"), "{what}: {status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_wish_under_a_name_is_aborted_at_once_and_an_equal_one_shares_the_answer() {
    let (scene, house) = patient(|backend| backend).await;
    let bell = Arc::<Notify>::default();
    scene.fault(Verb::Create, Fault::Until(Arc::clone(&bell)));
    let mut equal = JoinSet::new();
    for _ in 0..4 {
        let mut controller = house.door.caller().await.controller();
        equal.spawn(async move { controller.create_volume(wish("db", 64)).await });
        scene.until_heard(Verb::Create, 1).await;
    }
    is_turned_away("another size", house.create(wish("db", 128))).await;
    let mut other = wish("db", 64);
    other.parameters.insert("tier".into(), "gold".into());
    is_turned_away("another parameter", house.create(other)).await;
    // Whoever wants something else is not held up, nor is who only asks.
    let other = timeout(Duration::from_secs(60), house.create(wish("other", 64)));
    other.await.expect("another name waits").unwrap();
    assert!(equal.try_join_next().is_none(), "it was answered before it was made");
    bell.notify_one();
    let mut made = Vec::new();
    while let Some(answer) = equal.join_next().await {
        made.push(answer.unwrap().unwrap().into_inner().volume.unwrap());
    }
    assert!(made.len() == 4 && made.iter().all(|one| *one == made[0]), "{made:#?}");
    assert_eq!(scene.has(), [2, 0, 0]);
    let refused = house.create(wish("db", 128)).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused:?}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_volume_is_changed_by_one_call_at_a_time() {
    let (scene, house) = patient(|backend| backend).await;
    let volume = house.create(wish("db", 64)).await.unwrap();
    let id = volume.volume_id.as_str();

    let bell = Arc::<Notify>::default();
    scene.fault(Verb::Grow, Fault::Until(Arc::clone(&bell)));
    let (grown, ()) = tokio::join!(expand(&house, id, 96), async {
        scene.until_heard(Verb::Grow, 1).await;
        is_turned_away("a delete", house.delete(id)).await;
        is_turned_away("another size", expand(&house, id, 128)).await;
        is_turned_away("a parameter", modify(&house, id, "gold")).await;
        bell.notify_one();
    });
    assert_eq!(grown.unwrap(), 96 * MIB);

    scene.fault(Verb::Attach, Fault::Until(Arc::clone(&bell)));
    let mut reading = attachment(&volume, "here", usual());
    reading.readonly = true;
    let (attached, ()) = tokio::join!(house.attach(attachment(&volume, "here", usual())), async {
        scene.until_heard(Verb::Attach, 1).await;
        is_turned_away("an unpublish", house.detach(id, "here")).await;
        is_turned_away("a reader", house.attach(reading)).await;
        bell.notify_one();
    });
    attached.unwrap();
    house.detach(id, "here").await.unwrap();

    house.use_once(&volume).await;
    scene.fault(Verb::Cut, Fault::Until(Arc::clone(&bell)));
    let other = house.create(wish("other", 64)).await.unwrap();
    let (cut, ()) = tokio::join!(house.cut("monday", id), async {
        scene.until_heard(Verb::Cut, 1).await;
        is_turned_away("another source", house.cut("monday", &other.volume_id)).await;
        bell.notify_one();
    });
    cut.unwrap();

    scene.fault(Verb::Delete, Fault::Until(Arc::clone(&bell)));
    let (deleted, ()) = tokio::join!(house.delete(id), async {
        scene.until_heard(Verb::Delete, 1).await;
        is_turned_away("a grow", expand(&house, id, 128)).await;
        bell.notify_one();
    });
    deleted.unwrap();
    assert_eq!(code(&expand(&house, id, 128).await), Code::NotFound);
    assert_eq!(scene.has(), [1, 1, 0]);
    house.close().await;
}
