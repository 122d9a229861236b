//! What of a guest's request may be signed. A signature makes the request the operator's own, so everything that a
//! server could act on has to be understood here in the one way in which the server understands it. Where that is
//! not certain the request is refused, although it may be harmless.
//!
//! The Query protocol (EC2) is a form, and which call it is stands in it as `Action`. Names in such a form are made
//! of letters, digits and dots, so a name that is written in any other way (escaped, with a space) is refused rather
//! than decoded, and so are bytes that an encoder of forms escapes. There is no query beside the form, no encoding of
//! the body, and no header that could name a call of another protocol.

use http::{HeaderMap, HeaderName, Method, header, request::Parts};
use kato_orchestrator::Error;

use super::{AwsSigv4, OWN};
use crate::grants::denied;

/// What the signature says of the body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Payload<'a> {
    /// It is these bytes.
    Signed(&'a [u8]),
    /// Nothing: a checksum in a header, which is signed, says it instead.
    Unsigned,
}

/// How a request says that its body is not signed.
const CONTENT: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// How the JSON protocols of AWS name a call.
const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
/// Names in a form that say who vouches for it, in the old way of signing.
const VOUCHING: [&str; 5] =
    ["AWSAccessKeyId", "SecurityToken", "Signature", "SignatureMethod", "SignatureVersion"];

/// Whether it may be signed, and how its body is.
pub(super) fn payload<'a>(signer: &AwsSigv4, request: &Parts, body: &'a [u8]) -> Result<Payload<'a>, Error> {
    let refused = |why: &str| denied(format!("a request to {} is not signed: {why}", signer.service));
    if let Some(own) = OWN.iter().find(|own| request.headers.contains_key(*own)) {
        return Err(refused(&format!("the header {own} is the host's to set")));
    }
    let query = request.uri.query().unwrap_or_default();
    if query.split(['&', ';']).any(|pair| decoded(name_of(pair)).to_ascii_lowercase().starts_with("x-amz-")) {
        return Err(refused("its query holds what only a signature made beforehand does (X-Amz-…)"));
    }
    if !signer.actions.is_empty() {
        let action = action(request, body).map_err(refused)?;
        if !signer.actions.iter().any(|allowed| allowed == action) {
            let shown: String = action.chars().take(100).collect();
            return Err(refused(&format!("the grant's `actions` do not have {shown:?}")));
        }
    }
    match one(&request.headers, &CONTENT).map_err(refused)? {
        None => Ok(Payload::Signed(body)),
        Some(UNSIGNED) if signer.service == "ebs" && request.method == Method::PUT => Ok(Payload::Unsigned),
        Some(_) => Err(refused(
            "x-amz-content-sha256 is the host's to say (a guest may write UNSIGNED-PAYLOAD, for PUT to ebs alone)",
        )),
    }
}

/// The one action that a form is about.
fn action<'a>(request: &Parts, body: &'a [u8]) -> Result<&'a str, &'static str> {
    if request.method != Method::POST {
        return Err("an Action is posted as a form");
    }
    if request.uri.query().is_some() {
        return Err("it has a query, and its Action belongs into the form alone");
    }
    if request.headers.contains_key(TARGET) {
        return Err("x-amz-target would name another call than the form");
    }
    if request.headers.contains_key(header::CONTENT_ENCODING) {
        return Err("its body is encoded, so that its Action cannot be read");
    }
    let kind = one(&request.headers, &header::CONTENT_TYPE)?.unwrap_or_default().to_ascii_lowercase();
    let kind: String = kind.chars().filter(|letter| *letter != ' ').collect();
    if !matches!(
        kind.as_str(),
        "application/x-www-form-urlencoded" | "application/x-www-form-urlencoded;charset=utf-8"
    ) {
        return Err("its content-type is not application/x-www-form-urlencoded");
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~*+%&=".contains(byte);
    let form = std::str::from_utf8(body).ok().filter(|_| body.iter().all(plain));
    let form = form.ok_or("its body is no form as encoders write it")?;
    let mut action = None;
    for pair in form.split('&') {
        let (name, value) = pair.split_once('=').ok_or("its form has a name without a value")?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.') {
            return Err("its form has a name of other characters than letters, digits and dots");
        }
        if VOUCHING.iter().any(|vouching| name.eq_ignore_ascii_case(vouching)) {
            return Err("its form says who vouches for it, which is the host's to say");
        }
        if name.eq_ignore_ascii_case("action") && (name != "Action" || action.replace(value).is_some()) {
            return Err("its form names the Action more than once or in another spelling");
        }
    }
    action.ok_or("its form has no Action")
}

/// The value of a header that is there once at most.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, &'static str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_bytes| "a header of it is no text"),
        _ => Err("it has a header twice that can be there once"),
    }
}

fn name_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

/// A part of a query without its escapes.
fn decoded(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (bytes, mut plain, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                plain.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 3;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn signer(service: &str, actions: &[&str]) -> AwsSigv4 {
        AwsSigv4 {
            service: service.into(),
            region: "eu-central-1".into(),
            profile: None,
            actions: actions.iter().map(|action| (*action).to_owned()).collect(),
        }
    }

    fn parts(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(format!("https://ec2.example.com{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

    fn told(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
        let signer = signer("ec2", &["CreateVolume"]);
        match payload(&signer, &parts(method, path, headers), body.as_bytes()) {
            Ok(payload) => format!("{payload:?}"),
            Err(error) => error.message,
        }
    }

    #[test]
    fn a_form_with_one_granted_action_is_signed() {
        for (kind, body) in [
            (FORM.1, "Action=CreateVolume&Version=2016-11-15&Filter.1.Value.1=a%26Action%3DDeleteVolume"),
            ("Application/X-WWW-Form-Urlencoded; charset=UTF-8", "Version=x&Action=CreateVolume"),
        ] {
            assert!(told("POST", "/", &[("content-type", kind)], body).starts_with("Signed"), "{body}");
        }
    }

    #[test]
    fn what_could_be_understood_as_another_action_is_refused() {
        let good = "Action=CreateVolume";
        for (method, path, headers, body, word) in [
            ("POST", "/", vec![FORM], "Action=DeleteVolume", "do not have \"DeleteVolume\""),
            ("POST", "/", vec![FORM], "Action=CreateVolume%20", "do not have"),
            ("POST", "/", vec![FORM], "Action=createvolume", "do not have"),
            ("POST", "/", vec![FORM], "Action=", "do not have"),
            ("POST", "/", vec![FORM], "", "without a value"),
            ("POST", "/", vec![FORM], "Version=1", "no Action"),
            ("POST", "/", vec![FORM], "Action=CreateVolume&Action=DeleteVolume", "more than once"),
            ("POST", "/", vec![FORM], "Action=CreateVolume&Action=CreateVolume", "more than once"),
            ("POST", "/", vec![FORM], "Action=CreateVolume&action=DeleteVolume", "another spelling"),
            ("POST", "/", vec![FORM], "ACTION=CreateVolume", "another spelling"),
            ("POST", "/", vec![FORM], "Action=CreateVolume&%41ction=DeleteVolume", "other characters"),
            ("POST", "/", vec![FORM], "Action=CreateVolume&+Action=DeleteVolume", "other characters"),
            ("POST", "/", vec![FORM], "Action=CreateVolume;Action=DeleteVolume", "no form"),
            ("POST", "/", vec![FORM], "Action=CreateVolume\r\nAction=DeleteVolume", "no form"),
            ("POST", "/", vec![FORM], "\u{feff}Action=CreateVolume", "no form"),
            ("POST", "/", vec![FORM], "Action=CreateVolume&AWSAccessKeyId=x", "who vouches"),
            ("POST", "/", vec![FORM], "Action=CreateVolume&Signature=x", "who vouches"),
            ("POST", "/?Action=DeleteVolume", vec![FORM], good, "has a query"),
            ("POST", "/?", vec![FORM], good, "has a query"),
            ("GET", "/", vec![FORM], good, "is posted"),
            ("POST", "/", vec![], good, "content-type"),
            ("POST", "/", vec![("content-type", "multipart/form-data; boundary=x")], good, "content-type"),
            (
                "POST",
                "/",
                vec![("content-type", "application/x-www-form-urlencoded; charset=utf-16")],
                good,
                "content-type",
            ),
            ("POST", "/", vec![FORM, ("content-type", "application/json")], good, "twice"),
            ("POST", "/", vec![FORM, ("content-encoding", "gzip")], good, "encoded"),
            ("POST", "/", vec![FORM, ("x-amz-target", "EC2.DeleteVolume")], good, "x-amz-target"),
        ] {
            let told = told(method, path, &headers, body);
            assert!(told.contains(word), "{method} {path} {headers:?} {body:?}: {told}");
        }
    }

    #[test]
    fn nothing_that_vouches_is_taken_from_a_guest() {
        let ebs = signer("ebs", &[]);
        let refused = |path: &str, headers: &[(&str, &str)]| {
            payload(&ebs, &parts("PUT", path, headers), b"x").unwrap_err().message
        };
        for query in [
            "?X-Amz-Signature=x",
            "?a=1&x-amz-credential=x",
            "?a=1;X-Amz-Date=x",
            "?%58-Amz-Security-Token=x",
            "?x%2damz-algorithm",
        ] {
            let told = refused(&format!("/snapshots{query}"), &[]);
            assert!(told.contains("signature made beforehand"), "{query}: {told}");
        }
        for header in ["authorization", "x-amz-date", "x-amz-security-token"] {
            assert!(refused("/snapshots", &[(header, "x")]).contains(header), "{header}");
        }
    }

    #[test]
    fn only_a_put_to_ebs_leaves_its_body_unsigned() {
        let unsigned = [("x-amz-content-sha256", "UNSIGNED-PAYLOAD")];
        let put = |service: &str, method: &str, headers: &[(&str, &str)]| {
            let request = parts(method, "/snapshots/s/blocks/1", headers);
            payload(&signer(service, &[]), &request, b"x").map(|payload| payload == Payload::Unsigned)
        };
        assert!(put("ebs", "PUT", &unsigned).unwrap());
        assert!(!put("ebs", "PUT", &[]).unwrap());
        for (service, method, value) in [
            ("ec2", "PUT", "UNSIGNED-PAYLOAD"),
            ("ebs", "POST", "UNSIGNED-PAYLOAD"),
            ("ebs", "PUT", "unsigned-payload"),
            ("ebs", "PUT", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
            ("ebs", "PUT", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ] {
            let error = put(service, method, &[("x-amz-content-sha256", value)]).unwrap_err();
            assert!(error.message.contains("x-amz-content-sha256"), "{service} {method} {value}: {error}");
        }
        assert!(put("ebs", "PUT", &[unsigned[0], unsigned[0]]).is_err());
    }
}
