//! Who the door says it is, in each role.

use kato_csi::{
    Role,
    protocol::{
        ControllerGetCapabilitiesRequest, GetPluginCapabilitiesRequest, GetPluginInfoRequest,
        NodeGetCapabilitiesRequest, ProbeRequest,
    },
};
use kato_tests::{csi::Caller, daemon::Daemon, machine::Machine};
use tonic::Code;

use super::door;

#[tokio::test]
async fn it_has_a_name_a_version_and_is_ready() {
    let door = door(|config| config.name = "csi.example.com".into()).await;
    let mut identity = door.caller().await.identity();
    let name = identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(name.name, "csi.example.com");
    assert!(!name.vendor_version.is_empty());
    let probe = identity.probe(ProbeRequest {}).await.unwrap().into_inner();
    assert_eq!(probe.ready, Some(true));
    door.close().await;
}

#[tokio::test]
async fn a_role_serves_its_services_and_no_other() {
    for (role, controls, mounts) in
        [(Role::All, true, true), (Role::Controller, true, false), (Role::Node, false, true)]
    {
        let door = door(|config| config.role = role).await;
        let caller = door.caller().await;
        let code = |served: bool| if served { Code::Ok } else { Code::Unimplemented };
        let controller =
            caller.controller().controller_get_capabilities(ControllerGetCapabilitiesRequest {}).await;
        let node = caller.node().node_get_capabilities(NodeGetCapabilitiesRequest {}).await;
        assert_eq!(controller.err().map_or(Code::Ok, |status| status.code()), code(controls), "{role:?}");
        assert_eq!(node.err().map_or(Code::Ok, |status| status.code()), code(mounts), "{role:?}");
        let plugin =
            caller.identity().get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await.unwrap();
        assert!(!plugin.into_inner().capabilities.is_empty());
        door.close().await;
    }
}

#[test]
fn the_shipped_program_answers_where_it_is_told_to() {
    let machine = Machine::start();
    let daemon = Daemon::start_with(&machine, "[csi]\nenabled = true\n");
    let socket = machine.path("/run/kato/csi.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let name = runtime.block_on(async {
        let mut identity = Caller::at(&socket).await.identity();
        identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner().name
    });
    assert_eq!(name, "kato.storage");
    drop(daemon);
}
