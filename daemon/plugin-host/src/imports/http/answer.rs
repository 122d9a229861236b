//! What a guest gets to read of a response: no more than its limit, and no credential that the server repeated.
//! Bytes are struck out in place, so every length stays true. A credential may be cut in two by the network: the
//! end of a piece that could be its beginning is kept back until the next piece, or the end, tells.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use wasmtime_wasi_http::{Error as WasiError, WasiBody};

use crate::grants::leaks::Evident;

/// The response as the guest reads it.
pub(super) fn readable(response: Response<Incoming>, largest: usize, secrets: Evident) -> Response<WasiBody> {
    let bounded = response.map(|body| {
        Limited::new(body, largest).map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => WasiError::HttpResponseBodySize(None),
            Err(_) => WasiError::HttpResponseIncomplete,
        })
    });
    if secrets.is_empty() {
        return bounded.map(|body| body.boxed_unsync());
    }
    let (mut parts, body) = bounded.into_parts();
    strike(&mut parts.headers, &secrets);
    Response::from_parts(parts, Struck { body, secrets, kept: BytesMut::new(), waiting: None }.boxed_unsync())
}

fn strike(headers: &mut HeaderMap, secrets: &Evident) {
    for value in headers.values_mut() {
        let mut bytes = value.as_bytes().to_vec();
        secrets.strike(&mut bytes);
        if bytes != value.as_bytes() {
            // Asterisks are as good in a header as what they stand for.
            *value = HeaderValue::from_bytes(&bytes).unwrap_or(HeaderValue::from_static("*"));
        }
    }
}

/// A body without credentials.
struct Struck<B> {
    body: B,
    secrets: Evident,
    /// The end of what came, which may be the beginning of a credential.
    kept: BytesMut,
    /// What comes after the kept end, once that is out.
    waiting: Option<Frame<Bytes>>,
}

impl<B> Struck<B> {
    fn take(&mut self, length: usize) -> Frame<Bytes> {
        Frame::data(self.kept.split_to(length).freeze())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Struck<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            if let Some(waiting) = self.waiting.take() {
                return Poll::Ready(Some(Ok(waiting)));
            }
            let next = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(frame))) => Some(frame.into_data()),
                Poll::Ready(None) => None,
            };
            match next {
                Some(Ok(data)) => {
                    let this = &mut *self;
                    this.kept.extend_from_slice(&data);
                    this.secrets.strike(&mut this.kept);
                    let whole = this.kept.len() - this.secrets.open_end(&this.kept);
                    if whole > 0 {
                        return Poll::Ready(Some(Ok(self.take(whole))));
                    }
                }
                Some(Err(mut other)) => {
                    if let Some(trailers) = other.trailers_mut() {
                        strike(trailers, &self.secrets);
                    }
                    self.waiting = Some(other);
                    let rest = self.kept.len();
                    if rest > 0 {
                        return Poll::Ready(Some(Ok(self.take(rest))));
                    }
                }
                None => {
                    let rest = self.kept.len();
                    return Poll::Ready((rest > 0).then(|| Ok(self.take(rest))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.kept.is_empty() && self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let kept = u64::try_from(self.kept.len()).unwrap_or(u64::MAX);
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(kept));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;

    use super::*;
    use crate::grants::leaks::Known;

    /// What is left of a body that comes in these pieces, trailers and all.
    async fn left(pieces: &[&[u8]], trailers: Option<HeaderMap>) -> (String, Option<HeaderMap>) {
        let known = Known::default();
        known.remember("hush-hush-hush");
        let mut frames: Vec<_> =
            pieces.iter().map(|piece| Frame::data(Bytes::copy_from_slice(piece))).collect();
        frames.extend(trailers.map(Frame::trailers));
        let frames = frames.into_iter().map(Ok::<_, Infallible>);
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let struck =
            Struck { body, secrets: known.evident(), kept: BytesMut::new(), waiting: None }.collect().await;
        let collected = struck.unwrap();
        let trailers = collected.trailers().cloned();
        (String::from_utf8(collected.to_bytes().to_vec()).unwrap(), trailers)
    }

    #[tokio::test]
    async fn a_credential_is_struck_out_however_it_is_cut() {
        let whole = b"it was hush-hush-hush, hush-hush or hush-hush-hush-hush and hush-";
        let wanted = "it was **************, hush-hush or **************-hush and hush-";
        for first in 0..whole.len() {
            for second in first..whole.len() {
                let pieces = [&whole[..first], &whole[first..second], &whole[second..]];
                assert_eq!(left(&pieces, None).await.0, wanted, "cut at {first} and {second}");
            }
        }
        let bytes: Vec<_> = (0..whole.len()).map(|at| &whole[at..=at]).collect();
        assert_eq!(left(&bytes, None).await.0, wanted);
    }

    #[tokio::test]
    async fn trailers_come_after_what_was_kept_and_hold_none_either() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-you", HeaderValue::from_static("sent hush-hush-hush"));
        let (body, trailers) = left(&[b"a hush", b"-"], Some(trailers)).await;
        assert_eq!(
            (body.as_str(), trailers.unwrap()["x-you"].as_bytes()),
            ("a hush-", &b"sent **************"[..])
        );
    }
}
