//! The signature itself. Signed are the host, the body's kind and every header of AWS's own, for those have a
//! meaning to the server; the rest (what it accepts, who we say we are) may be changed on the way by a proxy.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{self, SignableBody, SignableRequest, SigningSettings},
    sign::v4::SigningParams,
};
use aws_smithy_runtime_api::client::identity::Identity;
use http::{HeaderName, HeaderValue, header, request::Parts};
use kato_orchestrator::Error;

use super::{AwsSigv4, allow::Payload};
use crate::grants::{credentials::Secret, denied, http::target};

/// Signs a request for the service and the region of the grant; the signature.
pub(super) fn sign(
    signer: &AwsSigv4,
    request: &mut Parts,
    payload: Payload<'_>,
    credentials: &Credentials,
    now: SystemTime,
) -> Result<Secret, Error> {
    let failed = |error| Error::internal("a request to AWS could not be signed").caused_by(error);
    let host =
        HeaderValue::try_from(host(request)?).map_err(|_| denied("the request's host is malformed"))?;
    request.headers.insert(header::HOST, host);
    let identity = Identity::from(credentials.clone());
    let how = SigningParams::builder()
        .identity(&identity)
        .region(&signer.region)
        .name(&signer.service)
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| Error::internal("a request to AWS could not be signed").caused_by(error))?
        .into();
    let mut headers = Vec::new();
    for (name, value) in request.headers.iter().filter(|(name, _)| is_signed(name)) {
        let value = value.to_str().map_err(|_| denied(format!("the request's header {name} is no text")))?;
        headers.push((name.as_str(), value));
    }
    let body = match payload {
        Payload::Signed(bytes) => SignableBody::Bytes(bytes),
        Payload::Unsigned => SignableBody::UnsignedPayload,
    };
    let (method, uri) = (request.method.as_str(), request.uri.to_string());
    let signable = SignableRequest::new(method, uri, headers.into_iter(), body).map_err(failed)?;
    let (instructions, signature) = http_request::sign(signable, &how).map_err(failed)?.into_parts();
    for header in instructions.into_parts().0 {
        let Ok(name) = HeaderName::try_from(header.name()) else { continue };
        let mut value = HeaderValue::try_from(header.value()).map_err(|_secret| {
            Error::invalid(
                "the credentials for AWS hold characters that no header can carry: check their source",
            )
        })?;
        value.set_sensitive(true);
        request.headers.insert(name, value);
    }
    Ok(Secret::new(&signature))
}

/// The host as it is signed and sent: as the grant knows it, without the port that its scheme means anyway.
fn host(request: &Parts) -> Result<String, Error> {
    let (tls, host, port) = target(&request.uri)?;
    Ok(if port == if tls { 443 } else { 80 } { host } else { format!("{host}:{port}") })
}

fn is_signed(name: &HeaderName) -> bool {
    [header::HOST, header::CONTENT_TYPE].contains(name) || name.as_str().starts_with("x-amz-")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::Request;

    use super::*;

    const ID: &str = "AKIDEXAMPLE";
    const KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn signed(
        (service, region, seconds, token): (&str, &str, u64, Option<&str>),
        request: http::request::Builder,
        payload: Payload<'_>,
    ) -> (String, Parts) {
        let signer =
            AwsSigv4 { service: service.into(), region: region.into(), profile: None, actions: Vec::new() };
        let credentials = Credentials::new(ID, KEY, token.map(str::to_owned), None, "test");
        let mut parts = request.body(()).unwrap().into_parts().0;
        let now = UNIX_EPOCH + Duration::from_secs(seconds);
        let signature = sign(&signer, &mut parts, payload, &credentials, now).unwrap();
        (signature.expose().to_owned(), parts)
    }

    /// 30 August 2015, 12:36:00 UTC: the moment of AWS's own test suite.
    const THEN: u64 = 1_440_938_160;

    #[test]
    fn signatures_are_those_of_awss_test_suite() {
        // Of `aws-sig-v4-test-suite`: get-vanilla and post-x-www-form-urlencoded.
        let suite = ("service", "us-east-1", THEN, None);
        let get = Request::get("https://example.amazonaws.com/");
        assert_eq!(
            signed(suite, get, Payload::Signed(b"")).0,
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        let post = Request::post("https://example.amazonaws.com/")
            .header("content-type", "application/x-www-form-urlencoded");
        let (signature, parts) = signed(suite, post, Payload::Signed(b"Param1=value1"));
        assert_eq!(signature, "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a");
        assert_eq!(
            parts.headers["authorization"],
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
        assert!(parts.headers["authorization"].is_sensitive());
    }

    #[test]
    fn signatures_are_those_of_another_implementation() {
        // Computed with botocore, without a network, for the requests that the backend for EBS sends.
        let form = Request::post("https://ec2.eu-central-1.amazonaws.com/")
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
            .header("user-agent", "whoever");
        let body =
            b"Action=DescribeVolumes&Version=2016-11-15&Filter.1.Name=tag%3Akato.id&Filter.1.Value.1=a%20b";
        let told = ("ec2", "eu-central-1", THEN, Some("a/session+token=="));
        let (signature, parts) = signed(told, form, Payload::Signed(body));
        assert_eq!(signature, "350cde1295ebe5e31c9c5e1e47b2996529d70041295817a6144b898f4ca466bb");
        assert_eq!(parts.headers["x-amz-security-token"], "a/session+token==");
        let read = Request::get(
            "http://127.0.0.1:4566/snapshots/snap-0a1b/blocks/7?blockToken=AAUBAc%2B4Hu%2F%3D%3D&x=",
        );
        let (signature, parts) = signed(("ebs", "us-gov-west-1", THEN, None), read, Payload::Signed(b""));
        assert_eq!(signature, "19b2094907792bde84709c1c9fd0547e946f6a5d725fce6b927daa931fe58569");
        assert_eq!(parts.headers["host"], "127.0.0.1:4566");
        let write =
            Request::put("https://ebs.eu-central-1.amazonaws.com/snapshots/snap-0a1b/blocks/7?progress=3")
                .header("content-type", "application/octet-stream")
                .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
                .header("x-amz-checksum", "iXBrKMi6/7Wc2LCmB5Y0Oa5Nq0/w9kYpWVnJvRQ8bV4=")
                .header("x-amz-checksum-algorithm", "SHA256")
                .header("x-amz-data-length", "524288");
        let (signature, _) = signed(("ebs", "eu-central-1", THEN, None), write, Payload::Unsigned);
        assert_eq!(signature, "9ece283d2f1bbe31ad5c4b517e89b9cc8936ffbe658b9973d3edea5472a95ccd");
    }

    #[test]
    fn region_and_service_are_in_the_signature() {
        let get = || Request::get("https://ec2.eu-central-1.amazonaws.com./");
        let (one, parts) = signed(("ec2", "eu-central-1", THEN, None), get(), Payload::Signed(b""));
        assert_eq!(parts.headers["host"], "ec2.eu-central-1.amazonaws.com");
        for other in [("sts", "eu-central-1", THEN, None), ("ec2", "us-east-1", THEN, None)] {
            assert_ne!(signed(other, get(), Payload::Signed(b"")).0, one);
        }
    }
}
