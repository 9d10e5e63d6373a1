//! The rim: one task that owns the core, and the handle through which everybody else speaks to it.

mod backup;
mod channels;

pub use backup::Export;

use crate::access::DeviceAccess;
use crate::audit::{Acting, AuditEntry, Refusal};
use crate::core::{Core, CoreOptions, Now, Output, Space, Ticket, Told, WRITES_MAX};
use crate::device::{DeviceId, DevicePatch, DeviceView, NewDevice};
use crate::entry::{Author, Entry, NewEntry, Page, Receipt};
use crate::event::{Event, EventCursor, LiveEvent};
use crate::key::{ApiKey, KeyPatch, NewKey};
use crate::link::{BrokerLink, LinkEvent, Retain};
use crate::once::{Made, Novelty, Once};
use crate::owntracks;
use crate::person::{Identity, NewPerson, Person, PersonId, PersonPatch, SignIn};
use crate::position::Position;
use crate::store::{Store, StoreError};
use crate::stream::{Seq, StreamId, StreamView};
use crate::writer::{Writer, Written};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use waypost_proto::{Topic, TopicPrefix};

/// How many calls may wait for the core; further callers wait in their own task.
const CALLS_MAX: usize = 256;
/// How often the room on the disk is looked at. In between a third of the reserve has to last.
const SPACE_EVERY: Duration = Duration::from_secs(2);
/// How many events a watcher may lag behind before it must read the log instead.
const LIVE_EVENTS_MAX: usize = 4_096;

/// Settings of the bridge.
#[derive(Debug, Clone, Default)]
pub struct BridgeOptions {
    /// What goes before every topic; empty by default.
    pub topic_prefix: TopicPrefix,
    /// Settings of the core.
    pub core: CoreOptions,
    /// How to find out how much room the disk has; by default nobody looks, and there is room for everything.
    pub space: SpaceProbe,
}

/// Asks how many bytes are free on the disk that holds the store. Called every two seconds by the task that everybody
/// waits for, so it has to be as cheap as a system call.
#[derive(Clone, Default)]
pub struct SpaceProbe(Option<Arc<Ask>>);

type Ask = dyn Fn() -> std::io::Result<u64> + Send + Sync;

impl SpaceProbe {
    /// A probe that asks this.
    pub fn new(ask: impl Fn() -> std::io::Result<u64> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(ask)))
    }
}

impl std::fmt::Debug for SpaceProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SpaceProbe").field(&self.0.is_some()).finish()
    }
}

/// Why a call had no effect.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// Nothing with that id.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A field cannot have that value; the caller names it to the person.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, as a JSON pointer in the resource, such as `/name`.
        field: Cow<'static, str>,
        /// What would be right.
        reason: String,
    },
    /// The entry that was to be superseded has been already.
    #[error("entry {by} has taken the place of that one already; supersede entry {by} instead")]
    Superseded {
        /// The entry that counts instead.
        by: Seq,
    },
    /// Something of that name exists already.
    #[error("{0}")]
    Conflict(&'static str),
    /// The caller may not do that.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The idempotency key was used for another request.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    /// The same request took effect before, and its answer held a secret, which is not kept.
    #[error("this request took effect before")]
    MadeBefore(Made),
    /// The events after this cursor are not all there any more: retention has trimmed some.
    #[error("the event log begins after event {resume_after}; earlier ones are kept no longer")]
    EventsTrimmed {
        /// Where to go on.
        resume_after: EventCursor,
    },
    /// The cursor is of a future that was lost: a backup was put back.
    #[error("the event log was put back to event {resume_after} from a backup; what came after that is lost")]
    EventsLost {
        /// Where to go on.
        resume_after: EventCursor,
    },
    /// The disk is nearly full, and this would fill it further.
    #[error(
        "the server's disk is nearly full, so nothing new is taken until there is room; what was accepted is safe"
    )]
    NoSpace,
    /// The server is shutting down.
    #[error("the server is shutting down; try again in a moment")]
    Stopped,
    /// The store failed. Nothing that was not durable has been shown.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Result<T> = std::result::Result<T, BridgeError>;

/// What a change needs: the ticket of its write, or nothing where it changed nothing.
type Staged<T> = std::result::Result<(T, Option<Ticket>), BridgeError>;

type Call = Box<dyn FnOnce(&mut Core, Now) -> Option<(Ticket, Waiter)> + Send>;
type Waiter = Box<dyn FnOnce() + Send>;

/// A handle to the running bridge; cheap to clone.
///
/// Reads show what is on disk. Changes return once they are.
#[derive(Clone)]
pub struct Bridge {
    calls: mpsc::Sender<Call>,
    store: Arc<dyn Store>,
    live: broadcast::Sender<LiveEvent>,
    access: DeviceAccess,
    acting: Acting,
    space: watch::Receiver<Space>,
    /// Whoever reads the whole store holds the one that there is.
    exports: Arc<Semaphore>,
}

/// The bridge's task; ends after [`Bridge::stop`] or when the link closes.
#[derive(Debug)]
pub struct Running {
    task: tokio::task::JoinHandle<std::result::Result<(), StoreError>>,
}

impl Running {
    /// Waits for the end of the bridge.
    ///
    /// # Errors
    /// The failure of the store that ended it.
    pub async fn finished(&mut self) -> std::result::Result<(), StoreError> {
        (&mut self.task)
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

impl Bridge {
    /// Loads what the store holds and starts. Each start is a new generation, on disk before this returns.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be read or written.
    pub fn start(
        store: Arc<dyn Store>,
        link: impl BrokerLink,
        options: BridgeOptions,
    ) -> std::result::Result<(Self, Running), StoreError> {
        let mut incarnation = [0u8; 8];
        getrandom::fill(&mut incarnation).expect("the system's random numbers are at hand");
        let state = store.load(u64::from_le_bytes(incarnation) | 1)?;
        let access = DeviceAccess::new(state.devices.values());
        access.put_members(state.streams.values().map(|(stream, _)| stream));
        let core = Core::new(state, options.core).with_subscriptions(link.subscriptions());
        let (calls, receiver) = mpsc::channel(CALLS_MAX);
        let (live, _) = broadcast::channel(LIVE_EVENTS_MAX);
        let (space, seen_space) = watch::channel(Space::default());
        let bridge = Self {
            calls,
            store: store.clone(),
            live: live.clone(),
            access: access.clone(),
            acting: Acting::SERVER,
            space: seen_space,
            exports: Arc::new(Semaphore::new(1)),
        };
        let (writer, written) = Writer::start(store.clone());
        let mut rim = Rim {
            core,
            store,
            link,
            writer,
            waiters: BTreeMap::new(),
            live,
            access,
            prefix: options.topic_prefix,
            probe: options.space,
            probe_fails: false,
            space,
        };
        // Before anything is taken; and what is retained is there before anybody can ask for it.
        rim.look_at_disk();
        rim.core.handle_opened();
        rim.drain()?;
        let task = tokio::spawn(rim.run(receiver, written));
        Ok((bridge, Running { task }))
    }

    /// A handle whose changes stand in the audit record as done by `acting`; without it they are the server's own.
    #[must_use]
    pub fn by(&self, acting: Acting) -> Self {
        Self {
            acting,
            ..self.clone()
        }
    }

    /// Counts a refusal of whoever this handle acts for. It is in the audit record soon; nobody waits for it.
    ///
    /// # Errors
    /// [`BridgeError::Stopped`].
    pub async fn refused(&self, refusal: Refusal) -> Result<()> {
        let acting = self.acting;
        self.inspect(move |core| {
            let now = now();
            core.act(acting, now);
            core.count_refusal(refusal, now);
        })
        .await
    }

    /// The audit record, newest first: what stands before number `before` where one is given, at most `limit`.
    pub async fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>> {
        self.change(|core, _| core.settle_refusals()).await?;
        self.read(move |store| store.audit(before, limit)).await
    }

    /// Who may connect as a device; for the broker's authentication.
    pub fn access(&self) -> &DeviceAccess {
        &self.access
    }

    /// What the disk has room for.
    pub fn space(&self) -> Space {
        *self.space.borrow()
    }

    /// Everything that happens from now on. A receiver that lags is told so and reads the log instead.
    pub fn watch(&self) -> broadcast::Receiver<LiveEvent> {
        self.live.subscribe()
    }

    /// Adds a device and its direct stream with the office.
    ///
    /// # Errors
    /// [`BridgeError::Invalid`], [`BridgeError::KeyReused`], [`BridgeError::MadeBefore`].
    pub async fn add_device(&self, new: NewDevice, once: Option<Once>) -> Result<DeviceView> {
        let made = self.make_with_secret(once, move |core, now| core.add_device(new, now));
        let Made::Device(id) = made.await? else {
            return Err(BridgeError::KeyReused);
        };
        self.device(id).await
    }

    /// Gives a device a new secret, as its hash. The old one ends its session.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`], [`BridgeError::Conflict`] where the device is revoked, [`BridgeError::KeyReused`],
    /// [`BridgeError::MadeBefore`].
    pub async fn rotate_secret(
        &self,
        id: DeviceId,
        secret_hash: [u8; 32],
        once: Option<Once>,
    ) -> Result<DeviceView> {
        self.make_with_secret(once, move |core, _| core.rotate_secret(id, secret_hash))
            .await?;
        self.device(id).await
    }

    /// All devices, by id; those after `after` where one is given, at most `limit`.
    pub async fn devices(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<DeviceView>> {
        self.inspect(move |core| core.devices(after).take(limit).collect())
            .await
    }

    /// # Errors
    /// [`BridgeError::NotFound`].
    pub async fn device(&self, id: DeviceId) -> Result<DeviceView> {
        self.inspect(move |core| core.device(id))
            .await?
            .ok_or(BridgeError::NotFound("device"))
    }

    /// Changes what is known of a device.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`], [`BridgeError::Invalid`].
    pub async fn update_device(&self, id: DeviceId, patch: DevicePatch) -> Result<DeviceView> {
        self.change(move |core, now| core.update_device(id, patch, now))
            .await?;
        self.device(id).await
    }

    /// Ends a device's right to connect and its membership in every stream. What it wrote stays.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`].
    pub async fn revoke_device(&self, id: DeviceId) -> Result<()> {
        self.change(move |core, now| core.revoke_device(id, now)).await
    }

    /// Adds a person.
    ///
    /// # Errors
    /// [`BridgeError::Conflict`] where the address is taken, [`BridgeError::Invalid`], [`BridgeError::KeyReused`].
    pub async fn add_person(&self, new: NewPerson, once: Option<Once>) -> Result<Person> {
        let (made, _) = self.make(once, move |core, _| core.add_person(new)).await?;
        let Made::Person(id) = made else {
            return Err(BridgeError::KeyReused);
        };
        self.person(id).await?.ok_or(BridgeError::NotFound("person"))
    }

    /// All people who have access, by id; those after `after` where one is given, at most `limit`.
    pub async fn people(&self, after: Option<PersonId>, limit: usize) -> Result<Vec<Person>> {
        self.inspect(move |core| core.people(after).take(limit).collect())
            .await
    }

    /// Changes what is known of a person. A new password ends the person's sign-ins.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`], [`BridgeError::Invalid`], [`BridgeError::Conflict`] where the address is taken or
    /// nobody would be an administrator any more.
    pub async fn update_person(&self, id: PersonId, patch: PersonPatch) -> Result<Person> {
        self.change(move |core, _| core.update_person(id, patch)).await?;
        self.person(id).await?.ok_or(BridgeError::NotFound("person"))
    }

    /// Ends a person's access. The name stays with what the person wrote.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`], [`BridgeError::Conflict`] for the last administrator.
    pub async fn remove_person(&self, id: PersonId) -> Result<()> {
        self.change(move |core, _| core.remove_person(id)).await
    }

    /// Adds an API key.
    ///
    /// # Errors
    /// [`BridgeError::Invalid`], [`BridgeError::KeyReused`], [`BridgeError::MadeBefore`].
    pub async fn add_key(&self, new: NewKey, once: Option<Once>) -> Result<ApiKey> {
        let made = self.make_with_secret(once, move |core, now| core.add_key(new, now));
        let Made::Key(id) = made.await? else {
            return Err(BridgeError::KeyReused);
        };
        self.key(id).await
    }

    /// All API keys, revoked ones too, by id; those after `after` where one is given, at most `limit`.
    pub async fn keys(&self, after: Option<PersonId>, limit: usize) -> Result<Vec<ApiKey>> {
        self.inspect(move |core| core.keys(after).take(limit).collect())
            .await
    }

    /// # Errors
    /// [`BridgeError::NotFound`].
    pub async fn key(&self, id: PersonId) -> Result<ApiKey> {
        self.inspect(move |core| core.key(id))
            .await?
            .ok_or(BridgeError::NotFound("key"))
    }

    /// Changes name or role of a key.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`], also for a revoked one, [`BridgeError::Invalid`].
    pub async fn update_key(&self, id: PersonId, patch: KeyPatch) -> Result<ApiKey> {
        self.change(move |core, _| core.update_key(id, patch)).await?;
        self.key(id).await
    }

    /// Ends what a key may do. What it wrote stays.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`].
    pub async fn revoke_key(&self, id: PersonId) -> Result<()> {
        self.change(move |core, _| core.revoke_key(id)).await
    }

    /// The person with this address, in any case.
    pub async fn person_by_email(&self, email: &str) -> Result<Option<Person>> {
        let email = email.to_lowercase();
        self.inspect(move |core| core.person_by_email(&email)).await
    }

    /// The person with this id, unless removed.
    pub async fn person(&self, id: PersonId) -> Result<Option<Person>> {
        self.inspect(move |core| core.person(id)).await
    }

    /// Whether anybody may sign in yet.
    pub async fn has_people(&self) -> Result<bool> {
        self.inspect(|core| core.has_people()).await
    }

    /// Keeps a sign-in of a person, whose password was found right, until it expires or is ended.
    ///
    /// # Errors
    /// [`BridgeError::Conflict`] where the password has changed since, [`BridgeError::KeyReused`],
    /// [`BridgeError::MadeBefore`].
    pub async fn sign_in(&self, verified: &Person, sign_in: SignIn, once: Option<Once>) -> Result<()> {
        let verified = verified.clone();
        self.make_with_secret(once, move |core, now| core.sign_in(&verified, sign_in, now))
            .await?;
        Ok(())
    }

    /// Ends a sign-in; nothing where there is none.
    pub async fn sign_out(&self, token_hash: [u8; 32]) -> Result<()> {
        self.change(move |core, _| core.sign_out(token_hash)).await
    }

    /// The person of an unexpired sign-in.
    pub async fn signed_in(&self, token_hash: [u8; 32]) -> Result<Option<(Person, SignIn)>> {
        let now_ms = wall_ms();
        self.inspect(move |core| core.signed_in(token_hash, now_ms)).await
    }

    /// Whose token this is: that of an unexpired sign-in, or of a key.
    pub async fn identify(&self, token_hash: [u8; 32]) -> Result<Option<Identity>> {
        self.inspect(move |core| core.identify(token_hash, now())).await
    }

    /// All streams, by id, as `viewer` sees them (`None`: a caller without a cursor of its own, who has no unread ones).
    pub async fn streams(
        &self,
        viewer: Option<PersonId>,
        after: Option<StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamView>> {
        self.inspect(move |core| core.streams(viewer, after).take(limit).collect())
            .await
    }

    /// # Errors
    /// [`BridgeError::NotFound`].
    pub async fn stream(&self, viewer: Option<PersonId>, id: StreamId) -> Result<StreamView> {
        self.inspect(move |core| core.stream(viewer, id))
            .await?
            .ok_or(BridgeError::NotFound("stream"))
    }

    /// At most `limit` entries, ascending by number.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`].
    pub async fn entries(&self, stream: StreamId, page: Page, limit: usize) -> Result<Vec<Entry>> {
        let head = self.stream(None, stream).await?.head;
        self.read(move |store| store.entries(stream, page, limit, head))
            .await
    }

    /// Writes an entry; answers once it is on disk. The same request under the same [`Once`] answers with the same
    /// entry.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`] for the stream, [`BridgeError::Invalid`], [`BridgeError::KeyReused`],
    /// [`BridgeError::NoSpace`], [`BridgeError::Conflict`] for a repetition whose entry is kept no longer,
    /// [`BridgeError::Superseded`].
    pub async fn post_entry(&self, mut new: NewEntry) -> Result<Entry> {
        let once = new.once.take();
        let replaced = match new.supersedes {
            Some(seq) => self.entry(new.stream, seq).await?,
            None => None,
        };
        let (made, _) = self
            .make(once, move |core, now| {
                core.post_entry(new, replaced.as_ref(), now)
            })
            .await?;
        let Made::Entry { stream, seq } = made else {
            return Err(BridgeError::KeyReused);
        };
        let found = self.read(move |store| store.entry(stream, seq)).await?;
        // It was written together with its key, so it was there.
        found.ok_or(BridgeError::Conflict(
            "this request was answered before, and what it wrote is kept no longer; nothing was written again",
        ))
    }

    /// Moves the caller's read cursor; it never goes back.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`] for the stream or for an entry beyond its last.
    pub async fn mark_read(&self, person: PersonId, stream: StreamId, seq: u64) -> Result<()> {
        self.change(move |core, now| core.mark_read(person, stream, seq, now))
            .await
    }

    /// How far an entry has come: one row for each member but its author.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`].
    pub async fn receipts(&self, stream: StreamId, seq: Seq) -> Result<Vec<Receipt>> {
        let view = self.stream(None, stream).await?;
        self.read(move |store| store.receipts(&view.stream, seq))
            .await?
            .ok_or(BridgeError::NotFound("entry"))
    }

    /// A device's positions from `from_ms` to `to_ms` (device clock, both included), oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`] for the device.
    pub async fn track(
        &self,
        device: DeviceId,
        from_ms: i64,
        to_ms: i64,
        limit: usize,
    ) -> Result<Vec<Position>> {
        self.device(device).await?;
        self.read(move |store| store.track(device, from_ms, to_ms, limit))
            .await
    }

    /// Takes what an OwnTracks app says of its device; returns once it is on disk. Saying it twice changes nothing.
    ///
    /// # Errors
    /// [`BridgeError::NotFound`] for a device that is not known or was revoked, [`BridgeError::Invalid`] for a time far
    /// off: then nothing of it was taken. [`BridgeError::NoSpace`]: then it moved at most where the device is.
    pub async fn report_owntracks(&self, device: DeviceId, report: owntracks::Report) -> Result<()> {
        owntracks::count_others(report.others);
        self.change(move |core, now| core.report_positions(device, &report.fixes, Told::Now, now))
            .await
    }

    /// The events after a cursor, oldest first, at most `limit`; after 0 from the first that is kept.
    ///
    /// # Errors
    /// [`BridgeError::EventsTrimmed`] where some after the cursor are not there any more, [`BridgeError::EventsLost`]
    /// where the cursor is of a store that was lost; both also for a `limit` of 0.
    pub async fn events(&self, after: EventCursor, limit: usize) -> Result<Vec<Event>> {
        let (before_first, after, lost, following) = self
            .inspect(move |core| {
                let before_first = core.first_event() - 1;
                let after = if after == 0 { before_first } else { after };
                (
                    before_first,
                    after,
                    core.resume_after_lost(after),
                    core.event_after(after),
                )
            })
            .await?;
        if let Some(resume_after) = lost {
            return Err(BridgeError::EventsLost { resume_after });
        }
        if after < before_first {
            return Err(BridgeError::EventsTrimmed {
                resume_after: before_first,
            });
        }
        let events = self.read(move |store| store.events(after, limit)).await?;
        // The log has no other gaps than those of restores: what is missing was trimmed since the first was looked up.
        match events.first() {
            Some(first) if first.cursor > following => Err(BridgeError::EventsTrimmed {
                resume_after: first.cursor - 1,
            }),
            _ => Ok(events),
        }
    }

    /// The cursor of the newest event; 0 while there is none.
    pub async fn last_event(&self) -> Result<EventCursor> {
        self.inspect(|core| core.last_event()).await
    }

    /// One entry.
    pub async fn entry(&self, stream: StreamId, seq: Seq) -> Result<Option<Entry>> {
        self.read(move |store| store.entry(stream, seq)).await
    }

    /// Whether messages that the author wrote before an urgent one are still under way; see [`Entry::earlier`].
    pub async fn earlier_under_way(&self, entry: &Entry) -> Result<bool> {
        if entry.earlier.is_none() {
            return Ok(false);
        }
        let entry = entry.clone();
        self.inspect(move |core| core.earlier_under_way(&entry)).await
    }

    /// The names of authors, for people to read; `None` for one who is gone.
    pub async fn author_name(&self, author: Author) -> Result<Option<String>> {
        self.inspect(move |core| core.author_name(author)).await
    }

    /// Returns once everything that was taken so far is on disk, and what was to be said after that has been said.
    ///
    /// # Errors
    /// [`BridgeError::Stopped`].
    pub async fn settle(&self) -> Result<()> {
        self.change(|core, _| core.settle_refusals()).await
    }

    /// Ends the bridge after everything that was begun is on disk.
    pub async fn stop(&self) {
        // A bridge that is gone has stopped.
        let _ = self.inspect(Core::stop).await;
    }

    async fn inspect<R: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Core) -> R + Send + 'static,
    ) -> Result<R> {
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |core, _| {
            // Whoever asked may have gone; then nobody misses the answer.
            let _ = answer.send(read(core));
            None
        });
        self.calls.send(call).await.map_err(|_| BridgeError::Stopped)?;
        answered.await.map_err(|_| BridgeError::Stopped)
    }

    /// Stages a change and waits until it is durable.
    async fn change<R: Send + 'static>(
        &self,
        stage: impl FnOnce(&mut Core, Now) -> Staged<R> + Send + 'static,
    ) -> Result<R> {
        let (answer, answered) = oneshot::channel();
        let acting = self.acting;
        let stage = move |core: &mut Core, now| {
            core.act(acting, now);
            stage(core, now)
        };
        let call: Call = Box::new(move |core, now| match stage(core, now) {
            Ok((result, Some(ticket))) => Some((
                ticket,
                Box::new(move || {
                    let _ = answer.send(Ok(result));
                }),
            )),
            Ok((result, None)) => {
                let _ = answer.send(Ok(result));
                None
            }
            Err(refused) => {
                let _ = answer.send(Err(refused));
                None
            }
        });
        self.calls.send(call).await.map_err(|_| BridgeError::Stopped)?;
        answered.await.map_err(|_| BridgeError::Stopped)?
    }

    /// Makes something, once where the request has a key, and waits until it is durable. `stage` is given the core
    /// under the rules of [`Core::make`].
    async fn make(
        &self,
        once: Option<Once>,
        stage: impl FnOnce(&mut Core, Now) -> Result<Made> + Send + 'static,
    ) -> Result<(Made, Novelty)> {
        if let Some(once) = once.clone() {
            // A repetition that arrives while the first is still being written finds it in the core.
            let before = self.read(move |store| {
                let posted = store.posted(once.caller, &once.key)?;
                Ok(posted.map_or(Ok(None), |posted| posted.answers(&once, wall_ms())))
            });
            if let Some(made) = before.await?? {
                return Ok((made, Novelty::Again));
            }
        }
        self.change(move |core, now| core.make(once, now, |core| stage(core, now)))
            .await
    }

    /// The same for what is answered with a secret: a repetition is told what was made, and that is all.
    async fn make_with_secret(
        &self,
        once: Option<Once>,
        stage: impl FnOnce(&mut Core, Now) -> Result<Made> + Send + 'static,
    ) -> Result<Made> {
        match self.make(once, stage).await? {
            (made, Novelty::New) => Ok(made),
            (made, Novelty::Again) => Err(BridgeError::MadeBefore(made)),
        }
    }

    /// Reads from the store off the reactor.
    async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Store) -> std::result::Result<R, StoreError> + Send + 'static,
    ) -> Result<R> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || read(store.as_ref()))
            .await
            .map_err(|_| BridgeError::Stopped)?
            .map_err(Into::into)
    }
}

/// Once for each change.
fn tell_of_space(space: Space, free_mb: u64) {
    metrics::gauge!("waypost_bridge_space_level").set(space as u8);
    let refused = match space {
        Space::Ample => {
            return tracing::info!(disk.free_mb = free_mb, "the disk has room for everything again");
        }
        Space::NoFiles => "files are",
        Space::NoHistory => "files and the history of positions are",
        Space::NoEntries => "files, the history of positions and messages are",
    };
    tracing::warn!(
        disk.free_mb = free_mb,
        "the disk of the data folder has only {free_mb} MB free: {refused} refused until there is room. Devices keep what \
         they have to say. Free some disk, or lower store.disk_reserve_mb or the days of [retention]"
    );
}

fn wall_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn now() -> Now {
    Now {
        // The clock by which the timers sleep, which a test may stop.
        monotonic: tokio::time::Instant::now().into_std(),
        wall_ms: wall_ms(),
    }
}

/// What the bridge's task owns.
struct Rim<L> {
    core: Core,
    store: Arc<dyn Store>,
    link: L,
    writer: Writer,
    waiters: BTreeMap<Ticket, Vec<Waiter>>,
    live: broadcast::Sender<LiveEvent>,
    access: DeviceAccess,
    prefix: TopicPrefix,
    probe: SpaceProbe,
    /// Whether the probe failed the last time: said once.
    probe_fails: bool,
    space: watch::Sender<Space>,
}

/// What woke the task.
enum Wake {
    Written(std::result::Result<Ticket, StoreError>),
    Call(Call),
    Link(LinkEvent),
    Timeout,
    /// It is time to look at the disk.
    Space,
    /// Every handle is gone.
    NoCallers,
}

impl<L: BrokerLink> Rim<L> {
    async fn run(
        mut self,
        mut calls: mpsc::Receiver<Call>,
        mut written: Written,
    ) -> std::result::Result<(), StoreError> {
        let mut space_due = tokio::time::interval(SPACE_EVERY);
        space_due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.core.is_finished() {
            let wake = self.next(&mut calls, &mut written, &mut space_due).await;
            match wake {
                Wake::Written(result) => {
                    let through = result?;
                    self.core.handle_stored(through);
                    self.drain()?;
                    let later = self.waiters.split_off(&through.next());
                    for waiter in std::mem::replace(&mut self.waiters, later)
                        .into_values()
                        .flatten()
                    {
                        waiter();
                    }
                }
                Wake::Call(call) => {
                    if let Some((ticket, waiter)) = call(&mut self.core, now()) {
                        self.waiters.entry(ticket).or_default().push(waiter);
                    }
                }
                Wake::Link(LinkEvent::Opened) => self.core.handle_opened(),
                Wake::Link(LinkEvent::Message {
                    topic,
                    payload,
                    retained,
                }) => {
                    let told = if retained { Told::Before } else { Told::Now };
                    self.handle_message(&topic, &payload, told);
                }
                Wake::Link(LinkEvent::Disconnected { client_id }) => {
                    if let Ok(device) = client_id.parse() {
                        self.core.handle_disconnected(device, now());
                    }
                }
                Wake::Timeout => self.core.handle_timeout(now()),
                Wake::Space => self.look_at_disk(),
                Wake::Link(LinkEvent::Closed) | Wake::NoCallers => self.core.stop(),
            }
            self.drain()?;
        }
        Ok(())
    }

    /// Takes input only while few writes are open: the bound of everything that waits behind them.
    async fn next(
        &mut self,
        calls: &mut mpsc::Receiver<Call>,
        written: &mut Written,
        space_due: &mut tokio::time::Interval,
    ) -> Wake {
        let room = self.core.open_writes() < WRITES_MAX && !self.core.is_stopping();
        let timeout = self.core.poll_timeout();
        let sleep = async move {
            match timeout {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(result) = written.recv() => Wake::Written(result),
            _ = space_due.tick(), if self.probe.0.is_some() => Wake::Space,
            call = calls.recv(), if room => call.map_or(Wake::NoCallers, Wake::Call),
            event = self.link.next(), if room => Wake::Link(event),
            () = sleep => Wake::Timeout,
        }
    }

    fn handle_message(&mut self, topic: &str, payload: &[u8], told: Told) {
        match self.prefix.parse(topic) {
            Ok(Topic::Up(device)) => self.core.handle_up(device, payload, now()),
            Ok(Topic::Presence(device)) => self.core.handle_presence(device, payload, now()),
            Ok(Topic::OwnTracks(device, _)) => self.handle_owntracks(device, payload, told),
            _ => metrics::counter!("waypost_bridge_ignored_total", "reason" => "topic").increment(1),
        }
    }

    /// On MQTT there is no answer to an app whose message is refused: the operator sees it counted.
    fn handle_owntracks(&mut self, device: DeviceId, payload: &[u8], told: Told) {
        let refused = |reason| {
            metrics::counter!("waypost_bridge_owntracks_refused_total", "reason" => reason).increment(1);
        };
        if payload.is_empty() {
            // An app took back what the broker kept.
            return owntracks::count_others(1);
        }
        match owntracks::parse(payload) {
            Ok(report) => {
                owntracks::count_others(report.others);
                match self.core.report_positions(device, &report.fixes, told, now()) {
                    Ok(_) => {}
                    Err(BridgeError::Invalid { .. }) => refused("time"),
                    Err(BridgeError::NoSpace) => refused("no_space"),
                    Err(_) => refused("unknown_device"),
                }
            }
            Err(bad) => refused(bad.label()),
        }
    }

    /// Does what the core asks for until it asks for nothing. Reads are answered here: they are short, and what they
    /// find rides in the frame that waits for them.
    fn drain(&mut self) -> std::result::Result<(), StoreError> {
        loop {
            self.core.flush(now());
            let Some(output) = self.core.poll_output() else {
                return Ok(());
            };
            let mut next = Some(output);
            while let Some(output) = next {
                self.handle_output(output)?;
                next = self.core.poll_output();
            }
        }
    }

    fn handle_output(&mut self, output: Output) -> std::result::Result<(), StoreError> {
        match output {
            Output::Write(ticket, changes) => self.writer.write(ticket, changes),
            Output::Fetch(fetch) => {
                let page = Page::After(fetch.after);
                let entries = self.store.entries(fetch.stream, page, fetch.limit, fetch.head)?;
                self.core.handle_fetched(fetch, entries, now());
            }
            Output::FetchBack(fetch) => {
                let page = Page::Before(fetch.before);
                let entries = self.store.entries(fetch.stream, page, fetch.limit, u64::MAX)?;
                self.core.handle_fetched_back(fetch, entries, now());
            }
            Output::Look(look) => {
                let found = self.store.find_old(&look)?;
                self.core.handle_found(&look, found);
            }
            Output::Recall {
                device,
                frame,
                wanted,
            } => {
                let mut recalled = Vec::with_capacity(wanted.len());
                for (stream, seq) in wanted {
                    recalled.extend(self.store.entry(stream, seq)?);
                }
                self.core.handle_recalled(device, &frame, &recalled, now());
            }
            Output::Compare(repeated) => {
                let taken = self
                    .store
                    .operation(repeated.device, repeated.epoch, repeated.op)?;
                let same = repeated.content.is(taken);
                self.core.handle_compared(repeated, same, now());
            }
            Output::Publish(device, frame) => {
                let topic = self.prefix.name(&Topic::Down(device));
                self.link.publish(topic, frame, Retain::No);
            }
            Output::FetchGroup(fetch) => {
                let page = Page::After(fetch.after);
                let entries = self.store.entries(fetch.stream, page, fetch.limit, fetch.head)?;
                self.core.handle_group_fetched(fetch, entries, now());
            }
            Output::PublishGroup(group, frame) => {
                let topic = self.prefix.name(&Topic::Group(group));
                self.link.publish(topic, frame, Retain::No);
            }
            Output::Retain(locale, catalogue) => {
                let topic = self.prefix.name(&Topic::Templates(locale));
                self.link.publish(topic, catalogue, Retain::Yes);
            }
            Output::Groups { device, groups, left } => {
                // First the right, then what was subscribed by it.
                self.access.put_groups(device, groups);
                if let Some(group) = left {
                    let topic = self.prefix.name(&Topic::Group(group));
                    self.link.end_subscription(device, &topic);
                }
            }
            // Nobody may be watching.
            Output::Live(event) => drop(self.live.send(event)),
            Output::Access(device) => self.access.put(&device),
            Output::Disconnect(device) => self.link.disconnect(device),
            Output::Space(space, free_bytes) => {
                self.space.send_replace(space);
                tell_of_space(space, free_bytes / 1_000_000);
            }
        }
        Ok(())
    }

    fn look_at_disk(&mut self) {
        let Some(ask) = &self.probe.0 else { return };
        match ask() {
            Ok(free_bytes) => {
                self.probe_fails = false;
                metrics::gauge!("waypost_bridge_disk_free_bytes").set(free_bytes as f64);
                self.core.handle_free(free_bytes);
            }
            Err(error) if !self.probe_fails => {
                self.probe_fails = true;
                tracing::error!(
                    %error,
                    "how much room the disk of the data folder has cannot be found out: {error}. The reserve is not kept"
                );
            }
            Err(_) => {}
        }
    }
}
