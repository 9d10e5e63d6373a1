//! A server for the tests: as much of MQTT and of the bridge as a device meets, in memory.

use bytes::{Bytes, BytesMut};
use prost::Message;
use rumqttc::v5::mqttbytes::{Error, QoS, v5};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use waypost_field_client::{Credentials, Options};
use waypost_proto::wire::{self, RefusalReason};
use waypost_proto::{
    Body, Cumulative, Fix, Operation, QuickReply, Stamp, StreamId, groups_digest, number_operations,
    positions_digest,
};

/// The stream of the device and the office.
pub(crate) const OFFICE: u32 = 4;
/// A stream that the device is not a member of.
pub(crate) const FOREIGN: u32 = 9;
/// The stream of the group that the device is in.
pub(crate) const GROUP_STREAM: u32 = 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) text: String,
    /// Epoch and number, where the device wrote it.
    pub(crate) own: Option<(u64, u64)>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) log: Vec<Logged>,
    pub(crate) fixes: Vec<Fix>,
    pub(crate) live: usize,
    pub(crate) hellos: usize,
    pub(crate) read: u64,
    pub(crate) held: Cumulative,
    pub(crate) secret: String,
    /// Quick replies that came, with what they answer.
    pub(crate) replies: Vec<(Operation, QuickReply)>,
    /// What is retained on `t/en`.
    pub(crate) catalogue: Option<wire::Catalogue>,
    pub(crate) groups: Vec<wire::Group>,
    /// What the device has last said that it has: the digest of its groups, and the version of its catalogue.
    pub(crate) known: (u32, u32),
    /// Filters that were subscribed, and not unsubscribed.
    pub(crate) filters: BTreeSet<String>,
    /// Entries of the group, which go out on its topic alone.
    pub(crate) group_log: Vec<String>,
    accepted: BTreeMap<u64, Cumulative>,
    generation: u64,
    /// Connections of an older count end.
    cut: u64,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            log: Vec::new(),
            fixes: Vec::new(),
            live: 0,
            hellos: 0,
            read: 0,
            held: Cumulative::default(),
            secret: "s3".to_owned(),
            replies: Vec::new(),
            catalogue: None,
            groups: Vec::new(),
            known: (0, 0),
            filters: BTreeSet::new(),
            group_log: Vec::new(),
            accepted: BTreeMap::new(),
            generation: 1,
            cut: 0,
        };
        let server = Self {
            state: Arc::new(Mutex::new(state)),
            port,
        };
        let shared = server.state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        server
    }

    pub(crate) fn credentials(&self) -> Credentials {
        let port = self.port;
        let json = format!(
            r#"{{"device":"7c","name":"truck","secret":"s3","mqtt":["mqtt://127.0.0.1:{port}"],"ca":null}}"#
        );
        Credentials::parse(&json).unwrap()
    }

    pub(crate) fn write(&self, text: &str) {
        self.state.lock().unwrap().log.push(Logged {
            text: text.to_owned(),
            own: None,
        });
    }

    /// Ends all connections, as a restart does.
    pub(crate) fn restart(&self) {
        let mut state = self.state.lock().unwrap();
        state.cut += 1;
        state.generation += 1;
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.state
            .lock()
            .unwrap()
            .log
            .iter()
            .map(|logged| logged.text.clone())
            .collect()
    }

    /// Waits until something holds of the server.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        for _ in 0..2_000 {
            if holds(&self.state.lock().unwrap()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: {:?}", self.state.lock().unwrap());
    }
}

/// Options for tests: short pauses.
pub(crate) fn options() -> Options {
    Options {
        backoff_base: Duration::from_millis(20),
        backoff_cap: Duration::from_millis(200),
        ..Options::default()
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let cut = state.lock().unwrap().cut;
    let mut connection = Connection {
        input: BytesMut::with_capacity(4_096),
        next_id: 1,
        session: None,
        group_sent: 0,
    };
    loop {
        let mut out = BytesMut::new();
        loop {
            let packet = match v5::Packet::read(&mut connection.input, None) {
                Ok(packet) => packet,
                Err(Error::InsufficientBytes(_)) => break,
                Err(_) => return,
            };
            if !connection.handle(packet, &state, &mut out) {
                let _ = stream.write_all(&out).await;
                return;
            }
        }
        connection.push_entries(&state, &mut out);
        connection.push_group(&state, &mut out);
        if stream.write_all(&out).await.is_err() || state.lock().unwrap().cut != cut {
            return;
        }
        let read = stream.read_buf(&mut connection.input);
        if let Ok(Ok(0) | Err(_)) = tokio::time::timeout(Duration::from_millis(20), read).await {
            return;
        }
    }
}

struct Session {
    tag: u32,
    epoch: u64,
    waits_for_positions: bool,
    sent: BTreeSet<u64>,
}

struct Connection {
    input: BytesMut,
    next_id: u16,
    session: Option<Session>,
    group_sent: usize,
}

impl Connection {
    /// False where the connection is to end.
    fn handle(&mut self, packet: v5::Packet, state: &Mutex<State>, out: &mut BytesMut) -> bool {
        match packet {
            v5::Packet::Connect(_, _, login) => {
                let known = login.is_some_and(|login| login.password == state.lock().unwrap().secret);
                let code = match known {
                    true => v5::ConnectReturnCode::Success,
                    false => v5::ConnectReturnCode::BadUserNamePassword,
                };
                let connack = v5::ConnAck {
                    session_present: false,
                    code,
                    properties: None,
                };
                v5::Packet::ConnAck(connack).write(out, None).unwrap();
                state.lock().unwrap().filters.clear();
                return known;
            }
            v5::Packet::Subscribe(subscribe) => {
                let granted = v5::SubscribeReasonCode::Success(QoS::AtLeastOnce);
                let return_codes = vec![granted; subscribe.filters.len()];
                let suback = v5::SubAck {
                    pkid: subscribe.pkid,
                    return_codes,
                    properties: None,
                };
                v5::Packet::SubAck(suback).write(out, None).unwrap();
                let mut state = state.lock().unwrap();
                for filter in subscribe.filters {
                    if filter.path == "t/en"
                        && let Some(catalogue) = &state.catalogue
                    {
                        self.publish_on("t/en", catalogue.encode_to_vec(), out);
                    }
                    state.filters.insert(filter.path);
                }
            }
            v5::Packet::Unsubscribe(unsubscribe) => {
                let unsuback = v5::UnsubAck {
                    pkid: unsubscribe.pkid,
                    reasons: vec![v5::UnsubAckReason::Success; unsubscribe.filters.len()],
                    properties: None,
                };
                v5::Packet::UnsubAck(unsuback).write(out, None).unwrap();
                let mut state = state.lock().unwrap();
                for filter in &unsubscribe.filters {
                    state.filters.remove(filter);
                }
            }
            v5::Packet::Publish(publish) => {
                if publish.pkid != 0 {
                    v5::Packet::PubAck(v5::PubAck::new(publish.pkid, None))
                        .write(out, None)
                        .unwrap();
                }
                if &publish.topic[..] == b"u/7c" {
                    let frame = wire::UpFrame::parse(&publish.payload).unwrap();
                    let answer = self.take(&frame, &mut state.lock().unwrap());
                    self.publish(&answer, out);
                }
            }
            v5::Packet::PingReq(_) => {
                v5::Packet::PingResp(v5::PingResp).write(out, None).unwrap();
            }
            v5::Packet::Disconnect(_) => return false,
            _ => {}
        }
        true
    }

    fn take(&mut self, frame: &wire::UpFrame, state: &mut State) -> wire::DownFrame {
        let tag = Stamp::parse(frame.stamp).unwrap().tag.number();
        let mut answer = wire::DownFrame {
            stamp: tag,
            ..Default::default()
        };
        take_cursors(&frame.cursors, state);
        if let Some(hello) = &frame.hello {
            state.hellos += 1;
            state.known = (hello.groups_digest, hello.catalogue);
            if hello.groups_digest != groups_digest(&state.groups) {
                let groups = state.groups.clone();
                answer.groups = Some(wire::Groups { groups });
            }
            let office = StreamId::new(OFFICE).unwrap();
            let want_positions = positions_digest([(office, &state.held)]) != hello.positions_digest;
            self.session = Some(Session {
                tag,
                epoch: hello.epoch,
                waits_for_positions: want_positions,
                sent: BTreeSet::new(),
            });
            answer.welcome = Some(wire::Welcome {
                incarnation: 77,
                generation: state.generation,
                server_ms: 1_700_000_000_000,
                want_positions,
                office_stream: OFFICE,
                catalogue: state.catalogue.as_ref().map_or(0, |catalogue| catalogue.version),
                restored: None,
            });
        }
        let Some(session) = self.session.as_mut().filter(|session| session.tag == tag) else {
            return wire::DownFrame {
                hello_please: true,
                ..Default::default()
            };
        };
        if let Some(positions) = &frame.positions {
            state.held = Cumulative::default();
            take_cursors(&positions.cursors, state);
            answer.cursors.clone_from(&positions.cursors);
            session.waits_for_positions = false;
        }
        if let Some(known) = &frame.known {
            state.known = (known.groups_digest, known.catalogue);
        }
        let accepted = state.accepted.entry(session.epoch).or_default();
        for numbered in number_operations(frame).unwrap() {
            let op = numbered.op.number();
            let operation = numbered.content.unwrap();
            if operation.stream.is_some_and(|stream| stream.number() == FOREIGN) {
                let reason = RefusalReason::NotAMember.into();
                answer.refusals.push(wire::Refusal { op, reason });
            } else if accepted.insert(op) {
                match operation.body.clone() {
                    Body::Text(text) => state.log.push(Logged {
                        text,
                        own: Some((session.epoch, op)),
                    }),
                    Body::Reply(reply) => {
                        state.log.push(Logged {
                            text: format!("quick reply {}", reply.template),
                            own: Some((session.epoch, op)),
                        });
                        state.replies.push((operation, reply));
                    }
                    Body::Track { fixes, .. } => state.fixes.extend(fixes),
                    // Accepted like any other; what it holds is the concern of the tests of the core.
                    Body::Batch { .. } => {}
                }
            }
        }
        for void in &frame.voids {
            accepted.insert_range(void.first_op, void.first_op + u64::from(void.count) - 1);
        }
        state.live += usize::from(frame.live.is_some());
        answer.accepted_through = accepted.through();
        answer.accepted_ranges = accepted.to_wire();
        answer.cursors.extend(frame.cursors.iter().cloned());
        answer
    }

    fn push_entries(&mut self, state: &Mutex<State>, out: &mut BytesMut) {
        let Some(session) = self
            .session
            .as_mut()
            .filter(|session| !session.waits_for_positions)
        else {
            return;
        };
        let state = state.lock().unwrap();
        let mut frame = wire::DownFrame {
            stamp: session.tag,
            ..Default::default()
        };
        for (logged, seq) in state.log.iter().zip(1..) {
            if state.held.contains(seq) || !session.sent.insert(seq) {
                continue;
            }
            let entry = match logged.own {
                Some((epoch, op)) if epoch == session.epoch => wire::Entry {
                    own_op: op,
                    ..Default::default()
                },
                _ => wire::Entry {
                    author_person: 3,
                    body: Some(wire::entry::Body::Text(logged.text.clone())),
                    ..Default::default()
                },
            };
            frame.entries.push(wire::EntryRun {
                stream: OFFICE,
                first_seq: seq,
                entries: vec![entry],
                ..Default::default()
            });
        }
        drop(state);
        if !frame.entries.is_empty() {
            self.publish(&frame, out);
        }
    }

    /// What of the group's log has not gone out on this connection, once the device hears its topic in step.
    fn push_group(&mut self, state: &Mutex<State>, out: &mut BytesMut) {
        let state = state.lock().unwrap();
        let entries = &state.group_log[self.group_sent.min(state.group_log.len())..];
        if self.session.is_none() || !state.filters.contains("g/1") || entries.is_empty() {
            return;
        }
        let entry = |text: &String| wire::Entry {
            author_person: 3,
            body: Some(wire::entry::Body::Text(text.clone())),
            ..Default::default()
        };
        let run = wire::EntryRun {
            stream: GROUP_STREAM,
            first_seq: self.group_sent as u64 + 1,
            entries: entries.iter().map(entry).collect(),
            ..Default::default()
        };
        let frame = wire::GroupFrame {
            generation: state.generation,
            store: 77,
            server_ms: 1_700_000_000_000,
            entries: vec![run],
            ..Default::default()
        };
        self.group_sent = state.group_log.len();
        drop(state);
        self.publish_on("g/1", frame.encode_to_vec(), out);
    }

    fn publish(&mut self, frame: &wire::DownFrame, out: &mut BytesMut) {
        self.publish_on("d/7c", frame.encode_to_vec(), out);
    }

    fn publish_on(&mut self, topic: &str, payload: Vec<u8>, out: &mut BytesMut) {
        let mut publish = v5::Publish::new(topic, QoS::AtLeastOnce, Bytes::from(payload), None);
        publish.pkid = self.next_id;
        self.next_id = self.next_id % 60_000 + 1;
        v5::Packet::Publish(publish).write(out, None).unwrap();
    }
}

fn take_cursors(cursors: &[wire::Cursor], state: &mut State) {
    for cursor in cursors.iter().filter(|cursor| cursor.stream == OFFICE) {
        state
            .held
            .merge(&Cumulative::from_wire(cursor.delivered, &cursor.ranges).unwrap());
        state.read = state.read.max(cursor.read);
    }
}
