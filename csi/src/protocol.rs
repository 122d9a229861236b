//! The wire: the messages, clients and services of `csi.v1`, generated from `proto/csi.proto` by `build.rs`. Wire types
//! end where they begin: only the service files, `check.rs`, `capabilities.rs` and `convert.rs` name them.
//!
//! Secrets are in no `Debug` (see `build.rs`), so a whole request can be printed; `secrets_are_never_printed` holds it so.

#![allow(
    missing_debug_implementations,
    unreachable_pub,
    unused_lifetimes,
    elided_lifetimes_in_paths,
    dead_code,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::or_fun_call,
    clippy::large_futures,
    clippy::redundant_clone,
    clippy::cast_lossless,
    reason = "this is a generator's code, and only the suites call its clients"
)]

include!(concat!(env!("OUT_DIR"), "/csi.v1.rs"));
include!(concat!(env!("OUT_DIR"), "/redacted.rs"));

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn secrets_are_never_printed() {
        let secrets: BTreeMap<_, _> = [("password".to_owned(), "hunter2".to_owned())].into();
        let mount = volume_capability::MountVolume {
            fs_type: "ext4".into(),
            mount_flags: vec!["password=hunter2".into()],
            volume_mount_group: String::new(),
        };
        let capability = VolumeCapability {
            access_type: Some(volume_capability::AccessType::Mount(mount)),
            access_mode: None,
        };
        let create = CreateVolumeRequest {
            name: "db".into(),
            secrets: secrets.clone(),
            volume_capabilities: vec![capability],
            ..Default::default()
        };
        let told = format!("{create:?} {:?}", NodeGetStorageHealthRequest { secrets });
        assert!(told.contains("secrets: ***") && told.contains("mount_flags: ***"), "{told}");
        assert!(told.contains("\"db\"") && told.contains("ext4") && !told.contains("hunter2"), "{told}");
    }

    #[test]
    fn equal_requests_are_equal_bytes() {
        use prost::Message as _;
        let of = |keys: [&str; 3]| CreateVolumeRequest {
            parameters: keys.iter().map(|key| ((*key).to_owned(), "x".to_owned())).collect(),
            ..Default::default()
        };
        assert_eq!(of(["a", "b", "c"]).encode_to_vec(), of(["c", "a", "b"]).encode_to_vec());
    }
}
