/** Sets of sequence numbers as sorted, disjoint, inclusive ranges: what cursors with gaps look like. Values, never changed in place. */

export type Ranges = readonly (readonly [from: number, to: number])[];

export const NONE: Ranges = [];

export function has(ranges: Ranges, n: number): boolean {
  return ranges.some(([from, to]) => from <= n && n <= to);
}

/** The union; the same value is returned when nothing is new, so that callers can tell by identity. */
export function add(ranges: Ranges, from: number, to: number): Ranges {
  if (to < from || ranges.some(([a, b]) => a <= from && to <= b)) return ranges;
  let [low, high] = [from, to];
  const apart: (readonly [number, number])[] = [];
  for (const range of ranges) {
    if (range[1] < low - 1 || range[0] > high + 1) apart.push(range);
    else [low, high] = [Math.min(low, range[0]), Math.max(high, range[1])];
  }
  return [...apart, [low, high] as const].sort((a, b) => a[0] - b[0]);
}

/** The lowest number above the first range that is not held, up to `last`; null when all of it is. */
export function firstGap(ranges: Ranges, last: number): readonly [from: number, to: number] | null {
  const first = ranges[0];
  if (first === undefined || first[1] >= last) return null;
  const next = ranges[1];
  return [first[1] + 1, next === undefined ? last : next[0] - 1];
}
