//! The header of the PROXY protocol, version 2, with which a proxy says who it speaks for.
//!
//! [PROXY protocol §2.2] Sixteen bytes that tell how many follow; then addresses, then TLVs. The TLVs are skipped but for the
//! checksum, which is checked where it is there. No IO: the caller reads as many bytes as it is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every header begins with; it tells how long the rest is.
pub(crate) const PREAMBLE_BYTES: usize = 16;
/// Addresses and TLVs of one header. Proxies send a few hundred bytes at most; a longer header is refused.
const REST_BYTES_MAX: usize = 2_048;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The TLV of the checksum, PP2_TYPE_CRC32C.
const CRC32C: u8 = 0x03;

/// Why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHeader {
    #[error("it does not begin with a PROXY header of version 2")]
    NoHeader,
    #[error("its PROXY header is of a kind that is not known")]
    UnknownKind,
    #[error("its PROXY header has {0} bytes, more than {REST_BYTES_MAX}")]
    TooLong(usize),
    #[error("its PROXY header is cut, or not what it says it is")]
    Malformed,
    #[error("the checksum of its PROXY header is wrong")]
    WrongChecksum,
}

/// The beginning of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preamble {
    bytes: [u8; PREAMBLE_BYTES],
    tells: Tells,
    rest_bytes: usize,
}

/// Whether a header names a client, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tells {
    /// The proxy speaks for itself, as for a health check, or for a client without an address of the internet.
    Nothing,
    Ipv4,
    Ipv6,
}

impl Tells {
    /// Bytes of both addresses and both ports.
    fn address_bytes(self) -> usize {
        match self {
            Tells::Nothing => 0,
            Tells::Ipv4 => 12,
            Tells::Ipv6 => 36,
        }
    }
}

impl Preamble {
    /// Whether a header can begin with these bytes. One that cannot is refused at once: who speaks MQTT without a header may
    /// have sent all that it has to say in fewer bytes than a preamble has.
    pub(crate) fn may_begin_with(bytes: &[u8]) -> bool {
        bytes
            .iter()
            .zip(&SIGNATURE)
            .all(|(byte, expected)| byte == expected)
    }

    pub(crate) fn parse(bytes: [u8; PREAMBLE_BYTES]) -> Result<Preamble, BadHeader> {
        let [.., version_and_command, family, high, low] = bytes;
        if !bytes.starts_with(&SIGNATURE) || version_and_command >> 4 != 2 {
            return Err(BadHeader::NoHeader);
        }
        let tells = match (version_and_command & 0x0F, family) {
            // LOCAL: whatever the family says.
            (0, _) => Tells::Nothing,
            // UNSPEC, and a stream of a Unix socket.
            (1, 0x00 | 0x31) => Tells::Nothing,
            (1, 0x11) => Tells::Ipv4,
            (1, 0x21) => Tells::Ipv6,
            _ => return Err(BadHeader::UnknownKind),
        };
        let rest_bytes = usize::from(u16::from_be_bytes([high, low]));
        if rest_bytes > REST_BYTES_MAX {
            return Err(BadHeader::TooLong(rest_bytes));
        }
        if rest_bytes < tells.address_bytes() {
            return Err(BadHeader::Malformed);
        }
        Ok(Preamble {
            bytes,
            tells,
            rest_bytes,
        })
    }

    /// How many bytes belong to the header beside these.
    pub(crate) fn rest_bytes(&self) -> usize {
        self.rest_bytes
    }

    /// The address of the client, from the rest of the header; `None` where it names none. A checksum in it is zeroed.
    pub(crate) fn source(&self, rest: &mut [u8]) -> Result<Option<SocketAddr>, BadHeader> {
        if rest.len() != self.rest_bytes {
            return Err(BadHeader::Malformed);
        }
        let source = match self.tells {
            // What follows may be anything, addresses of another kind included.
            Tells::Nothing => return Ok(None),
            Tells::Ipv4 => {
                let [a, b, c, d, _, _, _, _, high, low, ..] = *rest else {
                    return Err(BadHeader::Malformed);
                };
                let port = u16::from_be_bytes([high, low]);
                SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port)
            }
            Tells::Ipv6 => {
                let (Some(address), Some(&[high, low])) = (
                    rest.first_chunk::<16>(),
                    rest.get(32..34).and_then(<[u8]>::first_chunk),
                ) else {
                    return Err(BadHeader::Malformed);
                };
                let address = IpAddr::V6(Ipv6Addr::from(*address)).to_canonical();
                SocketAddr::new(address, u16::from_be_bytes([high, low]))
            }
        };
        self.verify(rest)?;
        Ok(Some(source))
    }

    /// Walks the TLVs, and compares the checksum where there is one.
    fn verify(&self, rest: &mut [u8]) -> Result<(), BadHeader> {
        let mut at = self.tells.address_bytes();
        let mut expected = None;
        while at < rest.len() {
            let Some(&[kind, high, low]) = rest.get(at..).and_then(<[u8]>::first_chunk) else {
                return Err(BadHeader::Malformed);
            };
            let begin = at + 3;
            let end = begin + usize::from(u16::from_be_bytes([high, low]));
            let value = rest.get_mut(begin..end).ok_or(BadHeader::Malformed)?;
            if kind == CRC32C {
                let sum = <&mut [u8; 4]>::try_from(value).map_err(|_| BadHeader::Malformed)?;
                expected = Some(u32::from_be_bytes(*sum));
                *sum = [0; 4];
            }
            at = end;
        }
        match expected {
            Some(expected) if crc32c(self.bytes.iter().chain(&*rest)) != expected => {
                Err(BadHeader::WrongChecksum)
            }
            _ => Ok(()),
        }
    }
}

/// [RFC 9260 appendix A] CRC32c, bit by bit: a header is short and comes once.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0x82F6_3B78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header with these bytes behind the signature.
    fn read(version_and_command: u8, family: u8, rest: &[u8]) -> Result<Option<SocketAddr>, BadHeader> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_and_command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        let preamble = Preamble::parse(bytes.try_into().unwrap())?;
        assert_eq!(preamble.rest_bytes(), rest.len());
        preamble.source(&mut rest.to_vec())
    }

    const FOUR: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x9C, 0x40, 0x22, 0xB3];

    fn six(source: &str) -> Vec<u8> {
        let source: Ipv6Addr = source.parse().unwrap();
        let destination: Ipv6Addr = "2001:db8::1".parse().unwrap();
        [&source.octets()[..], &destination.octets(), &FOUR[8..]].concat()
    }

    fn told(address: &str) -> Result<Option<SocketAddr>, BadHeader> {
        Ok(Some(address.parse().unwrap()))
    }

    #[test]
    fn a_header_tells_who_the_proxy_speaks_for() {
        // PP2_TYPE_AUTHORITY and PP2_TYPE_NOOP.
        let tlvs = [&[0x02, 0, 3][..], b"a.b", &[0x04, 0, 0]].concat();
        for (version_and_command, family, rest, expected) in [
            (0x21, 0x11, FOUR.to_vec(), told("192.0.2.7:40000")),
            (0x21, 0x11, [&FOUR[..], &tlvs].concat(), told("192.0.2.7:40000")),
            (0x21, 0x21, six("2001:db8::7"), told("[2001:db8::7]:40000")),
            (
                0x21,
                0x21,
                [six("2001:db8::7"), tlvs.clone()].concat(),
                told("[2001:db8::7]:40000"),
            ),
            (0x21, 0x21, six("::ffff:192.0.2.7"), told("192.0.2.7:40000")),
            // A health check, whatever else it says; a client that is not named.
            (0x20, 0x00, vec![], Ok(None)),
            (0x20, 0x11, FOUR.to_vec(), Ok(None)),
            (0x20, 0xFF, vec![1, 2, 3], Ok(None)),
            (0x21, 0x00, vec![], Ok(None)),
            (0x21, 0x00, tlvs.clone(), Ok(None)),
            (0x21, 0x31, vec![0; 216], Ok(None)),
            // Another version; another command; a datagram; a family that nobody knows.
            (0x11, 0x11, FOUR.to_vec(), Err(BadHeader::NoHeader)),
            (0x22, 0x11, FOUR.to_vec(), Err(BadHeader::UnknownKind)),
            (0x21, 0x12, FOUR.to_vec(), Err(BadHeader::UnknownKind)),
            (0x21, 0x41, FOUR.to_vec(), Err(BadHeader::UnknownKind)),
            // Addresses that are cut, TLVs that are cut.
            (0x21, 0x11, FOUR[..11].to_vec(), Err(BadHeader::Malformed)),
            (0x21, 0x21, six("::1")[..35].to_vec(), Err(BadHeader::Malformed)),
            (
                0x21,
                0x11,
                [&FOUR[..], &[0x04]].concat(),
                Err(BadHeader::Malformed),
            ),
            (
                0x21,
                0x11,
                [&FOUR[..], &[0x04, 0, 1]].concat(),
                Err(BadHeader::Malformed),
            ),
            (
                0x21,
                0x11,
                [&FOUR[..], &tlvs[..5]].concat(),
                Err(BadHeader::Malformed),
            ),
            (
                0x21,
                0x11,
                [&FOUR[..], &[0x03, 0, 1, 0]].concat(),
                Err(BadHeader::Malformed),
            ),
            // The bound.
            (0x21, 0x00, vec![0; 2_048], Ok(None)),
            (0x21, 0x00, vec![0; 2_049], Err(BadHeader::TooLong(2_049))),
            (0x20, 0x00, vec![0; 65_535], Err(BadHeader::TooLong(65_535))),
        ] {
            assert_eq!(
                read(version_and_command, family, &rest),
                expected,
                "{version_and_command:x} {family:x} {rest:?}"
            );
        }
    }

    #[test]
    fn what_is_no_header_is_known_by_its_first_bytes() {
        let header = [&SIGNATURE[..], &[0x21, 0x11, 0, 12]].concat();
        for length in 0..=header.len() {
            assert!(Preamble::may_begin_with(&header[..length]), "{length}");
        }
        for text in [
            "PROXY TCP4 192.0.2.7 ",
            "GET / HTTP/1.1\r\n\r\n",
            "\x10\x0d\0\x04MQTT\x05\x02\0\x3c\0\0\0\0",
        ] {
            assert!(!Preamble::may_begin_with(&text.as_bytes()[..1]), "{text}");
            let bytes = *text.as_bytes().first_chunk().unwrap();
            assert_eq!(Preamble::parse(bytes), Err(BadHeader::NoHeader), "{text}");
        }
    }

    #[test]
    fn a_checksum_counts_where_there_is_one() {
        // [RFC 3720 appendix B.4] 32 bytes of zeroes.
        assert_eq!(crc32c([0; 32].iter()), 0x8A91_36AA);
        let with = |sum: u32| [&FOUR[..], &[CRC32C, 0, 4], &sum.to_be_bytes(), &[0x04, 0, 1, 9]].concat();
        let zeroed = with(0);
        let preamble = [&SIGNATURE[..], &[0x21, 0x11, 0, 23]].concat();
        let sum = crc32c(preamble.iter().chain(&zeroed));
        assert_eq!(read(0x21, 0x11, &with(sum)), told("192.0.2.7:40000"));
        assert_eq!(read(0x21, 0x11, &with(sum ^ 1)), Err(BadHeader::WrongChecksum));
        let mut other = with(sum);
        other[0] = 193;
        assert_eq!(read(0x21, 0x11, &other), Err(BadHeader::WrongChecksum));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(
            begin in prop_oneof![any::<[u8; 4]>(), any::<u8>().prop_map(|length| [0x21, 0x11, 0, length])],
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = [0; PREAMBLE_BYTES];
            bytes[..12].copy_from_slice(&SIGNATURE);
            bytes[12..].copy_from_slice(&begin);
            if let Ok(preamble) = Preamble::parse(bytes) {
                let length = preamble.rest_bytes();
                let mut rest: Vec<u8> = rest.into_iter().cycle().take(length).collect();
                rest.resize(length, 0);
                let _ = preamble.source(&mut rest);
            }
        }
    }
}
