//! HTTP in front of both services: a request is read whole, its signature is looked at, the fault that is due befalls it,
//! and its service answers it. What is asked with a path is asked of the EBS direct APIs, all else of EC2.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;

use super::{
    Shared, direct,
    error::{Exception, Refusal},
    fault::Fault,
    query::{Query, expired_page},
    sigv4::Doubt,
    world::World,
    xml::Xml,
};
use crate::http::{Answering, Lost, Request};

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Answer {
    pub(super) fn xml(status: u16, xml: &str) -> Self {
        let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{xml}");
        Self {
            status,
            headers: vec![("content-type", "text/xml;charset=UTF-8".to_owned())],
            body: text.into(),
        }
    }

    pub(super) fn json(status: u16, body: &serde_json::Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { status, headers, body: body.to_string().into() }
    }

    pub(super) fn bytes(headers: Vec<(&'static str, String)>, body: Vec<u8>) -> Self {
        Self { status: 200, headers, body: body.into() }
    }

    pub(super) fn empty(status: u16, headers: Vec<(&'static str, String)>) -> Self {
        Self { status, headers, body: Bytes::new() }
    }
}

/// Both services, as whoever comes finds them.
#[derive(Clone, Debug)]
pub(super) struct Services(pub(super) Arc<Shared>);

impl Answering for Services {
    async fn answer(&self, request: Request) -> Result<Response<Full<Bytes>>, Lost> {
        let Self(shared) = self;
        let call = Call::of(&request);
        let answer = respond(shared, &request, &call).await?;
        let mut response =
            Response::builder().status(answer.status).header("x-amzn-requestid", shared.request_id());
        for (name, value) in answer.headers {
            response = response.header(name, value);
        }
        response.body(Full::new(answer.body)).map_err(|_| Lost)
    }
}

/// What is asked for.
enum Call {
    Ec2(String, Query),
    Direct(direct::Call),
}

impl Call {
    fn of(request: &Request) -> Self {
        if let Some(call) = direct::Call::of(request) {
            return Self::Direct(call);
        }
        let query = Query::parse(&String::from_utf8_lossy(&request.body));
        Self::Ec2(query.text("Action").unwrap_or_default().to_owned(), query)
    }

    fn action(&self) -> &str {
        match self {
            Self::Ec2(action, _) => action,
            Self::Direct(call) => call.action(),
        }
    }

    fn service(&self) -> &'static str {
        match self {
            Self::Ec2(..) => "ec2",
            Self::Direct(_) => "ebs",
        }
    }

    fn has_token(&self) -> bool {
        match self {
            Self::Ec2(_, query) => query.text("NextToken").is_some(),
            Self::Direct(call) => call.has_token(),
        }
    }

    /// The same no, as each service says it.
    fn refuse(&self, shared: &Shared, ec2: Refusal, ebs: Exception) -> Answer {
        match self {
            Self::Ec2(..) => ec2.into_answer(&shared.request_id()),
            Self::Direct(_) => ebs.into_answer(),
        }
    }
}

async fn respond(shared: &Shared, request: &Request, call: &Call) -> Result<Answer, Lost> {
    shared.count(call.action());
    if let Err(doubt) = shared.verify(request, call.service()) {
        let (ec2, ebs) = doubted(doubt, call.service());
        return Ok(call.refuse(shared, ec2, ebs));
    }
    let fault = shared.fault_of(call.action(), call.has_token());
    if let Some(fault) = &fault {
        if *fault == Fault::Silence {
            std::future::pending::<Infallible>().await;
        }
        if let Some((ec2, ebs)) = refused(fault, call) {
            return Ok(call.refuse(shared, ec2, ebs));
        }
    }
    let answer = match call {
        Call::Ec2(action, query) => ec2(shared, action, query, fault.as_ref()),
        Call::Direct(call) => {
            direct::answer(shared, request, call, fault.as_ref()).unwrap_or_else(Exception::into_answer)
        }
    };
    match fault {
        Some(Fault::LostAnswer) => Err(Lost),
        Some(Fault::DoneButServerError) => {
            let (ec2, ebs) = internal();
            Ok(call.refuse(shared, ec2, ebs))
        }
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            Ok(answer)
        }
        _ => Ok(answer),
    }
}

fn ec2(shared: &Shared, action: &str, query: &Query, fault: Option<&Fault>) -> Answer {
    let mut world = shared.world();
    world.settle();
    let request = shared.request_id();
    let said = if query.flag("DryRun") {
        let text = "Request would have succeeded, but DryRun flag is set.";
        Err(Refusal::with_status(412, "DryRunOperation", text))
    } else {
        act(&mut world, action, query, fault)
    };
    match said {
        Ok(inside) => {
            let xml = format!(
                "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>{request}</requestId>\
                 {inside}</{action}Response>"
            );
            Answer::xml(200, &xml)
        }
        Err(refusal) => refusal.into_answer(&request),
    }
}

/// What EC2 can do.
fn act(world: &mut World, action: &str, query: &Query, fault: Option<&Fault>) -> Result<String, Refusal> {
    let mut xml = Xml::default();
    match action {
        "CreateVolume" => return world.create_volume(query, fault),
        "DeleteVolume" => world.delete_volume(query, &mut xml),
        "DescribeVolumes" => world.describe_volumes(query, &mut xml),
        "DescribeVolumeStatus" => world.describe_volume_status(query, &mut xml),
        "ModifyVolume" => world.modify_volume(query, fault, &mut xml),
        "DescribeVolumesModifications" => world.describe_modifications(query, &mut xml),
        "AttachVolume" => world.attach_volume(query, fault, &mut xml),
        "DetachVolume" => world.detach_volume(query, fault, &mut xml),
        "CreateTags" => world.create_tags(query, &mut xml),
        "CreateSnapshot" => world.create_snapshot(query, fault, &mut xml),
        "DeleteSnapshot" => world.delete_snapshot(query, &mut xml),
        "DescribeSnapshots" => world.describe_snapshots(query, &mut xml),
        "EnableFastSnapshotRestores" => world.enable_fast_restores(query, &mut xml),
        "DescribeInstances" => world.describe_instances(query, &mut xml),
        "DescribeInstanceTypes" => world.describe_instance_types(query, &mut xml),
        "DescribeAvailabilityZones" => world.describe_zones(query, &mut xml),
        _ => Err(Refusal::new(
            "InvalidAction",
            format!("The action {action} is not valid for this web service."),
        )),
    }?;
    Ok(xml.into_text())
}

fn internal() -> (Refusal, Exception) {
    let text = "An internal error has occurred";
    (Refusal::with_status(500, "InternalError", text), Exception::internal(text))
}

/// How a fault that lets nothing be done is told, by EC2 and by the EBS direct APIs.
fn refused(fault: &Fault, call: &Call) -> Option<(Refusal, Exception)> {
    Some(match fault {
        Fault::Throttled => (
            Refusal::with_status(503, "RequestLimitExceeded", "Request limit exceeded."),
            Exception::throttled(),
        ),
        Fault::ServerError => internal(),
        Fault::Unavailable => {
            let text = "The service is unavailable. Please try again shortly.";
            (
                Refusal::with_status(503, "Unavailable", text),
                Exception::new(503, "ServiceUnavailableException", text),
            )
        }
        Fault::Refused(code, message) => (Refusal::new(code, *message), Exception::new(400, code, *message)),
        Fault::ExpiredCredentials => doubted(Doubt::ExpiredKey, call.service()),
        Fault::ExpiredToken => {
            let exception = match call {
                Call::Direct(call) => call.expired(),
                Call::Ec2(..) => Exception::validation("INVALID_PAGE_TOKEN", ""),
            };
            (expired_page(), exception)
        }
        _ => return None,
    })
}

/// How each service tells that it does not believe who asks.
fn doubted(doubt: Doubt, service: &str) -> (Refusal, Exception) {
    let scope = format!("Credential should be scoped to a valid region and to the service '{service}'.");
    let mismatch = "The request signature we calculated does not match the signature you provided. Check your AWS \
                    Secret Access Key and signing method.";
    let unknown = "AWS was not able to validate the provided access credentials";
    let (status, code, exception, text) = match doubt {
        Doubt::Unsigned => {
            (400, "MissingAuthenticationToken", "MissingAuthenticationTokenException", unknown)
        }
        Doubt::UnknownKey | Doubt::WrongToken => (401, "AuthFailure", "UnrecognizedClientException", unknown),
        Doubt::ExpiredKey => (
            400,
            "RequestExpired",
            "ExpiredTokenException",
            "The security token included in the request is expired",
        ),
        Doubt::WrongTime => (400, "RequestExpired", "InvalidSignatureException", "Signature expired"),
        Doubt::WrongScope => (403, "SignatureDoesNotMatch", "InvalidSignatureException", scope.as_str()),
        Doubt::WrongSignature => (403, "SignatureDoesNotMatch", "InvalidSignatureException", mismatch),
    };
    (Refusal::with_status(status, code, text), Exception::new(403, exception, text))
}
