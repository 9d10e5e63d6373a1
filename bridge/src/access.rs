//! Which devices may connect: the part of the directory that a broker asks on each connection.

use crate::device::Device;
use crate::stream::{Stream, StreamKind};
use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use subtle::ConstantTimeEq;
use waypost_proto::{DeviceId, GroupId};

/// The devices with their groups and the hashes of their secrets; shared, and changed only by what is on disk.
///
/// Memory: about 60 bytes a device, and 8 for each of its groups.
#[derive(Debug, Clone, Default)]
pub struct DeviceAccess {
    /// `None` for a device that was revoked.
    secrets: Arc<RwLock<HashMap<DeviceId, Option<[u8; 32]>>>>,
    groups: Arc<RwLock<HashMap<DeviceId, Vec<GroupId>>>>,
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
        let expected = secrets.get(&device).copied().flatten();
        let equal: bool = given.ct_eq(&expected.unwrap_or([0; 32])).into();
        equal && expected.is_some()
    }

    /// Whether this is a device that may connect, for one who has shown by other means than its secret that it is the device.
    pub fn may_connect(&self, device: DeviceId) -> bool {
        self.secrets
            .read()
            .expect("nothing panics while the lock is held")
            .get(&device)
            .is_some_and(Option::is_some)
    }

    /// Whether there is a device with this id, or was before it was revoked.
    pub fn knows(&self, device: DeviceId) -> bool {
        self.secrets
            .read()
            .expect("nothing panics while the lock is held")
            .contains_key(&device)
    }

    /// The groups of a device: it may read the topics of these, and of no others.
    pub fn groups(&self, device: DeviceId) -> Vec<GroupId> {
        let groups = self.groups.read().expect("nothing panics while the lock is held");
        groups.get(&device).cloned().unwrap_or_default()
    }

    pub(crate) fn put_groups(&self, device: DeviceId, of_device: Vec<GroupId>) {
        let mut groups = self
            .groups
            .write()
            .expect("nothing panics while the lock is held");
        if of_device.is_empty() {
            groups.remove(&device);
        } else {
            groups.insert(device, of_device);
        }
    }

    /// Takes in who is a member of which group, from all streams.
    pub(crate) fn put_members<'a>(&self, streams: impl IntoIterator<Item = &'a Stream>) {
        let mut groups = self
            .groups
            .write()
            .expect("nothing panics while the lock is held");
        for stream in streams {
            if let StreamKind::Group(group) = stream.kind {
                for device in stream.devices() {
                    groups.entry(device).or_default().push(group);
                }
            }
        }
    }

    pub(crate) fn put(&self, device: &Device) {
        let mut secrets = self
            .secrets
            .write()
            .expect("nothing panics while the lock is held");
        secrets.insert(device.id, (!device.revoked).then_some(device.secret_hash));
    }
}
