//! Which fixes of a way can go, and how wrong the way becomes without them.
//!
//! A way is what stands between its fixes on straight lines at constant speed, which is how everybody draws it. A fix
//! that goes makes it wrong by the distance from where the device was to where the line says that it was *at that
//! moment*. No fix is moved or made: what stays is true.

use std::time::Duration;
use waypost_proto::Fix;

/// A mean metre of latitude: 40,030 km around the globe.
const METRES_PER_E7: f64 = 0.011_119_5;
const FULL_CIRCLE_E7: f64 = 3_600_000_000.0;

/// What is left of a way.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Thinned {
    /// In the order of their times; the first and the last are those of the way.
    pub(crate) fixes: Vec<Fix>,
    /// How far the way is now from any fix that went, at that fix's moment; in metres.
    pub(crate) error_m: f64,
}

/// Leaves `keep` fixes of a way, which is in the order of its times: the first, the last, and again and again the one
/// that the way so far is furthest from. No fix goes that would leave a hole longer than `hole_max`, so that more may stay.
///
/// Costs at most `keep` looks at each fix.
pub(crate) fn thin(way: &[Fix], keep: usize, hole_max: Duration) -> Thinned {
    let whole = Thinned {
        fixes: way.to_vec(),
        error_m: 0.0,
    };
    if way.len() <= keep.max(2) {
        return whole;
    }
    let mut pieces = vec![Piece::between(way, 0, way.len() - 1, hole_max)];
    while let Some(worst) = worst_piece(&pieces) {
        let is_enough = pieces.len() + 1 >= keep;
        if is_enough && !pieces[worst].is_hole {
            break;
        }
        let Piece { from, to, at, .. } = pieces[worst];
        pieces[worst] = Piece::between(way, from, at, hole_max);
        pieces.push(Piece::between(way, at, to, hole_max));
    }
    let error_m = pieces.iter().map(|piece| piece.error_m).fold(0.0, f64::max);
    let mut kept: Vec<usize> = pieces.iter().map(|piece| piece.to).chain([0]).collect();
    kept.sort_unstable();
    Thinned {
        fixes: kept.into_iter().map(|index| way[index]).collect(),
        error_m,
    }
}

/// How far the straight line between two fixes is from what lies between them, in metres.
pub(crate) fn error_without(before: &Fix, gone: &[Fix], after: &Fix) -> f64 {
    let errors = gone.iter().map(|fix| distance_m(fix, before, after));
    errors.fold(0.0, f64::max)
}

/// Two fixes that stay, and what lies between them and goes, unless the piece is split.
#[derive(Debug, Clone, Copy)]
struct Piece {
    from: usize,
    to: usize,
    /// Where it is split, if it is; meaningless where nothing lies between.
    at: usize,
    error_m: f64,
    lasts_ms: u64,
    /// Longer than a hole may be, with something in it.
    is_hole: bool,
}

impl Piece {
    fn between(way: &[Fix], from: usize, to: usize, hole_max: Duration) -> Self {
        let (first, last) = (&way[from], &way[to]);
        let (mut at, mut error_m) = (from, 0.0);
        for (index, fix) in way.iter().enumerate().take(to).skip(from + 1) {
            let distance = distance_m(fix, first, last);
            if at == from || distance > error_m {
                (at, error_m) = (index, distance);
            }
        }
        let lasts_ms = last.at_ms.abs_diff(first.at_ms);
        let is_hole = to > from + 1 && u128::from(lasts_ms) > hole_max.as_millis();
        if is_hole || error_m < 1.0 {
            // Standing still has no worst fix: halves keep such a way from being peeled fix by fix.
            let middle = first.at_ms.midpoint(last.at_ms);
            let near = (from + 1..to).min_by_key(|&index| way[index].at_ms.abs_diff(middle));
            at = near.unwrap_or(at);
        }
        Self {
            from,
            to,
            at,
            error_m,
            lasts_ms,
            is_hole,
        }
    }
}

/// The piece to split next: a hole, or else the one that is most wrong by whole metres, or else the longest. `None` where
/// nothing lies between any two.
fn worst_piece(pieces: &[Piece]) -> Option<usize> {
    let splittable = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| piece.to > piece.from + 1);
    let worst = splittable.max_by(|(_, one), (_, other)| {
        let by_hole = one.is_hole.cmp(&other.is_hole);
        let by_error = one.error_m.floor().total_cmp(&other.error_m.floor());
        by_hole.then(by_error).then(one.lasts_ms.cmp(&other.lasts_ms))
    });
    worst.map(|(index, _)| index)
}

/// From a fix to where the line between two others is at its moment; flat, which is right to a part in a thousand over
/// the tens of kilometres that a piece is long.
fn distance_m(fix: &Fix, from: &Fix, to: &Fix) -> f64 {
    let lasts = to.at_ms.saturating_sub(from.at_ms) as f64;
    let share = if lasts > 0.0 {
        fix.at_ms.saturating_sub(from.at_ms) as f64 / lasts
    } else {
        0.0
    };
    let east = |other: &Fix| {
        let difference = f64::from(other.lon_e7) - f64::from(from.lon_e7);
        // The shorter way around, across the 180th degree.
        difference - (difference / FULL_CIRCLE_E7).round() * FULL_CIRCLE_E7
    };
    let north = |other: &Fix| f64::from(other.lat_e7) - f64::from(from.lat_e7);
    let off_north = north(fix) - share * north(to);
    let off_east = (east(fix) - share * east(to)) * fix.lat().to_radians().cos();
    off_north.hypot(off_east) * METRES_PER_E7
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NO_HOLE: Duration = Duration::from_secs(1 << 40);

    fn fix(at_s: i64, lat: f64, lon: f64) -> Fix {
        Fix::from_degrees(at_s * 1_000, lat, lon).unwrap()
    }

    #[test]
    fn a_straight_way_at_constant_speed_is_its_two_ends() {
        let way: Vec<Fix> = (0..100).map(|at| fix(at, 52.0, 13.0 + at as f64 / 1e4)).collect();
        let thinned = thin(&way, 2, NO_HOLE);
        assert_eq!(thinned.fixes, [way[0], way[99]]);
        assert!(thinned.error_m < 0.1, "{}", thinned.error_m);
    }

    #[test]
    fn a_corner_and_a_stop_are_what_stays() {
        // East for 50 s, 30 s at the corner, north for 50 s.
        let way: Vec<Fix> = (0..130)
            .map(|at| {
                let (east, north) = (at.min(50), (at - 80).max(0));
                fix(at, 52.0 + north as f64 / 1e4, 13.0 + east as f64 / 1e4)
            })
            .collect();
        let thinned = thin(&way, 4, NO_HOLE);
        let kept: Vec<i64> = thinned.fixes.iter().map(|fix| fix.at_ms / 1_000).collect();
        assert_eq!(kept, [0, 50, 80, 129]);
        assert!(thinned.error_m < 0.1, "{}", thinned.error_m);
        // Without the stop the way is wrong by what a vehicle travels in the meantime.
        let coarse = thin(&way, 3, NO_HOLE);
        assert!(coarse.error_m > 100.0, "{}", coarse.error_m);
    }

    #[test]
    fn no_hole_becomes_longer_than_allowed_even_standing_still() {
        let way: Vec<Fix> = (0..1_000).map(|at| fix(at * 10, 52.0, 13.0)).collect();
        let thinned = thin(&way, 2, Duration::from_secs(300));
        assert!(
            (34..=65).contains(&thinned.fixes.len()),
            "{}",
            thinned.fixes.len()
        );
        let hole = |pair: &[Fix]| pair[1].at_ms - pair[0].at_ms;
        assert!(thinned.fixes.windows(2).all(|pair| hole(pair) <= 300_000));
    }

    #[test]
    fn the_date_line_is_no_way_around_the_globe() {
        let way = [fix(0, 0.0, 179.999), fix(1, 0.0, 180.0), fix(2, 0.0, -179.999)];
        assert!(error_without(&way[0], &way[1..2], &way[2]) < 0.1);
        let aside = fix(1, 0.001, 180.0);
        let error = error_without(&way[0], &[aside], &way[2]);
        assert!((error - 111.2).abs() < 0.5, "{error}");
    }

    proptest! {
        #[test]
        fn what_stays_was_there_in_its_order_and_the_error_is_that_of_every_fix_that_went(
            steps in prop::collection::vec((1i64..400, -9i32..9, -9i32..9), 1..120),
            keep in 0usize..40,
            hole_s in 1u64..2_000,
        ) {
            let (mut at, mut lat, mut lon) = (0, 0, 0);
            let way: Vec<Fix> = steps
                .iter()
                .map(|&(step, north, east)| {
                    (at, lat, lon) = (at + step, lat + north, lon + east);
                    fix(at, f64::from(lat) / 1e4, f64::from(lon) / 1e4)
                })
                .collect();
            let hole_max = Duration::from_secs(hole_s);
            let Thinned { fixes, error_m } = thin(&way, keep, hole_max);
            prop_assert_eq!(fixes.first(), way.first());
            prop_assert_eq!(fixes.last(), way.last());
            // Walks both: each fix of the way stays or is measured against the two around it.
            let mut kept = 0;
            let mut worst = 0.0f64;
            for fix in &way {
                if kept < fixes.len() && *fix == fixes[kept] {
                    kept += 1;
                } else {
                    worst = worst.max(distance_m(fix, &fixes[kept - 1], &fixes[kept]));
                    let hole = fixes[kept].at_ms - fixes[kept - 1].at_ms;
                    prop_assert!(hole <= i64::try_from(hole_s).unwrap() * 1_000);
                }
            }
            prop_assert_eq!(kept, fixes.len(), "nothing was made up or moved");
            prop_assert!(worst <= error_m + 1e-6, "{} is told as {}", worst, error_m);
        }
    }
}
