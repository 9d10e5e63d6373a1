//! The server's own authority, for who has no other: made at the first start, kept for good, since devices have it installed.
//!
//! `tls/authority.pem` is what devices get, `tls/authority.key` never leaves the server, and `tls/server.pem` holds the
//! certificate that it signed and the key of that, in one file so that they cannot disagree.

use super::certificate::Certificate;
use crate::data_folder::write_private;
use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

const AUTHORITY_FILE: &str = "authority.pem";
const AUTHORITY_KEY_FILE: &str = "authority.key";
const SERVER_FILE: &str = "server.pem";
const AUTHORITY_DAYS: i64 = 3_653;
/// Apple's devices and some of Android's take nothing that is valid for more than 398 days.
const SERVER_DAYS: i64 = 397;
/// Long enough for somebody to notice that it fails.
const RENEWED_BEFORE: Duration = Duration::days(30);
/// Clocks of devices may be as far behind.
const CLOCKS_BEHIND: Duration = Duration::days(2);
/// What a common name may have [RFC 5280, ub-common-name].
const COMMON_NAME_CHARS_MAX: usize = 64;

/// An authority of one's own.
pub(super) struct Authority {
    folder: PathBuf,
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    ends_at: OffsetDateTime,
}

impl Authority {
    /// The one in the folder; made where there is none, with the name of this machine in its own.
    pub(super) fn open(folder: &Path, host: &str, now: OffsetDateTime) -> anyhow::Result<Self> {
        let (path, key_path) = (folder.join(AUTHORITY_FILE), folder.join(AUTHORITY_KEY_FILE));
        let pem = match fs::read_to_string(&path) {
            Ok(pem) => pem,
            // The certificate is written last: without it no device can have been given the authority.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make(&path, &key_path, host, now).context("an authority for TLS cannot be made")?
            }
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        };
        Self::read(folder, pem, &key_path).with_context(|| {
            format!(
                "the authority in {0} and {1} cannot be used; restore both from a backup, or remove {0} and start again \
                 for a new one, which every device then has to be given",
                path.display(),
                key_path.display()
            )
        })
    }

    fn read(folder: &Path, pem: String, key_path: &Path) -> anyhow::Result<Self> {
        let key =
            fs::read_to_string(key_path).with_context(|| format!("{} cannot be read", key_path.display()))?;
        let key = KeyPair::from_pem(&key).context("the key is no whole PEM")?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| anyhow::anyhow!("the certificate is no whole PEM: {error}"))?;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|error| anyhow::anyhow!("the certificate is not one of X.509: {error}"))?;
        anyhow::ensure!(
            certificate.public_key().raw == key.subject_public_key_info(),
            "the key is not the one of the certificate"
        );
        let ends_at = certificate.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(&der, key).context("the certificate is no authority's")?;
        Ok(Self {
            folder: folder.to_owned(),
            pem,
            der,
            issuer,
            ends_at,
        })
    }

    /// What devices are given.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn ends_at(&self) -> OffsetDateTime {
        self.ends_at
    }

    /// The server's certificate in the folder, where it is for these names and not about to end; a new one otherwise, on disk
    /// before it is used.
    pub(super) fn server_certificate(
        &self,
        names: &BTreeSet<String>,
        now: OffsetDateTime,
    ) -> anyhow::Result<Certificate> {
        let path = self.folder.join(SERVER_FILE);
        match fs::read(&path) {
            Ok(pem) => match Certificate::from_pem(&pem, &pem) {
                Ok(kept) if self.vouches_for(&kept) && !self.is_due(&kept, names, now) => return Ok(kept),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "{} is damaged, so it is made anew: {error}", path.display());
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
        let pem = self.sign(names, now)?;
        let certificate = Certificate::from_pem(pem.as_bytes(), pem.as_bytes())?;
        write_private(&path, pem.as_bytes())?;
        Ok(certificate)
    }

    /// Is it time for another certificate than this one?
    pub(super) fn is_due(
        &self,
        certificate: &Certificate,
        names: &BTreeSet<String>,
        now: OffsetDateTime,
    ) -> bool {
        // One that ends with the authority would not be better for being new.
        let renewed_at = certificate.ends_at.min(self.ends_at) - RENEWED_BEFORE;
        let is_old = now >= renewed_at && certificate.ends_at < self.ends_at;
        certificate.names != *names || is_old
    }

    fn vouches_for(&self, certificate: &Certificate) -> bool {
        let (Ok((_, authority)), Ok((_, certificate))) = (
            X509Certificate::from_der(&self.der),
            X509Certificate::from_der(certificate.der()),
        ) else {
            return false;
        };
        certificate.issuer() == authority.subject()
            && certificate.verify_signature(Some(authority.public_key())).is_ok()
    }

    /// A certificate and its new key, in PEM.
    fn sign(&self, names: &BTreeSet<String>, now: OffsetDateTime) -> anyhow::Result<String> {
        let names: Vec<String> = names.iter().cloned().collect();
        let mut params = CertificateParams::new(names).context("a name is none for a certificate")?;
        params.distinguished_name = named("Waypost");
        params.not_before = now - CLOCKS_BEHIND;
        params.not_after = (params.not_before + Duration::days(SERVER_DAYS)).min(self.ends_at);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(certificate.pem() + &key.serialize_pem())
    }
}

/// Makes an authority that signs servers and nothing below them.
fn make(path: &Path, key_path: &Path, host: &str, now: OffsetDateTime) -> anyhow::Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("Waypost authority of {host}"));
    params.not_before = now - CLOCKS_BEHIND;
    params.not_after = params.not_before + Duration::days(AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    write_private(key_path, key.serialize_pem().as_bytes())?;
    write_private(path, pem.as_bytes())?;
    tracing::info!(
        "made an authority for TLS in {}; devices that trust it trust this server",
        path.display()
    );
    Ok(pem)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    let short: String = common_name.chars().take(COMMON_NAME_CHARS_MAX).collect();
    name.push(DnType::CommonName, short);
    name
}
