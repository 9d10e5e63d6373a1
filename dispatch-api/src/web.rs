//! The dashboard: files that were built from `dispatch-api/web` and embedded when this crate was compiled.
//!
//! Without such a build there is one page that says how to make it. A path without an extension that a browser
//! navigates to is the dashboard's own business, so it gets `index.html`.

use crate::problem::{Problem, ProblemType};
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::borrow::Cow;

#[derive(rust_embed::Embed)]
#[folder = "web/dist"]
#[allow_missing = true]
struct Dist;

const INDEX: &str = "index.html";
const NOT_BUILT: &str = include_str!("pages/not_built.html");

/// Below this folder the build puts files with a hash of their content in their name.
const HASHED_FOLDER: &str = "assets/";

/// One file.
struct Page {
    bytes: Bytes,
    sha256: [u8; 32],
}

impl Page {
    fn new(bytes: Cow<'static, [u8]>, sha256: [u8; 32]) -> Self {
        let bytes = match bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        };
        Self { bytes, sha256 }
    }
}

/// Whatever no route matches.
pub(crate) async fn serve(request: Request) -> Response {
    let (parts, _) = request.into_parts();
    respond(find, &parts.method, parts.uri.path(), &parts.headers)
}

fn find(path: &str) -> Option<Page> {
    let built = Dist::get(path).map(|file| Page::new(file.data, file.metadata.sha256_hash()));
    built.or_else(|| find_not_built(path))
}

/// What there is without a build.
fn find_not_built(path: &str) -> Option<Page> {
    let bytes = NOT_BUILT.as_bytes();
    (path == INDEX).then(|| Page::new(Cow::Borrowed(bytes), crate::secret::sha256(bytes)))
}

fn respond(
    find: impl Fn(&str) -> Option<Page>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Response {
    let Some((name, page)) = resolve(find, path, headers) else {
        let detail = "There is nothing at this path. The interface is under /api/v1, the dashboard at /.";
        return Problem::new(ProblemType::NotFound, detail).into_response();
    };
    if method != Method::GET && method != Method::HEAD {
        let problem = Problem::new(ProblemType::MethodNotAllowed, "A page can only be read.");
        return ([(header::ALLOW, "GET, HEAD")], problem).into_response();
    }
    let etag = etag(&page);
    let cache = if name.starts_with(HASHED_FOLDER) {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let known = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| names(known, &etag));
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let content_type = content_type(name);
        ([(header::CONTENT_TYPE, content_type)], Body::from(page.bytes)).into_response()
    };
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
        .headers_mut()
        .extend(HeaderValue::try_from(etag).map(|etag| (header::ETAG, etag)));
    response
}

fn resolve<'a>(
    find: impl Fn(&str) -> Option<Page>,
    path: &'a str,
    headers: &HeaderMap,
) -> Option<(&'a str, Page)> {
    // Under these nothing is a page: a program that misspells a path must not get one.
    if path == "/api" || path.starts_with("/api/") {
        return None;
    }
    let name = path
        .strip_prefix('/')
        .filter(|name| !name.is_empty())
        .unwrap_or(INDEX);
    if let Some(page) = find(name) {
        return Some((name, page));
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .unwrap_or_default();
    let is_navigation = !last.contains('.') && accept.contains("text/html");
    is_navigation.then_some(())?;
    Some((INDEX, find(INDEX)?))
}

/// Weak: the same page may travel compressed (RFC 9110 §8.8.1).
fn etag(page: &Page) -> String {
    let hash = page.sha256.first_chunk().copied().unwrap_or_default();
    format!("W/\"{:016x}\"", u64::from_be_bytes(hash))
}

/// Weak comparison (RFC 9110 §13.1.2).
fn names(if_none_match: &HeaderValue, etag: &str) -> bool {
    let Ok(known) = if_none_match.to_str() else {
        return false;
    };
    let opaque = etag.trim_start_matches("W/");
    known
        .split(',')
        .map(str::trim)
        .any(|known| known == "*" || known.trim_start_matches("W/") == opaque)
}

fn content_type(name: &str) -> String {
    let guessed = mime_guess::from_path(name).first_or_octet_stream();
    match guessed.type_().as_str() {
        "text" => format!("{guessed}; charset=utf-8"),
        _ => guessed.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(path: &str) -> Option<Page> {
        let text: &[u8] = match path {
            "index.html" => b"<!doctype html>",
            "assets/main-abc.js" => b"main()",
            "icon.svg" => b"<svg/>",
            _ => return None,
        };
        Some(Page::new(Cow::Borrowed(text), crate::secret::sha256(text)))
    }

    fn accepting(accept: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_str(accept).unwrap())])
    }

    #[test]
    fn files_are_found_and_navigation_gets_the_index() {
        let html = "text/html,application/xhtml+xml";
        for (path, accept, status, content_type) in [
            ("/", "*/*", 200, "text/html; charset=utf-8"),
            ("/index.html", "*/*", 200, "text/html; charset=utf-8"),
            (
                "/assets/main-abc.js",
                "*/*",
                200,
                "text/javascript; charset=utf-8",
            ),
            ("/icon.svg", "*/*", 200, "image/svg+xml"),
            ("/devices/7c", html, 200, "text/html; charset=utf-8"),
            ("/devices/7c", "application/json", 404, "application/problem+json"),
            ("/missing.js", html, 404, "application/problem+json"),
            ("/api/v1/missing", html, 404, "application/problem+json"),
            ("/api", html, 404, "application/problem+json"),
            ("/../Cargo.toml", "*/*", 404, "application/problem+json"),
        ] {
            let response = respond(built, &Method::GET, path, &accepting(accept));
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(response.headers()["content-type"], content_type, "{path}");
        }
    }

    #[test]
    fn only_files_with_a_hash_in_their_name_are_kept() {
        for (path, cache) in [
            ("/", "no-cache"),
            ("/icon.svg", "no-cache"),
            ("/assets/main-abc.js", "public, max-age=31536000, immutable"),
        ] {
            let response = respond(built, &Method::GET, path, &HeaderMap::new());
            assert_eq!(response.headers()["cache-control"], cache, "{path}");
        }
    }

    #[test]
    fn a_page_that_the_browser_has_is_not_sent_again() {
        let first = respond(built, &Method::GET, "/", &HeaderMap::new());
        let etag = first.headers()["etag"].clone();
        for (known, status) in [
            (etag.to_str().unwrap().to_owned(), 304),
            (format!("\"x\", {}", etag.to_str().unwrap()), 304),
            (etag.to_str().unwrap().trim_start_matches("W/").to_owned(), 304),
            ("*".to_owned(), 304),
            ("\"x\"".to_owned(), 200),
        ] {
            let headers =
                HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_str(&known).unwrap())]);
            let response = respond(built, &Method::GET, "/", &headers);
            assert_eq!(response.status(), status, "{known}");
            assert_eq!(response.headers()["etag"], etag);
        }
    }

    #[test]
    fn a_page_can_only_be_read() {
        let response = respond(built, &Method::POST, "/", &HeaderMap::new());
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
        assert_eq!(
            respond(built, &Method::POST, "/nothing", &HeaderMap::new()).status(),
            404
        );
    }

    #[tokio::test]
    async fn without_a_build_there_is_a_page_that_says_how_to_make_one() {
        for path in ["/", "/index.html", "/devices"] {
            let response = respond(find_not_built, &Method::GET, path, &accepting("text/html"));
            assert_eq!(response.status(), 200, "{path}");
            assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
            let page = axum::body::to_bytes(response.into_body(), usize::MAX)
                .await
                .unwrap();
            assert!(std::str::from_utf8(&page).unwrap().contains("make web"));
        }
        let response = respond(find_not_built, &Method::GET, "/assets/main.js", &accepting("*/*"));
        assert_eq!(response.status(), 404);
    }
}
