import { expect, test } from "vitest";
import { age, clockOffset, compass, coordinates, day, speed } from "./words.ts";

test.each([
  [-5_000, "0 s"],
  [0, "0 s"],
  [999, "0 s"],
  [40_900, "40 s"],
  [60_000, "1 min"],
  [3_599_999, "59 min"],
  [3_600_000, "1 h"],
  [47 * 3_600_000, "47 h"],
  [48 * 3_600_000, "2 d"],
  [NaN, "0 s"],
])("an_age_of_%d_ms_reads_%s", (ms, text) => expect(age(ms)).toBe(text));

test.each([
  [null, "–"],
  [0, "0 km/h"],
  [0.4, "0 km/h"],
  [15, "54 km/h"],
  [27.777, "100 km/h"],
])("a_speed_of_%s_metres_a_second_reads_%s", (mps, text) => expect(speed(mps)).toBe(text));

test.each([
  [0, "N"],
  [22.4, "N"],
  [22.6, "NE"],
  [180, "S"],
  [359, "N"],
  [-90, "W"],
])("a_course_of_%d_degrees_is_%s", (course, text) => expect(compass(course)).toBe(text));

test("coordinates_keep_their_sign_and_five_decimals", () => {
  expect(coordinates({ lat: 41.2579079, lon: -95.9960403 })).toBe("41.25791, -95.99604");
});

test("days_are_told_from_where_the_reader_is", () => {
  const now = new Date(2026, 10, 24, 0, 30).getTime();
  expect(day(new Date(2026, 10, 24, 0, 1).toISOString(), now)).toBe("Today");
  expect(day(new Date(2026, 10, 23, 23, 59).toISOString(), now)).toBe("Yesterday");
  expect(day(new Date(2026, 10, 22, 12, 0).toISOString(), now)).not.toMatch(/2026/);
  expect(day(new Date(2025, 10, 22, 12, 0).toISOString(), now)).toMatch(/2025/);
});

test.each([
  [200, "+0.2 s"],
  [-3_900, "−3.9 s"],
  [0, "+0.0 s"],
  [47 * 3_600_000, "+47 h"],
])("a_clock_that_is_%d_ms_off_reads_%s", (ms, text) => expect(clockOffset(ms)).toBe(text));
