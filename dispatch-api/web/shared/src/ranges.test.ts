import { expect, test } from "vitest";
import { add, firstGap, has, NONE, type Ranges } from "./ranges.ts";

test("a_union_says_the_same_as_a_set_whatever_the_order", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = randomFrom(seed);
    const model = new Set<number>();
    let ranges: Ranges = NONE;
    for (let step = 0; step < 12; step++) {
      const from = 1 + Math.floor(random() * 30);
      const to = from + Math.floor(random() * 6) - 1;
      ranges = add(ranges, from, to);
      for (let n = from; n <= to; n++) model.add(n);
    }
    for (let n = 0; n <= 40; n++) expect(has(ranges, n), `seed ${seed}, ${n} in ${JSON.stringify(ranges)}`).toBe(model.has(n));
    for (let i = 1; i < ranges.length; i++) expect(ranges[i]![0], `seed ${seed}`).toBeGreaterThan(ranges[i - 1]![1] + 1);
  }
});

test("adding_what_is_there_gives_the_same_value", () => {
  const ranges = add(NONE, 3, 9);
  expect(add(ranges, 4, 9)).toBe(ranges);
  expect(add(ranges, 9, 8)).toBe(ranges);
});

test.each([
  [[[5, 9]], 9, null],
  [[[5, 9]], 12, [10, 12]],
  [[[5, 9], [12, 20]], 20, [10, 11]],
  [[], 4, null],
] as [Ranges, number, [number, number] | null][])("the_first_gap_of_%j_up_to_%i_is_%j", (ranges, last, gap) => {
  expect(firstGap(ranges, last)).toEqual(gap);
});

function randomFrom(seed: number): () => number {
  let state = seed * 2654435761;
  return () => {
    state = (state * 1664525 + 1013904223) >>> 0;
    return state / 4294967296;
  };
}
