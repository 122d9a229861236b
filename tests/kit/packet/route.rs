//! Which action a request asks for. The same paths are there with `/metal/v1` before them, and slashes that clients put
//! twice or at the end count for nothing.

/// What the API can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Action {
    ListVolumes,
    CreateVolume,
    GetVolume,
    UpdateVolume,
    DeleteVolume,
    GetCustomdata,
    ListEvents,
    ListAttachments,
    Attach,
    GetAttachment,
    Detach,
    ListSnapshots,
    Cut,
    DeleteSnapshot,
    CreatePolicy,
    UpdatePolicy,
    DeletePolicy,
    Restore,
    Clone,
    ListPlans,
    ListFacilities,
    ListDevices,
    GetDevice,
    DeleteDevice,
    /// What a device asks the metadata service.
    Metadata,
}

/// A request's action, and the ids that stand in its path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route<'r> {
    pub(super) action: Action,
    pub(super) ids: Vec<&'r str>,
}

impl<'r> Route<'r> {
    /// Where a request goes, if there is such a place.
    pub(super) fn of(method: &str, path: &'r str) -> Option<Self> {
        let mut parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        if parts.starts_with(&["metal", "v1"]) {
            parts.drain(..2);
        }
        let to = |action, ids: &[&'r str]| Some(Self { action, ids: ids.to_vec() });
        match (method, parts.as_slice()) {
            ("GET", ["projects", project, "storage"]) => to(Action::ListVolumes, &[project]),
            ("POST", ["projects", project, "storage"]) => to(Action::CreateVolume, &[project]),
            ("GET", ["projects", project, "devices"]) => to(Action::ListDevices, &[project]),
            ("GET", ["projects", project, "plans"]) => to(Action::ListPlans, &[project]),
            ("GET", ["projects", project, "facilities"]) => to(Action::ListFacilities, &[project]),
            ("GET", ["plans"]) => to(Action::ListPlans, &[]),
            ("GET", ["facilities"]) => to(Action::ListFacilities, &[]),
            ("GET", ["devices", device]) => to(Action::GetDevice, &[device]),
            ("DELETE", ["devices", device]) => to(Action::DeleteDevice, &[device]),
            ("GET", ["volumes", volume, "events"]) => to(Action::ListEvents, &[volume]),
            ("GET", ["storage", "attachments", attachment]) => to(Action::GetAttachment, &[attachment]),
            ("DELETE", ["storage", "attachments", attachment]) => to(Action::Detach, &[attachment]),
            ("PUT" | "PATCH", ["storage", "snapshot-policies", policy]) => {
                to(Action::UpdatePolicy, &[policy])
            }
            ("DELETE", ["storage", "snapshot-policies", policy]) => to(Action::DeletePolicy, &[policy]),
            ("GET", ["storage", volume]) => to(Action::GetVolume, &[volume]),
            ("PUT" | "PATCH", ["storage", volume]) => to(Action::UpdateVolume, &[volume]),
            ("DELETE", ["storage", volume]) => to(Action::DeleteVolume, &[volume]),
            ("GET", ["storage", volume, "customdata"]) => to(Action::GetCustomdata, &[volume]),
            ("GET", ["storage", volume, "attachments"]) => to(Action::ListAttachments, &[volume]),
            ("POST", ["storage", volume, "attachments"]) => to(Action::Attach, &[volume]),
            ("GET", ["storage", volume, "snapshots"]) => to(Action::ListSnapshots, &[volume]),
            ("POST", ["storage", volume, "snapshots"]) => to(Action::Cut, &[volume]),
            ("DELETE", ["storage", volume, "snapshots", snapshot]) => {
                to(Action::DeleteSnapshot, &[volume, snapshot])
            }
            ("POST", ["storage", volume, "snapshot-policies"]) => to(Action::CreatePolicy, &[volume]),
            ("POST", ["storage", volume, "restore"]) => to(Action::Restore, &[volume]),
            ("POST", ["storage", volume, "clone"]) => to(Action::Clone, &[volume]),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_path_leads_to_the_same_place() {
        for path in ["/storage/attachments/a", "//storage/attachments/a", "/metal/v1/storage//attachments/a/"]
        {
            let route = Route::of("DELETE", path);
            assert_eq!(route, Some(Route { action: Action::Detach, ids: vec!["a"] }), "{path}");
        }
        assert_eq!(Route::of("POST", "/storage/attachments/a"), None);
        assert_eq!(Route::of("GET", "/metal/v1"), None);
    }
}
