//! How many requests there are and how long they take, by route: never by the path, which holds ids.

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use std::time::Instant;

/// Describes the metrics of this crate; once a process is enough.
pub(crate) fn describe() {
    metrics::describe_counter!(
        "waypost_http_requests_total",
        "Requests by route, method and class of status."
    );
    metrics::describe_histogram!(
        "waypost_http_request_seconds",
        metrics::Unit::Seconds,
        "Time from the head of a request to the head of its answer, by route and method."
    );
    metrics::describe_counter!("waypost_http_sign_ins_total", "Sign-ins by outcome.");
    metrics::describe_gauge!(
        "waypost_http_event_streams",
        "Streams of server-sent events that are open."
    );
    metrics::describe_counter!(
        "waypost_http_connections_refused_total",
        "Connections not taken, by reason."
    );
    metrics::describe_counter!(
        "waypost_http_connections_cut_total",
        "Connections ended by the server, by reason."
    );
    metrics::describe_counter!(
        "waypost_http_tls_handshakes_failed_total",
        "Connections that did not get through the TLS handshake, by reason."
    );
    metrics::describe_counter!(
        "waypost_http_mqtt_sockets_ended_total",
        "WebSockets of MQTT whose client broke the rules of WebSocket, by reason."
    );
}

/// Around every route.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let method = method_label(request.method());
    // What no route matches is a page, or nothing.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("page".to_owned(), |path| path.as_str().to_owned());
    let begun = Instant::now();
    let response = next.run(request).await;
    metrics::histogram!("waypost_http_request_seconds", "route" => route.clone(), "method" => method)
        .record(begun.elapsed().as_secs_f64());
    let status = status_label(response.status());
    metrics::counter!("waypost_http_requests_total", "route" => route, "method" => method, "status" => status)
        .increment(1);
    response
}

/// A client can invent methods; a label has a bound.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
