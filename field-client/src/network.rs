//! What an app calls the network that the device is in.

/// The name of a network: opaque, and compared with others only. What is learnt of a network is kept under it.
///
/// An app makes it of what the system tells: the carrier's code, a hash of the Wi-Fi's name. It is stored on the device, never
/// sent, never logged. The default, an empty one, is the network that nobody has named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NetworkName(String);

impl NetworkName {
    /// The longest name: a hash as text fits.
    pub const BYTES_MAX: usize = 64;

    /// `None` where it has more than 64 bytes.
    pub fn new(name: impl Into<String>) -> Option<Self> {
        let name = name.into();
        (name.len() <= Self::BYTES_MAX).then_some(Self(name))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}
