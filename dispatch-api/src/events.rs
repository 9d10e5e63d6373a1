//! `/events` and `/events/stream`: what happened, for those who ask, and what happens, as server-sent events, without a gap and without a repetition.
//!
//! A stream follows the log from a cursor, and what happens at present from the bridge's watch. The watch begins
//! before the log is read, so whatever is missing in one is in the other; the cursor tells what is in both. Where
//! the watch lags behind, or more waits than [`WAITING_EVENTS_MAX`], the log is read again.
//!
//! Nothing is made before the client takes it, so a slow client costs the watch's memory, which is shared, and at
//! most [`WAITING_EVENTS_MAX`] events and one position a device of its own. A client that takes nothing at all is
//! disconnected by the listener and resumes with `Last-Event-ID`.
//!
//! Positions are not in the log: only the latest of each device is sent, after what is, and after a reconnect the
//! client reads `/positions` again.

pub(crate) mod poll;

use crate::access::Caller;
use crate::cloud_event::{CloudEventJson, EventType};
use crate::language::Language;
use crate::openapi::Document;
use crate::positions::all_devices;
use crate::problem::{Problem, ProblemType};
use crate::query::Query;
use crate::server::stopped;
use crate::state::ApiState;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::time::{Interval, MissedTickBehavior};
use waypost_bridge::BridgeError;
use waypost_bridge::device::DeviceId;
use waypost_bridge::event::{Event, EventCursor, LiveEvent};
use waypost_bridge::position::Position;

/// How often a stream says that it is there, and asks whether the sign-in still is.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a client is to wait before it comes back.
const RETRY_MS: u32 = 2_000;
/// How many events are read from the log at a time.
const LOG_PAGE: usize = 256;
/// How many events of the present may wait for a client; beyond that it gets them from the log.
const WAITING_EVENTS_MAX: usize = 1_024;

/// `GET /events/stream?types=&after=`
pub(crate) async fn follow(
    State(state): State<ApiState>,
    caller: Caller,
    language: Language,
    mut query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let types = asked_types(&mut query);
    let after = asked_cursor(&mut query, &headers)?;
    query.finish()?;

    let follower = Follower::new(&state, types, language, after).await?;
    let mut keep_alive = tokio::time::interval_at(tokio::time::Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let shutdown = state.shared.shutdown.clone();
    let feed = Feed {
        state,
        follower,
        caller,
        keep_alive,
        shutdown,
        greeted: false,
        _counted: Counted::new(),
    };
    let body = stream::unfold(feed, |mut feed| async move {
        let message = feed.next().await?;
        Some((Ok::<_, Infallible>(message), feed))
    });
    let mut response = Body::from_stream(body).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    // For a proxy that would otherwise collect events before it passes them on.
    response
        .headers_mut()
        .insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The routes of this file, for the OpenAPI document.
pub(crate) fn describe(document: &mut Document) {
    let types = || json!({ "type": "string" });
    let cursor = || json!({ "type": "string", "pattern": "^[0-9]{0,18}$" });
    let named = "Types of events, with commas between. Without it all but waypost.position.updated, which is not in \
                 the log and told only to those who ask and wait.";
    document
        .get("/api/v1/events", "What happened after a cursor")
        .takes_parameter(
            "after",
            cursor(),
            "The `next` of the answer before; empty or left out for the beginning.",
        )
        .takes_limit()
        .takes_parameter("types", types(), named)
        .takes_parameter(
            "wait",
            json!({ "type": "integer", "minimum": 0, "maximum": poll::WAIT_S_MAX }),
            "Seconds to wait where nothing has happened yet.",
        )
        .takes_language()
        .answers::<poll::EventsJson<'static>>(200, "Events, oldest first, and where to go on.")
        .problems(&[410]);
    document
        .get("/api/v1/events/stream", "What happens, as server-sent events")
        .describes("`id` is the cursor. A client that comes back sends it as `Last-Event-ID`.")
        .takes_parameter(
            "after",
            cursor(),
            "The cursor to go on from; empty for the beginning, left out for the present.",
        )
        .takes_parameter("types", types(), named)
        .takes_language()
        .answers_with(200, "Each `data` is a CloudEvent.", "text/event-stream", types())
        .problems(&[410]);
}

/// Everything but positions, unless types are named.
fn asked_types(query: &mut Query) -> BTreeSet<EventType> {
    let Some(names) = query.text("types") else {
        return EventType::ALL
            .into_iter()
            .filter(|kind| *kind != EventType::PositionUpdated)
            .collect();
    };
    let mut types = BTreeSet::new();
    for name in names.split(',') {
        match name.parse() {
            Ok(kind) => {
                types.insert(kind);
            }
            Err(reason) => query.refuse("types", reason),
        }
    }
    types
}

/// Where to go on. A browser that reconnects repeats the address with which it began, so `Last-Event-ID`, which is
/// newer, wins over `after`.
fn asked_cursor(query: &mut Query, headers: &HeaderMap) -> Result<Option<EventCursor>, Problem> {
    let after = asked_after(query);
    match headers.get("last-event-id") {
        Some(id) if !id.is_empty() => {
            let cursor = id.to_str().ok().and_then(|text| text.parse().ok());
            let wrong = || {
                let detail =
                    "Last-Event-ID must be the id of an event of this stream. Connect again without it.";
                Problem::new(ProblemType::Malformed, detail)
            };
            cursor.map(Some).ok_or_else(wrong)
        }
        _ => Ok(after),
    }
}

/// The cursor in `after`; an empty one is the beginning.
fn asked_after(query: &mut Query) -> Option<EventCursor> {
    match query.text("after")?.as_str() {
        "" => Some(0),
        text => {
            let cursor = text.parse().ok();
            if cursor.is_none() {
                query.refuse(
                    "after",
                    "must be the cursor of an event, or empty for the beginning",
                );
            }
            cursor
        }
    }
}

/// One client's stream: what there is to send, and what ends it.
struct Feed {
    state: ApiState,
    follower: Follower,
    caller: Caller,
    keep_alive: Interval,
    shutdown: Option<watch::Receiver<bool>>,
    greeted: bool,
    _counted: Counted,
}

impl Feed {
    /// The next piece; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(Bytes::from(format!("retry: {RETRY_MS}\n\n")));
        }
        loop {
            let advanced = tokio::select! {
                // In this order, so that a busy log cannot put off the end of a session.
                biased;
                () = shutting_down(&mut self.shutdown) => return None,
                _ = self.keep_alive.tick() => {
                    if !self.is_let_in().await {
                        return None;
                    }
                    return Some(Bytes::from_static(b": keep-alive\n\n"));
                }
                advanced = self.follower.advance(&self.state) => advanced.map(|told| told.map(Told::into_message)),
            };
            // Nobody gets another event with a token that has ended.
            if std::mem::take(&mut self.follower.access_ended) && !self.is_let_in().await {
                return None;
            }
            match advanced {
                Ok(Some(message)) => return Some(message.into()),
                Ok(None) => {}
                // A client that is behind the beginning of the log is told so when it comes back.
                Err(
                    BridgeError::Stopped | BridgeError::EventsTrimmed { .. } | BridgeError::EventsLost { .. },
                ) => return None,
                Err(error) => {
                    tracing::error!(%error, "a stream of events ended because the bridge failed: {error}");
                    return None;
                }
            }
        }
    }

    async fn is_let_in(&self) -> bool {
        self.caller.is_let_in(self.state.bridge()).await
    }
}

async fn shutting_down(shutdown: &mut Option<watch::Receiver<bool>>) {
    match shutdown {
        Some(shutdown) => stopped(shutdown).await,
        None => std::future::pending().await,
    }
}

/// Where the next event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// There may be events between the cursor and the present.
    Log,
    /// There are none but those that wait.
    Live,
}

/// An event for a client.
struct Told<'a> {
    /// Its place in the log, where it has one.
    cursor: Option<EventCursor>,
    event: CloudEventJson<'a>,
}

impl Told<'_> {
    /// As a server-sent event.
    fn into_message(self) -> String {
        let text = self.event.text();
        match self.cursor {
            Some(cursor) => format!("id: {cursor}\ndata: {text}\n\n"),
            None => format!("data: {text}\n\n"),
        }
    }
}

/// Follows the log and the present.
struct Follower {
    live: broadcast::Receiver<LiveEvent>,
    types: BTreeSet<EventType>,
    /// Of whoever reads.
    language: Language,
    /// The last event that the client has, or did not want.
    cursor: EventCursor,
    source: Source,
    /// The events after the cursor, without a gap.
    waiting: VecDeque<Arc<Event>>,
    /// The latest of each device that the client does not have.
    positions: BTreeMap<DeviceId, Position>,
    positions_missed: bool,
    /// Somebody's sign-in or key has ended.
    access_ended: bool,
}

impl Follower {
    /// From a cursor on, or from the present.
    async fn new(
        state: &ApiState,
        types: BTreeSet<EventType>,
        language: Language,
        after: Option<EventCursor>,
    ) -> Result<Self, Problem> {
        // Before the log is looked at, or what happens between would be missed.
        let live = state.bridge().watch();
        let last = state.bridge().last_event().await?;
        let cursor = after.unwrap_or(last);
        // Now, while there is a status to say it with: whether what comes after the cursor is still there, or ever was.
        state.bridge().events(cursor, 0).await?;
        if cursor > last {
            return Err(Problem::cursor_lost(last));
        }
        Ok(Self {
            live,
            types,
            language,
            cursor,
            source: if cursor == last { Source::Live } else { Source::Log },
            waiting: VecDeque::new(),
            positions: BTreeMap::new(),
            positions_missed: false,
            access_ended: false,
        })
    }

    /// Whether the next step would have to wait for something to happen.
    fn has_nothing_left(&mut self) -> Result<bool, BridgeError> {
        self.take_what_has_happened()?;
        let nothing_waits = self.waiting.is_empty() && self.positions.is_empty() && !self.positions_missed;
        Ok(nothing_waits && self.source == Source::Live)
    }

    /// Makes one step: the next event, or none in this step. May be dropped before it is ready.
    async fn advance<'a>(&mut self, state: &'a ApiState) -> Result<Option<Told<'a>>, BridgeError> {
        self.take_what_has_happened()?;
        if let Some(event) = self.waiting.front().cloned() {
            let told = self.tell(state, &event).await?;
            self.cursor = event.cursor;
            self.waiting.pop_front();
            return Ok(told);
        }
        if self.source == Source::Log {
            // What happens while this is read is kept by the watch.
            let page = state.bridge().events(self.cursor, LOG_PAGE).await?;
            if page.len() < LOG_PAGE {
                self.source = Source::Live;
            }
            self.waiting.extend(page.into_iter().map(Arc::new));
            return Ok(None);
        }
        if self.positions_missed {
            let devices = all_devices(state).await?;
            let latest = devices.into_iter().filter(|view| !view.device.revoked);
            self.positions
                .extend(latest.filter_map(|view| Some((view.device.id, view.position?))));
            self.positions_missed = false;
        }
        if let Some((device, position)) = self.positions.pop_first() {
            let event = CloudEventJson::of_position(state, device, &position);
            return Ok(Some(Told { cursor: None, event }));
        }
        match self.live.recv().await {
            Ok(live) => self.take(live),
            Err(RecvError::Lagged(_)) => self.fell_behind(),
            Err(RecvError::Closed) => return Err(BridgeError::Stopped),
        }
        Ok(None)
    }

    async fn tell<'a>(&self, state: &'a ApiState, event: &Event) -> Result<Option<Told<'a>>, BridgeError> {
        if !self.types.contains(&EventType::of(&event.kind)) {
            return Ok(None);
        }
        let cursor = Some(event.cursor);
        let found = CloudEventJson::of_event(state, event, &self.language).await?;
        Ok(found.map(|event| Told { cursor, event }))
    }

    fn take_what_has_happened(&mut self) -> Result<(), BridgeError> {
        loop {
            match self.live.try_recv() {
                Ok(live) => self.take(live),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Lagged(_)) => self.fell_behind(),
                Err(TryRecvError::Closed) => return Err(BridgeError::Stopped),
            }
        }
    }

    fn take(&mut self, live: LiveEvent) {
        match live {
            LiveEvent::Position(device, position) => {
                if self.types.contains(&EventType::PositionUpdated) {
                    self.positions.insert(device, position);
                }
            }
            LiveEvent::AccessEnded => self.access_ended = true,
            // The log is read after this, and holds it: nothing is told before it is on disk.
            LiveEvent::Logged(_) if self.source == Source::Log => {}
            LiveEvent::Logged(event) => {
                let last = self.waiting.back().map_or(self.cursor, |event| event.cursor);
                if event.cursor <= last {
                    // It was in the log already.
                } else if event.cursor == last + 1 && self.waiting.len() < WAITING_EVENTS_MAX {
                    self.waiting.push_back(event);
                } else {
                    self.source = Source::Log;
                }
            }
        }
    }

    fn fell_behind(&mut self) {
        self.source = Source::Log;
        self.access_ended = true;
        self.positions_missed = self.types.contains(&EventType::PositionUpdated);
    }
}

/// Counts the streams that are open.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!("waypost_http_event_streams").increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("waypost_http_event_streams").decrement(1.0);
    }
}
