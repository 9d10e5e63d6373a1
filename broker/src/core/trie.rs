//! The subscription trie: from a topic to everybody who asked for it, without looking at anybody else.
//!
//! One node a level; `+` and `#` are ordinary children under their own names, since no topic level can have them. The rule
//! that must hold: after a subscriber is removed, no node and no entry of it is left. Ordered maps make a
//! replay exact, and no choice of topic names makes a look-up slow.

use std::collections::BTreeMap;

/// One who receives messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Subscriber {
    /// A network session, by its slot.
    Session(usize),
    /// An in-process link, by its slot.
    Link(usize),
}

/// Subscriptions by filter, with a value of type `V` for each subscriber.
#[derive(Debug)]
pub(crate) struct Trie<V> {
    root: Node<V>,
    len: usize,
}

#[derive(Debug)]
struct Node<V> {
    children: BTreeMap<Box<str>, Node<V>>,
    own: BTreeMap<Subscriber, V>,
    shared: BTreeMap<Box<str>, Group<V>>,
}

/// The members of `$share/<group>/<filter>`; each message goes to the next one in turn.
#[derive(Debug)]
struct Group<V> {
    members: Vec<(Subscriber, V)>,
    turn: usize,
}

impl<V> Default for Node<V> {
    fn default() -> Node<V> {
        Node {
            children: BTreeMap::new(),
            own: BTreeMap::new(),
            shared: BTreeMap::new(),
        }
    }
}

impl<V> Node<V> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.own.is_empty() && self.shared.is_empty()
    }
}

impl<V: Clone> Trie<V> {
    pub(crate) fn new() -> Trie<V> {
        Trie {
            root: Node::default(),
            len: 0,
        }
    }

    /// Subscriptions held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds or replaces the subscription of `subscriber` to `filter`, in `group` where it is shared.
    pub(crate) fn insert(&mut self, filter: &str, group: Option<&str>, subscriber: Subscriber, value: V) {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            if !node.children.contains_key(level) {
                node.children.insert(level.into(), Node::default());
            }
            node = node
                .children
                .get_mut(level)
                .expect("inserted above where it was missing");
        }
        let replaced = match group {
            None => node.own.insert(subscriber, value).is_some(),
            Some(name) => {
                let group = node.shared.entry(name.into()).or_insert_with(|| Group {
                    members: Vec::new(),
                    turn: 0,
                });
                match group.members.iter_mut().find(|(member, _)| *member == subscriber) {
                    Some(member) => {
                        member.1 = value;
                        true
                    }
                    None => {
                        group.members.push((subscriber, value));
                        false
                    }
                }
            }
        };
        self.len += usize::from(!replaced);
    }

    /// Removes a subscription; `false` where there was none.
    pub(crate) fn remove(&mut self, filter: &str, group: Option<&str>, subscriber: Subscriber) -> bool {
        let mut levels = filter.split('/');
        let removed = remove_below(&mut self.root, &mut levels, group, subscriber);
        self.len -= usize::from(removed);
        removed
    }

    /// Calls `found` for every subscription that `topic` matches; the same subscriber may come several times. Each
    /// group that matches moves on to its next member that is `ready`, or just to the next where none is.
    pub(crate) fn matches(
        &mut self,
        topic: &str,
        ready: &impl Fn(Subscriber) -> bool,
        found: &mut impl FnMut(Subscriber, &V),
    ) {
        // [MQTT-4.7.2-1] wildcards in the first level do not reach `$` topics.
        let wildcards = if topic.starts_with('$') {
            Wildcards::No
        } else {
            Wildcards::Yes
        };
        visit(&mut self.root, Some(topic), wildcards, ready, found);
    }

    /// The member of a group whose turn it is, as for a message; `None` where it has no members.
    pub(crate) fn next_of_group(
        &mut self,
        filter: &str,
        group: &str,
        ready: &impl Fn(Subscriber) -> bool,
    ) -> Option<(Subscriber, V)> {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = node.children.get_mut(level)?;
        }
        Some(node.shared.get_mut(group)?.take_turn(ready).clone())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wildcards {
    Yes,
    No,
}

fn visit<V>(
    node: &mut Node<V>,
    rest: Option<&str>,
    wildcards: Wildcards,
    ready: &impl Fn(Subscriber) -> bool,
    found: &mut impl FnMut(Subscriber, &V),
) {
    if wildcards == Wildcards::Yes
        && let Some(all) = node.children.get_mut("#")
    {
        report(all, ready, found);
    }
    let Some(rest) = rest else {
        return report(node, ready, found);
    };
    let (level, below) = match rest.split_once('/') {
        Some((level, below)) => (level, Some(below)),
        None => (rest, None),
    };
    if let Some(child) = node.children.get_mut(level) {
        visit(child, below, Wildcards::Yes, ready, found);
    }
    if wildcards == Wildcards::Yes
        && let Some(child) = node.children.get_mut("+")
    {
        visit(child, below, Wildcards::Yes, ready, found);
    }
}

fn report<V>(
    node: &mut Node<V>,
    ready: &impl Fn(Subscriber) -> bool,
    found: &mut impl FnMut(Subscriber, &V),
) {
    for (subscriber, value) in &node.own {
        found(*subscriber, value);
    }
    for group in node.shared.values_mut() {
        let (subscriber, value) = group.take_turn(ready);
        found(*subscriber, value);
    }
}

impl<V> Group<V> {
    /// The member whose turn it is; those that are not ready are passed over while there is one that is.
    fn take_turn(&mut self, ready: &impl Fn(Subscriber) -> bool) -> &(Subscriber, V) {
        let members = self.members.len();
        let first = self.turn % members;
        let next = (0..members)
            .map(|step| (first + step) % members)
            .find(|place| ready(self.members[*place].0))
            .unwrap_or(first);
        self.turn = next + 1;
        &self.members[next]
    }
}

fn remove_below<V>(
    node: &mut Node<V>,
    levels: &mut std::str::Split<'_, char>,
    group: Option<&str>,
    subscriber: Subscriber,
) -> bool {
    let Some(level) = levels.next() else {
        return match group {
            None => node.own.remove(&subscriber).is_some(),
            Some(name) => {
                let Some(group) = node.shared.get_mut(name) else {
                    return false;
                };
                let before = group.members.len();
                group.members.retain(|(member, _)| *member != subscriber);
                let removed = group.members.len() < before;
                if group.members.is_empty() {
                    node.shared.remove(name);
                }
                removed
            }
        };
    };
    let Some(child) = node.children.get_mut(level) else {
        return false;
    };
    let removed = remove_below(child, levels, group, subscriber);
    if child.is_empty() {
        node.children.remove(level);
    }
    removed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter;

    fn found(trie: &mut Trie<u8>, topic: &str) -> Vec<(Subscriber, u8)> {
        let mut all = Vec::new();
        trie.matches(topic, &|_| true, &mut |subscriber, value| {
            all.push((subscriber, *value));
        });
        all.sort_unstable();
        all
    }

    #[test]
    fn subscribing_again_replaces_and_removing_leaves_nothing() {
        let mut trie = Trie::new();
        let me = Subscriber::Session(1);
        trie.insert("a/+/c", None, me, 0);
        trie.insert("a/+/c", None, me, 1);
        assert_eq!(found(&mut trie, "a/b/c"), [(me, 1)]);
        assert_eq!(trie.len(), 1);
        assert!(trie.remove("a/+/c", None, me));
        assert!(!trie.remove("a/+/c", None, me));
        assert_eq!(trie.len(), 0);
        assert!(trie.root.is_empty());
    }

    #[test]
    fn a_group_takes_turns_and_survives_the_loss_of_members() {
        let mut trie = Trie::new();
        let members = [1, 2, 3].map(Subscriber::Session);
        for member in members {
            trie.insert("q", Some("g"), member, 0);
        }
        let turns: Vec<_> = (0..6).map(|_| found(&mut trie, "q")[0].0).collect();
        assert_eq!(turns, [members, members].concat());
        assert!(trie.remove("q", Some("g"), members[2]));
        assert!(trie.remove("q", Some("g"), members[0]));
        assert_eq!(found(&mut trie, "q"), [(members[1], 0)]);
        assert!(trie.remove("q", Some("g"), members[1]));
        assert!(found(&mut trie, "q").is_empty());
        assert!(trie.root.is_empty());
    }

    fn path(wildcards: bool) -> impl Strategy<Value = String> {
        let level = if wildcards {
            prop_oneof![Just("a"), Just("b"), Just(""), Just("$s"), Just("+")].boxed()
        } else {
            prop_oneof![Just("a"), Just("b"), Just(""), Just("$s")].boxed()
        };
        (prop::collection::vec(level, 1..4), any::<bool>()).prop_map(move |(mut levels, rest)| {
            if rest && wildcards {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn the_trie_finds_what_a_naive_matcher_finds(
            changes in prop::collection::vec((path(true), 0usize..4, any::<bool>()), 0..40),
            topics in prop::collection::vec(path(false), 1..10),
        ) {
            let mut trie = Trie::new();
            let mut naive = std::collections::BTreeSet::new();
            for (filter, who, add) in changes {
                let who = Subscriber::Session(who);
                if add {
                    trie.insert(&filter, None, who, 0);
                    naive.insert((filter, who));
                } else {
                    prop_assert_eq!(trie.remove(&filter, None, who), naive.remove(&(filter, who)));
                }
            }
            prop_assert_eq!(trie.len(), naive.len());
            for topic in topics {
                let mut expected: Vec<_> =
                    naive.iter().filter(|(f, _)| filter::matches(f, &topic)).map(|(_, who)| (*who, 0)).collect();
                expected.sort_unstable();
                prop_assert_eq!(found(&mut trie, &topic), expected, "{}", topic);
            }
            for (filter, who) in naive {
                prop_assert!(trie.remove(&filter, None, who));
            }
            prop_assert!(trie.root.is_empty());
        }
    }
}
