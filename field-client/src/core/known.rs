//! What the server tells beside entries, the groups and the template catalogue, and the topics that go with them.
//!
//! Both are taken over durably before anything follows from them: the topics of new groups are subscribed when the
//! snapshot is on disk, and the server is told (`Known`) when each of these subscriptions is granted. The report itself
//! is not repeated by a timer: the server tells its snapshot again until the report comes, and each telling is answered.
//!
//! Bounds: [`GROUPS_MAX`](crate::group::GROUPS_MAX) groups, [`TEMPLATES_MAX`](crate::catalogue::TEMPLATES_MAX)
//! templates; what goes beyond is not taken and counted.

use super::write::{Batch, StoredCatalogue};
use super::{Core, Effect, Mutation, Now, SessionState};
use crate::Group;
use crate::catalogue::{CATALOGUE_BYTES_MAX, Catalogue, TooLarge};
use prost::Message;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use waypost_proto::wire;
use waypost_proto::{GroupId, StreamId, Topic, groups_digest};

/// A fetch that has no answer is repeated no less often than this.
const FETCH_PAUSE_MAX: Duration = Duration::from_secs(300);
/// The language whose catalogue is fetched where the device's own cannot stand in a topic.
const LOCALE_OF_LAST_RESORT: &str = "en";

/// Subscriptions that the connection is to begin and to end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Topics {
    pub(crate) subscribe: Vec<Topic>,
    pub(crate) unsubscribe: Vec<Topic>,
}

/// The server's answer to a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    Granted,
    Refused,
}

/// How far the subscription of a group is, on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscription {
    Asked,
    Granted,
    /// Asked for again when the server tells the groups again.
    Refused,
}

/// The retained catalogue is waited for.
#[derive(Debug, Clone)]
struct Fetch {
    locale: String,
    /// What the server is known to have.
    version: u32,
    asked: Instant,
    /// How often it was asked for again.
    repeats: u32,
}

/// Groups and catalogue, and what of them the server knows that the device has.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// With the write that is under way.
    expected_groups: Vec<Group>,
    /// On disk.
    groups: Vec<Group>,
    /// Of those on disk.
    digest: u32,
    /// With the write that is under way.
    expected_catalogue: StoredCatalogue,
    /// On disk.
    catalogue: StoredCatalogue,
    subscriptions: BTreeMap<GroupId, Subscription>,
    topics: Topics,
    fetch: Option<Fetch>,
    /// A catalogue of this version, or one before, was beyond the bounds: it is not fetched again.
    too_large: u32,
    /// The version that the server named on this connection.
    server_version: Option<u32>,
    /// What this session has been told.
    claimed: wire::Known,
    /// The server has told again, or something new is on disk: it waits for a report.
    told: bool,
}

impl Known {
    pub(super) fn new(groups: Vec<Group>, catalogue: StoredCatalogue) -> Self {
        let mut known = Self {
            expected_catalogue: catalogue.clone(),
            catalogue,
            ..Self::default()
        };
        known.put_groups(groups);
        known
    }

    fn put_groups(&mut self, groups: Vec<Group>) {
        self.digest = groups_digest(&Group::all_to_wire(&groups).groups);
        self.expected_groups.clone_from(&groups);
        self.groups = groups;
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The stream of a group that the device is in, and goes on being in.
    pub(super) fn stream_of(&self, group: GroupId) -> Option<StreamId> {
        let of = |groups: &[Group]| groups.iter().find(|of| of.group == group).map(|of| of.stream);
        of(&self.groups).filter(|stream| of(&self.expected_groups) == Some(*stream))
    }

    /// A new connection: the topics of all groups go out with the hello.
    pub(super) fn begin_connection(&mut self) {
        self.end_connection();
        self.subscribe_groups();
    }

    pub(super) fn end_connection(&mut self) {
        self.subscriptions.clear();
        self.topics = Topics::default();
        self.fetch = None;
        self.server_version = None;
        self.told = false;
    }

    /// Makes the subscriptions those of the groups on disk; what was refused is asked for again.
    fn subscribe_groups(&mut self) {
        let gone: Vec<GroupId> = self
            .subscriptions
            .keys()
            .filter(|group| !self.groups.iter().any(|of| of.group == **group))
            .copied()
            .collect();
        for group in gone {
            self.subscriptions.remove(&group);
            self.topics.unsubscribe.push(Topic::Group(group));
        }
        for of in &self.groups {
            let state = self.subscriptions.get(&of.group);
            if state.is_none_or(|state| *state == Subscription::Refused) {
                self.subscriptions.insert(of.group, Subscription::Asked);
                self.topics.subscribe.push(Topic::Group(of.group));
            }
        }
    }

    /// The digest of the groups that this connection hears; `None` while an answer is out, 0 where one is refused.
    fn heard_digest(&self) -> Option<u32> {
        let any = |state| self.subscriptions.values().any(|of| *of == state);
        match (any(Subscription::Refused), any(Subscription::Asked)) {
            (true, _) => Some(0),
            (false, true) => None,
            (false, false) => Some(self.digest),
        }
    }

    fn answered(&mut self, topic: &Topic, grant: Grant) {
        let Topic::Group(group) = topic else { return };
        if let Some(state) = self.subscriptions.get_mut(group) {
            *state = match grant {
                Grant::Granted => Subscription::Granted,
                Grant::Refused => Subscription::Refused,
            };
        }
    }

    fn ask_for_catalogue(&mut self, version: u32, locale: &str, now: Now) {
        if version <= self.too_large {
            return;
        }
        if let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.locale == locale) {
            fetch.version = fetch.version.max(version);
            return;
        }
        self.end_fetch();
        self.topics.subscribe.push(Topic::Templates(locale.to_owned()));
        self.fetch = Some(Fetch {
            locale: locale.to_owned(),
            version,
            asked: now.mono,
            repeats: 0,
        });
    }

    fn end_fetch(&mut self) {
        if let Some(fetch) = self.fetch.take() {
            self.topics.unsubscribe.push(Topic::Templates(fetch.locale));
        }
    }

    /// When a fetch that has no answer is to be repeated; `interval` is the repetition timer's.
    pub(super) fn fetch_due(&self, interval: Duration) -> Option<Instant> {
        let fetch = self.fetch.as_ref()?;
        let pause = interval.saturating_mul(1 << fetch.repeats.min(5));
        Some(fetch.asked + pause.min(FETCH_PAUSE_MAX))
    }

    /// Subscribing again makes the server send what it retains again. [MQTT-3.8.4-3]
    pub(super) fn repeat_fetch(&mut self, interval: Duration, now: Now) {
        if self.fetch_due(interval).is_some_and(|due| due <= now.mono)
            && let Some(fetch) = &mut self.fetch
        {
            fetch.asked = now.mono;
            fetch.repeats += 1;
            self.topics.subscribe.push(Topic::Templates(fetch.locale.clone()));
        }
    }
}

impl Core {
    /// Subscriptions to be begun and ended, before any frame that [`poll_frame`](Core::poll_frame) has not yet given.
    /// Each that is begun is answered with [`handle_topic`](Self::handle_topic).
    pub(crate) fn poll_topics(&mut self) -> Option<Topics> {
        let due = self.known.topics != Topics::default();
        due.then(|| std::mem::take(&mut self.known.topics))
    }

    /// The server has answered a subscription.
    pub(crate) fn handle_topic(&mut self, topic: &Topic, grant: Grant) {
        self.known.answered(topic, grant);
        self.counters.topics_refused += u64::from(grant == Grant::Refused);
    }

    /// The groups that this device is in.
    pub(crate) fn groups(&self) -> &[Group] {
        self.known.groups()
    }

    /// The templates that can be chosen: those of the store that the device last met.
    pub(crate) fn catalogue(&self) -> Catalogue {
        let stored = &self.known.catalogue;
        if self.is_of_this_store(stored) {
            stored.catalogue.clone()
        } else {
            Catalogue::default()
        }
    }

    /// Whether the device has, on disk, what the server has named on this connection.
    pub(crate) fn catalogue_is_current(&self) -> bool {
        let own = self.version_of(&self.known.catalogue);
        self.is_in_step() && self.known.server_version.is_some_and(|version| own >= version)
    }

    fn is_of_this_store(&self, stored: &StoredCatalogue) -> bool {
        let incarnation = self.server.map(|server| server.incarnation);
        incarnation.is_some() && stored.incarnation == incarnation
    }

    /// The version of a catalogue as far as it is this store's and in the language that the device is set to.
    fn version_of(&self, stored: &StoredCatalogue) -> u32 {
        if self.is_of_this_store(stored) && stored.locale == self.config.locale {
            stored.catalogue.version
        } else {
            0
        }
    }

    /// What the hello says: the topics of its connection were asked for before it.
    pub(super) fn claim_in_hello(&mut self) -> wire::Known {
        let claim = wire::Known {
            groups_digest: self.known.heard_digest().unwrap_or(self.known.digest),
            catalogue: self.version_of(&self.known.catalogue),
        };
        self.known.claimed = claim;
        self.known.told = false;
        claim
    }

    /// The report that is due now; it counts as sent.
    pub(super) fn claim_due(&mut self) -> Option<wire::Known> {
        let claim = wire::Known {
            groups_digest: self.known.heard_digest()?,
            catalogue: self.version_of(&self.known.catalogue),
        };
        if !self.known.told && claim == self.known.claimed {
            return None;
        }
        self.known.claimed = claim;
        self.known.told = false;
        Some(claim)
    }

    /// The groups of a frame, whole.
    pub(super) fn take_groups(&mut self, snapshot: &wire::Groups, batch: &mut Batch) {
        let Some(groups) = Group::all_from_wire(snapshot) else {
            self.counters.snapshots_unusable += 1;
            return;
        };
        if groups != self.known.expected_groups {
            self.known.expected_groups.clone_from(&groups);
            batch.mutations.push(Mutation::PutGroups(groups.clone()));
            batch.effects.push(Effect::GroupsStored(groups));
        } else if groups == self.known.groups {
            self.known.told = true;
            self.known.subscribe_groups();
        }
    }

    pub(super) fn groups_stored(&mut self, groups: Vec<Group>) {
        let newest = std::mem::take(&mut self.known.expected_groups);
        self.known.put_groups(groups);
        self.known.expected_groups = newest;
        if !matches!(self.session.state, SessionState::Offline) {
            self.known.subscribe_groups();
            self.known.told = true;
        }
    }

    /// What a frame says of the catalogue: its version in a welcome, a difference, or that it is to be fetched.
    pub(super) fn take_catalogue(&mut self, frame: &wire::DownFrame, batch: &mut Batch, now: Now) {
        let mut own = self.version_of(&self.known.expected_catalogue);
        let named = frame.welcome.iter().map(|welcome| welcome.catalogue);
        let named = named
            .chain(frame.catalogue.iter().map(|change| change.version))
            .max();
        let Some(named) = named else { return };
        let server_version = self.known.server_version.get_or_insert(named);
        *server_version = named.max(*server_version);
        let mut locale = self.config.locale.clone();
        if let Some(change) = &frame.catalogue {
            if !change.locale.is_empty() {
                locale.clone_from(&change.locale);
            }
            let applies = !change.fetch && (change.from_version == own || change.from_version == 0);
            if change.version <= own {
                // Told again; an older one was late.
                self.counters.snapshots_unusable += u64::from(change.version < own);
                self.known.told |= self.known.catalogue == self.known.expected_catalogue;
            } else if applies && self.put_catalogue(change, batch) {
                own = change.version;
            }
        }
        if named > own {
            let locale = topic_locale(&locale).to_owned();
            self.known.ask_for_catalogue(named, &locale, now);
        }
    }

    /// What is retained on `t/<locale>`.
    pub(crate) fn handle_catalogue(&mut self, locale: &str, payload: &[u8], now: Now) {
        let own = self.version_of(&self.known.expected_catalogue);
        let fetched = self.known.fetch.as_ref().filter(|fetch| fetch.locale == locale);
        let whole = (payload.len() <= CATALOGUE_BYTES_MAX)
            .then(|| wire::Catalogue::decode(payload).ok())
            .flatten()
            .filter(|whole| whole.from_version == 0 && !whole.fetch && whole.version > 0);
        let (Some(_), Some(whole)) = (fetched, whole) else {
            self.counters.snapshots_unusable += 1;
            if let Some(fetch) = self.known.fetch.as_ref().filter(|fetch| fetch.locale == locale)
                && payload.len() > CATALOGUE_BYTES_MAX
            {
                self.known.too_large = fetch.version;
                self.known.end_fetch();
            }
            return;
        };
        if whole.version <= own {
            self.counters.snapshots_unusable += u64::from(whole.version < own);
            return;
        }
        let mut batch = Batch::default();
        self.put_catalogue(&whole, &mut batch);
        self.write(batch, now);
    }

    /// Writes the catalogue that `change` makes; false where that is beyond the bounds.
    fn put_catalogue(&mut self, change: &wire::Catalogue, batch: &mut Batch) -> bool {
        let before = &self.known.expected_catalogue.catalogue;
        match before.changed_by(change) {
            Ok(catalogue) => {
                let stored = StoredCatalogue {
                    incarnation: self.server.map(|server| server.incarnation),
                    locale: self.config.locale.clone(),
                    catalogue,
                };
                self.known.expected_catalogue = stored.clone();
                batch.mutations.push(Mutation::PutCatalogue(stored.clone()));
                batch.effects.push(Effect::CatalogueStored(stored));
                true
            }
            Err(TooLarge) => {
                self.counters.snapshots_unusable += 1;
                self.known.too_large = change.version;
                self.known.end_fetch();
                false
            }
        }
    }

    pub(super) fn catalogue_stored(&mut self, stored: StoredCatalogue) {
        let version = stored.catalogue.version;
        self.known.catalogue = stored;
        let answered = self
            .known
            .fetch
            .as_ref()
            .is_some_and(|fetch| version >= fetch.version);
        if answered {
            self.known.end_fetch();
        }
        if !matches!(self.session.state, SessionState::Offline) {
            self.known.told = true;
        }
    }
}

/// The language as it can stand in a topic.
fn topic_locale(locale: &str) -> &str {
    match Topic::parse(&format!("t/{locale}")) {
        Ok(Topic::Templates(_)) => locale,
        _ => LOCALE_OF_LAST_RESORT,
    }
}
