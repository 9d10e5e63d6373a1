//! Whose a client certificate is.
//!
//! The handshake has verified that an authority in `tls.client_authority` vouches for it, and that the client has its key. A
//! session that is resumed brings the certificate of its first handshake along; so whether it is still valid is looked at here.

use time::OffsetDateTime;
use waypost_proto::DeviceId;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The device that a certificate (DER) speaks for: the one common name of its subject. `None` where that is not the id of a
/// device, or where the certificate is not valid at this moment.
pub(crate) fn device(certificate: &[u8], now: OffsetDateTime) -> Option<DeviceId> {
    let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let is_valid = (validity.not_before.to_datetime()..=validity.not_after.to_datetime()).contains(&now);
    let mut names = certificate.subject().iter_common_name();
    let (name, further) = (names.next()?, names.next());
    (rest.is_empty() && is_valid && further.is_none())
        .then(|| name.as_str().ok()?.parse().ok())
        .flatten()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
    use time::Duration;

    /// A certificate with these common names.
    pub(crate) fn named(common_names: &[&str], now: OffsetDateTime) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "7d");
        for (number, name) in common_names.iter().enumerate() {
            // One more of the same kind would replace the first.
            let kind = match number {
                0 => DnType::CommonName,
                _ => DnType::CustomDnType(vec![2, 5, 4, 3]),
            };
            params.distinguished_name.push(kind, *name);
        }
        params.not_before = now - Duration::days(1);
        params.not_after = now + Duration::days(1);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_is_the_device() {
        let now = OffsetDateTime::now_utc();
        for (names, expected) in [
            (&["7c"][..], Some("7c")),
            (&["7C"], None),
            (&["07c"], None),
            (&["7c-phone"], None),
            (&["truck 7"], None),
            (&[""], None),
            (&[], None),
            (&["7c", "7d"], None),
        ] {
            let certificate = named(names, now);
            let expected = expected.map(|device| device.parse().unwrap());
            assert_eq!(device(&certificate, now), expected, "{names:?}");
        }
    }

    #[test]
    fn a_certificate_counts_while_it_is_valid_and_whole() {
        let now = OffsetDateTime::now_utc();
        let certificate = named(&["7c"], now);
        for (days, valid) in [(-2, false), (0, true), (2, false)] {
            let found = device(&certificate, now + Duration::days(days));
            assert_eq!(found.is_some(), valid, "{days}");
        }
        for length in 0..certificate.len() {
            assert_eq!(device(&certificate[..length], now), None, "{length}");
        }
        assert_eq!(device(&[&certificate[..], b"x"].concat(), now), None);
    }
}
