//! What a backup takes out of a data folder, and how one is put back into a new one.

use super::stores::remove_folder;
use super::{DataFolder, TOKEN_FILE, write_private};
use crate::archive::SideFile;
use anyhow::{Context, bail};
use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use waypost_bridge::store::{Engine, Fresh, Pair, RestoreError, export, restore};

const TLS_FOLDER: &str = "tls";

impl DataFolder {
    /// Visits the records of the store, where no server runs on it, and says which engine has them; `None` where one runs.
    pub(crate) fn export_at_rest(
        &self,
        mut take: impl FnMut(&[u8], &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<Engine>> {
        // Asked before anything is made in a folder that may be named by mistake.
        let engine = self.choose_store(None)?;
        let Some(_lock) = self.own_unless_taken()? else {
            return Ok(None);
        };
        let mut failed = None;
        let whole = export(engine, &self.store(engine), &mut |key, value| {
            Ok(match take(key, value) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            })
        });
        match (failed, whole) {
            (Some(error), _) => Err(error),
            (None, whole) => {
                whole.with_context(|| format!("the store in {} cannot be read", self.path.display()))?;
                Ok(Some(engine))
            }
        }
    }

    /// What another server needs beside the store to be this one: the token of its administrator, its certificate and authority,
    /// and the keys of its tickets.
    pub(crate) fn side_files(&self) -> anyhow::Result<Vec<SideFile>> {
        let mut paths = vec![TOKEN_FILE.to_owned()];
        let tls = self.path.join(TLS_FOLDER);
        let cannot = |path: &Path| format!("{} cannot be read", path.display());
        match fs::read_dir(&tls) {
            Ok(files) => {
                for file in files {
                    let file = file.with_context(|| cannot(&tls))?;
                    let name = file.file_name().to_string_lossy().into_owned();
                    // What is being written has this name until it is whole.
                    if file.path().is_file() && !name.ends_with(".new") {
                        paths.push(format!("{TLS_FOLDER}/{name}"));
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| cannot(&tls)),
        }
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            match fs::read(self.path.join(&path)) {
                Ok(content) => files.push(SideFile { path, content }),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| cannot(&self.path.join(&path))),
            }
        }
        Ok(files)
    }

    /// Makes a store of records, and writes the files that are not there already; gives the paths of those that were.
    ///
    /// The store gets its name last: interrupted, this leaves nothing that a server would begin on.
    pub(crate) fn put_back(
        &self,
        engine: Engine,
        records: impl Iterator<Item = anyhow::Result<Pair>>,
        files: &[SideFile],
    ) -> anyhow::Result<Vec<PathBuf>> {
        let _lock = self.own()?;
        if let Some(&found) = self.engines().first() {
            bail!(
                "{} holds a store already; a backup is put back where there is none, so move that one away or name another \
                 folder",
                self.store(found).display()
            );
        }
        let mut kept = Vec::new();
        for file in files {
            let path = self.path.join(&file.path);
            if path.exists() {
                kept.push(path);
                continue;
            }
            if let Some(folder) = path.parent() {
                let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
                made.with_context(|| format!("the folder {} cannot be made", folder.display()))?;
            }
            write_private(&path, &file.content)?;
        }
        let draft = self.beside(engine, "draft");
        // Of a restore that was interrupted: nobody is at it, as the folder is ours.
        remove_folder(&draft)?;
        let mut random = [[0; 8]; 2];
        for random in &mut random {
            getrandom::fill(random).context("the system gives no random numbers")?;
        }
        let [incarnation, event_gap] = random.map(u64::from_le_bytes);
        let fresh = Fresh {
            incarnation,
            event_gap,
        };
        let restored = restore(engine, &draft, records, fresh).inspect_err(|_| {
            let _ = remove_folder(&draft);
        });
        restored.map_err(|error| match error {
            RestoreError::Source(error) => error,
            other => anyhow::Error::msg(other.to_string()),
        })?;
        self.rename(&draft, &self.store(engine))?;
        Ok(kept)
    }
}
