//! The store in a data folder: the one that is in use, whichever engine keeps it, and what a copy leaves beside it.
//!
//! Each engine has a folder of its own, and one of them at most holds the data. A server that is told to use another engine
//! than that one does not begin an empty store beside it: it refuses.

use super::{DataFolder, RunningServer};
use anyhow::{Context, bail};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use waypost_bridge::store::{Copied, Engine, Store, StoreError, copy};

const LOCK_FILE: &str = "lock";

/// Nobody else owns the data folder as long as this is held; the stores have locks as well, each its own.
#[derive(Debug)]
pub(crate) struct FolderLock(#[expect(dead_code, reason = "held, not read")] File);

/// A store that has another engine, or another folder, now.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) from_engine: Engine,
    pub(crate) copied: Copied,
    /// What the store that was copied is called now; no server takes it for its own.
    pub(crate) put_away: PathBuf,
}

/// Where an engine keeps its store.
fn name(engine: Engine) -> &'static str {
    match engine {
        Engine::Fjall => "store",
        Engine::Sled => "store.sled",
    }
}

impl DataFolder {
    /// Takes the store; as long as both are held no other server can have the folder.
    pub(crate) fn open_store(&self, engine: Engine) -> anyhow::Result<(Arc<dyn Store>, FolderLock)> {
        let lock = self.own()?;
        self.expect_store_of(engine)?;
        match engine.open(&self.store(engine)) {
            Ok(store) => Ok((store, lock)),
            Err(StoreError::Locked(_)) => Err(self.in_use()),
            Err(error) => {
                Err(error).with_context(|| format!("the store in {} cannot be opened", self.path.display()))
            }
        }
    }

    /// Moves the store: copies it to `to` under another engine, compares, and then puts the old one away under another
    /// name, as two of them would be one store with two futures. Interrupted, it leaves the old one in use, or both, which
    /// a server refuses.
    pub(crate) fn move_store(
        &self,
        from_engine: Option<Engine>,
        to: &Path,
        to_engine: Engine,
    ) -> anyhow::Result<Moved> {
        // Asked before anything is made in a folder that may be named by mistake.
        self.choose_store(from_engine)?;
        let to = &Self::make(to)?;
        let _lock = self.own()?;
        let from_engine = self.choose_store(from_engine)?;
        let same_folder = self.is(to)?;
        let _lock_of_to = if same_folder { None } else { Some(to.own()?) };
        if same_folder && from_engine == to_engine {
            bail!(
                "{} holds its data in {to_engine} already; there is nothing to do",
                self.path.display()
            );
        }
        let in_the_way = to
            .engines()
            .into_iter()
            .find(|&engine| !(same_folder && engine == from_engine));
        if let Some(engine) = in_the_way {
            bail!(
                "{} holds a store already; a copy is made where there is none",
                to.store(engine).display()
            );
        }
        let put_away = self.beside(from_engine, "old");
        if put_away.exists() {
            bail!(
                "{} is left from an earlier copy, and this one needs the name; remove it first",
                put_away.display()
            );
        }

        let draft = to.beside(to_engine, "draft");
        // Of a copy that was interrupted: nobody is at it, as the folder is ours.
        remove_folder(&draft)?;
        let store = self.store(from_engine);
        let copied = copy((from_engine, &store), (to_engine, &draft)).inspect_err(|_| {
            // The room is needed, most of all where it ran out.
            let _ = remove_folder(&draft);
        });
        let copied = copied.with_context(|| format!("{} is not copied", store.display()))?;
        to.rename(&draft, &to.store(to_engine))?;
        self.rename(&store, &put_away)?;
        Ok(Moved {
            from_engine,
            copied,
            put_away,
        })
    }

    /// Whether both are one folder, however it is spelled.
    pub(crate) fn is(&self, other: &Self) -> anyhow::Result<bool> {
        let real = |path: &Path| {
            fs::canonicalize(path).with_context(|| format!("the folder {} cannot be read", path.display()))
        };
        Ok(real(&self.path)? == real(&other.path)?)
    }

    /// The engine of the server that runs here.
    pub(crate) fn engine_in_use(&self) -> anyhow::Result<Engine> {
        self.choose_store(None)
    }

    pub(super) fn own(&self) -> anyhow::Result<FolderLock> {
        self.own_unless_taken()?.ok_or_else(|| self.in_use())
    }

    /// `None` where another process has the folder.
    pub(super) fn own_unless_taken(&self) -> anyhow::Result<Option<FolderLock>> {
        let path = self.path.join(LOCK_FILE);
        let mut options = File::options();
        let lock = options.write(true).create(true).truncate(false).open(&path);
        let lock = lock.with_context(|| format!("{} cannot be opened", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(FolderLock(lock))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{} cannot be locked", path.display()))
            }
        }
    }

    fn in_use(&self) -> anyhow::Error {
        let owner = match self.running_server() {
            Ok(RunningServer { pid, addresses }) => {
                format!("the server with process id {pid} ({addresses})")
            }
            Err(_) => "another process".to_owned(),
        };
        anyhow::anyhow!(
            "{owner} uses the data folder {}; stop it first, or choose another folder with --data",
            self.path.display()
        )
    }

    /// The engines that have a store here, as a server would see it.
    pub(super) fn engines(&self) -> Vec<Engine> {
        let holds_something =
            |folder: PathBuf| fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some());
        let engines = Engine::ALL.into_iter();
        engines
            .filter(|&engine| holds_something(self.store(engine)))
            .collect()
    }

    /// Makes sure that a server with this engine finds its data, or that there are none yet.
    fn expect_store_of(&self, engine: Engine) -> anyhow::Result<()> {
        let folder = self.path.display();
        match self.engines()[..] {
            [found] if found == engine => Ok(()),
            [found] => bail!(
                "the data folder {folder} holds its data in {found}, and store.engine is {engine}: set store.engine to \
                 {found}, or move the data with `waypost store copy --from {folder} --to-engine {engine}`"
            ),
            [] => match Engine::ALL
                .map(|engine| self.beside(engine, "draft"))
                .iter()
                .find(|path| path.exists())
            {
                Some(draft) => bail!(
                    "{} is a copy that was interrupted, and there is no other store in {folder}; run `waypost store copy` or \
                     `waypost restore` again, or remove it to begin with nothing",
                    draft.display()
                ),
                None => Ok(()),
            },
            _ => bail!(
                "the data folder {folder} holds more than one store, which are the same one at different times when a copy \
                 was interrupted as it ended; move away the one that is not to be used: {}",
                Engine::ALL.map(name).join(" or ")
            ),
        }
    }

    /// The store to copy: the one that is here, or the one that is named.
    pub(super) fn choose_store(&self, named: Option<Engine>) -> anyhow::Result<Engine> {
        let folder = self.path.display();
        match (&self.engines()[..], named) {
            ([], _) => bail!("there is no store in {folder}; name the data folder of a server"),
            (found, Some(named)) if found.contains(&named) => Ok(named),
            ([found], Some(named)) => bail!("{folder} holds its data in {found}, not in {named}"),
            ([found], None) => Ok(*found),
            _ => bail!("{folder} holds more than one store; choose with --from-engine"),
        }
    }

    pub(super) fn store(&self, engine: Engine) -> PathBuf {
        self.path.join(name(engine))
    }

    pub(super) fn beside(&self, engine: Engine, suffix: &str) -> PathBuf {
        self.path.join(format!("{}.{suffix}", name(engine)))
    }

    /// Gives something in this folder another name, which is on disk when this returns.
    pub(super) fn rename(&self, old: &Path, new: &Path) -> anyhow::Result<()> {
        fs::rename(old, new)
            .and_then(|()| File::open(&self.path)?.sync_all())
            .with_context(|| format!("{} cannot be renamed to {}", old.display(), new.display()))
    }
}

pub(super) fn remove_folder(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("{} cannot be removed", path.display()))?;
    }
    Ok(())
}

/// How settings spell an engine.
pub(crate) mod engine_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use waypost_bridge::store::Engine;

    pub(crate) fn serialize<S: Serializer>(engine: &Engine, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(engine.name())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Engine, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data folder whose store has begun under this incarnation.
    fn begun(path: &Path, engine: Engine, incarnation: u64) -> DataFolder {
        let folder = DataFolder::make(path).unwrap();
        let (store, _lock) = folder.open_store(engine).unwrap();
        store.load(incarnation).unwrap();
        folder
    }

    fn refusal(folder: &DataFolder, engine: Engine) -> String {
        folder.open_store(engine).err().unwrap().to_string()
    }

    #[test]
    fn a_server_with_another_engine_is_refused_and_begins_nothing() {
        let parent = tempfile::tempdir().unwrap();
        for (engine, other) in [(Engine::Fjall, Engine::Sled), (Engine::Sled, Engine::Fjall)] {
            let folder = begun(&parent.path().join(engine.name()), engine, 1);
            let refused = refusal(&folder, other);
            for part in [
                format!("holds its data in {engine}"),
                format!(
                    "`waypost store copy --from {} --to-engine {other}`",
                    folder.path.display()
                ),
            ] {
                assert!(refused.contains(&part), "{refused}");
            }
            assert!(!folder.store(other).exists());
            assert!(folder.open_store(engine).is_ok());
        }
    }

    #[test]
    fn a_store_is_moved_there_and_back_and_stays_the_same_store() {
        let parent = tempfile::tempdir().unwrap();
        let folder = begun(parent.path(), Engine::Fjall, 77);
        let again = parent.path().join(".");
        let moved = folder.move_store(None, &again, Engine::Sled).unwrap();
        assert_eq!((moved.from_engine, moved.copied.records), (Engine::Fjall, 1));
        assert_eq!(moved.put_away, parent.path().join("store.old"));
        let (store, lock) = folder.open_store(Engine::Sled).unwrap();
        let state = store.load(1).unwrap();
        assert_eq!((state.incarnation.number(), state.generation.number()), (77, 2));
        drop((store, lock));

        let back = folder
            .move_store(Some(Engine::Sled), &again, Engine::Fjall)
            .unwrap();
        assert_eq!(back.put_away, parent.path().join("store.sled.old"));
        let (store, lock) = folder.open_store(Engine::Fjall).unwrap();
        let state = store.load(1).unwrap();
        assert_eq!((state.incarnation.number(), state.generation.number()), (77, 3));
        drop((store, lock));
        let third = folder
            .move_store(None, &again, Engine::Sled)
            .unwrap_err()
            .to_string();
        assert!(
            third.contains("store.old") && third.contains("remove it first"),
            "{third}"
        );
    }

    #[test]
    fn a_store_in_another_folder_leaves_none_behind_that_could_be_used() {
        let parent = tempfile::tempdir().unwrap();
        let (from, to) = (parent.path().join("from"), parent.path().join("to"));
        let from = begun(&from, Engine::Fjall, 5);
        let to = DataFolder::make(&to).unwrap();
        from.move_store(None, &to.path, Engine::Fjall).unwrap();
        assert!(from.engines().is_empty());
        assert_eq!(to.engines(), [Engine::Fjall]);
        let nothing = from
            .move_store(None, &to.path, Engine::Fjall)
            .unwrap_err()
            .to_string();
        assert!(nothing.contains("there is no store in"), "{nothing}");
    }

    #[test]
    fn a_copy_is_refused_where_a_server_runs_or_a_store_is() {
        let parent = tempfile::tempdir().unwrap();
        let [first, second, third] = ["1", "2", "3"].map(|name| parent.path().join(name));
        let (first, second) = (begun(&first, Engine::Fjall, 1), begun(&second, Engine::Sled, 2));
        let third = DataFolder::make(&third).unwrap();
        let refused = |from: &DataFolder, named, to: &DataFolder, engine| {
            from.move_store(named, &to.path, engine).unwrap_err().to_string()
        };
        for (answer, expected) in [
            (
                refused(&first, None, &second, Engine::Fjall),
                "holds a store already",
            ),
            (
                refused(&first, None, &second, Engine::Sled),
                "holds a store already",
            ),
            (
                refused(&first, None, &first, Engine::Fjall),
                "already; there is nothing to do",
            ),
            (
                refused(&first, Some(Engine::Sled), &third, Engine::Sled),
                "not in sled",
            ),
        ] {
            assert!(answer.contains(expected), "{answer}");
        }
        let server = first.open_store(Engine::Fjall).unwrap();
        for (from, to) in [(&first, &first), (&first, &third), (&second, &first)] {
            let answer = refused(from, None, to, Engine::Sled);
            assert!(answer.contains("uses the data folder"), "{answer}");
        }
        drop(server);
        assert!(first.move_store(None, &first.path, Engine::Sled).is_ok());
    }

    #[test]
    fn what_a_copy_left_when_it_was_interrupted_is_taken_for_no_store() {
        let parent = tempfile::tempdir().unwrap();
        let (from, to) = (parent.path().join("from"), parent.path().join("to"));
        let from = begun(&from, Engine::Fjall, 9);
        let to = DataFolder::make(&to).unwrap();
        // In the middle: a part of it under the name of the draft.
        fs::create_dir(to.beside(Engine::Sled, "draft")).unwrap();
        fs::write(to.beside(Engine::Sled, "draft").join("db"), "a part").unwrap();
        for engine in Engine::ALL {
            assert!(refusal(&to, engine).contains("a copy that was interrupted"));
        }
        from.move_store(None, &to.path, Engine::Sled).unwrap();
        assert!(to.open_store(Engine::Sled).is_ok());
        assert!(!to.beside(Engine::Sled, "draft").exists());
        // At its very end, in one folder: the copy stands, and the old one is not put away yet.
        fs::rename(from.beside(Engine::Fjall, "old"), to.store(Engine::Fjall)).unwrap();
        for engine in Engine::ALL {
            assert!(refusal(&to, engine).contains("holds more than one store"));
        }
    }
}
