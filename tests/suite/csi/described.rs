//! The protocol by its description, for calls that are written as JSON: a message of any method to the wire and back.

use std::path::Path;

use prost_reflect::{
    DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions, prost::Message as _,
};
use serde_json::Value;

/// What is known of the protocol.
pub(super) struct Described(DescriptorPool);

impl Described {
    /// What the project's own proto file says.
    pub(super) fn csi() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../csi/proto");
        let files = protox::compile([folder.join("csi.proto")], [&folder]).unwrap();
        Self(DescriptorPool::from_file_descriptor_set(files).unwrap())
    }

    /// All methods, as `Service/Method`.
    pub(super) fn methods(&self) -> impl Iterator<Item = String> {
        let services = self.0.services();
        services.flat_map(|service| {
            let methods: Vec<_> = service.methods().collect();
            methods.into_iter().map(move |method| format!("{}/{}", service.name(), method.name()))
        })
    }

    /// The values of an enumeration.
    pub(super) fn values(&self, name: &str) -> Vec<String> {
        let all = self.0.get_enum_by_name(name).unwrap_or_else(|| panic!("{name}"));
        all.values().map(|value| value.name().to_owned()).collect()
    }

    fn method(&self, path: &str) -> MethodDescriptor {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap();
        let service = self.0.get_service_by_name(service).unwrap_or_else(|| panic!("{path}"));
        service.methods().find(|one| one.name() == method).unwrap_or_else(|| panic!("{path}"))
    }

    /// A request of the method at this path.
    pub(super) fn encode(&self, path: &str, request: &Value) -> Vec<u8> {
        let message = DynamicMessage::deserialize(self.method(path).input(), request.clone());
        message.unwrap_or_else(|error| panic!("{path} {request}: {error}")).encode_to_vec()
    }

    /// What it answered.
    pub(super) fn decode(&self, path: &str, bytes: &[u8]) -> Value {
        let answer = DynamicMessage::decode(self.method(path).output(), bytes).unwrap();
        let names = SerializeOptions::new().use_proto_field_name(true);
        answer.serialize_with_options(serde_json::value::Serializer, &names).unwrap()
    }
}
