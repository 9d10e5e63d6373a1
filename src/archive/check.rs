//! Reads a backup, and trusts nothing in it: each block has to be what its name says.

use super::{Archive, BlockRef, Manifest, SideFile, hex};
use anyhow::{Context, anyhow, ensure};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use waypost_bridge::store::{Decoder, Pair};

impl Archive {
    /// Reads the whole backup and compares every block with its digest, and the records with what the manifest says of them.
    ///
    /// # Errors
    /// What is damaged, by name.
    pub(crate) fn check(&self, manifest: &Manifest) -> anyhow::Result<()> {
        for record in self.records(manifest) {
            record?;
        }
        self.side_files(manifest).map(drop)
    }

    /// The records, in the order of their keys.
    pub(crate) fn records<'a>(&'a self, manifest: &'a Manifest) -> Records<'a> {
        Records {
            archive: self,
            manifest,
            next_block: 0,
            decoder: Decoder::default(),
            records: 0,
            ended: false,
        }
    }

    /// What goes along with the records.
    pub(crate) fn side_files(&self, manifest: &Manifest) -> anyhow::Result<Vec<SideFile>> {
        let files = manifest.files.iter().map(|file| {
            let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
            ensure!(
                file.path.split('/').all(plain),
                "the backup holds a file {:?}, which is no name in a data folder",
                file.path
            );
            let content = self
                .read(&file.block)
                .with_context(|| format!("{} is not whole", file.path))?;
            Ok(SideFile {
                path: file.path.clone(),
                content,
            })
        });
        files.collect()
    }

    fn read(&self, block: &BlockRef) -> anyhow::Result<Vec<u8>> {
        let is_digest = block.sha256.len() == 64 && block.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        ensure!(is_digest, "{:?} is no name of a block", block.sha256);
        let path = self.block(&block.sha256);
        let cannot = || format!("the block {} cannot be read", path.display());
        ensure!(
            file_bytes(&path).with_context(cannot)? == block.bytes,
            "the block {} is damaged: it has another length",
            path.display()
        );
        let content = fs::read(&path).with_context(cannot)?;
        ensure!(
            hex(&Sha256::digest(&content)) == block.sha256,
            "the block {} is damaged: its content has another digest",
            path.display()
        );
        Ok(content)
    }
}

fn file_bytes(path: &Path) -> std::io::Result<u64> {
    fs::metadata(path).map(|file| file.len())
}

/// The records of a backup, block by block.
pub(crate) struct Records<'a> {
    archive: &'a Archive,
    manifest: &'a Manifest,
    next_block: usize,
    decoder: Decoder,
    records: u64,
    ended: bool,
}

impl Records<'_> {
    fn advance(&mut self) -> anyhow::Result<Option<Pair>> {
        loop {
            if let Some(pair) = self
                .decoder
                .next_record()
                .context("the records of the backup are damaged")?
            {
                self.records += 1;
                return Ok(Some(pair));
            }
            let Some(block) = self.manifest.blocks.get(self.next_block) else {
                ensure!(
                    self.decoder.is_between_records() && self.records == self.manifest.records,
                    "the backup has {} whole records, and its manifest says {}",
                    self.records,
                    self.manifest.records
                );
                return Ok(None);
            };
            self.decoder.push(&self.archive.read(block)?);
            self.next_block += 1;
        }
    }
}

impl Iterator for Records<'_> {
    type Item = anyhow::Result<Pair>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.advance().map_err(|error| anyhow!(error)).transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}
