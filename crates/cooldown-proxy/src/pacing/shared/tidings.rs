//! What this instance tells the others, and what it hears from them: what closed, what a person ordered, what was learned.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use cooldown_pacer::{Hearsay, Instant, Key, Lesson, Said};
use redis::{FromRedisValue, PushInfo, PushKind};

use super::SharedList;
use super::message::{Message, Named, Tale};
use super::store::StoreError;
use super::task::{Event, Link, Task};
use super::watch::News;
use crate::telemetry::EventKind;

/// No key stays closed for longer because another instance says so.
const LONGEST_CLOSING: Duration = Duration::from_secs(86_400);
/// What was learned is told again so often: the store forgets it after ten minutes.
const REPEATED: Duration = Duration::from_secs(120);
/// How much of what was learned is told again at once.
const MOST_REPEATED: usize = 256;

impl Task {
    /// Tells the others what a line has said.
    pub(super) fn pass_on(&mut self, news: News) {
        match news {
            News::Closed(key, lasting) => self.order(key, Tale::Closed(lasting.as_millis() as u64)),
            News::Opened(key) => self.order(key, Tale::Opened(())),
            News::Paused(key, paused) => self.order(key, Tale::Paused(paused)),
            News::Taught(hearsay) => {
                self.hold_taught(hearsay.key, true);
                self.say_hearsay(&hearsay, false);
            }
            News::Lists(_) | News::Waits(_) | News::Leave | News::End => {}
        }
    }

    /// Tells all again that may have been lost, and what was learned.
    pub(super) fn repeat(&mut self, now: Instant) {
        self.repeats = now.after(REPEATED);
        self.kept.all(now).iter().for_each(|message| self.spread(message));
        let all: Vec<Hearsay> = self.lists.values().flat_map(|list| list.line.all_hearsay(list.id)).collect();
        all.iter().take(MOST_REPEATED).for_each(|hearsay| self.say_hearsay(hearsay, true));
    }

    fn order(&mut self, key: Key, tale: Tale) {
        let Some(list) = self.lists.get(&key.limits) else { return };
        let message = Message::new(self.identity.boot, Named::of(list, key), tale);
        self.kept.note(self.clock.now(), &message);
        self.spread(&message);
    }

    fn say_hearsay(&mut self, hearsay: &Hearsay, again: bool) {
        let Some(list) = self.lists.get(&hearsay.key.limits) else { return };
        let message = Message::of_hearsay(self.identity.boot, Named::of(list, hearsay.key), hearsay, again);
        self.spread(&message);
    }

    fn spread(&mut self, message: &Message) {
        let Link::Up(connection) = &self.link else { return };
        let (epoch, store, connection) = (self.epoch, Arc::clone(&self.store), connection.clone());
        if matches!(message.tale, Tale::Closed(_)) {
            self.figures.closings_told.fetch_add(1, Relaxed);
        }
        let message = message.clone();
        self.events.spawn(async move { Event::Told(epoch, store.tell(connection, &message).await) });
    }

    pub(super) fn hear_push(&mut self, push: &PushInfo) {
        match (&push.kind, push.data.as_slice()) {
            (PushKind::Message, [_, message]) => {
                let text = Vec::<u8>::from_redis_value_ref(message).unwrap_or_default();
                let heard = Message::read(&text, self.identity.boot);
                heard.into_iter().for_each(|message| self.hear_message(message, true));
            }
            (PushKind::Disconnection, _) => self.fail(self.epoch, &StoreError::Silent),
            _ => {}
        }
    }

    /// Another instance tells something, now (`is_news`) or earlier.
    pub(super) fn hear_message(&mut self, message: Message, is_news: bool) {
        if let Tale::Company(instances) = message.tale {
            return self.set_company(instances);
        }
        let Some(list) = self.lists.values().find(|list| list.name == message.key.list).cloned() else { return };
        let key = Key { limits: list.id, subject: message.key.subject };
        let is_news = is_news && !message.again;
        match message.tale {
            Tale::Closed(left) => self.hear_closed(&list, key, Duration::from_millis(left)),
            Tale::Opened(()) => {
                self.kept.forget(&message);
                list.line.open(&[list.id]);
                self.hear_order(&list, "opened");
            }
            Tale::Paused(paused) => {
                self.kept.forget(&message);
                list.line.set_paused(key, paused);
                self.hear_order(&list, if paused { "paused" } else { "resumed" });
            }
            Tale::Told(report) => {
                let told = report.told().map(|(told, ago)| Hearsay { key, said: Said::Told(told), ago });
                told.into_iter().for_each(|hearsay| self.hear_lesson(&list, &hearsay, is_news));
            }
            Tale::Found(an_hour) => {
                let hearsay = Hearsay { key, said: Said::Found(an_hour), ago: Duration::ZERO };
                self.hear_lesson(&list, &hearsay, is_news);
            }
            Tale::Company(_) => {}
        }
    }

    /// An upstream closed a key at another instance, or a person did.
    fn hear_closed(&self, list: &SharedList, key: Key, left: Duration) {
        let left = left.min(LONGEST_CLOSING);
        list.line.close_too(key, left);
        self.figures.closings_heard.fetch_add(1, Relaxed);
        let upstream = list.upstream.as_deref();
        let seconds = left.as_secs_f64();
        tracing::info!(upstream, seconds, "closed, as another instance was told");
        let text = format!("closed for {seconds:.1} s, as another instance was told");
        self.metrics.events().tell(EventKind::Closed, upstream, &list.name, text);
    }

    /// A person ordered something at another instance.
    fn hear_order(&self, list: &SharedList, order: &str) {
        let upstream = list.upstream.as_deref();
        tracing::info!(upstream, "{order} by hand at another instance");
        let text = format!("{order} by hand at another instance");
        self.metrics.events().tell(EventKind::ByHand, upstream, &list.name, text);
    }

    /// An upstream taught another instance something.
    fn hear_lesson(&mut self, list: &SharedList, hearsay: &Hearsay, is_news: bool) {
        let (is_waited_for, lesson) = list.line.hear_of(hearsay, is_news);
        self.hold_taught(hearsay.key, is_waited_for);
        if let Some(Lesson::Limit { limit, .. }) = lesson {
            let upstream = list.upstream.as_deref();
            tracing::info!(upstream, %limit, "learned a limit, as another instance was told");
            let text = format!("learned a limit, as another instance was told: {limit}");
            self.metrics.events().tell(EventKind::Learned, upstream, &list.name, text);
        }
    }
}
