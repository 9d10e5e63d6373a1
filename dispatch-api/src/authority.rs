//! `/ca`: what a device has to install to trust this server, and how.
//!
//! A server without a certificate from elsewhere has an authority of its own. Whoever comes here first comes over a connection
//! that nothing vouches for yet; so the page shows the fingerprint, and says with what to compare it.

use crate::openapi::Document;
use crate::problem::{Problem, ProblemType};
use crate::secret::sha256;
use crate::state::ApiState;
use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::fmt::Write;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

const STYLE: &str = include_str!("pages/authority.css");
const FRAME: &str = include_str!("pages/authority_frame.html");
const OWN: &str = include_str!("pages/authority_own.html");
const FROM_FILES: &str = include_str!("pages/authority_from_files.html");
const NO_TLS: &str = include_str!("pages/authority_no_tls.html");
const MOBILECONFIG: &str = include_str!("pages/authority.mobileconfig");

/// How a device comes to trust the certificate of this server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// The server shows none: it does not speak TLS.
    #[default]
    NoTls,
    /// Its authority is one of those that devices have, or get by other means.
    FromFiles,
    /// It is signed by an authority of this server's own, which devices have to be given.
    Own(Authority),
}

/// An authority of one's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    /// From its certificate in PEM; `None` where there is none in it.
    pub fn from_pem(pem: impl Into<String>) -> Option<Self> {
        let pem = pem.into();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        Some(Self { pem, der })
    }

    /// SHA-256 of the certificate, as programs show it: `AB:CD:…`.
    pub fn fingerprint(&self) -> String {
        colons(&sha256(&self.der))
    }

    /// In PEM, as it stands in the credentials of a device.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A profile for Apple's devices, with ids that are the same each time.
    fn mobileconfig(&self) -> String {
        let digest = sha256(&self.der);
        let (profile, certificate) = digest.split_at(16);
        fill(
            MOBILECONFIG,
            &[
                ("certificate", &STANDARD.encode(&self.der)),
                ("certificate_uuid", &uuid(certificate)),
                ("profile_uuid", &uuid(profile)),
            ],
        )
    }
}

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    let text = || json!({ "type": "string" });
    let bytes = || json!({});
    document
        .get("/ca", "How a device comes to trust this server")
        .answers_with(
            200,
            "A page with the fingerprint of the authority, and what to do on each kind of device.",
            "text/html",
            text(),
        );
    for (path, summary, content_type, schema) in [
        (
            "/ca.pem",
            "The authority in PEM",
            "application/x-pem-file",
            text(),
        ),
        (
            "/ca.crt",
            "The authority in DER",
            "application/x-x509-ca-cert",
            bytes(),
        ),
        (
            "/ca.mobileconfig",
            "The authority as a profile for Apple's devices",
            "application/x-apple-aspen-config",
            text(),
        ),
    ] {
        document
            .get(path, summary)
            .describes("There is one where the server has made its certificate itself.")
            .answers_with(200, "The authority.", content_type, schema)
            .problems(&[404]);
    }
}

/// `GET /ca`
pub(crate) async fn page(State(state): State<ApiState>) -> Html<String> {
    Html(render(&state.shared.trust, state.shared.https.as_deref()))
}

/// `GET /ca.pem`
pub(crate) async fn pem(State(state): State<ApiState>) -> Response {
    download(&state, "application/x-pem-file", |authority| {
        authority.pem.clone().into_bytes()
    })
}

/// `GET /ca.crt`
pub(crate) async fn der(State(state): State<ApiState>) -> Response {
    download(&state, "application/x-x509-ca-cert", |authority| {
        authority.der.to_vec()
    })
}

/// `GET /ca.mobileconfig`
pub(crate) async fn mobileconfig(State(state): State<ApiState>) -> Response {
    download(&state, "application/x-apple-aspen-config", |authority| {
        authority.mobileconfig().into_bytes()
    })
}

fn download(
    state: &ApiState,
    content_type: &'static str,
    content: impl Fn(&Authority) -> Vec<u8>,
) -> Response {
    let detail = match &state.shared.trust {
        Trust::Own(authority) => {
            return ([(header::CONTENT_TYPE, content_type)], content(authority)).into_response();
        }
        Trust::FromFiles => {
            "The certificate of this server comes from elsewhere: nothing has to be installed."
        }
        Trust::NoTls => "This server does not speak TLS: there is nothing to install.",
    };
    Problem::new(ProblemType::NotFound, detail).into_response()
}

/// The page. `https` is where the dashboard is reached over TLS.
fn render(trust: &Trust, https: Option<&str>) -> String {
    let link = https.map_or(String::new(), |https| {
        let https = escaped(https);
        format!("<p>Then open <a href=\"{https}\">{https}</a>: it comes up without a warning.</p>")
    });
    let content = match trust {
        Trust::Own(authority) => {
            let fingerprint = authority.fingerprint();
            // Sixteen bytes a line on a wide screen, eight on a phone.
            let parts = fingerprint.as_bytes().chunks(24).map(|part| {
                let part = String::from_utf8_lossy(part);
                format!("<span>{part}</span>")
            });
            fill(
                OWN,
                &[("fingerprint", &parts.collect::<String>()), ("link", &link)],
            )
        }
        Trust::FromFiles => fill(FROM_FILES, &[("link", &link)]),
        Trust::NoTls => NO_TLS.to_owned(),
    };
    fill(FRAME, &[("style", STYLE), ("content", &content)])
}

/// Puts values into the places `{{name}}` of a page.
fn fill(page: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(page.to_owned(), |page, (name, value)| {
        page.replace(&format!("{{{{{name}}}}}"), value)
    })
}

fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn colons(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (number, byte) in bytes.iter().enumerate() {
        let separator = if number == 0 { "" } else { ":" };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{byte:02X}");
    }
    text
}

/// Sixteen bytes of a digest as an id [RFC 9562 §5.8].
fn uuid(bytes: &[u8]) -> String {
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[..16]);
    id[6] = 0x80 | (id[6] & 0x0F);
    id[8] = 0x80 | (id[8] & 0x3F);
    let mut text = String::new();
    for (number, byte) in id.iter().enumerate() {
        let separator = if [4, 6, 8, 10].contains(&number) { "-" } else { "" };
        let _ = write!(text, "{separator}{byte:02X}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> Authority {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap()
            .pem();
        Authority::from_pem(pem).unwrap()
    }

    #[test]
    fn pages_say_what_to_do_and_leave_no_place_empty() {
        let own = authority();
        let https = "https://depot.example:8443/\"><b>";
        for (trust, part) in [
            (Trust::Own(own.clone()), "/ca.mobileconfig"),
            (Trust::FromFiles, "nothing to install"),
            (Trust::NoTls, "does not speak TLS"),
        ] {
            let page = render(&trust, Some(https));
            assert!(page.contains(part), "{page}");
            assert!(!page.contains("{{") && !page.contains("\"><b>"), "{page}");
            // Nothing comes from elsewhere, and nothing is a script.
            for foreign in ["<script", "src=\"http", "url(http", "@import"] {
                assert!(!page.contains(foreign), "{foreign}");
            }
        }
        let page = render(&Trust::Own(own.clone()), None);
        let shown = page.replace("<span>", "").replace("</span>", "");
        assert!(shown.contains(&own.fingerprint()), "{shown}");
    }

    #[test]
    fn a_fingerprint_is_spelled_as_openssl_spells_it() {
        assert_eq!(colons(&[0x00, 0xAB, 0x09]), "00:AB:09");
        let fingerprint = authority().fingerprint();
        assert_eq!((fingerprint.len(), fingerprint.matches(':').count()), (95, 31));
    }

    #[test]
    fn a_profile_holds_the_certificate_and_two_ids() {
        let authority = authority();
        let profile = authority.mobileconfig();
        assert_eq!(profile, authority.mobileconfig());
        assert!(profile.contains(&STANDARD.encode(&authority.der)) && !profile.contains("{{"));
        let ids: Vec<&str> = profile
            .split("<key>PayloadUUID</key>")
            .skip(1)
            .map(|rest| rest.trim_start().split(['<', '>']).nth(2).unwrap())
            .collect();
        let [first, second] = ids[..] else {
            panic!("{ids:?}")
        };
        assert_ne!(first, second);
        for id in ids {
            assert_eq!((id.len(), &id[14..15]), (36, "8"), "{id}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_no_authority() {
        for pem in ["", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
            assert_eq!(Authority::from_pem(pem), None, "{pem}");
        }
    }
}
