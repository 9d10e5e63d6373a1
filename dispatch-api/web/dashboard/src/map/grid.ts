/** A net of meridians and parallels for where there are no streets to tell one place from another. Pure. */

import type { Feature, FeatureCollection, LineString } from "geojson";

export interface Bounds {
  west: number;
  south: number;
  east: number;
  north: number;
}

const STEPS_DEG = [30, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
const LINES_ACROSS = 7;
/** Lines reach this many views beyond the edge, so that a short drag never meets the end of the net. */
const MARGIN = 1;

/** The widest step that still gives about {@link LINES_ACROSS} lines across the view. */
export function stepFor(bounds: Bounds): number {
  const width = bounds.east - bounds.west;
  return STEPS_DEG.find((step) => width / step >= LINES_ACROSS - 2) ?? 0.001;
}

export function gridFor(bounds: Bounds): FeatureCollection<LineString, { label: string }> {
  const step = stepFor(bounds);
  const [width, height] = [bounds.east - bounds.west, bounds.north - bounds.south];
  const west = Math.max(-180, bounds.west - width * MARGIN);
  const east = Math.min(180, bounds.east + width * MARGIN);
  const south = Math.max(-85, bounds.south - height * MARGIN);
  const north = Math.min(85, bounds.north + height * MARGIN);
  const features: Feature<LineString, { label: string }>[] = [];
  for (const lon of multiples(step, west, east)) features.push(line([[lon, south], [lon, north]], label(lon, step, "E", "W")));
  for (const lat of multiples(step, south, north)) features.push(line([[west, lat], [east, lat]], label(lat, step, "N", "S")));
  return { type: "FeatureCollection", features };
}

function multiples(step: number, from: number, to: number): number[] {
  const first = Math.ceil(from / step);
  const count = Math.floor(to / step) - first + 1;
  // Multiplied rather than summed up, so that the last line is as exact as the first.
  return Array.from({ length: Math.max(0, count) }, (_, index) => (first + index) * step);
}

function label(degrees: number, step: number, positive: string, negative: string): string {
  const decimals = Math.max(0, Math.ceil(-Math.log10(step)));
  return `${Math.abs(degrees).toFixed(decimals)}° ${degrees < 0 ? negative : positive}`;
}

function line(coordinates: [number, number][], text: string): Feature<LineString, { label: string }> {
  return { type: "Feature", geometry: { type: "LineString", coordinates }, properties: { label: text } };
}
