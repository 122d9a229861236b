//! What else the same dockerd has: a volume of one of our names under another driver, which makes
//! it refuse ours.

use kato_tests::{dockerd::Dockerd, machine::Machine};
use serde_json::Value;

use super::Host;

#[test]
fn the_doctor_tells_of_a_volume_that_docker_has_under_another_driver() {
    let machine = Machine::start();
    let engine = format!("[docker]\nengine = \"{}\"\n", machine.folder().join("docker.sock").display());
    let host = Host::start_with(&machine, &engine);
    let doctor = || {
        let answer = host.daemon.kato(&["doctor", "-o", "json"]);
        assert_eq!(String::from_utf8_lossy(&answer.stderr), "", "dockerd was not asked");
        (answer.status.code(), serde_json::from_slice::<Vec<Value>>(&answer.stdout).unwrap())
    };
    host.docker("volume create ours -d kato").unwrap();
    host.docker("volume create db").unwrap();
    assert_eq!(doctor(), (Some(0), Vec::new()), "a name that only the other driver has is its own affair");

    assert!(host.daemon.kato(&["volume", "create", "db"]).status.success());
    let (code, found) = doctor();
    assert_eq!((code, found.len()), (Some(6), 1), "{found:?}");
    assert_eq!((&found[0]["code"], &found[0]["subject"]), (&"same-name".into(), &"volume db".into()));
    assert!(found[0]["message"].as_str().unwrap().contains("\"local\""), "{found:?}");

    // It is as the message says.
    let refused = host.run("-v db:/data", "true").unwrap_err();
    assert!(refused.contains("must be unique"), "{refused}");
    host.docker(&format!("run --rm --network none -v db:/data {} touch /data/mine", Dockerd::IMAGE)).unwrap();
    assert!(host.docker("volume inspect db --format {{.Driver}}").unwrap().contains("local"));
    host.docker("volume rm db").unwrap();
    assert_eq!(doctor(), (Some(0), Vec::new()));
    assert!(host.docker("volume inspect db --format {{.Driver}}").unwrap().contains("kato"));
}
