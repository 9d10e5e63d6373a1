import { expect, test } from "vitest";
import type { Device } from "@waypost/shared/wire";
import { withDevices } from "./fleet.ts";
import { withFailed, withSending, withWritten } from "./outbox.ts";
import { heldStill, inOrder, matches, rowsOf, type Filter, type Row } from "./rows.ts";
import { at, climbed, device, DRIVER, entry, ME, stream, T0 } from "./samples.ts";
import { emptyThread, withEntries, withEvent, withOwnRead, withStream, type Thread } from "./thread.ts";

/** A fleet with one vehicle for each thing that can need a dispatcher, named for it. */
function sample(): Row[] {
  const devices: Device[] = [];
  const threads = new Map<string, Thread>();
  const add = (name: string, over: Partial<Device> = {}, thread: (empty: Thread) => Thread = (empty) => empty) => {
    devices.push(device({ id: name, name, stream: name, ...over }));
    threads.set(name, thread({ ...emptyThread(name), ...withStream(emptyThread(name), stream({ id: name })) }));
  };
  const says = (seq: number, over = {}) => (thread: Thread) => withEntries(thread, [entry(seq, DRIVER, over)], [1, seq]);
  const weSay = (seq: number) => (thread: Thread) => withEntries(thread, [entry(seq, ME)], [1, seq]);
  add("offline", { presence: { state: "offline", since: at(-86_400) } });
  add("moving-10");
  add("moving-9");
  add("cut-off", { presence: { state: "offline", since: at(-20) } });
  add("not-read", {}, (thread) => withEvent(weSay(1)(thread), climbed("delivered", 1, 1), ME.id));
  add("no-answer", {}, (thread) => withEvent(weSay(1)(thread), climbed("read", 1, 1), ME.id));
  add("undelivered-late", {}, weSay(9));
  add("undelivered-early", {}, weSay(2));
  add("unread", {}, says(3));
  add("urgent", {}, says(5, { urgent: true }));
  add("read", {}, (thread) => withOwnRead(says(4)(thread), 4));
  add("unsent");
  const outbox = withFailed(withSending(withWritten([], { key: "k", stream: "unsent", text: "x", reply: null, urgent: false, replyTo: null, after: 0 }), "k"), "k", "no");
  return rowsOf(withDevices(new Map(), devices), threads, outbox, T0);
}

const names = (rows: readonly Row[]) => rows.map((row) => row.device.name);

test("urgent_first_means_by_need_then_by_waiting_then_by_name", () => {
  expect(names(inOrder(sample(), "urgency"))).toEqual([
    "urgent",
    "unsent",
    "unread",
    "undelivered-early",
    "undelivered-late",
    "not-read",
    "no-answer",
    "cut-off",
    "moving-9",
    "moving-10",
    "read",
    "offline",
  ]);
});

test("by_name_counts_as_people_count", () => {
  expect(names(inOrder(sample(), "name")).filter((name) => name.startsWith("moving"))).toEqual(["moving-9", "moving-10"]);
});

test.each([
  ["all", "", 12],
  ["unread", "", 2],
  ["unanswered", "", 5],
  ["lost", "", 2],
  ["all", "keller MOVING", 2],
  ["all", "nobody", 0],
] as [Filter, string, number][])("the_filter_%s_with_the_search_'%s'_leaves_%i", (filter, search, left) => {
  expect(sample().filter((row) => matches(row, filter, search))).toHaveLength(left);
});

test("an_order_that_is_held_still_keeps_its_lines_and_adds_new_ones_below", () => {
  const rows = inOrder(sample(), "urgency");
  const shown = ["moving-9", "urgent", "gone"];
  expect(names(heldStill(rows, shown)).slice(0, 4)).toEqual(["moving-9", "urgent", "unsent", "unread"]);
});
