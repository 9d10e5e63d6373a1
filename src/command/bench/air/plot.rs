//! A drive as a picture: raw fixes, the history as the server has it, and what it showed live.

use super::measure::Place;
use crate::trace::Trace;
use std::fmt::Write;

/// Width and height at most.
const SIZE: f64 = 1_200.0;
const MARGIN: f64 = 20.0;

pub(super) fn picture(trace: &Trace, history: &[Place], live: &[Place]) -> String {
    let raw: Vec<Place> = (trace.fixes.iter())
        .map(|fix| Place {
            at_ms: fix.at_ms,
            lat: fix.lat(),
            lon: fix.lon(),
        })
        .collect();
    let frame = Frame::around(&raw);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0} {1:.0}\">\n<title>Raw fixes (grey), history (blue), \
         live (orange)</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        frame.width + 2.0 * MARGIN,
        frame.height + 2.0 * MARGIN
    );
    for place in &raw {
        let (x, y) = frame.point(place);
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.2\" fill=\"#999\"/>"
        );
    }
    for place in live {
        let (x, y) = frame.point(place);
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"0.8\" fill=\"#e67700\" fill-opacity=\"0.6\"/>"
        );
    }
    let corners: Vec<String> = history
        .iter()
        .map(|place| {
            let (x, y) = frame.point(place);
            format!("{x:.1},{y:.1}")
        })
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#1864ab\" stroke-width=\"1\"/>",
        corners.join(" ")
    );
    for place in history {
        let (x, y) = frame.point(place);
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"3\" height=\"3\" fill=\"#1864ab\"/>",
            x - 1.5,
            y - 1.5
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Where degrees come to lie: as far east as north.
struct Frame {
    west: f64,
    north: f64,
    scale: f64,
    narrowing: f64,
    width: f64,
    height: f64,
}

impl Frame {
    fn around(places: &[Place]) -> Self {
        let range = |value: fn(&Place) -> f64| {
            let values = places.iter().map(value);
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
                (least.min(value), most.max(value))
            })
        };
        let ((south, north), (west, east)) = (range(|place| place.lat), range(|place| place.lon));
        let narrowing = f64::midpoint(south, north).to_radians().cos().max(0.01);
        let (wide, high) = ((east - west) * narrowing, north - south);
        let scale = SIZE / wide.max(high).max(1e-6);
        Self {
            west,
            north,
            scale,
            narrowing,
            width: wide * scale,
            height: high * scale,
        }
    }

    fn point(&self, place: &Place) -> (f64, f64) {
        (
            MARGIN + (place.lon - self.west) * self.narrowing * self.scale,
            MARGIN + (self.north - place.lat) * self.scale,
        )
    }
}
