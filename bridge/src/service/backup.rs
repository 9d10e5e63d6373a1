//! The store as it is at one moment, read while the server goes on.

use super::{Bridge, BridgeError, Result};
use crate::store::{Encoder, StoreError};
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// About how many bytes a piece has.
const PIECE_BYTES: usize = 128 * 1024;
/// How many pieces wait for whoever reads.
const PIECES_MAX: usize = 4;
/// How long a piece waits for whoever reads. Meanwhile the engine cannot clear away what was replaced, or cannot even write.
const PATIENCE: Duration = Duration::from_secs(10);

/// The bytes of an export, piece by piece. Where they end before the end of the export, reading was broken off.
pub type Export = mpsc::Receiver<Vec<u8>>;

impl Bridge {
    /// Everything that is in the store at this moment, as [`crate::store::Decoder`] takes it apart. It is in the audit record
    /// that somebody took it, as secrets and all words are in it.
    ///
    /// # Errors
    /// [`BridgeError::Conflict`] while another one is read: each keeps the engine from clearing away.
    pub async fn export(&self) -> Result<Export> {
        let Ok(one) = self.exports.clone().try_acquire_owned() else {
            return Err(BridgeError::Conflict(
                "A backup is being read already; wait until it is complete.",
            ));
        };
        self.change(|core, _| core.note_export()).await?;
        let (pieces, export) = mpsc::channel(PIECES_MAX);
        let (store, runtime) = (self.store.clone(), Handle::current());
        tokio::task::spawn_blocking(move || {
            let _one = one;
            let give = |piece| {
                let sent = runtime.block_on(timeout(PATIENCE, pieces.send(piece)));
                matches!(sent, Ok(Ok(())))
            };
            let mut encoder = Encoder::default();
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let mut is_read = true;
            let whole = store.snapshot(&mut |key, value| {
                encoder.record(key, value, &mut piece);
                if piece.len() >= PIECE_BYTES {
                    is_read = give(std::mem::replace(&mut piece, Vec::with_capacity(PIECE_BYTES)));
                }
                Ok(if is_read {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                })
            });
            match whole {
                Ok(()) if is_read => {
                    encoder.finish(&mut piece);
                    give(piece);
                }
                Ok(()) => tracing::warn!("a backup was broken off: nobody read on"),
                Err(error) => tell(&error),
            }
        });
        Ok(export)
    }
}

fn tell(error: &StoreError) {
    tracing::error!(%error, "a backup was broken off: {error}");
}
