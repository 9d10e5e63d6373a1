//! A certificate with its chain and key, and the place where handshakes find the present one.

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What a server shows: a certificate, the chain below it, and a key that fits.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    pub(super) served: Arc<CertifiedKey>,
    pub(super) ends_at: OffsetDateTime,
    /// The host names and addresses that it is for.
    pub(super) names: BTreeSet<String>,
}

impl Certificate {
    /// From PEM; all of it has to be whole, and the key has to be that of the first certificate.
    pub(super) fn from_pem(chain: &[u8], key: &[u8]) -> anyhow::Result<Self> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| anyhow::anyhow!("the certificate is no whole PEM: {error}"))?;
        let first = chain.first().context("there is no certificate in PEM")?;
        let (ends_at, names) = facts(first)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| anyhow::anyhow!("the private key is no whole PEM: {error}"))?;
        let served = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(
            |error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    anyhow::anyhow!("the private key is not the one of the certificate")
                }
                error => anyhow::anyhow!("the certificate and its key cannot be used: {error}"),
            },
        )?;
        Ok(Self {
            served: Arc::new(served),
            ends_at,
            names,
        })
    }

    /// The certificate itself, without its chain.
    pub(super) fn der(&self) -> &[u8] {
        self.served.cert.first().map_or(&[], |first| first.as_ref())
    }
}

/// When a certificate ends, and what it is for.
fn facts(certificate: &[u8]) -> anyhow::Result<(OffsetDateTime, BTreeSet<String>)> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|error| anyhow::anyhow!("the certificate is not one of X.509: {error}"))?;
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map_or(BTreeSet::new(), |names| {
            names.value.general_names.iter().filter_map(name).collect()
        });
    Ok((certificate.validity().not_after.to_datetime(), names))
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(|four| IpAddr::V4(Ipv4Addr::from(four)))
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(|six| IpAddr::V6(Ipv6Addr::from(six))))
            .ok()
            .map(|address| address.to_string()),
        _ => None,
    }
}

/// Where each handshake finds the certificate that counts at that moment.
#[derive(Debug)]
pub(super) struct Present(RwLock<Certificate>);

impl Present {
    pub(super) fn new(certificate: Certificate) -> Self {
        Self(RwLock::new(certificate))
    }

    pub(super) fn certificate(&self) -> Certificate {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn replace(&self, certificate: Certificate) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certificate;
    }
}

impl ResolvesServerCert for Present {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            self.0
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .served
                .clone(),
        )
    }
}
