import { expect, test } from "vitest";
import { stateOf, withDevices, withEvent, type Fleet, type VehicleState } from "./fleet.ts";
import { at, device, event, permutations, position, T0 } from "./samples.ts";

const start: Fleet = withDevices(new Map(), [device()]);

test("events_in_any_order_and_more_than_once_give_the_same_fleet", () => {
  const events = [
    event("waypost.position.updated", { device: "7c", position: position({ at: at(10), lat: 1 }) }),
    event("waypost.position.updated", { device: "7c", position: position({ at: at(20), lat: 2 }) }),
    event("waypost.device.offline", { device: "7c", name: "truck-17", since: at(12) }),
    event("waypost.device.online", { device: "7c", name: "truck-17", since: at(25) }),
    event("waypost.position.updated", { device: "unknown", position: position({ at: at(30) }) }),
  ];
  for (const order of permutations(events)) {
    const fleet = [...order, ...order].reduce(withEvent, start);
    expect(fleet.size).toBe(1);
    expect(fleet.get("7c")?.position?.lat).toBe(2);
    expect(fleet.get("7c")?.presence).toEqual({ state: "online", since: at(25) });
  }
});

test("a_list_that_was_asked_for_before_an_event_does_not_undo_it", () => {
  const moved = withEvent(start, event("waypost.position.updated", { device: "7c", position: position({ at: at(20), lat: 2 }) }));
  const cut = withEvent(moved, event("waypost.device.offline", { device: "7c", name: "truck-17", since: at(21) }));
  const listed = withDevices(cut, [device({ name: "renamed" })]);
  expect(listed.get("7c")).toMatchObject({ name: "renamed", position: { lat: 2 }, presence: { state: "offline" } });
});

test("what_the_list_no_longer_has_or_calls_revoked_is_gone", () => {
  const two = withDevices(start, [device(), device({ id: "7d" }), device({ id: "7e", revoked: true })]);
  expect([...two.keys()]).toEqual(["7c", "7d"]);
  expect([...withDevices(two, [device()]).keys()]).toEqual(["7c"]);
  expect(withEvent(two, event("waypost.device.revoked", { device: "7d", name: "truck-18" })).has("7d")).toBe(false);
});

test("a_server_that_started_again_and_knows_no_presence_is_believed", () => {
  expect(withDevices(start, [device({ presence: { state: "unknown", since: null } })]).get("7c")?.presence.state).toBe("unknown");
});

const MINUTE = 60;
test.each([
  ["moving", {}, 0],
  ["standing", { position: position({ speed_mps: 0.9 }) }, 0],
  ["standing", { position: position({ speed_mps: null }) }, 0],
  ["moving", {}, 5 * MINUTE],
  ["silent", {}, 6 * MINUTE],
  ["no_position", { position: null }, 0],
  ["cut_off", { presence: { state: "offline", since: at(-40) } }, 0],
  ["offline", { presence: { state: "offline", since: at(-15 * MINUTE) } }, 0],
  ["offline", { presence: { state: "offline", since: null }, last_seen: null }, 0],
  ["moving", { presence: { state: "unknown", since: null } }, 30],
  ["cut_off", { presence: { state: "unknown", since: null } }, 2 * MINUTE],
  ["offline", { presence: { state: "unknown", since: null }, position: null, last_seen: null }, 0],
] as [VehicleState["kind"], Parameters<typeof device>[0], number][])("it_is_%s_with_%j_after_%i_s", (kind, over, seconds) => {
  expect(stateOf(device(over), T0 + seconds * 1000).kind).toBe(kind);
});
