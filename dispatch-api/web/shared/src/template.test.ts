import { expect, test } from "vitest";
import { fault, filled, labelOf, pieces, render, sameValues, slotNames, textIn } from "./template.ts";

test.each([
  ["Running late {minutes} min", { minutes: "15" }, "Running late 15 min"],
  ["Running late {minutes} min", { minutes: 15 }, "Running late 15 min"],
  ["Running late {minutes} min", {}, "Running late … min"],
  ["{a}{b}, {a}", { a: "1", b: "2" }, "12, 1"],
  ["a value is not read again: {a}", { a: "{b}", b: "no" }, "a value is not read again: {b}"],
  ["no slot", { unused: "1" }, "no slot"],
  ["{not a slot} {}", {}, "{not a slot} {}"],
  ["{constructor}", {}, "…"],
  ["", {}, ""],
])("%j with %j reads %j", (text, values, read) => {
  expect(render(text, values)).toBe(read);
});

test("the_pieces_of_a_text_put_together_are_the_text", () => {
  const text = "{from} to {to}, dock {dock}!";
  expect(pieces(text, { dock: "4" })).toEqual([
    { slot: "from", text: "" },
    { slot: null, text: " to " },
    { slot: "to", text: "" },
    { slot: null, text: ", dock " },
    { slot: "dock", text: "4" },
    { slot: null, text: "!" },
  ]);
});

test.each([
  [["de-AT", "en"], "spät"],
  [["fr", "de"], "spät"],
  [["fr"], "late"],
  [[], "late"],
])("the text for %j is %j", (languages, text) => {
  expect(textIn({ de: "spät", en: "late" }, languages)).toBe(text);
  expect(textIn({ pl: "późno" }, languages)).toBe("późno");
});

test.each([
  ["number", "15", true],
  ["number", " 2,5 ", true],
  ["number", "-3", true],
  ["number", "soon", false],
  ["number", "", false],
  ["number", "1e3", false],
  ["time", "14:30", true],
  ["time", "24:00", false],
  ["time", "9:30", false],
  ["text", "gate B", true],
  ["text", "   ", false],
] as const)("a %s can be %j: %j", (kind, value, good) => {
  expect(fault(kind, value) === null).toBe(good);
});

test("values_are_sent_trimmed_and_only_when_all_of_them_can_be", () => {
  const slots = [
    { name: "minutes", kind: "number" },
    { name: "place", kind: "text" },
  ] as const;
  expect(filled([...slots], { minutes: " 2,5", place: " gate B " })).toEqual({ minutes: "2.5", place: "gate B" });
  expect(filled([...slots], { minutes: "2" })).toBeNull();
});

test("slots_are_found_once_each_in_the_order_of_the_texts", () => {
  expect(slotNames(["{minutes} min to {place}", "nach {place} in {minutes}, {dock}"])).toEqual(["minutes", "place", "dock"]);
});

test("a_slot_is_labelled_by_its_name", () => {
  expect(labelOf("pallet_count")).toBe("Pallet count");
});

test("the_same_values_are_the_same_in_any_order_and_as_numbers", () => {
  expect(sameValues({ a: "1", b: "x" }, { b: "x", a: 1 })).toBe(true);
  expect(sameValues({ a: "1" }, { a: "1", b: "2" })).toBe(false);
  expect(sameValues({ a: "1" }, { b: "1" })).toBe(false);
});
