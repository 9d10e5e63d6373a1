//! Parameters of the query and of the path: each is named where it is wrong, and an unknown one is never ignored.

use crate::problem::{FieldProblem, Problem, ProblemType};
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The parameters that were given. Take those that a route knows, then [`Self::finish`].
#[derive(Debug)]
pub(crate) struct Query {
    given: BTreeMap<String, String>,
    wrong: Vec<FieldProblem>,
}

/// For a route without parameters.
#[derive(Debug)]
pub(crate) struct NoQuery;

/// The id in a path such as `/devices/{id}`. What cannot be an id is one that does not exist.
#[derive(Debug)]
pub(crate) struct Id<T>(pub(crate) T);

/// How many items a list gives when it is not asked for a number.
pub(crate) const LIMIT_DEFAULT: usize = 100;
/// How many items a list gives at most.
pub(crate) const LIMIT_MAX: usize = 500;

impl Query {
    /// A parameter as text; an empty one is one.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        self.given.remove(name)
    }

    /// A parameter that is a `T`.
    pub(crate) fn parse<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        match self.text(name)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(name, format!("{error}"));
                None
            }
        }
    }

    /// `limit`, for a list.
    pub(crate) fn limit(&mut self) -> Option<usize> {
        let limit = self.number("limit", 1..=LIMIT_MAX as u64)?;
        usize::try_from(limit).ok()
    }

    /// A parameter that is a whole number.
    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let text = self.text(name)?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let (first, last) = range.into_inner();
            self.refuse(name, format!("must be a whole number from {first} to {last}"));
        }
        number
    }

    /// Says what is wrong with a parameter.
    pub(crate) fn refuse(&mut self, name: &str, detail: impl Into<String>) {
        self.wrong.push(FieldProblem {
            pointer: format!("?{name}"),
            detail: detail.into(),
        });
    }

    /// Nothing else was given, and all that was given was right.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        self.finish_with("", Some(()))
    }

    /// The same, for a route that cannot do without the parameter `name`.
    pub(crate) fn finish_with<T>(mut self, name: &str, value: Option<T>) -> Result<T, Problem> {
        let refused = self
            .wrong
            .iter()
            .any(|wrong| wrong.pointer.strip_prefix('?') == Some(name));
        if value.is_none() && !refused {
            self.refuse(name, "is missing");
        }
        for name in std::mem::take(&mut self.given).into_keys() {
            self.refuse(&name, "is not a parameter of this path");
        }
        match value {
            Some(value) if self.wrong.is_empty() => Ok(value),
            _ => Err(Problem::parameters(self.wrong)),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let pairs =
            axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map_err(|error| {
                Problem::new(
                    ProblemType::Malformed,
                    format!("The query cannot be read: {error}"),
                )
            })?;
        let mut query = Self {
            given: BTreeMap::new(),
            wrong: Vec::new(),
        };
        for (name, value) in pairs.0 {
            match query.given.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(value);
                }
                Entry::Occupied(first) => {
                    let name = first.key().clone();
                    query.refuse(&name, "is given more than once");
                }
            }
        }
        Ok(query)
    }
}

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Query::from_request_parts(parts, state).await?.finish()?;
        Ok(Self)
    }
}

impl<S: Send + Sync, T: FromStr<Err: Display>> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::new(ProblemType::NotFound, "This path is not UTF-8."))?;
        let id = text
            .parse()
            .map_err(|error| Problem::new(ProblemType::NotFound, format!("{error}.")))?;
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn query(text: &str) -> Query {
        let request = axum::http::Request::get(format!("/x?{text}")).body(()).unwrap();
        Query::from_request_parts(&mut request.into_parts().0, &())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn each_wrong_parameter_is_named() {
        for (text, named) in [
            ("limit=1", &[][..]),
            ("limit=500&seq=3", &[]),
            ("limit=0", &["?limit"]),
            ("limit=501", &["?limit"]),
            ("limit=x&seq=y", &["?limit", "?seq"]),
            ("limit=1&limit=2", &["?limit"]),
            ("lmit=1", &["?lmit"]),
            ("=1", &["?"]),
        ] {
            let mut query = query(text).await;
            query.limit();
            query.parse::<waypost_bridge::stream::Seq>("seq");
            let wrong: Vec<_> = query.wrong.iter().map(|wrong| wrong.pointer.clone()).collect();
            let unknown: Vec<_> = query.given.keys().map(|name| format!("?{name}")).collect();
            assert_eq!([wrong, unknown].concat(), named, "{text}");
            assert_eq!(query.finish().is_ok(), named.is_empty(), "{text}");
        }
    }
}
