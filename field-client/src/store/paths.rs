//! What was learnt of the networks that a device was in.

use super::{Engine, Store, StoreError, Table, Transaction};
use crate::NetworkName;
use crate::core::keep_alive::StoredPath;
use prost::Message;

const PATHS: &[u8] = b"paths";

/// All of them in one record: they are few, and change seldom.
#[derive(Clone, PartialEq, Message)]
struct PathsRecord {
    #[prost(message, repeated, tag = "1")]
    paths: Vec<PathRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct PathRecord {
    #[prost(string, tag = "1")]
    network: String,
    #[prost(uint32, tag = "2")]
    good_s: u32,
    #[prost(uint32, tag = "3")]
    failed_s: u32,
    #[prost(uint32, tag = "4")]
    doubted_s: u32,
    #[prost(sint64, tag = "5")]
    probe_ms: i64,
    #[prost(uint32, tag = "6")]
    pause_days: u32,
}

pub(super) fn put(transaction: &mut dyn Transaction, paths: &[StoredPath]) -> Result<(), StoreError> {
    let record = |path: &StoredPath| PathRecord {
        network: path.network.as_str().to_owned(),
        good_s: path.good_s.into(),
        failed_s: path.failed_s.into(),
        doubted_s: path.doubted_s.into(),
        probe_ms: path.probe_ms,
        pause_days: path.pause_days.into(),
    };
    let paths = paths.iter().map(record).collect();
    transaction.put(Table::Meta, PATHS, &PathsRecord { paths }.encode_to_vec())
}

impl<E: Engine> Store<E> {
    /// What [`Mutation::PutPaths`](crate::core::Mutation::PutPaths) put; nothing in a new store.
    pub(crate) fn paths(&self) -> Result<Vec<StoredPath>, StoreError> {
        let bad = || StoreError::Unreadable("meta");
        let Some(record) = self.engine.get(Table::Meta, PATHS)? else {
            return Ok(Vec::new());
        };
        let record = PathsRecord::decode(record.as_slice()).map_err(|_| bad())?;
        let path = |record: PathRecord| {
            let seconds = |seconds: u32| u16::try_from(seconds).map_err(|_| bad());
            Ok(StoredPath {
                network: NetworkName::new(record.network).ok_or_else(bad)?,
                good_s: seconds(record.good_s)?,
                failed_s: seconds(record.failed_s)?,
                doubted_s: seconds(record.doubted_s)?,
                probe_ms: record.probe_ms,
                pause_days: u8::try_from(record.pause_days).map_err(|_| bad())?,
            })
        };
        record.paths.into_iter().map(path).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Mutation, Ticket, Write};
    use crate::options::LinkAtStart;
    use crate::store::RedbEngine;
    use crate::{Client, Credentials, Options};
    use waypost_proto::Epoch;

    #[tokio::test]
    async fn what_was_learnt_of_a_network_counts_as_soon_as_the_device_is_in_it_again() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = r#"{"device":"7c","secret":"s","mqtt":["mqtt://127.0.0.1:1"]}"#;
        let credentials = Credentials::parse(nowhere).unwrap();
        let depot = NetworkName::new("depot").unwrap();
        {
            let engine = RedbEngine::open(&folder.path().join("state.redb")).unwrap();
            let opened = Store::open(engine, credentials.device, Epoch::new(1).unwrap()).unwrap();
            let mut store = opened.unwrap_or_else(|other| panic!("{other:?}"));
            let learnt = StoredPath {
                network: depot.clone(),
                good_s: 200,
                ..StoredPath::default()
            };
            let write = Write {
                ticket: Ticket(1),
                mutations: vec![Mutation::PutPaths(vec![learnt])],
            };
            store.commit(&[write]).unwrap();
        }
        let paused = Options {
            link: LinkAtStart::Paused,
            ..Options::default()
        };
        let client = Client::open(credentials, folder.path(), paused).await.unwrap();
        assert_eq!(client.status().await.unwrap().keep_alive.as_secs(), 60);
        client.network_changed(depot).await.unwrap();
        assert_eq!(client.status().await.unwrap().keep_alive.as_secs(), 300);
    }
}
