import { expect, test } from "vitest";
import type { Broadcast, FleetEvent } from "@waypost/shared/wire";
import { missingIn, newestFirst, ofStream, recipientsOf, viewOf, withBroadcast, withEvent, withList, type Broadcasts } from "./broadcasts.ts";
import { withDevices } from "./fleet.ts";
import { acted, at, broadcast, climbed, device, driver, ME, outstanding, permutations } from "./samples.ts";

const held = (told: Broadcast = broadcast()) => withBroadcast(new Map(), told);
const apply = (broadcasts: Broadcasts, events: readonly FleetEvent[]) => events.reduce(withEvent, broadcasts);
const view = (broadcasts: Broadcasts) => viewOf(broadcasts.get("b1")!);
const stages = (broadcasts: Broadcasts) => Object.fromEntries((view(broadcasts).outstanding ?? []).map((one) => [one.member.id, one.stage]));

test("events_in_any_order_and_more_than_once_give_the_same_counts", () => {
  const events = [climbed("delivered", 1, 1, driver("a"), "900"), climbed("read", 1, 1, driver("a"), "900"), climbed("delivered", 1, 1, driver("b"), "900"), acted("900", 1, driver("c"))];
  for (const order of permutations(events)) {
    const broadcasts = apply(apply(held(), order), order);
    expect(view(broadcasts).counts).toEqual({ recipients: 3, sent: 3, delivered: 3, read: 2, acted: 1 });
    expect(stages(broadcasts)).toEqual({ a: "read", b: "delivered" });
  }
});

test("an_answer_that_was_asked_for_before_an_event_came_takes_nothing_back", () => {
  const read = apply(held(), [climbed("read", 1, 1, driver("a"), "900"), acted("900", 1, driver("b"))]);
  expect(stages(withBroadcast(read, broadcast()))).toEqual({ a: "read", c: "accepted" });
});

test("an_answer_that_knows_more_than_the_events_counts", () => {
  const delivered = apply(held(), [climbed("delivered", 1, 1, driver("a"), "900")]);
  const told = broadcast({ outstanding: [outstanding("a", "read", 9), outstanding("b", "sent", 2)] });
  expect(stages(withBroadcast(delivered, told))).toEqual({ a: "read", b: "sent" });
  expect(view(withBroadcast(delivered, told)).counts).toMatchObject({ delivered: 2, read: 2, acted: 1 });
});

test("a_list_without_who_is_outstanding_shows_its_counts_and_forgets_nobody_who_is_known", () => {
  const { outstanding: _, ...listed } = broadcast({ counts: { recipients: 3, sent: 1, delivered: 1, read: 1, acted: 2 } });
  expect(view(withList(new Map(), [listed]))).toMatchObject({ outstanding: null, counts: { sent: 2, delivered: 2, read: 2, acted: 2 } });
  const known = apply(held(), [climbed("read", 1, 1, driver("a"), "900")]);
  expect(stages(withList(known, [listed]))).toEqual({ a: "read", b: "accepted", c: "accepted" });
});

test("what_is_no_longer_in_the_list_is_gone", () => {
  expect(withList(held(), [broadcast({ id: "b2" })]).has("b1")).toBe(false);
});

test("reading_in_the_office_and_events_of_other_streams_change_nothing", () => {
  const broadcasts = held();
  for (const event of [climbed("read", 1, 1, ME, "900"), climbed("read", 1, 1, driver("a"), "901")]) expect(withEvent(broadcasts, event)).toBe(broadcasts);
});

test("since_is_when_the_rung_was_reached", () => {
  const broadcasts = apply(held(), [climbed("delivered", 1, 7, driver("a"), "900")]);
  expect(view(broadcasts).outstanding).toContainEqual({ member: driver("a"), stage: "delivered", since: at(7) });
});

test("the_missing_are_told_by_what_they_have_yet_to_do_and_the_longest_silence_first", () => {
  const fleet = withDevices(new Map(), [
    device({ id: "b", presence: { state: "offline", since: at(-60) } }),
    device({ id: "c", presence: { state: "offline", since: at(-600) } }),
    device({ id: "d", presence: { state: "online", since: at(-9000) } }),
  ]);
  const missing = missingIn(
    [
      outstanding("d", "accepted", 0),
      outstanding("b", "accepted", 0),
      outstanding("e", "sent", -5),
      outstanding("c", "accepted", 0),
      outstanding("g", "delivered", 9),
      outstanding("f", "delivered", 8),
      outstanding("h", "read", 3),
    ],
    fleet,
  );
  const ids = (rows: typeof missing.notRead) => rows.map((row) => row.member.id);
  expect([ids(missing.notReceived), ids(missing.notRead), ids(missing.notAnswered)]).toEqual([["e", "c", "b", "d"], ["f", "g"], ["h"]]);
});

test("whoever_is_chosen_twice_counts_once_and_vehicles_that_are_gone_do_not", () => {
  const fleet = withDevices(new Map(), ["a", "b", "c"].map((id) => device({ id })));
  const groups = [
    { id: "g", devices: ["a", "b", "gone"] },
    { id: "h", devices: ["c"] },
  ];
  expect(recipientsOf({ devices: ["a", "c"], groups: ["g"] }, groups, fleet)).toEqual(["a", "c", "b"]);
  expect(recipientsOf({ devices: [], groups: [] }, groups, fleet)).toEqual([]);
});

test("the_newest_broadcast_stands_first_and_each_is_found_by_its_stream", () => {
  const broadcasts = withList(new Map(), [broadcast(), broadcast({ id: "b2", stream: "901", server_at: at(60) })]);
  expect(newestFirst(broadcasts).map((one) => one.broadcast.id)).toEqual(["b2", "b1"]);
  expect(ofStream(broadcasts, "901")?.told.id).toBe("b2");
  expect(ofStream(broadcasts, "4711")).toBeNull();
});
