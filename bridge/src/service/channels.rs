//! Groups, templates and broadcasts: the part of the handle through which the office reaches many at once.

use super::{Bridge, BridgeError, Result};
use crate::broadcast::{Broadcast, BroadcastView, Counts, NewBroadcast, Outstanding};
use crate::core::only_entry;
use crate::entry::{Receipt, Rung};
use crate::group::{GroupId, GroupPatch, GroupView, NewGroup};
use crate::once::{Made, Novelty, Once};
use crate::stream::{Member, StreamId};
use crate::template::{NewTemplate, QuickReply, Rendered, Template};

impl Bridge {
    /// Makes a group.
    ///
    /// # Errors
    /// [`BridgeError::Invalid`], [`BridgeError::KeyReused`], [`BridgeError::NoSpace`].
    pub async fn add_group(&self, new: NewGroup, once: Option<Once>) -> Result<GroupView> {
        let (made, _) = self.make(once, move |core, now| core.add_group(new, now)).await?;
        let Made::Group(id) = made else {
            return Err(BridgeError::KeyReused);
        };
        self.group(id).await
    }

    /// All groups but deleted ones, by id; those after `after` where one is given, at most `limit`.
    pub async fn groups(&self, after: Option<GroupId>, limit: usize) -> Result<Vec<GroupView>> {
        self.inspect(move |core| core.groups(after).take(limit).collect())
            .await
    }

    /// # Errors
    /// [`BridgeError::NotFound`], also for a deleted one.
    pub async fn group(&self, id: GroupId) -> Result<GroupView> {
        self.inspect(move |core| core.group(id))
            .await?
            .ok_or(BridgeError::NotFound("group"))
    }

    /// Changes a group. Once this returns, those who were taken out hear nothing more.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`], [`BridgeError::Invalid`], [`BridgeError::NoSpace`].
    pub async fn update_group(&self, id: GroupId, patch: GroupPatch) -> Result<GroupView> {
        self.change(move |core, now| core.update_group(id, patch, now))
            .await?;
        self.group(id).await
    }

    /// Takes all members out of a group, which takes no more. What was said in it stays.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`].
    pub async fn delete_group(&self, id: GroupId) -> Result<()> {
        self.change(move |core, now| core.delete_group(id, now)).await
    }

    /// The version of the template catalogue, and the templates on offer, by key.
    pub async fn templates(&self) -> Result<(u32, Vec<Template>)> {
        self.inspect(|core| core.templates()).await
    }

    /// # Errors
    /// [`BridgeError::NotFound`].
    pub async fn template(&self, key: &str) -> Result<Template> {
        let key = key.to_owned();
        self.inspect(move |core| core.template(&key))
            .await?
            .ok_or(BridgeError::NotFound("template"))
    }

    /// Offers a template under its key, in place of the one that was there.
    ///
    /// # Errors
    /// [`BridgeError::Invalid`], [`BridgeError::Conflict`] where there is no room for another.
    pub async fn put_template(&self, new: NewTemplate) -> Result<(Template, Novelty)> {
        let (key, existed) = self.change(move |core, _| core.put_template(new)).await?;
        let novelty = if existed { Novelty::Again } else { Novelty::New };
        Ok((self.template(&key).await?, novelty))
    }

    /// Offers a template no longer. Replies that were written with it keep their words.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`].
    pub async fn delete_template(&self, key: &str) -> Result<()> {
        let key = key.to_owned();
        self.change(move |core, _| core.delete_template(&key)).await
    }

    /// A quick reply in the language nearest to a tag; `None` for a template that never was.
    pub async fn render(&self, reply: QuickReply, locale: String) -> Result<Option<Rendered>> {
        self.inspect(move |core| core.render(&reply, &locale)).await
    }

    /// Sends a broadcast; answers once it is on disk.
    ///
    /// # Errors
    /// [`BridgeError::Invalid`], [`BridgeError::KeyReused`], [`BridgeError::NoSpace`].
    pub async fn add_broadcast(&self, new: NewBroadcast, once: Option<Once>) -> Result<BroadcastView> {
        let (made, _) = self
            .make(once, move |core, now| core.add_broadcast(new, now))
            .await?;
        let Made::Broadcast(stream) = made else {
            return Err(BridgeError::KeyReused);
        };
        Ok(self.broadcast(stream).await?.0)
    }

    /// Broadcasts, newest first; those before `before` where one is given, at most `limit`. Those whose time is over are
    /// left out.
    pub async fn broadcasts(&self, before: Option<StreamId>, limit: usize) -> Result<Vec<BroadcastView>> {
        // What is counted may be on its way to the disk; it is shown once it is there.
        let found: Vec<(Broadcast, Counts)> = self
            .change(move |core, _| {
                let found = core.broadcasts(before).take(limit).collect();
                Ok((found, core.last_open()))
            })
            .await?;
        self.read(move |store| {
            let mut views = Vec::with_capacity(found.len());
            for (broadcast, counts) in found {
                if let Some(entry) = store.entry(broadcast.stream, only_entry())? {
                    views.push(BroadcastView {
                        broadcast,
                        entry,
                        counts,
                    });
                }
            }
            Ok(views)
        })
        .await
    }

    /// A broadcast and everybody who has not answered it, the longest silence first.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`].
    pub async fn broadcast(&self, id: StreamId) -> Result<(BroadcastView, Vec<Outstanding>)> {
        let missing = BridgeError::NotFound("broadcast");
        let Some(broadcast) = self.inspect(move |core| core.broadcast(id)).await? else {
            return Err(missing);
        };
        let stream = self.stream(None, id).await?.stream;
        let found = self
            .read(move |store| {
                let entry = store.entry(id, only_entry())?;
                Ok(entry.zip(store.receipts(&stream, only_entry())?))
            })
            .await?;
        let (entry, receipts) = found.ok_or(missing)?;
        let mut counts = Counts::default();
        for receipt in &receipts {
            counts.count(receipt.highest().0);
        }
        let mut outstanding: Vec<Outstanding> = receipts.iter().filter_map(outstanding).collect();
        outstanding.sort_by_key(|one| (one.rung, one.since_ms, one.device));
        let view = BroadcastView {
            broadcast,
            entry,
            counts,
        };
        Ok((view, outstanding))
    }
}

/// `None` for one who has answered.
fn outstanding(receipt: &Receipt) -> Option<Outstanding> {
    let Member::Device(device) = receipt.member else {
        return None;
    };
    let (rung, moment) = receipt.highest();
    (rung != Some(Rung::Acted)).then_some(Outstanding {
        device,
        rung,
        since_ms: moment.server_ms,
    })
}
