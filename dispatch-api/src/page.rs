//! Lists come in parts: `{items, next}`, where `next` is the `cursor` to ask for the next part with.

use serde::Serialize;

/// A part of a list, and where it goes on.
#[derive(Debug, Serialize)]
pub(crate) struct PageJson<T> {
    pub(crate) items: Vec<T>,
    /// `null` at the end.
    pub(crate) next: Option<String>,
}

impl<T> PageJson<T> {
    /// The first `limit` of `items`; one more than that tells that there is a next part, after `cursor` of the last.
    pub(crate) fn cut(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(cursor);
        Self { items, next }
    }

    pub(crate) fn map<U>(self, twin: impl Fn(T) -> U) -> PageJson<U> {
        PageJson {
            items: self.items.into_iter().map(twin).collect(),
            next: self.next,
        }
    }
}
