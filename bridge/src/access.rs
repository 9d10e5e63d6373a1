//! Which devices may connect: the part of the directory that a broker asks on each connection.

use crate::device::Device;
use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use subtle::ConstantTimeEq;
use waypost_proto::DeviceId;

/// The secrets of the devices that may connect, as hashes; shared, and changed only by what is on disk.
///
/// Memory: about 60 bytes a device.
#[derive(Debug, Clone, Default)]
pub struct DeviceAccess {
    secrets: Arc<RwLock<HashMap<DeviceId, [u8; 32]>>>,
}

impl DeviceAccess {
    pub(crate) fn new<'a>(devices: impl IntoIterator<Item = &'a Device>) -> Self {
        let access = Self::default();
        for device in devices {
            access.put(device);
        }
        access
    }

    /// Whether this is the secret of a device that may connect. Takes the same time for a wrong secret as for none.
    pub fn verify(&self, device: DeviceId, secret: &[u8]) -> bool {
        use sha2::{Digest, Sha256};
        let given: [u8; 32] = Sha256::digest(secret).into();
        let secrets = self
            .secrets
            .read()
            .expect("nothing panics while the lock is held");
        let expected = secrets.get(&device).copied();
        let equal: bool = given.ct_eq(&expected.unwrap_or([0; 32])).into();
        equal && expected.is_some()
    }

    pub(crate) fn put(&self, device: &Device) {
        let mut secrets = self
            .secrets
            .write()
            .expect("nothing panics while the lock is held");
        if device.revoked {
            secrets.remove(&device.id);
        } else {
            secrets.insert(device.id, device.secret_hash);
        }
    }
}
