import { expect, test } from "vitest";
import { gridFor, stepFor } from "./grid.ts";
import { GLIDE_MS, isMoving, placeAt, still, towards } from "./motion.ts";

test.each([
  [360, 30],
  [60, 10],
  [0.09, 0.01],
  [0.0001, 0.001],
])("a_view_of_%d_degrees_has_a_line_every_%d", (width, step) => {
  expect(stepFor({ west: 10, east: 10 + width, south: 40, north: 41 })).toBe(step);
});

test("the_net_has_few_lines_inside_the_world_and_names_them", () => {
  for (const width of [300, 17, 1.3, 0.08, 0.006]) {
    const { features } = gridFor({ west: -96 - width / 2, east: -96 + width / 2, south: 41 - width / 4, north: 41 + width / 4 });
    expect(features.length).toBeLessThan(80);
    for (const { geometry, properties } of features) {
      expect(properties.label).toMatch(/^\d+(\.\d+)?° [NSEW]$/);
      for (const [lon, lat] of geometry.coordinates) {
        expect(Math.abs(lon!)).toBeLessThanOrEqual(180);
        expect(Math.abs(lat!)).toBeLessThanOrEqual(85);
      }
    }
  }
});

test("a_sign_glides_to_the_new_place_and_stays_there", () => {
  const glide = towards(still([0, 0]), [0.01, 0.02], 1000);
  expect(placeAt(glide, 1000)).toEqual([0, 0]);
  const half = placeAt(glide, 1000 + GLIDE_MS / 2);
  expect(half[0]).toBeGreaterThan(0.005);
  expect(half[0]).toBeLessThan(0.01);
  expect(placeAt(glide, 1000 + GLIDE_MS)).toEqual([0.01, 0.02]);
  expect(isMoving(glide, 1000 + GLIDE_MS)).toBe(false);
});

test("a_new_place_on_the_way_goes_on_from_where_the_sign_is_and_a_far_one_is_there_at_once", () => {
  const glide = towards(still([0, 0]), [0.01, 0], 0);
  const on = towards(glide, [0.02, 0], GLIDE_MS / 2);
  expect(placeAt(on, GLIDE_MS / 2)).toEqual(placeAt(glide, GLIDE_MS / 2));
  expect(placeAt(towards(glide, [9, 9], 10), 10)).toEqual([9, 9]);
  expect(towards(glide, [0.01, 0], 300)).toBe(glide);
});
