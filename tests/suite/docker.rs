//! The Docker door before a real dockerd.

use kato_tests::{dockerd::Dockerd, machine::Machine};

#[test]
fn a_container_runs_in_the_kit() {
    let machine = Machine::start();
    let dockerd = Dockerd::start(&machine);
    let said = dockerd.docker(&["run", "--rm", "--network", "none", Dockerd::IMAGE, "echo", "hello"]);
    assert_eq!(said.as_deref(), Ok("hello"));
}
