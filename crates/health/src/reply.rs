//! The shapes of answers. What they say is elsewhere.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;

use crate::json;

fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A status line only.
pub(crate) fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// A sentence. It may repeat what the request said, so it must never be taken for HTML.
pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body.into())
}

/// A JSON value.
pub(crate) fn json(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    with_type(status, "application/json", json::to_string(body))
}

/// Metrics in Prometheus' text format.
pub(crate) fn metrics(body: String) -> Response<Full<Bytes>> {
    with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

/// A request for Basic credentials (RFC 7617).
pub(crate) fn unauthorized(message: &str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::UNAUTHORIZED, message);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"pgherd\""));
    response
}
