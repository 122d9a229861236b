//! Requests of a guest that tries its luck: `METHOD URL`, with headers (`name:value`, `|` between them) and a body if it
//! is told of them, following redirects.

use kato_plugin_sdk::types::{Error, Pair};
use wasip2::{
    http::{
        outgoing_handler::handle,
        types::{ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme},
    },
    io::streams::StreamError,
};

use crate::value;

/// Sends a request and answers its status and body.
pub fn send(configuration: &[Pair], argument: &str) -> Result<String, Error> {
    let (method, url) = argument.split_once(' ').unwrap_or(("GET", argument));
    let mut url = url.to_owned();
    for _ in 0..5 {
        let response = once(method, &url, value(configuration, "header"), value(configuration, "body"))
            .map_err(|error| Error::unavailable(format!("the request failed: {error}")))?;
        let status = response.status();
        let target = response.headers().get("location").into_iter().next();
        match target.and_then(|target| String::from_utf8(target).ok()) {
            Some(target) if (300..400).contains(&status) => url = target,
            _ => return Ok(format!("{status} {}", text(response)?)),
        }
    }
    Err(Error::unavailable("too many redirects"))
}

fn once(method: &str, url: &str, headers: &str, content: &str) -> Result<IncomingResponse, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
    let split = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(split);
    let fields = Fields::new();
    for (name, text) in headers.split('|').filter_map(|header| header.split_once(':')) {
        fields.append(name, text.as_bytes()).map_err(|error| format!("header refused: {name}: {error:?}"))?;
    }
    let request = OutgoingRequest::new(fields);
    let method = match method {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "CONNECT" => Method::Connect,
        other => Method::Other(other.to_owned()),
    };
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    request.set_method(&method).map_err(|()| "bad method")?;
    request.set_scheme(Some(&scheme)).map_err(|()| "bad scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "bad authority")?;
    request.set_path_with_query(Some(if path.is_empty() { "/" } else { path })).map_err(|()| "bad path")?;
    let body = request.body().map_err(|()| "no body")?;
    let future = handle(request, None).map_err(|error| explain(&error))?;
    write(&body, content)?;
    OutgoingBody::finish(body, None).map_err(|error| explain(&error))?;
    future.subscribe().block();
    match future.get() {
        Some(Ok(Ok(response))) => Ok(response),
        Some(Ok(Err(error))) => Err(explain(&error)),
        _ => Err("no answer".into()),
    }
}

/// Writes a body in two pieces, as whoever hopes that only one of them is read.
fn write(body: &OutgoingBody, content: &str) -> Result<(), String> {
    let stream = body.write().map_err(|()| "no stream")?;
    let (first, second) = content.as_bytes().split_at(content.len() / 2);
    for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
        stream.blocking_write_and_flush(piece).map_err(|error| format!("{error:?}"))?;
    }
    Ok(())
}

/// The body of what a URL answers.
pub fn fetch(url: &str) -> Result<Vec<u8>, Error> {
    body(once("GET", url, "", "").map_err(Error::unavailable)?)
}

fn text(response: IncomingResponse) -> Result<String, Error> {
    let told = response.headers().entries();
    let told = told.iter().filter(|(name, _)| name.starts_with("x-"));
    let told = told.map(|(name, value)| format!("{name}: {}; ", String::from_utf8_lossy(value)));
    let told: String = told.collect();
    let body = body(response)?;
    Ok(format!("{told}{}", String::from_utf8_lossy(&body).chars().take(900).collect::<String>()))
}

fn body(response: IncomingResponse) -> Result<Vec<u8>, Error> {
    let lost = || Error::unavailable("the answer's body was lost");
    let body = response.consume().map_err(|()| lost())?;
    let stream = body.stream().map_err(|()| lost())?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(1 << 16) {
            Ok(chunk) => bytes.extend(chunk),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(error) => return Err(Error::unavailable(format!("the answer's body broke off: {error:?}"))),
        }
    }
}

fn explain(error: &ErrorCode) -> String {
    format!("{error:?}")
}
