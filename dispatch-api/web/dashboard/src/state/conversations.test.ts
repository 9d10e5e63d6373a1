import { expect, test } from "vitest";
import type { Stream } from "@waypost/shared/wire";
import { conversationsOf, inFilter, type Filter } from "./conversations.ts";
import { withDevices } from "./fleet.ts";
import { groupRowsOf } from "./groups.ts";
import { withFailed, withWritten } from "./outbox.ts";
import { rowsOf } from "./rows.ts";
import { climbed, device, driver, DRIVER, entry, ME, stream, T0 } from "./samples.ts";
import { emptyThread, withEntries, withEvent, withStream, type Thread } from "./thread.ts";

const members = [driver("a"), driver("b")];
const group = (id: string, head = 0, unread = 0): Stream => stream({ id, kind: "group", title: id, members, head, unread });
const threadOf = (one: Stream, ...entries: ReturnType<typeof entry>[]): Thread =>
  withEntries(withStream(emptyThread(one.id), one), entries.map((each) => ({ ...each, stream: one.id })), [1, Math.max(1, ...entries.map((each) => each.seq))]);

function sample() {
  const streams = [group("Silent"), group("Read"), group("Spoken", 5, 1), group("Unsent")];
  const direct = stream({ id: "direct" });
  const read = [driver("a"), driver("b")].reduce<Thread>((thread, member) => withEvent(thread, climbed("read", 1, 3, member, "Read"), ME.id), threadOf(streams[1]!, entry(3, ME)));
  const threads = new Map([
    ["Silent", threadOf(streams[0]!)],
    ["Read", read],
    ["Spoken", threadOf(streams[2]!, entry(5, driver("a"), { urgent: true }))],
    ["Unsent", threadOf(streams[3]!, entry(1, ME))],
    ["direct", threadOf(direct, entry(4, DRIVER))],
  ]);
  const devices = [device({ stream: "direct" }), device({ id: "z", stream: "nothing" })];
  const outbox = withFailed(withWritten([], { key: "k", stream: "Unsent", text: "x", reply: null, urgent: false, replyTo: null, after: 0 }), "k", "no");
  const groups = groupRowsOf(new Map([...streams, direct].map((one) => [one.id, one])), threads, outbox);
  return conversationsOf(rowsOf(withDevices(new Map(), devices), threads, outbox, T0), groups);
}

const ids = (filter: Filter) => sample().filter((one) => inFilter(one, filter)).map((one) => one.id);

test("the_inbox_has_the_newest_word_first_no_empty_vehicles_and_every_group", () => {
  expect(ids("all")).toEqual(["Spoken", "7c", "Read", "Unsent", "Silent"]);
});

test("a_group_waits_until_all_have_read_our_last_word", () => {
  expect(ids("unanswered")).toEqual(["Unsent"]);
  expect(sample().find((one) => one.id === "Unsent")?.row.waitsFor).toMatchObject({ tally: { recipients: 2, delivered: 0, read: 0 } });
});

test("what_drivers_write_to_a_group_is_unread_and_urgent_where_it_is", () => {
  expect(ids("unread")).toEqual(["Spoken", "7c"]);
  expect(sample()[0]?.row).toMatchObject({ unread: 1, urgentUnread: true });
});

test("who_joins_after_our_last_word_does_not_hide_who_has_yet_to_read_it", () => {
  const one = group("Waiting");
  const joined = entry(2, ME, { author: { id: "system", kind: "system", name: "Waypost" }, body: { kind: "system", event: "joined", device: driver("b"), text: "b joined" } });
  const [row] = groupRowsOf(new Map([[one.id, one]]), new Map([[one.id, threadOf(one, entry(1, ME), joined)]]), []);
  expect(row?.waitsFor).toMatchObject({ entry: { seq: 1 }, tally: { recipients: 2, read: 0 } });
});
