//! Which engine keeps the data: what a person chooses by name.

use super::kv::{KeyedStore, OrderedKeys};
use super::{FjallKeys, SledKeys, Store, StoreError};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// An engine that keeps a store in a folder. One cannot read what another wrote; [`super::copy`] moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// fjall, the default.
    Fjall,
    /// sled.
    Sled,
}

impl Engine {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Fjall, Self::Sled];

    /// How settings and commands call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Sled => "sled",
        }
    }

    /// Opens the store in `folder`, or makes one there.
    ///
    /// # Errors
    /// [`StoreError::Locked`] where another process has it, [`StoreError::Engine`].
    pub fn open(self, folder: &Path) -> Result<Arc<dyn Store>, StoreError> {
        Ok(match self {
            Self::Fjall => Arc::new(KeyedStore(FjallKeys::open(folder)?)),
            Self::Sled => Arc::new(KeyedStore(SledKeys::open(folder)?)),
        })
    }

    /// The same without a meaning, and without beginning a new generation.
    pub(super) fn open_keys(self, folder: &Path) -> Result<Box<dyn OrderedKeys>, StoreError> {
        Ok(match self {
            Self::Fjall => Box::new(FjallKeys::open(folder)?),
            Self::Sled => Box::new(SledKeys::open(folder)?),
        })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No engine has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no engine {0:?}; there are fjall and sled")]
pub struct UnknownEngine(String);

impl FromStr for Engine {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        let found = Self::ALL.into_iter().find(|engine| engine.name() == name);
        found.ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}
