//! Which numbers of 1, 2, 3, … are there: all up to one, and some ranges above it.
//!
//! Acknowledgements of operations, transfer positions and delivered cursors all have this shape, on the wire and
//! in memory. The ranges above are kept apart, in order, and never touch each other or the run from 1.

/// A set of numbers from 1: everything up to [`through`](Cumulative::through), and ranges above.
///
/// Memory: 16 bytes a range. How many ranges may stand above is the owner's bound: see
/// [`insert_within`](Cumulative::insert_within).
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Cumulative {
    through: u64,
    /// `(first, last)`, ascending, with at least one number missing before each.
    above: Vec<(u64, u64)>,
}

/// Ranges on the wire that are no ranges: an odd count of numbers, an empty gap or run, or an overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ranges are not pairs of (missing, held) numbers above 0")]
pub struct MalformedRanges;

impl Cumulative {
    /// Everything up to `through` and nothing above.
    pub fn through_to(through: u64) -> Self {
        Self {
            through,
            above: Vec::new(),
        }
    }

    /// Reads the two fields of a frame.
    ///
    /// # Errors
    /// [`MalformedRanges`] where the pairs do not describe ascending ranges.
    pub fn from_wire(through: u64, pairs: &[u64]) -> Result<Self, MalformedRanges> {
        let mut set = Self::through_to(through);
        let mut last = through;
        let (chunks, rest) = pairs.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(MalformedRanges);
        }
        for &[missing, held] in chunks {
            if missing == 0 || held == 0 {
                return Err(MalformedRanges);
            }
            let first = last
                .checked_add(missing)
                .and_then(|n| n.checked_add(1))
                .ok_or(MalformedRanges)?;
            last = first.checked_add(held - 1).ok_or(MalformedRanges)?;
            set.above.push((first, last));
        }
        Ok(set)
    }

    /// The ranges above as pairs of (how many are missing, how many are held).
    pub fn to_wire(&self) -> Vec<u64> {
        self.to_wire_within(usize::MAX)
    }

    /// The lowest `ranges_max` ranges as pairs; what is left out is merely not said yet.
    pub fn to_wire_within(&self, ranges_max: usize) -> Vec<u64> {
        let mut pairs = Vec::with_capacity(2 * self.above.len().min(ranges_max));
        let mut last = self.through;
        for &(first, end) in self.above.iter().take(ranges_max) {
            pairs.push(first - last - 1);
            pairs.push(end - first + 1);
            last = end;
        }
        pairs
    }

    /// The last number of the run from 1; 0 where 1 is missing.
    pub fn through(&self) -> u64 {
        self.through
    }

    /// How many ranges stand above the run.
    pub fn ranges(&self) -> usize {
        self.above.len()
    }

    /// The highest number in the set; 0 where there is none.
    pub fn highest(&self) -> u64 {
        self.above.last().map_or(self.through, |&(_, last)| last)
    }

    /// How many numbers are in the set.
    pub fn count(&self) -> u64 {
        let above = self.above.iter().map(|&(first, last)| last - first + 1);
        above.fold(self.through, u64::saturating_add)
    }

    /// Whether the set has no number at all.
    pub fn is_empty(&self) -> bool {
        self.through == 0 && self.above.is_empty()
    }

    /// Whether `number` is in the set; 0 always is.
    pub fn contains(&self, number: u64) -> bool {
        if number <= self.through {
            return true;
        }
        let after = self.above.partition_point(|&(first, _)| first <= number);
        after > 0 && number <= self.above[after - 1].1
    }

    /// The lowest number above `number` that is not in the set.
    pub fn first_missing_after(&self, number: u64) -> u64 {
        let mut candidate = number.saturating_add(1).max(self.through.saturating_add(1));
        for &(first, last) in &self.above {
            if candidate < first {
                break;
            }
            candidate = candidate.max(last.saturating_add(1));
        }
        candidate
    }

    /// Adds one number; false where it was there.
    pub fn insert(&mut self, number: u64) -> bool {
        let new = !self.contains(number);
        self.insert_range(number, number);
        new
    }

    /// Adds one number unless that would leave more than `ranges_max` ranges above the run; false where it would.
    pub fn insert_within(&mut self, number: u64, ranges_max: usize) -> bool {
        let extends = number == self.through.saturating_add(1)
            || self.contains(number)
            || self
                .above
                .iter()
                .any(|&(first, last)| number.saturating_add(1) == first || number == last.saturating_add(1));
        if !extends && self.above.len() >= ranges_max {
            return false;
        }
        self.insert_range(number, number);
        true
    }

    /// Adds `first..=last`; nothing where `first > last`.
    pub fn insert_range(&mut self, first: u64, last: u64) {
        if first > last || last <= self.through {
            return;
        }
        let (mut first, mut last) = (first.max(self.through + 1), last);
        // Everything that overlaps or touches melts into the new range.
        let from = self
            .above
            .partition_point(|&(_, end)| end.saturating_add(1) < first);
        let to = self
            .above
            .partition_point(|&(start, _)| start <= last.saturating_add(1));
        if from < to {
            first = first.min(self.above[from].0);
            last = last.max(self.above[to - 1].1);
        }
        self.above.drain(from..to);
        if first == self.through + 1 {
            self.through = last;
        } else {
            self.above.insert(from, (first, last));
        }
    }

    /// Adds everything that is in `other`.
    pub fn merge(&mut self, other: &Self) {
        self.insert_range(1, other.through);
        for &(first, last) in &other.above {
            self.insert_range(first, last);
        }
    }

    /// The parts of `first..=last` that are not in the set, ascending.
    pub fn missing_within(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut missing = Vec::new();
        let mut from = self.first_missing_after(first.saturating_sub(1));
        while from <= last {
            let next = self.above.partition_point(|&(start, _)| start <= from);
            let until = self
                .above
                .get(next)
                .map_or(last, |&(start, _)| last.min(start - 1));
            missing.push((from, until));
            from = self.first_missing_after(until);
        }
        missing
    }

    /// Forgets what stands below `number`.
    pub fn forget_below(&mut self, number: u64) {
        if self.through > 0 {
            self.above.insert(0, (1, self.through));
            self.through = 0;
        }
        self.above.retain_mut(|(first, last)| {
            *first = (*first).max(number);
            *first <= *last
        });
        if let Some(&(1, last)) = self.above.first() {
            self.through = last;
            self.above.remove(0);
        }
    }

    /// Forgets the lowest range that stands above the run.
    pub fn forget_lowest_range(&mut self) {
        if !self.above.is_empty() {
            self.above.remove(0);
        }
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::through_to(self.through.min(other.through));
        let mut theirs = other.runs().peekable();
        for (first, last) in self.runs() {
            while let Some(&(their_first, their_last)) = theirs.peek() {
                both.insert_range(first.max(their_first), last.min(their_last));
                if their_last > last {
                    break;
                }
                theirs.next();
            }
        }
        both
    }

    /// All runs, ascending.
    fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        let from_one = (self.through > 0).then_some((1, self.through));
        from_one.into_iter().chain(self.above.iter().copied())
    }

    /// Forgets what stands above `number`.
    pub fn truncate(&mut self, number: u64) {
        self.through = self.through.min(number);
        self.above.retain_mut(|(first, last)| {
            *last = (*last).min(number);
            *first <= *last
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn ranges_that_are_none_are_refused() {
        for pairs in [
            &[1][..],
            &[0, 1],
            &[1, 0],
            &[1, 1, 1],
            &[u64::MAX, 1],
            &[1, u64::MAX],
        ] {
            assert_eq!(Cumulative::from_wire(7, pairs), Err(MalformedRanges), "{pairs:?}");
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(inserts in prop::collection::vec((1u64..60, 0u64..6), 0..40)) {
            let mut set = Cumulative::default();
            let mut model = BTreeSet::new();
            for (first, length) in inserts {
                set.insert_range(first, first + length);
                model.extend(first..=first + length);
                for number in 1..70 {
                    prop_assert_eq!(set.contains(number), model.contains(&number), "{} in {:?}", number, set);
                    let missing = (number + 1..).find(|n| !model.contains(n)).unwrap();
                    prop_assert_eq!(set.first_missing_after(number), missing);
                }
                let through = (1..).find(|n| !model.contains(n)).unwrap() - 1;
                prop_assert_eq!(set.through(), through);
                prop_assert_eq!(set.highest(), model.last().copied().unwrap_or(0));
                prop_assert_eq!(set.count(), model.len() as u64);
                prop_assert_eq!(Cumulative::from_wire(set.through(), &set.to_wire()), Ok(set.clone()));
                let missing: Vec<u64> = set.missing_within(7, 40).into_iter().flat_map(|(a, b)| a..=b).collect();
                prop_assert_eq!(missing, (7..=40).filter(|n| !model.contains(n)).collect::<Vec<_>>());
                let mut rest = set.clone();
                rest.forget_below(first);
                for number in 1..70 {
                    prop_assert_eq!(rest.contains(number), number >= first && model.contains(&number));
                }
                prop_assert_eq!(Cumulative::from_wire(rest.through(), &rest.to_wire()), Ok(rest));
            }
        }

        #[test]
        fn an_intersection_is_what_both_have(
            one in prop::collection::vec((1u64..60, 0u64..6), 0..12),
            other in prop::collection::vec((1u64..60, 0u64..6), 0..12),
        ) {
            let set = |ranges: Vec<(u64, u64)>| {
                let mut set = Cumulative::default();
                ranges.iter().for_each(|&(first, length)| set.insert_range(first, first + length));
                set
            };
            let (one, other) = (set(one), set(other));
            let mut expected = Cumulative::default();
            for number in (1..70).filter(|&number| one.contains(number) && other.contains(number)) {
                expected.insert(number);
            }
            prop_assert_eq!(one.intersection(&other), expected);
        }

        #[test]
        fn the_bound_refuses_only_what_would_open_another_range(numbers in prop::collection::vec(1u64..40, 1..60)) {
            let mut set = Cumulative::default();
            for number in numbers {
                let before = set.clone();
                if !set.insert_within(number, 3) {
                    prop_assert_eq!(&set, &before);
                    prop_assert_eq!(set.ranges(), 3);
                }
                prop_assert!(set.ranges() <= 3);
            }
        }
    }
}
