//! What a caller may do to the wire: other versions, unknown fields, short deadlines, large messages, many calls, calls
//! that are given up; and that no secret is ever seen.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use kato_csi::protocol::{CreateVolumeRequest, GetPluginInfoRequest, ListVolumesRequest, ProbeRequest};
use kato_orchestrator::testing::{Fault, Verb};
use kato_tests::csi::CsiDoor;
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, Request};

use super::{create, door, hall};

#[tokio::test]
async fn another_version_is_unimplemented_and_an_unknown_field_is_passed_over() {
    let door = door(|_| ()).await;
    let caller = door.caller().await;
    assert_eq!(caller.raw("/csi.v0.Identity/GetPluginInfo", &[]).await, 12);
    assert_eq!(caller.raw("/csi.v1.Identity/Unheard", &[]).await, 12);
    assert_eq!(caller.raw("/csi.v1.Identity/Probe", &[]).await, 0);
    // Field 1000, a number.
    assert_eq!(caller.raw("/csi.v1.Identity/Probe", &[0xc0, 0x3e, 0x01]).await, 0);
    // Half of a field.
    assert_ne!(caller.raw("/csi.v1.Identity/Probe", &[0x0a]).await, 0);
    door.close().await;
}

#[tokio::test]
async fn a_deadline_of_a_millisecond_is_answered_with_nothing_final() {
    let (hall, world) = hall().await;
    world.lock().unwrap().fault(Verb::Create, Fault::Pending(1));
    let door = CsiDoor::open(hall, |_| ());
    let mut controller = door.caller().await.controller();
    for number in 0..20 {
        let mut request = Request::new(create(&format!("db-{number}")));
        request.set_timeout(Duration::from_millis(1));
        if let Err(status) = controller.create_volume(request).await {
            let open = [Code::Aborted, Code::DeadlineExceeded, Code::Cancelled, Code::Unavailable];
            assert!(open.contains(&status.code()), "{status:?}");
            assert!(!status.message().is_empty() && status.details().is_empty());
        }
    }
    door.close().await;
}

#[tokio::test]
async fn four_mebibytes_are_read_and_more_is_refused() {
    let door = door(|_| ()).await;
    let mut controller = door.caller().await.controller();
    let sized = |length: usize| CreateVolumeRequest { name: "x".repeat(length), ..create("") };
    let large = controller.create_volume(sized((4 << 20) - 100)).await.unwrap_err();
    assert!(large.code() == Code::InvalidArgument && large.message().starts_with("name"), "{large:?}");
    let larger = controller.create_volume(sized(4 << 20)).await.unwrap_err();
    assert!(!larger.message().starts_with("name"), "{larger:?}");
    assert!(controller.list_volumes(ListVolumesRequest::default()).await.is_ok(), "the door is still open");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_at_once_are_all_answered() {
    let door = door(|config| config.calls = 8).await;
    let mut calls = JoinSet::new();
    for number in 0..1000 {
        // Half of them as kubelet does it, each with a connection of its own.
        let caller = if number % 2 == 0 { None } else { Some(door.caller().await) };
        let socket = door.socket();
        calls.spawn(async move {
            let caller = match caller {
                Some(caller) => caller,
                None => kato_tests::csi::Caller::at(&socket).await,
            };
            caller.controller().list_volumes(ListVolumesRequest::default()).await.map(drop)
        });
    }
    while let Some(answered) = calls.join_next().await {
        answered.unwrap().unwrap();
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_keeps_no_seat_and_its_repeat_finds_the_volume() {
    let (hall, world) = hall().await;
    world.lock().unwrap().fault(Verb::Create, Fault::Pending(1));
    let door = CsiDoor::open(hall, |config| config.calls = 1);
    let mut controller = door.caller().await.controller();
    let given_up = timeout(Duration::from_millis(50), controller.create_volume(create("db"))).await;
    drop(given_up);
    let mut tries = 0;
    loop {
        match controller.create_volume(create("db")).await {
            Ok(made) => {
                assert!(made.into_inner().volume.is_some());
                break;
            }
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status:?}"),
        }
        tries += 1;
        assert!(tries < 60);
    }
    assert!(door.caller().await.identity().probe(ProbeRequest {}).await.is_ok());
    door.close().await;
}

/// Keeps what was logged.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_ever_seen() {
    let heard = Heard::default();
    let writer = heard.clone();
    let log = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _log = tracing::subscriber::set_default(log);
    let door = door(|_| ()).await;
    let mut controller = door.caller().await.controller();
    let secrets = [("password".to_owned(), "hunter2".to_owned())].into();
    controller.create_volume(CreateVolumeRequest { secrets, ..create("db") }).await.unwrap();
    let mut told = String::new();
    for secrets in [
        [("hunter2 ".to_owned(), "hunter2".to_owned())].into(),
        [("x".to_owned(), "hunter2".repeat(1000))].into(),
    ] {
        let refused = controller.create_volume(CreateVolumeRequest { secrets, ..create("db") }).await;
        told += &format!("{:?}", refused.unwrap_err());
    }
    door.caller().await.identity().get_plugin_info(GetPluginInfoRequest {}).await.unwrap();
    door.close().await;
    assert!(!told.contains("hunter2"), "{told}");
    let heard = String::from_utf8_lossy(&heard.0.lock().unwrap()).into_owned();
    assert!(heard.contains("create-volume"), "the log was not heard");
    assert!(!heard.contains("hunter2"), "a secret is in the log");
}
