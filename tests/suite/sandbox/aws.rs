//! A hostile guest with a granted region of AWS. It can neither read a credential, nor have anything signed that the
//! grant does not name: another host, service, region or action. The cloud here checks every signature itself, over
//! what it really heard, so that what passes a check and what is sent cannot be two things.

use std::sync::{Arc, Mutex};

use kato_orchestrator::{Error, Kind};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    Sandbox, assert_open, create,
    leaks::{Log, whole},
    quick,
};

const ID: &str = "AKIACANARYCANARY";
const KEY: &str = "secret+canary/hush=hush";
const TOKEN: &str = "session+canary/token==";
const ENVIRONMENT: &[(&str, &str)] =
    &[("AWS_ACCESS_KEY_ID", ID), ("AWS_SECRET_ACCESS_KEY", KEY), ("AWS_SESSION_TOKEN", TOKEN)];

/// How a credential might be found: as it is, encoded, and a good part of it.
const TRACES: [&str; 5] = ["AKIACANARY", "canary/hush", "canary%2Fhush", "canary/token", "Y2FuYXJ5"];

const FORM: &str = "content-type:application/x-www-form-urlencoded";
const READ: &str = "Action=DescribeVolumes&Version=2016-11-15";

/// EC2 and EBS at one port. It notes what it is asked with a good signature, as `service region METHOD path body`, and
/// answers with all that it heard.
struct Cloud {
    port: u16,
    heard: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Cloud {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, heard) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default());
        let (noted, mut tasks) = (Arc::clone(&heard), JoinSet::new());
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                served.spawn(serve(stream, Arc::clone(&noted)));
            }
        });
        Self { port, heard, _tasks: tasks }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn grant(&self) -> String {
        let (region, url) = ("region = \"eu-central-1\"\naddresses = [\"loopback\"]", self.url());
        format!("[aws]\n{region}\nendpoints = {{ ec2 = {url:?}, ebs = {url:?} }}\n")
    }

    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }

    /// What a guest is told that sends this.
    async fn asked(&self, sandbox: &Sandbox, request: &str, headers: &str, body: &str) -> Error {
        let argument = request.replace("{}", &self.url());
        let behave = [("argument", argument.as_str()), ("header", headers), ("body", body)];
        self.told(sandbox, &behave).await
    }

    async fn told(&self, sandbox: &Sandbox, behave: &[(&str, &str)]) -> Error {
        let behave: Vec<_> = [("behave", "request")].iter().chain(behave).copied().collect();
        create(&*sandbox.load("hostile", &behave, &self.grant(), quick()).await.unwrap()).await.unwrap_err()
    }
}

async fn serve(mut stream: TcpStream, noted: Arc<Mutex<Vec<String>>>) {
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => heard.push(byte),
            Err(_gone) => return,
        }
    }
    let head = String::from_utf8(heard).unwrap();
    let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let what = verified(&head, &body);
    noted.lock().unwrap().push(what);
    let heard = format!("{}{}", head.replace("\r\n", "|"), String::from_utf8_lossy(&body));
    let answer = format!("HTTP/1.1 200 OK\r\nx-you-sent: {heard}\r\nconnection: close\r\n\r\n{heard}");
    // The client may be gone, which is its right.
    let _gone = stream.write_all(answer.as_bytes()).await;
    let _gone = stream.shutdown().await;
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
    lines.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let padded =
        |with: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect() };
    let inner = Sha256::digest([padded(0x36).as_slice(), text.as_bytes()].concat());
    Sha256::digest([padded(0x5c).as_slice(), inner.as_slice()].concat()).to_vec()
}

/// What was asked, if its signature is one over what was heard (Signature Version 4, written down from AWS's
/// description and independent of what signs).
fn verified(head: &str, body: &[u8]) -> String {
    let mut line = head.split(' ');
    let (method, target) = (line.next().unwrap(), line.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let asked = format!("{method} {target} {}", String::from_utf8_lossy(body));
    let Some(authorization) = header(head, "authorization") else { return format!("unsigned {asked}") };
    let field = |name: &str| {
        let rest = authorization.split_once(name).unwrap().1;
        rest.split([',', ' ']).next().unwrap()
    };
    let scope: Vec<_> = field("Credential=").split('/').collect();
    let [id, day, region, service, end] = scope[..] else { panic!("{authorization}") };
    assert_eq!((id, end), (ID, "aws4_request"));
    let names = field("SignedHeaders=");
    let canonical: String =
        names.split(';').map(|name| format!("{name}:{}\n", header(head, name).unwrap())).collect();
    let hash = match header(head, "x-amz-content-sha256") {
        Some(said) => said.to_owned(),
        None => hex(&Sha256::digest(body)),
    };
    let request = format!("{method}\n{path}\n{query}\n{canonical}\n{names}\n{hash}");
    let when = header(head, "x-amz-date").unwrap();
    assert!(when.starts_with(day) && day.len() == 8, "{when} {day}");
    assert_eq!(header(head, "x-amz-security-token"), Some(TOKEN));
    for name in ["host", "x-amz-date", "x-amz-security-token"] {
        assert!(names.split(';').any(|signed| signed == name), "{names}");
    }
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{when}\n{scope}\n{}", hex(&Sha256::digest(request.as_bytes())));
    let key = [day, region, service, "aws4_request"]
        .iter()
        .fold(format!("AWS4{KEY}").into_bytes(), |key, part| hmac(&key, part));
    assert_eq!(field("Signature="), hex(&hmac(&key, &text)), "{request}");
    format!("{service} {region} {asked}")
}

fn assert_clean(what: &str, text: &str) {
    for trace in TRACES {
        assert!(!text.contains(trace), "{what}: {trace} in {text}");
        let backwards: String = trace.chars().rev().collect();
        assert!(!text.contains(&backwards), "{what}: {backwards} in {text}");
    }
}

#[tokio::test]
async fn requests_are_signed_for_the_services_of_the_grant() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let cloud = Cloud::start().await;
    let block = "PUT {}/snapshots/snap-1/blocks/7?progress=1";
    for (request, headers, body, wanted) in [
        ("POST {}/", FORM, READ, format!("ec2 eu-central-1 POST / {READ}")),
        (
            "POST {}/snapshots",
            "content-type:application/json",
            "{}",
            "ebs eu-central-1 POST /snapshots {}".into(),
        ),
        (
            "GET {}/snapshots/snap-1/blocks?maxResults=100&pageToken=a%2Bb",
            "",
            "",
            "ebs eu-central-1 GET /snapshots/snap-1/blocks?maxResults=100&pageToken=a%2Bb ".into(),
        ),
        (
            block,
            "x-amz-content-sha256:UNSIGNED-PAYLOAD|x-amz-checksum:x|x-amz-data-length:4",
            "data",
            "ebs eu-central-1 PUT /snapshots/snap-1/blocks/7?progress=1 data".into(),
        ),
        (block, "", "data", "ebs eu-central-1 PUT /snapshots/snap-1/blocks/7?progress=1 data".into()),
    ] {
        let error = cloud.asked(&sandbox, request, headers, body).await;
        assert!(error.message.contains("it answered 200"), "{request}: {error}");
        assert_eq!(cloud.heard(), [wanted], "{request}: {error}");
    }
}

#[tokio::test]
async fn no_guest_reads_what_its_requests_are_signed_with() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let log = Log::kept();
    let cloud = Cloud::start().await;
    let argument = format!("POST {}/", cloud.url());
    let ask = [("argument", argument.as_str()), ("header", FORM), ("body", READ)];
    // The cloud repeats all that it heard, in a header and in the body.
    let echoed = cloud.told(&sandbox, &ask).await;
    let stars = |text: &str| "*".repeat(text.len());
    for words in [
        format!("Credential={}/20", stars(ID)),
        format!("Signature={}|", "*".repeat(64)),
        format!("x-amz-security-token: {}|", stars(TOKEN)),
        "accept-encoding: identity".to_owned(),
    ] {
        assert!(echoed.message.contains(&words), "{words}: {echoed}");
    }
    let turned = cloud.told(&sandbox, &[ask[0], ask[1], ask[2], ("backwards", "yes")]).await;
    assert!(turned.message.contains("=laitnederC"), "{turned}");
    for error in [&echoed, &turned] {
        assert_clean("the error", &whole(error));
    }
    // Not even a guest that looks through all of its memory finds them, although it finds what it does have.
    for (text, times) in [(ID, 0), (KEY, 0), (TOKEN, 0)] {
        let backwards: String = text.chars().rev().collect();
        let told = cloud.told(&sandbox, &[ask[0], ask[1], ask[2], ("dump", &backwards)]).await;
        assert!(told.message.contains(&format!("in memory {times} times")), "{text}: {told}");
    }
    let told = cloud.told(&sandbox, &[ask[0], ask[1], ask[2], ("dump", "semuloVebircseD=noitcA")]).await;
    assert!(!told.message.contains("in memory 0 times") && told.message.contains("in memory "), "{told}");
    let told = sandbox.attack("wasi-files", "", &cloud.grant()).await.unwrap_err();
    assert!(told.message.contains("and 0"), "{told}");
    let log = log.text();
    assert_clean("the log", &log);
    assert!(!log.contains("Signature="), "{log}");
}

#[tokio::test]
async fn nothing_is_signed_for_another_host_service_or_region() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let cloud = Cloud::start().await;
    let other = Cloud::start().await;
    for (request, word) in [
        ("POST https://ec2.us-east-1.amazonaws.com/".to_owned(), "no grant"),
        ("POST https://ec2.eu-central-1.amazonaws.com/".to_owned(), "no grant"),
        ("POST https://sts.eu-central-1.amazonaws.com/".to_owned(), "no grant"),
        (format!("POST {}/", other.url()), "no grant"),
        (format!("POST http://localhost:{}/", cloud.port), "no grant"),
        (format!("POST http://127.0.0.1:{}@169.254.169.254/", cloud.port), "user name"),
        ("GET {}/".to_owned(), "method or path"),
        ("POST {}/x".to_owned(), "method or path"),
        ("POST {}//".to_owned(), "method or path"),
        ("DELETE {}/snapshots/snap-1".to_owned(), "method or path"),
        ("GET {}/snapshots/../secrets".to_owned(), "method or path"),
        ("GET {}/snapshots/%2e%2e/secrets".to_owned(), "method or path"),
    ] {
        let error = cloud.asked(&sandbox, &request, FORM, READ).await;
        assert_open(&error, &[word]);
        assert_eq!(error.kind, Kind::PermissionDenied, "{request}");
    }
    let host = cloud.asked(&sandbox, "POST {}/", &format!("{FORM}|Host:sts.amazonaws.com"), READ).await;
    assert_open(&host, &["header refused: Host"]);
    assert!(cloud.heard().is_empty() && other.heard().is_empty());
}

#[tokio::test]
async fn no_other_action_is_smuggled_under_a_signature() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let cloud = Cloud::start().await;
    let form = |more: &str| format!("{FORM}{more}");
    for (request, headers, body, word) in [
        ("POST {}/", form(""), "Action=RunInstances", "do not have \"RunInstances\""),
        ("POST {}/", form(""), "Version=2016-11-15", "no Action"),
        ("POST {}/", form(""), "", "without a value"),
        ("POST {}/?Action=TerminateInstances", form(""), READ, "has a query"),
        ("POST {}/", form(""), "Action=DescribeVolumes&Action=RunInstances", "more than once"),
        ("POST {}/", form(""), "Action=DescribeVolumes&action=RunInstances", "another spelling"),
        ("POST {}/", form(""), "Action=DescribeVolumes&%41ction=RunInstances", "other characters"),
        ("POST {}/", form(""), "Action=DescribeVolumes;Action=RunInstances", "no form"),
        ("POST {}/", form(""), "Action=DescribeVolumes\r\n\r\nAction=RunInstances", "no form"),
        ("POST {}/", "content-type:multipart/form-data; boundary=Action".into(), READ, "content-type"),
        ("POST {}/", "content-type:application/x-amz-json-1.1".into(), READ, "content-type"),
        ("POST {}/", String::new(), READ, "content-type"),
        ("POST {}/", form("|content-type:text/plain"), READ, "twice"),
        ("POST {}/", form("|content-encoding:gzip"), READ, "encoded"),
        ("POST {}/", form("|content-encoding:aws-chunked"), READ, "encoded"),
        ("POST {}/", form("|x-amz-target:AmazonEC2.RunInstances"), READ, "x-amz-target"),
        ("POST {}/", form("|x-amz-content-sha256:UNSIGNED-PAYLOAD"), READ, "the host's to say"),
        (
            "POST {}/",
            form("|x-amz-content-sha256:e3b0c44298fc1c149afbf4c8996fb924"),
            READ,
            "the host's to say",
        ),
        ("GET {}/snapshots/s/blocks?X-Amz-Signature=x", String::new(), "", "signature made beforehand"),
        (
            "GET {}/snapshots/s/blocks?a=1&x%2Damz-credential=x",
            String::new(),
            "",
            "signature made beforehand",
        ),
    ] {
        let error = cloud.asked(&sandbox, request, &headers, body).await;
        assert_open(&error, &["is not signed", word]);
        assert_eq!(error.kind, Kind::PermissionDenied, "{request} {headers} {body}");
    }
    assert_eq!(cloud.heard(), [""; 0]);
    // Lengths and pieces that do not fit hide nothing either: what arrives is what was looked at.
    for length in ["22", "500"] {
        let headers = form(&format!("|content-length:{length}"));
        let error = cloud.asked(&sandbox, "POST {}/", &headers, "Action=DescribeVolumes&Version=x").await;
        assert_open(&error, &[]);
        let heard = cloud.heard();
        let whole = "ec2 eu-central-1 POST / Action=DescribeVolumes&Version=x";
        assert!(heard.iter().all(|heard| heard == whole), "{heard:?}");
    }
}

#[tokio::test]
async fn what_vouches_for_a_request_is_not_the_guests_to_set() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let cloud = Cloud::start().await;
    for name in [
        "Authorization",
        "X-Amz-Date",
        "x-amz-security-token",
        "X-AMZ-SECURITY-TOKEN",
        "Transfer-Encoding",
        "Connection",
    ] {
        let error = cloud.asked(&sandbox, "POST {}/", &format!("{FORM}|{name}:chunked"), READ).await;
        assert_open(&error, &[&format!("header refused: {name}:")]);
    }
    assert!(cloud.heard().is_empty());
}

#[tokio::test]
async fn without_credentials_nothing_leaves_and_the_remedy_is_told() {
    let sandbox = Sandbox::with_environment(&[("AWS_EC2_METADATA_DISABLED", "true")]);
    let cloud = Cloud::start().await;
    let error = cloud.asked(&sandbox, "POST {}/", FORM, READ).await;
    assert_open(
        &error,
        &["there are no credentials for AWS", "AWS_ACCESS_KEY_ID is not set", "instance role"],
    );
    assert!(cloud.heard().is_empty());
}

#[tokio::test]
async fn what_the_grant_says_is_not_said_again() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let cloud = Cloud::start().await;
    let behave = [("behave", "honest"), ("region", "us-east-1")];
    let loaded = sandbox.load("hostile", &behave, &cloud.grant(), quick()).await;
    let error = loaded.map(drop).unwrap_err();
    assert!(error.message.contains("`region`") && error.message.contains("leave it out"), "{error}");
}
