//! The task behind a client: one loop that gives the core its inputs and carries its outputs out.
//!
//! Wake-ups: a command of the app, a completion of the store, an event of the link, room on the link or the screen,
//! time. After each of them the core is drained as its contract says.
//!
//! Bounds: while [`WRITES_MAX`] writes are not on disk, neither commands nor frames are taken; commands then wait in
//! their channel (256), frames in theirs and further on the server.

mod outcomes;
mod recorder;
mod sleep;

use crate::catalogue::Catalogue;
use crate::client::{OpenError, Outcome, PostError, Posted, Refused, ReplyMessage};
use crate::connection::{Care, Ended, LinkEvent, Settings, ToServer};
use crate::core::backoff::Backoff;
use crate::core::keep_alive::{KeepAlive, StoredPath};
use crate::core::{
    Ask, Config, Core, Draft, Event, Fill, Makes, NotTaken, Now, Paged, PostId, Progress, Ticket,
};
use crate::incoming::{Offered, Withdrawn};
use crate::link::{self, Addresses, Attempt};
use crate::options::LinkAtStart;
use crate::packet::Version;
use crate::store::{OtherDevice, RedbEngine, Store, StoreError};
use crate::tls::Tls;
use crate::writer::{self, Done, JOBS_MAX, Job, Why};
use crate::{Credentials, Entry, LinkState, NetworkName, Options, Policy, Secret, Status};
use outcomes::Outcomes;
use recorder::Recorder;
use sleep::{LINK_LOOK_EVERY, Sleep};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use waypost_proto::{DeviceId, Epoch, Fix, Seq, StreamId, TopicPrefix};

pub(crate) use crate::device_clock::now;

/// Commands that may wait; the app then waits too.
const COMMANDS_MAX: usize = 256;
/// Entries that are offered to the screen ahead of it.
const ENTRIES_MAX: usize = 64;
/// Writes that may be on their way to the disk before inputs have to wait.
const WRITES_MAX: usize = 512;
/// What is due now and finds no room is looked at again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// What is due later than this is looked at in between: a device that slept meanwhile is late by no more.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long closing waits for the good-bye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the handle asks for.
pub(crate) enum Command {
    Post {
        draft: Box<Draft>,
        reply: oneshot::Sender<Result<Posted, PostError>>,
    },
    PostReply {
        message: Box<ReplyMessage>,
        reply: oneshot::Sender<Result<Posted, PostError>>,
    },
    Catalogue(oneshot::Sender<Catalogue>),
    /// Answered when the catalogue is the one that the server offers.
    WaitCatalogue(oneshot::Sender<Catalogue>),
    WaitSettled {
        id: PostId,
        reply: oneshot::Sender<Outcome>,
    },
    Outcome {
        id: PostId,
        reply: oneshot::Sender<Outcome>,
    },
    WaitDrained(oneshot::Sender<()>),
    Record {
        fix: Fix,
        reply: oneshot::Sender<Result<(), PostError>>,
    },
    Fix {
        fix: Fix,
        reply: oneshot::Sender<Result<(), PostError>>,
    },
    Policy {
        policy: Policy,
        reply: oneshot::Sender<Result<(), PostError>>,
    },
    Flush(oneshot::Sender<Result<(), PostError>>),
    Live(Fix),
    MarkShown {
        stream: StreamId,
        seq: Seq,
        reply: oneshot::Sender<()>,
    },
    MarkRead {
        stream: StreamId,
        seq: Seq,
        reply: oneshot::Sender<()>,
    },
    History {
        stream: StreamId,
        before: Option<Seq>,
        limit: usize,
        reply: oneshot::Sender<Vec<Entry>>,
    },
    /// The last entry of a stream that may be on the server alone.
    Horizon {
        stream: StreamId,
        reply: oneshot::Sender<Option<Seq>>,
    },
    /// Answered when a page has come, or cannot.
    FetchEarlier {
        stream: StreamId,
        limit: usize,
        reply: oneshot::Sender<Paged>,
    },
    /// A consumer for the entries that are to be shown, in place of any before.
    Subscribe(oneshot::Sender<Offered>),
    Status(oneshot::Sender<Status>),
    PauseLink,
    ResumeLink,
    NetworkChanged(NetworkName),
    Close(oneshot::Sender<()>),
}

/// What a handle needs of a started engine.
pub(crate) struct Started {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) link: watch::Receiver<LinkState>,
    /// Why the engine has stopped, where its store failed.
    pub(crate) stopped: Arc<OnceLock<String>>,
}

/// Opens the state folder and starts the task and the thread.
pub(crate) async fn start(
    credentials: Credentials,
    state_dir: PathBuf,
    options: Options,
) -> Result<Started, OpenError> {
    let device = credentials.device;
    let config = Config {
        device,
        outbox_ops_max: options.outbox_ops_max,
        outbox_bytes_max: options.outbox_bytes_max,
        inflight_bytes_max: options.inflight_bytes_max,
        locale: options.locale.clone(),
        app: options.app.clone(),
        policy: options.policy,
    };
    let opening = tokio::task::spawn_blocking(move || open(&state_dir, config));
    let (store, core, paths) = opening.await.map_err(|error| {
        OpenError::Store(StoreError::Failed {
            doing: "opening the store",
            why: error.to_string(),
        })
    })??;
    let (jobs, jobs_receiver) = mpsc::channel(JOBS_MAX);
    let (done_sender, done) = mpsc::unbounded_channel();
    let (closed_sender, store_closed) = oneshot::channel();
    writer::spawn(store, jobs_receiver, done_sender, closed_sender).map_err(|error| {
        OpenError::Store(StoreError::Failed {
            doing: "starting the store's thread",
            why: error.to_string(),
        })
    })?;
    let (commands_sender, commands) = mpsc::channel(COMMANDS_MAX);
    let wish = match options.link {
        LinkAtStart::Connect => LinkWish::Connect { at: Instant::now() },
        LinkAtStart::Paused => LinkWish::Paused,
    };
    let first_state = match wish {
        LinkWish::Paused => LinkState::Paused,
        _ => LinkState::Offline(None),
    };
    let (link_state, link) = watch::channel(first_state);
    let stopped = Arc::new(OnceLock::new());
    let backoff = Backoff::new(options.backoff_base, options.backoff_cap);
    let keep_alive = KeepAlive::new(options.keep_alive_s, options.keep_alive_max_s, paths);
    let engine = Engine {
        core,
        identity: Identity {
            device,
            secret: credentials.secret,
            prefix: options.topic_prefix.clone(),
        },
        recorder: Recorder::new(options.track_fixes, options.track_age),
        options,
        commands,
        jobs: Jobs {
            sender: jobs,
            waiting: VecDeque::new(),
        },
        done,
        screen: None,
        screens: 0,
        replies: BTreeMap::new(),
        outcomes: Outcomes::default(),
        drained: Vec::new(),
        held: None,
        catalogue_waits: Vec::new(),
        page_waits: Vec::new(),
        addresses: Addresses::new(credentials.servers, backoff),
        tls: Arc::new(Tls::new(credentials.authority, credentials.file)),
        keep_alive,
        sleep: Sleep::new(now().mono, Instant::now()),
        wish,
        attempt: None,
        link_state,
        stopped: stopped.clone(),
    };
    tokio::spawn(engine.run(store_closed));
    Ok(Started {
        commands: commands_sender,
        link,
        stopped,
    })
}

/// Everything that reads the disk before the loop begins.
fn open(state_dir: &Path, config: Config) -> Result<(Store<RedbEngine>, Core, Vec<StoredPath>), OpenError> {
    let failed = |doing, error: std::io::Error| {
        OpenError::Store(StoreError::Failed {
            doing,
            why: error.to_string(),
        })
    };
    make_private_folder(state_dir).map_err(|error| failed("making the state folder", error))?;
    let engine = RedbEngine::open(&state_dir.join("state.redb")).map_err(in_use)?;
    let device = config.device;
    let store = match Store::open(engine, device, random_epoch()?).map_err(OpenError::Store)? {
        Ok(store) => store,
        Err(OtherDevice(other)) => return Err(OpenError::OtherDevice(other.to_string())),
    };
    let loaded = store.load().map_err(OpenError::Store)?;
    let mut core = Core::new(config, loaded, random_epoch()?);
    store
        .operations(|stored, progress| core.restore(&stored, progress))
        .map_err(OpenError::Store)?;
    store
        .kept(|stored, accepted_ms| core.restore_kept(&stored, accepted_ms))
        .map_err(OpenError::Store)?;
    let paths = store.paths().map_err(OpenError::Store)?;
    Ok((store, core, paths))
}

fn in_use(error: StoreError) -> OpenError {
    match error {
        StoreError::InUse => OpenError::InUse,
        other => OpenError::Store(other),
    }
}

/// Messages and the places of a driver are nobody else's.
fn make_private_folder(path: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path)
}

fn random_epoch() -> Result<Epoch, OpenError> {
    loop {
        let random = getrandom::u64().map_err(|error| {
            OpenError::Store(StoreError::Failed {
                doing: "drawing random numbers",
                why: error.to_string(),
            })
        })?;
        if let Some(epoch) = Epoch::new(random) {
            return Ok(epoch);
        }
    }
}

/// Who the device is on a connection.
struct Identity {
    device: DeviceId,
    secret: Secret,
    prefix: TopicPrefix,
}

/// What is to become of the link.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LinkWish {
    Connect {
        at: Instant,
    },
    Paused,
    /// Until a person has done something about it.
    GivenUp,
}

/// Whether the loop goes on.
#[derive(Debug, PartialEq, Eq)]
enum Flow {
    Continue,
    Stop,
}

/// An answer that waits for a write.
type Reply = Box<dyn FnOnce() + Send>;

struct Jobs {
    sender: mpsc::Sender<Job>,
    /// What found no room; inputs are not taken while writes wait, so it stays short.
    waiting: VecDeque<Job>,
}

/// The consumer of entries.
struct Screen {
    /// Which consumer: what was read for an earlier one is not for this one.
    number: u64,
    entries: mpsc::Sender<Entry>,
    withdrawn: Withdrawn,
    /// Entries that are being read from the store.
    reading: usize,
}

struct Engine {
    core: Core,
    identity: Identity,
    options: Options,
    recorder: Recorder,
    commands: mpsc::Receiver<Command>,
    jobs: Jobs,
    done: mpsc::UnboundedReceiver<Done>,
    screen: Option<Screen>,
    screens: u64,
    replies: BTreeMap<Ticket, Vec<Reply>>,
    outcomes: Outcomes,
    drained: Vec<oneshot::Sender<()>>,
    /// A command that waits for history to be thinned; no other is taken meanwhile.
    held: Option<Command>,
    /// Callers that have given up are dropped with the next one that waits.
    catalogue_waits: Vec<oneshot::Sender<Catalogue>>,
    /// Who waits for a page of a stream; those who have given up are dropped with the next one that waits.
    page_waits: Vec<(StreamId, oneshot::Sender<Paged>)>,
    addresses: Addresses,
    tls: Arc<Tls>,
    keep_alive: KeepAlive,
    sleep: Sleep,
    wish: LinkWish,
    attempt: Option<Attempt>,
    link_state: watch::Sender<LinkState>,
    stopped: Arc<OnceLock<String>>,
}

/// What woke the loop.
enum WakeUp {
    Command(Option<Command>),
    Done(Option<Done>),
    Link(Option<LinkEvent>),
    Room,
    Time,
}

impl Engine {
    async fn run(mut self, store_closed: oneshot::Receiver<()>) {
        let closing = loop {
            self.drain();
            let wake_up = self.wait().await;
            match self.handle(wake_up).await {
                Ok(Flow::Continue) => {}
                Ok(Flow::Stop) => break None,
                Err(reply) => break Some(reply),
            }
        };
        drop(self);
        // The folder is free when the thread has let go of it.
        let _ = store_closed.await;
        if let Some(reply) = closing {
            let _ = reply.send(());
        }
    }

    async fn wait(&mut self) -> WakeUp {
        let now = now();
        let takes_input = self.core.writes_pending() < WRITES_MAX && self.jobs.waiting.is_empty();
        let deadline = self.deadline(now);
        let has_to_show = self.core.has_to_show() || self.core.has_changed();
        let screen = self
            .screen
            .as_ref()
            .filter(|screen| screen.reading == 0 && has_to_show);
        let screen = screen.map(|screen| screen.entries.clone());
        let link = self.attempt.as_mut().map(|attempt| {
            let full = attempt.outgoing.capacity() == 0;
            (&mut attempt.events, attempt.outgoing.clone(), full)
        });
        let (events, outgoing) = match link {
            Some((events, outgoing, full)) => (Some(events), full.then_some(outgoing)),
            None => (None, None),
        };
        tokio::select! {
            biased;
            done = self.done.recv() => WakeUp::Done(done),
            event = receive(events), if takes_input => WakeUp::Link(event),
            command = self.commands.recv(), if takes_input && self.held.is_none() => WakeUp::Command(command),
            () = room(outgoing) => WakeUp::Room,
            () = room(screen) => WakeUp::Room,
            _ = self.jobs.sender.reserve(), if !self.jobs.waiting.is_empty() => WakeUp::Room,
            () = tokio::time::sleep_until(deadline) => WakeUp::Time,
        }
    }

    /// `Err` holds who waits for the end.
    async fn handle(&mut self, wake_up: WakeUp) -> Result<Flow, oneshot::Sender<()>> {
        let now = now();
        if self.sleep.has_ended(now.mono, Instant::now()) {
            self.try_link();
        }
        match wake_up {
            WakeUp::Command(Some(Command::Close(reply))) => {
                self.close().await;
                return Err(reply);
            }
            WakeUp::Command(Some(command)) => self.handle_command(command, now),
            // The last handle is gone.
            WakeUp::Command(None) => {
                self.close().await;
                return Ok(Flow::Stop);
            }
            WakeUp::Done(done) => {
                let flow = self.handle_done(done, now);
                if let Some(command) = self.held.take() {
                    self.handle_command(command, now);
                }
                return Ok(flow);
            }
            WakeUp::Link(Some(event)) => self.handle_link(event, now),
            WakeUp::Link(None) => self.handle_link_end(now).await,
            WakeUp::Room => {}
            WakeUp::Time => {
                self.core.handle_timeout(now);
                if self.recorder.is_due(now.mono) {
                    self.flush_track(now, None);
                }
            }
        }
        Ok(Flow::Continue)
    }

    /// Carries the outputs of the core out, in the order of its contract.
    fn drain(&mut self) {
        let now = now();
        self.connect_if_due(now);
        while let Some(write) = self.core.poll_write() {
            self.jobs.push(Job::Write(write));
        }
        while let Some(ids) = self.core.poll_load() {
            self.jobs.push(Job::Load(ids));
        }
        while let Some(event) = self.core.poll_event() {
            self.handle_event(event);
        }
        if let Some(attempt) = &self.attempt
            && self.link_state.borrow().is_connected()
        {
            while let Ok(permit) = attempt.outgoing.try_reserve() {
                let topics = self.core.poll_topics().map(ToServer::Topics);
                let Some(next) = topics.or_else(|| self.core.poll_frame(now).map(ToServer::Frame)) else {
                    break;
                };
                permit.send(next);
            }
            // Putting a frame together may have asked for contents.
            while let Some(ids) = self.core.poll_load() {
                self.jobs.push(Job::Load(ids));
            }
        }
        if self
            .screen
            .as_ref()
            .is_some_and(|screen| screen.entries.is_closed())
        {
            self.screen = None;
        }
        if let (Some(server), Some(screen)) = (self.core.server(), &mut self.screen) {
            let (incarnation, number) = (server.shelf, screen.number);
            while screen.reading < screen.entries.capacity() {
                let changed = self.core.poll_changed().map(|place| (Why::Changed, place));
                let next = changed.or_else(|| self.core.poll_show().map(|place| (Why::New, place)));
                let Some((why, (stream, seq))) = next else {
                    break;
                };
                screen.reading += 1;
                self.jobs.push(Job::Entry {
                    screen: number,
                    why,
                    incarnation,
                    stream,
                    seq,
                });
            }
        }
        self.jobs.hand_over();
        if self.core.waiting_ops() == 0 {
            for reply in self.drained.drain(..) {
                let _ = reply.send(());
            }
        }
        if !self.catalogue_waits.is_empty() && self.core.catalogue_is_current() {
            let catalogue = self.core.catalogue();
            for reply in self.catalogue_waits.drain(..) {
                let _ = reply.send(catalogue.clone());
            }
        }
    }

    /// When to look again, by the runtime's clock. The core counts by one that goes on while the device sleeps, and the
    /// runtime's may not: how long it is until then is taken anew at each wake-up, of which there is one a [`LOOK_EVERY`].
    fn deadline(&self, now: Now) -> Instant {
        let present = Instant::now();
        let core = self.core.poll_timeout(now);
        let soonest = [core, self.recorder.due()].into_iter().flatten().min();
        let soonest = soonest.map(|at| {
            let wait = at.saturating_duration_since(now.mono);
            present + wait.clamp(BUSY_PAUSE, LOOK_EVERY)
        });
        let connect = match self.wish {
            LinkWish::Connect { at } if self.attempt.is_none() && at > present => Some(at),
            _ => None,
        };
        let look = self.attempt.is_some().then(|| present + LINK_LOOK_EVERY);
        let never = present + Duration::from_secs(3_600);
        [soonest, connect, look]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(never)
    }

    fn handle_command(&mut self, command: Command, now: Now) {
        match command {
            Command::Post { draft, reply } => self.post(*draft, reply, now),
            Command::PostReply { message, reply } => match message.into_draft(&self.core.catalogue()) {
                Ok(draft) => self.post(draft, reply, now),
                Err(bad) => {
                    let _ = reply.send(Err(bad.into()));
                }
            },
            Command::Catalogue(reply) => {
                let _ = reply.send(self.core.catalogue());
            }
            Command::WaitCatalogue(reply) => {
                self.catalogue_waits.retain(|waits| !waits.is_closed());
                self.catalogue_waits.push(reply);
            }
            Command::WaitSettled { id, reply } => match self.outcome(id) {
                Outcome::StillStored | Outcome::Accepted { seq: None, .. }
                    if self.core.progress(id).is_some() =>
                {
                    self.outcomes.wait(id, reply);
                }
                outcome => {
                    let _ = reply.send(outcome);
                }
            },
            Command::Outcome { id, reply } => {
                let _ = reply.send(self.outcome(id));
            }
            Command::WaitDrained(reply) => {
                self.core.hurry();
                self.drained.push(reply);
            }
            Command::Record { fix, reply } => {
                let track = self.recorder.record(fix, now.mono);
                match track {
                    Some(track) => self.post_track(track, now, Some(reply)),
                    None => {
                        let _ = reply.send(Ok(()));
                    }
                }
            }
            Command::Fix { fix, reply } => {
                let taken = self.core.fix(fix, now);
                answer(reply, taken);
            }
            Command::Policy { policy, reply } => {
                let taken = self.core.set_policy(policy, now);
                answer(reply, taken);
            }
            Command::Flush(reply) => match self.core.flush_fixes(now) {
                Ok(()) => self.flush_track(now, Some(reply)),
                Err(why) => match refusal(why) {
                    Some(error) => drop(reply.send(Err(error))),
                    None => self.held = Some(Command::Flush(reply)),
                },
            },
            Command::Live(fix) => self.core.live(fix),
            Command::MarkShown { stream, seq, reply } => {
                let ticket = self.core.mark_shown(stream, seq, now);
                self.reply_when_stored(ticket, reply, ());
            }
            Command::MarkRead { stream, seq, reply } => {
                let ticket = self.core.mark_read(stream, seq, now);
                self.reply_when_stored(ticket, reply, ());
            }
            Command::History {
                stream,
                before,
                limit,
                reply,
            } => match self.core.server() {
                Some(server) => {
                    let incarnation = server.shelf;
                    self.jobs.push(Job::History {
                        incarnation,
                        stream,
                        before,
                        limit,
                        server_ms: self.core.expiry_ms(now),
                        reply,
                    });
                }
                None => {
                    let _ = reply.send(Vec::new());
                }
            },
            Command::Horizon { stream, reply } => {
                let _ = reply.send(self.core.horizon(stream));
            }
            Command::FetchEarlier { stream, limit, reply } => self.fetch_earlier(stream, limit, reply),
            Command::Subscribe(reply) => {
                let (entries, receiver) = mpsc::channel(ENTRIES_MAX);
                let withdrawn = Withdrawn::default();
                self.screens += 1;
                self.screen = Some(Screen {
                    number: self.screens,
                    entries,
                    withdrawn: withdrawn.clone(),
                    reading: 0,
                });
                self.core.offer_again();
                let _ = reply.send(Offered {
                    entries: receiver,
                    withdrawn,
                });
            }
            Command::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Command::PauseLink => {
                self.drop_link();
                self.wish = LinkWish::Paused;
                self.link_state.send_replace(LinkState::Paused);
            }
            Command::ResumeLink => {
                if self.attempt.is_none() {
                    self.wish = LinkWish::Connect { at: Instant::now() };
                    self.link_state.send_replace(LinkState::Offline(None));
                }
            }
            Command::NetworkChanged(network) => {
                self.keep_alive.handle_network(network);
                self.addresses.forget_failures();
                if !self.link_state.borrow().is_connected() {
                    // It goes through a network that may not be there any more.
                    self.drop_link();
                }
                if matches!(*self.link_state.borrow(), LinkState::CaptivePortal { .. }) {
                    self.link_state.send_replace(LinkState::Offline(None));
                }
                self.try_link();
                self.apply_learnt(now);
            }
            Command::Close(reply) => {
                // Taken before it gets here.
                let _ = reply.send(());
            }
        }
    }

    fn fetch_earlier(&mut self, stream: StreamId, limit: usize, reply: oneshot::Sender<Paged>) {
        let known = match self.core.ask_earlier(stream, limit) {
            Ask::Asked => {
                self.page_waits.retain(|(_, waits)| !waits.is_closed());
                self.page_waits.push((stream, reply));
                return;
            }
            Ask::NothingEarlier => Paged::Here,
            Ask::Offline => Paged::Offline,
        };
        let _ = reply.send(known);
    }

    fn post(&mut self, draft: Draft, reply: oneshot::Sender<Result<Posted, PostError>>, now: Now) {
        match self.core.post(draft.clone(), now) {
            Ok((id, op, ticket)) => {
                let stream = self.core.destination(id);
                self.reply_when_stored(Some(ticket), reply, Ok(Posted { id, op, stream }));
            }
            Err(why) => match refusal(why) {
                Some(error) => drop(reply.send(Err(error))),
                None => {
                    let draft = Box::new(draft);
                    self.held = Some(Command::Post { draft, reply });
                }
            },
        }
    }

    fn flush_track(&mut self, now: Now, reply: Option<oneshot::Sender<Result<(), PostError>>>) {
        match (self.recorder.take(), reply) {
            (Some(track), reply) => self.post_track(track, now, reply),
            (None, Some(reply)) => {
                let ticket = self.core.last_pending();
                self.reply_when_stored(ticket, reply, Ok(()));
            }
            (None, None) => {}
        }
    }

    /// Stores a track. Where the outbox does not take it its fixes stay in the recorder, which thins what it cannot hold.
    fn post_track(
        &mut self,
        track: Vec<Fix>,
        now: Now,
        reply: Option<oneshot::Sender<Result<(), PostError>>>,
    ) {
        let draft = Draft::track(track.clone(), waypost_proto::TrackKind::Travelled);
        match self.core.post(draft, now) {
            Ok((_, _, ticket)) => {
                if let Some(reply) = reply {
                    self.reply_when_stored(Some(ticket), reply, Ok(()));
                }
            }
            Err(why) => {
                let (gone, error_m) = self.recorder.put_back(track, now.mono);
                self.core.note_fixes_refused(gone, error_m);
                match (refusal(why), reply) {
                    (Some(error), Some(reply)) => drop(reply.send(Err(error))),
                    (None, Some(reply)) => self.held = Some(Command::Flush(reply)),
                    // Its time comes again.
                    (_, None) => {}
                }
            }
        }
    }

    fn reply_when_stored<T: Send + 'static>(
        &mut self,
        ticket: Option<Ticket>,
        reply: oneshot::Sender<T>,
        answer: T,
    ) {
        let answer: Reply = Box::new(move || {
            let _ = reply.send(answer);
        });
        match ticket {
            Some(ticket) => self.replies.entry(ticket).or_default().push(answer),
            None => answer(),
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Durable(ticket) => {
                let later = self.replies.split_off(&Ticket(ticket.0 + 1));
                for reply in std::mem::replace(&mut self.replies, later)
                    .into_values()
                    .flatten()
                {
                    reply();
                }
            }
            Event::Accepted {
                id,
                makes: Makes::Nothing,
            } => {
                self.outcomes.settle(
                    id,
                    Outcome::Accepted {
                        stream: None,
                        seq: None,
                    },
                );
            }
            // Settled by its place.
            Event::Accepted {
                makes: Makes::Entry, ..
            } => {}
            Event::Placed { id, stream, seq } => {
                self.outcomes.settle(
                    id,
                    Outcome::Accepted {
                        stream: Some(stream),
                        seq: Some(seq),
                    },
                );
            }
            Event::Refused { id, reason } => {
                tracing::warn!(device.id = %self.identity.device, ?reason, "an operation is parked: {}", Refused(reason));
                self.outcomes.settle(id, Outcome::Refused(Refused(reason)));
            }
            Event::InStep => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.has_succeeded = true;
                    self.addresses.succeeded(attempt.address(), Instant::now());
                }
                self.link_state.send_replace(LinkState::InStep);
                tracing::info!(device.id = %self.identity.device, "in step with the server");
            }
            Event::AnotherStore => {
                tracing::warn!(
                    device.id = %self.identity.device,
                    "the server has another store now; what it may lack is offered to it again"
                );
                // What is ahead of the screen has the numbers of the old store.
                if let Some(screen) = self.screen.take() {
                    screen.withdrawn.withdraw();
                }
            }
            Event::Paged { stream, paged } => {
                let waits = std::mem::take(&mut self.page_waits).into_iter();
                let (told, waiting): (Vec<_>, Vec<_>) = waits.partition(|(of, _)| *of == stream);
                self.page_waits = waiting;
                for (_, reply) in told {
                    let _ = reply.send(paged);
                }
            }
            Event::EpochUsed => {
                tracing::warn!(
                    device.id = %self.identity.device,
                    "this outbox is a copy of another; what waits was numbered anew in a new epoch"
                );
                if let Ok(epoch) = random_epoch() {
                    self.core.provide_epoch(epoch);
                }
            }
        }
    }

    fn handle_done(&mut self, done: Option<Done>, now: Now) -> Flow {
        match done {
            Some(Done::Stored(ticket)) => self.core.handle_stored(ticket, now),
            Some(Done::Loaded(contents)) => {
                for (id, content) in contents {
                    self.core.handle_loaded(id, content, now);
                }
            }
            Some(Done::Entry {
                screen: of,
                why,
                stream,
                seq,
                entry,
            }) => {
                if entry.is_none() && why == Why::New {
                    // It was shown before the server's store was put back.
                    self.core.mark_shown(stream, seq, now);
                }
                if let Some(screen) = self.screen.as_mut().filter(|screen| screen.number == of) {
                    screen.reading -= 1;
                    // Room was there when it was asked for, and nobody else sends. A consumer that has gone has
                    // confirmed nothing: the next one gets it.
                    if let Some(entry) = entry {
                        let _ = screen.entries.try_send(self.core.offer(*entry, now));
                    }
                }
            }
            Some(Done::Failed(error)) => {
                tracing::error!(
                    device.id = %self.identity.device,
                    %error,
                    "the store failed and the client stops; what was reported as stored is there when it is opened again"
                );
                let _ = self.stopped.set(error.to_string());
                return Flow::Stop;
            }
            None => return Flow::Stop,
        }
        Flow::Continue
    }

    fn handle_link(&mut self, event: LinkEvent, now: Now) {
        match event {
            LinkEvent::Connected => {
                self.link_state.send_replace(LinkState::Connected);
                self.core.handle_connected(now);
                self.keep_alive.handle_connected(now.mono, now.wall_ms);
                self.apply_learnt(now);
            }
            LinkEvent::Frame(payload) => self.core.handle_frame(&payload, now),
            LinkEvent::GroupFrame(group, payload) => self.core.handle_group_frame(group, &payload, now),
            LinkEvent::Catalogue(locale, payload) => self.core.handle_catalogue(&locale, &payload, now),
            LinkEvent::Subscribed(answers) => {
                for (topic, grant) in answers {
                    self.core.handle_topic(&topic, grant);
                }
            }
            LinkEvent::PublishRefused => {}
            LinkEvent::Survived(idle) => {
                self.keep_alive.handle_survived(idle, now.wall_ms);
                self.apply_learnt(now);
            }
        }
        if self.link_state.borrow().is_in_step() && !self.core.is_in_step() {
            self.link_state.send_replace(LinkState::Connected);
        }
    }

    async fn handle_link_end(&mut self, now: Now) {
        let Some(mut attempt) = self.attempt.take() else {
            return;
        };
        let ended = (&mut attempt.task).await.unwrap_or(Ended::Closed);
        self.core.handle_disconnected();
        // Without randomness the pause is the longest: never a spin.
        let random = getrandom::u64().unwrap_or(u64::MAX);
        let address = attempt.address();
        let (why, pause) = match ended {
            Ended::VersionRefused if address.is_some_and(|at| self.addresses.version_refused(at)) => {
                self.wish = LinkWish::Connect { at: Instant::now() };
                return;
            }
            Ended::Refused(advice) => {
                tracing::error!(device.id = %self.identity.device, advice, "the server refuses this device");
                self.wish = LinkWish::GivenUp;
                self.link_state.send_replace(LinkState::Refused(advice));
                return;
            }
            Ended::Captive(advice) => {
                let pause = self.addresses.captive(random);
                tracing::info!(
                    device.id = %self.identity.device,
                    advice,
                    pause_ms = pause.as_millis(),
                    "the network answers in the server's place; trying again after a pause"
                );
                self.wish = LinkWish::Connect {
                    at: Instant::now() + pause,
                };
                self.link_state.send_replace(LinkState::CaptivePortal { advice });
                return;
            }
            Ended::Lost(lost) => {
                // Where it was doubted the device has slept, or moved: that was it, and not the idle time.
                if let Some(idle) = lost.after_idle.filter(|_| !lost.was_doubted) {
                    self.keep_alive.handle_death(idle, now.mono);
                }
                let pause = if lost.was_doubted {
                    // Whoever doubted it knows that there is a network.
                    Duration::ZERO
                } else if attempt.has_succeeded {
                    self.addresses.lost(random)
                } else {
                    self.addresses.failed(address, random)
                };
                (lost.why, pause)
            }
            Ended::VersionRefused => {
                let why = "the server speaks neither MQTT 5 nor 3.1.1".to_owned();
                (why, self.addresses.failed(address, random))
            }
            Ended::Closed => {
                let why = "the connection was closed".to_owned();
                (why, self.addresses.failed(address, random))
            }
            Ended::Broken(why) => (why, self.addresses.failed(address, random)),
        };
        tracing::info!(
            device.id = %self.identity.device,
            why,
            pause_ms = pause.as_millis(),
            "no link to the server; trying again after a pause"
        );
        self.wish = LinkWish::Connect {
            at: Instant::now() + pause,
        };
        self.link_state.send_replace(LinkState::Offline(Some(why)));
    }

    /// What was learnt of the network is stored, and the connection is looked after accordingly.
    fn apply_learnt(&mut self, now: Now) {
        if let Some(paths) = self.keep_alive.poll_changed() {
            self.core.put_paths(paths, now);
        }
        if let Some(attempt) = &self.attempt {
            let interval = self.keep_alive.interval(now.wall_ms);
            attempt.care.send_modify(|care| care.interval = interval);
        }
    }

    /// The network may be back, or another one: connects at once, or makes the connection show that it still stands.
    fn try_link(&mut self) {
        if let Some(attempt) = &self.attempt {
            if self.link_state.borrow().is_connected() {
                attempt.doubt();
            }
        } else if let LinkWish::Connect { at } = &mut self.wish {
            *at = Instant::now();
        }
    }

    /// Starts an attempt when it is time and the tag for its will is on disk.
    fn connect_if_due(&mut self, now: Now) {
        let LinkWish::Connect { at } = self.wish else {
            return;
        };
        if self.attempt.is_some() || at > Instant::now() {
            return;
        }
        self.core.prepare(now);
        let Some(tag) = self.core.prepared_tag() else {
            return;
        };
        let candidates = self.addresses.candidates(Instant::now());
        let settings = Settings {
            device: self.identity.device,
            secret: self.identity.secret.clone(),
            prefix: self.identity.prefix.clone(),
            // That of the address that is reached.
            version: Version::V5,
            tag,
            keep_alive_s: self.options.keep_alive_s,
            ceiling_s: self.keep_alive.ceiling_s(),
            connect_timeout: self.options.connect_timeout,
            answer_timeout: self.options.answer_timeout,
        };
        let care = Care {
            interval: self.keep_alive.interval(now.wall_ms),
            doubts: 0,
        };
        tracing::debug!(device.id = %self.identity.device, "connecting");
        self.attempt = Some(link::start(candidates, &self.tls, settings, care));
        // A sign-in that is asked for is asked for until a connection stands.
        if !matches!(*self.link_state.borrow(), LinkState::CaptivePortal { .. }) {
            self.link_state.send_replace(LinkState::Connecting);
        }
    }

    fn drop_link(&mut self) {
        self.attempt = None;
        self.core.handle_disconnected();
    }

    /// Stores what waits in memory and says good-bye.
    async fn close(&mut self) {
        // Where there is no room for what is in hand, it is on disk nevertheless, but for the last seconds.
        let _ = self.core.flush_fixes(now());
        self.flush_track(now(), None);
        self.wish = LinkWish::Paused;
        self.drain();
        // Fixes may have to wait for history to be thinned.
        while self.core.writes_pending() > 0 || (self.recorder.waiting() > 0 && self.core.is_thinning()) {
            let done = self.done.recv().await;
            let now = now();
            if self.handle_done(done, now) == Flow::Stop {
                return;
            }
            self.flush_track(now, None);
            self.drain();
        }
        let fixes = self.recorder.waiting();
        if fixes > 0 {
            tracing::warn!(
                device.id = %self.identity.device,
                fixes,
                "closing loses the last positions: the outbox takes no more before there is a link"
            );
        }
        if let Some(mut attempt) = self.attempt.take()
            && self.link_state.borrow().is_connected()
        {
            let (nobody, _) = mpsc::channel(1);
            attempt.outgoing = nobody;
            attempt.events.close();
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, &mut attempt.task).await;
        }
        self.link_state.send_replace(LinkState::Paused);
    }

    fn outcome(&self, id: PostId) -> Outcome {
        if let Some(outcome) = self.outcomes.settled(id) {
            return outcome;
        }
        match self.core.progress(id) {
            Some(Progress::Waiting) => Outcome::StillStored,
            Some(Progress::Parked(reason)) => Outcome::Refused(Refused(reason)),
            Some(Progress::Accepted) => Outcome::Accepted {
                stream: None,
                seq: None,
            },
            // It has left the outbox longer ago than outcomes are kept, and only acceptance lets it leave.
            None if id < self.core.next_post() => Outcome::Accepted {
                stream: None,
                seq: None,
            },
            None => Outcome::StillStored,
        }
    }

    fn status(&self) -> Status {
        let now = now();
        Status {
            link: self.link_state.borrow().clone(),
            waiting_ops: self.core.waiting_ops() as u64,
            waiting_bytes: self.core.waiting_bytes(),
            bounds: self.core.bounds(),
            parked: self.core.parked(),
            unshown_entries: self.core.unshown() as u64,
            office_stream: self.core.office_stream(),
            earlier: self.core.horizons(),
            groups: self.core.groups().to_vec(),
            catalogue_version: self.core.catalogue().version,
            catalogue_is_current: self.core.catalogue_is_current(),
            clock_offset_ms: self
                .core
                .server_ms(now)
                .map(|server_ms| server_ms.saturating_sub(now.wall_ms)),
            epoch: self.core.epoch(),
            keep_alive: self.keep_alive.interval(now.wall_ms),
            counters: self.core.counters(),
        }
    }
}

impl Jobs {
    fn push(&mut self, job: Job) {
        self.waiting.push_back(job);
    }

    fn hand_over(&mut self) {
        while let Some(job) = self.waiting.pop_front() {
            match self.sender.try_send(job) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(job)) => {
                    self.waiting.push_front(job);
                    return;
                }
                // The store's thread has failed; its last word is on the way.
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }
}

/// What the caller is told; `None` where there will be room soon.
fn refusal(why: NotTaken) -> Option<PostError> {
    match why {
        NotTaken::Soon => None,
        NotTaken::HistoryFull(Fill { ops, bytes, bounds }) => {
            Some(PostError::HistoryFull { ops, bytes, bounds })
        }
        NotTaken::OutboxFull(Fill { ops, bytes, bounds }) => {
            Some(PostError::OutboxFull { ops, bytes, bounds })
        }
    }
}

/// Positions that have to wait for history to be thinned wait in the core: nobody else has to.
fn answer(reply: oneshot::Sender<Result<(), PostError>>, taken: Result<(), NotTaken>) {
    let answer = match taken.map_err(refusal) {
        Ok(()) | Err(None) => Ok(()),
        Err(Some(error)) => Err(error),
    };
    let _ = reply.send(answer);
}

/// The next event of a link that may not be there.
async fn receive(events: Option<&mut mpsc::Receiver<LinkEvent>>) -> Option<LinkEvent> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits until a channel has room.
async fn room<T>(channel: Option<mpsc::Sender<T>>) {
    match channel {
        // Where the other side has gone, the next drain finds out.
        Some(channel) => {
            let _ = channel.reserve().await;
        }
        None => std::future::pending().await,
    }
}
