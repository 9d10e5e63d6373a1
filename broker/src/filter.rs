//! Topics and filters as strings: what is well formed, what matches, and which filter covers which.
//!
//! A topic is a path of levels between slashes; a filter may have `+` for one level and `#` for the rest. The rule that
//! everything here keeps: a wildcard in the first level never reaches a topic that begins with `$` [MQTT-4.7.2-1].

/// Is `topic` one that can be published: not empty, no wildcard, no NUL?
///
/// ```
/// assert!(waypost_broker::filter::is_topic("u/7"));
/// assert!(!waypost_broker::filter::is_topic("u/+"));
/// ```
pub fn is_topic(topic: &str) -> bool {
    // [MQTT-4.7.3-1] at least one character, [MQTT-4.7.1-1] no wildcard, [MQTT-4.7.3-2] no U+0000.
    !topic.is_empty() && !topic.bytes().any(|b| matches!(b, b'+' | b'#' | 0))
}

/// Is `filter` well formed? A `$share/` prefix is judged by [`shared`], not here.
///
/// ```
/// assert!(waypost_broker::filter::is_filter("u/+/#"));
/// assert!(!waypost_broker::filter::is_filter("u/#/x"));
/// ```
pub fn is_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.bytes().any(|b| b == 0) {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        let well_formed = match level {
            // [MQTT-4.7.1-2] `#` is a whole level and the last one.
            "#" => last,
            // [MQTT-4.7.1-3] `+` is a whole level.
            "+" => true,
            other => !other.contains(['+', '#']),
        };
        if !well_formed {
            return false;
        }
    }
    true
}

/// The group and the filter of a shared subscription, `$share/group/filter`.
///
/// `None` for a filter that is not shared; `Some(Err(()))` for one that tries to be and is malformed [MQTT-4.8.2-1].
#[allow(clippy::result_unit_err)] // There is one thing to say about a malformed one: it is a malformed filter.
pub fn shared(filter: &str) -> Option<Result<(&str, &str), ()>> {
    let rest = filter
        .strip_prefix("$share/")
        .or((filter == "$share").then_some(""))?;
    let parts = rest
        .split_once('/')
        .filter(|(group, inner)| !group.is_empty() && !group.contains(['+', '#']) && is_filter(inner));
    Some(parts.ok_or(()))
}

/// Does `filter` match `topic`? Both must be well formed.
///
/// ```
/// use waypost_broker::filter::matches;
/// assert!(matches("u/#", "u"));
/// assert!(!matches("#", "$SYS/uptime"));
/// ```
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut filter_levels = filter.split('/');
    let mut topic_levels = topic.split('/');
    loop {
        match (filter_levels.next(), topic_levels.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// Is every topic that `requested` matches also matched by `allowed`? Both must be well formed.
///
/// ```
/// use waypost_broker::filter::contains;
/// assert!(contains("d/7/#", "d/7"));
/// assert!(contains("d/+", "d/7"));
/// assert!(!contains("d/7", "d/+"));
/// assert!(!contains("#", "$SYS/#"));
/// ```
pub fn contains(allowed: &str, requested: &str) -> bool {
    if requested.starts_with('$') && allowed.starts_with(['+', '#']) {
        return false;
    }
    // A topic has at least one level and one character, so that these two reach nothing above their `#`.
    let requested = match requested {
        "#" => "+/#",
        "/#" => "/+/#",
        other => other,
    };
    let mut allowed_levels = allowed.split('/');
    let mut requested_levels = requested.split('/');
    loop {
        match (allowed_levels.next(), requested_levels.next()) {
            (Some("#"), _) => return true,
            // `x/#` also asks for `x`, and for more levels than anything but `#` covers.
            (_, Some("#")) => return false,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn well_formed_topics_and_filters() {
        // (text, is a topic, is a filter)
        let table = [
            ("a", true, true),
            ("/", true, true),
            ("a//b", true, true),
            ("$SYS/x", true, true),
            ("é/ü", true, true),
            ("", false, false),
            ("a\0b", false, false),
            ("+", false, true),
            ("#", false, true),
            ("a/+/b", false, true),
            ("a/#", false, true),
            ("a/#/b", false, false),
            ("a#", false, false),
            ("#a", false, false),
            ("a+", false, false),
            ("a/+b", false, false),
            ("++", false, false),
        ];
        for (text, topic, filter) in table {
            assert_eq!(is_topic(text), topic, "topic {text:?}");
            assert_eq!(is_filter(text), filter, "filter {text:?}");
        }
    }

    #[test]
    fn a_shared_filter_names_its_group_and_its_filter() {
        let table = [
            ("d/7", None),
            ("$shared/x/d", None),
            ("$share/x/d/+", Some(Ok(("x", "d/+")))),
            ("$share/x//d", Some(Ok(("x", "/d")))),
            ("$share/x", Some(Err(()))),
            ("$share", Some(Err(()))),
            ("$share/", Some(Err(()))),
            ("$share/x/", Some(Err(()))),
            ("$share//d", Some(Err(()))),
            ("$share/+/d", Some(Err(()))),
            ("$share/x/d#", Some(Err(()))),
        ];
        for (filter, expected) in table {
            assert_eq!(shared(filter), expected, "{filter}");
        }
    }

    #[test]
    fn matching_follows_the_examples_of_the_standard() {
        let table = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/monitor", false),
            ("+/monitor", "$SYS/monitor", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("ACCOUNTS", "Accounts", false),
        ];
        for (filter, topic, expected) in table {
            assert_eq!(matches(filter, topic), expected, "{filter} on {topic}");
        }
    }

    #[test]
    fn containment_refuses_what_reaches_further() {
        let table = [
            ("d/7", "d/7", true),
            ("d/7", "d/+", false),
            ("d/7", "#", false),
            ("d/7", "+/7", false),
            ("d/7", "d/7/#", false),
            ("d/7/#", "d/7", true),
            ("d/7/#", "d/7/+/x", true),
            ("d/7/#", "d/+/x", false),
            ("+/#", "#", true),
            ("/+/#", "/#", true),
            ("a/+/#", "a/#", false),
            ("#", "#", true),
            ("+/+/#", "#", false),
            ("#", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/+", "$SYS/+", true),
            ("+", "+", true),
            ("+/x", "$SYS/x", false),
        ];
        for (allowed, requested, expected) in table {
            assert_eq!(contains(allowed, requested), expected, "{allowed} ⊇ {requested}");
        }
    }

    fn filters() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just("a"), Just("b"), Just(""), Just("+"), Just("$s")];
        (prop::collection::vec(level, 1..4), any::<bool>())
            .prop_map(|(mut levels, rest)| {
                if rest {
                    levels.push("#");
                }
                levels.join("/")
            })
            .prop_filter("a filter has a character", |filter| !filter.is_empty())
    }

    /// Every topic of up to five levels over the alphabet of `filters`, and one letter that no filter names.
    fn all_topics() -> Vec<String> {
        let letters = ["a", "b", "", "$s", "z"];
        let mut topics = Vec::new();
        let mut paths: Vec<Vec<&str>> = vec![Vec::new()];
        for _ in 0..5 {
            paths = paths
                .into_iter()
                .flat_map(|path| letters.map(|letter| [path.clone(), vec![letter]].concat()))
                .collect();
            topics.extend(
                paths
                    .iter()
                    .map(|path| path.join("/"))
                    .filter(|topic| is_topic(topic)),
            );
        }
        topics
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]
        #[test]
        fn containment_is_what_brute_force_says(allowed in filters(), requested in filters()) {
            let brute = all_topics().iter().all(|topic| !matches(&requested, topic) || matches(&allowed, topic));
            prop_assert_eq!(contains(&allowed, &requested), brute, "{} ⊇ {}", allowed, requested);
        }
    }
}
