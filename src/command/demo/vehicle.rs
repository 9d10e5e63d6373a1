//! One vehicle of the demo: a real client on a real connection, which drives, writes, answers, and loses its network
//! every minute or so.

use super::chance::Chance;
use super::drive::Drive;
use crate::timestamp::now_ms;
use anyhow::Context;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use waypost_field_client::{Client, Entries, Entry, Message, ReplyMessage};
use waypost_proto::{Author, Seq, StreamId};

/// How often a vehicle says where it is.
const TICK: Duration = Duration::from_secs(1);
/// How long a vehicle may take to put its things away at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers that a driver has in mind; a further question is read and not answered.
const ANSWERS_MAX: usize = 16;

/// What drivers write by themselves.
const REMARKS: [&str; 10] = [
    "Loaded, leaving the yard",
    "Traffic is slow here, ten minutes behind",
    "First stop done, going on",
    "Customer was not there, left a note",
    "Short break, back at the wheel in 15 minutes",
    "Filled up, all good",
    "Road works on the ramp, taking the next exit",
    "Delivered, papers are signed",
    "Two parcels left",
    "On my way to the next stop",
];
/// What drivers answer.
const ANSWERS: [&str; 6] = [
    "Understood, thanks",
    "Will do",
    "OK, I'll see to it",
    "Got it, in about ten minutes",
    "Driving, will call you from the next stop",
    "Let me check and tell you",
];

/// Quick replies that drivers choose, with the value of their slot; `None` for words of their own.
type QuickAnswer = Option<(&'static str, Option<(&'static str, &'static str)>)>;
const QUICK_ANSWERS: [QuickAnswer; 5] = [
    Some(("ok", None)),
    Some(("running_late", Some(("minutes", "15")))),
    Some(("at_the_gate", None)),
    None,
    None,
];

/// One vehicle.
pub(super) struct Vehicle {
    pub(super) client: Client,
    pub(super) drive: Drive,
    pub(super) chance: Chance,
    /// How many times as fast as in the recording it drives.
    pub(super) factor: f64,
}

/// When what is due.
struct Plans {
    /// The link changes: it is cut, or comes back.
    link: (Instant, Link),
    remark: Instant,
    /// In the order in which they are due.
    answers: VecDeque<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    IsCut,
    ComesBack,
}

struct Answer {
    read_due: Instant,
    is_read: bool,
    answer_due: Instant,
    stream: StreamId,
    seq: Seq,
}

impl Vehicle {
    /// Drives until `stop` is true or its sender is gone, then closes the client.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let mut entries = self
            .client
            .entries()
            .context("somebody else reads this vehicle's entries")?;
        let driven = tokio::select! {
            driven = self.drive(&mut entries) => driven,
            _ = stop.wait_for(|stop| *stop) => Ok(()),
        };
        drop(entries);
        match timeout(CLOSE_TIMEOUT, self.client.close()).await {
            Ok(closed) => driven.and(closed.context("a vehicle could not put its things away")),
            Err(_) => driven,
        }
    }

    async fn drive(&mut self, entries: &mut Entries) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut plans = Plans {
            // Not in the first moments: somebody may be watching for the vehicles to appear.
            link: (start + self.chance.seconds(35..95), Link::IsCut),
            remark: start + self.chance.seconds(4..90),
            answers: VecDeque::new(),
        };
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                now = ticks.tick() => {
                    let fix = self.drive.at((now - start).as_secs_f64() * self.factor, self.factor, now_ms());
                    self.client.live(fix).await?;
                    self.client.record(fix).await?;
                    self.follow(&mut plans, now).await?;
                }
                incoming = entries.next() => {
                    let incoming = incoming.context("a vehicle's client has ended")?;
                    incoming.mark_shown().await?;
                    self.plan_answer(&mut plans, &incoming.entry);
                }
            }
        }
    }

    /// Does what is due.
    async fn follow(&mut self, plans: &mut Plans, now: Instant) -> anyhow::Result<()> {
        if plans.link.0 <= now {
            plans.link = match plans.link.1 {
                Link::IsCut => {
                    self.client.pause_link().await?;
                    (now + self.chance.seconds(5..40), Link::ComesBack)
                }
                Link::ComesBack => {
                    self.client.resume_link().await?;
                    (now + self.chance.seconds(40..80), Link::IsCut)
                }
            };
        }
        if plans.remark <= now {
            self.client
                .post_text(Message::to_office(self.chance.one_of(&REMARKS)))
                .await?;
            plans.remark = now + self.chance.seconds(60..240);
        }
        for answer in &mut plans.answers {
            if !answer.is_read && answer.read_due <= now {
                self.client.mark_read(answer.stream, answer.seq).await?;
                answer.is_read = true;
            }
        }
        while let Some(Answer { stream, seq, .. }) =
            plans.answers.pop_front_if(|answer| answer.answer_due <= now)
        {
            self.answer(stream, seq).await?;
        }
        Ok(())
    }

    /// In words, or with one of the quick replies.
    async fn answer(&mut self, stream: StreamId, seq: Seq) -> anyhow::Result<()> {
        let offered = self.client.templates().await?.templates;
        let quick = self.chance.one_of(&QUICK_ANSWERS);
        if let Some((key, slot)) = quick
            && offered.iter().any(|template| template.key == key)
        {
            let values = slot.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let reply = ReplyMessage {
                stream: Some(stream),
                reply_to: Some(seq),
                ..ReplyMessage::to_office(key, values.into_iter().collect())
            };
            self.client.post_reply(reply).await?;
            return Ok(());
        }
        let text = self.chance.one_of(&ANSWERS);
        self.client
            .post_text(Message {
                reply_to: Some(seq),
                ..Message::to(stream, text)
            })
            .await?;
        Ok(())
    }

    /// Drivers answer what people write: they look after a moment, and answer after another.
    fn plan_answer(&mut self, plans: &mut Plans, entry: &Entry) {
        if !matches!(entry.author, Author::Person(_)) || plans.answers.len() == ANSWERS_MAX {
            return;
        }
        let previous = plans.answers.back().map(|answer| answer.answer_due);
        let read_due = Instant::now() + self.chance.seconds(1..3);
        let answer_due = read_due + self.chance.seconds(2..5);
        plans.answers.push_back(Answer {
            read_due,
            is_read: false,
            // One after the other.
            answer_due: previous.map_or(answer_due, |previous| previous.max(answer_due)),
            stream: entry.stream,
            seq: entry.seq,
        });
    }
}
