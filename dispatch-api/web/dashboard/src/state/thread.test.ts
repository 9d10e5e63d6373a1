import { expect, test } from "vitest";
import type { FleetEvent, Member, Receipt } from "@waypost/shared/wire";
import { acted, at, climbed, DRIVER, driver, entry, event, ME, permutations, stream, T0 } from "./samples.ts";
import {
  awaiting,
  emptyThread,
  gapOf,
  hasOvertaken,
  progressOf,
  standingIn,
  standingLabel,
  standingOf,
  stateOf,
  tallyOf,
  unreadOf,
  unresolved,
  withEntries,
  withEvent,
  withOwnRead,
  withReceipts,
  withReceiptsStale,
  withStream,
  type EntryState,
  type Thread,
} from "./thread.ts";

const empty = emptyThread("4711");
const accepted = (seq: number, author = ME, over = {}) => event("waypost.entry.accepted", { entry: entry(seq, author, over) });
const apply = (thread: Thread, events: readonly FleetEvent[]) => events.reduce((next, one) => withEvent(next, one, ME.id), thread);
const states = (thread: Thread) => thread.entries.map((one) => stateOf(thread, one, T0));
const receipt = (over: Partial<Receipt>): Receipt => ({ member: DRIVER, accepted: null, sent: null, delivered: null, read: null, acted: null, ...over });
const rung = { device_at: at(0), server_at: at(0), offset_ms: 0 };

test("events_in_any_order_and_more_than_once_give_the_same_thread", () => {
  const events = [
    accepted(1),
    accepted(2),
    accepted(3, DRIVER, { reply_to: 1 }),
    climbed("delivered", 1, 2),
    climbed("read", 1, 1),
    event("waypost.entry.acted", { stream: "4711", seq: 1, member: DRIVER, answer_stream: "4711", answer_seq: 3 }),
  ];
  for (const order of permutations(events)) {
    const thread = apply(apply(empty, order), order);
    expect(thread.entries.map((one) => one.seq)).toEqual([1, 2, 3]);
    expect(states(thread)).toEqual(["Answered", "Delivered", "Accepted"]);
    expect(thread.head).toBe(3);
  }
});

test("a_tick_is_never_taken_back", () => {
  const ladder: EntryState[] = ["Accepted", "Sent", "Delivered", "Read", "Answered"];
  const events = [climbed("sent", 1, 1), climbed("delivered", 1, 1), climbed("read", 1, 1), event("waypost.entry.acted", { stream: "4711", seq: 1, member: DRIVER, answer_stream: "4711", answer_seq: 2 })];
  for (const order of permutations(events)) {
    let thread = apply(empty, [accepted(1)]);
    let rank = 0;
    for (const one of order) {
      thread = withEvent(thread, one, ME.id);
      const next = ladder.indexOf(states(thread)[0]!);
      expect(next).toBeGreaterThanOrEqual(rank);
      rank = next;
    }
    expect(rank).toBe(4);
  }
});

test("a_page_and_the_event_of_the_same_entry_show_it_once", () => {
  const page = [entry(4, ME), entry(5, DRIVER)];
  const thread = withEntries(apply(empty, [accepted(5, DRIVER)]), page, [4, 5]);
  expect(thread.entries.map((one) => one.seq)).toEqual([4, 5]);
  expect(withEntries(thread, page, [4, 5])).toBe(thread);
});

test("numbers_that_events_did_not_bring_are_a_gap_until_an_answer_speaks_for_them", () => {
  let thread = withEntries(empty, [entry(1, ME), entry(2, ME)], [1, 2]);
  thread = apply(thread, [accepted(7)]);
  expect(gapOf(thread)).toEqual([3, 6]);
  thread = withEntries(thread, [entry(3, ME), entry(6, ME)], [3, 6]);
  expect(gapOf(thread)).toBeNull();
  expect(thread.entries.map((one) => one.seq)).toEqual([1, 2, 3, 6, 7]);
  expect(gapOf(withStream(thread, stream({ head: 9 })))).toEqual([8, 9]);
});

test("a_thread_of_which_nothing_is_held_asks_for_nothing", () => {
  expect(gapOf(withStream(empty, stream({ head: 400, unread: 3 })))).toBeNull();
});

test("what_the_device_read_counts_for_ours_and_what_we_read_for_theirs", () => {
  const office = { id: "office", kind: "office" as const, name: "Office" };
  const thread = apply(empty, [accepted(1), accepted(2, DRIVER), climbed("read", 1, 2, office)]);
  expect(states(thread)).toEqual(["Accepted", "Read"]);
});

test("what_has_expired_says_so_unless_it_had_arrived_before", () => {
  const expired = [1, 2].map((seq) => event("waypost.entry.expired", { hop: "server" as const, stream: "4711", seq, missed: 1 }));
  const thread = apply(empty, [accepted(1), accepted(2), accepted(3, ME, { expires_at: at(-1) }), climbed("delivered", 1, 1), ...expired]);
  expect(states(thread)).toEqual(["Delivered", "Expired", "Expired"]);
});

test("who_reads_on_has_not_read_what_expired_before_it_came", () => {
  const held = withEntries(empty, [entry(1, ME, { expires_at: at(-1) }), entry(2, ME)], [1, 2]);
  const gone = withReceipts(held, 1, [receipt({ expired: { ...rung, hop: "server" } })]);
  const thread = withReceipts(gone, 2, [receipt({ sent: rung, delivered: rung, read: rung })]);
  expect(states(thread)).toEqual(["Expired", "Read"]);
});

test("what_another_entry_has_taken_the_place_of_says_so_however_that_is_heard", () => {
  const told = event("waypost.entry.superseded", { stream: "4711", seq: 1, superseded_by: 3 });
  const thread = apply(empty, [accepted(1), accepted(2, ME, { superseded_by: 3 }), accepted(3), climbed("read", 1, 3), told]);
  expect(states(thread)).toEqual(["Superseded", "Superseded", "Read"]);
  expect(standingOf({ ...thread, kind: "group" }, thread.entries[0]!, 0).state).toBe("Superseded");
});

test.each([
  ["the server's count stands while nothing else is known", (thread: Thread) => thread, 3],
  ["what comes after the count is added", (thread: Thread) => apply(thread, [accepted(11, DRIVER), accepted(12)]), 4],
  ["reading to the end clears it", (thread: Thread) => withOwnRead(thread, 10), 0],
  ["and only newer words count again", (thread: Thread) => apply(withOwnRead(thread, 10), [accepted(11, DRIVER)]), 1],
  ["reading on another screen clears it too", (thread: Thread) => apply(thread, [climbed("read", 1, 10, ME)]), 0],
  ["a colleague's reading does not", (thread: Thread) => apply(thread, [climbed("read", 1, 10, { ...ME, id: "p2" })]), 3],
  ["an older answer of the server does not bring it back", (thread: Thread) => withStream(withStream(thread, stream({ head: 10, unread: 0 })), stream({ head: 10, unread: 3 })), 0],
  ["reading part of it leaves the rest", (thread: Thread) => withOwnRead(thread, 9), 1],
])("unread: %s", (_, change, unread) => {
  const entries = [7, 8, 9, 10].map((seq) => entry(seq, DRIVER));
  const counted = withStream(withEntries(empty, entries, [7, 10]), stream({ head: 10, unread: 3 }));
  expect(unreadOf(change(counted))).toBe(unread);
});

test("reading_an_entry_means_that_all_before_it_were_read", () => {
  const held = withEntries(empty, [entry(1, ME), entry(2, ME), entry(3, ME)], [1, 3]);
  const thread = withReceipts(withReceipts(held, 2, [receipt({ sent: rung, delivered: rung, read: rung })]), 3, [receipt({ sent: rung })]);
  expect(states(thread)).toEqual(["Read", "Read", "Sent"]);
});

test("receipts_are_asked_for_from_the_newest_down_to_what_is_known_to_be_read", () => {
  const held = withEntries(empty, [entry(1, ME), entry(2, ME), entry(3, DRIVER), entry(4, ME), entry(5, ME)], [1, 5]);
  expect(unresolved(held, 9)).toEqual([5, 4, 2, 1]);
  expect(unresolved(held, 1)).toEqual([5]);
  const asked = withReceipts(withReceipts(held, 5, [receipt({ sent: rung })]), 4, [receipt({ read: rung })]);
  expect(unresolved(asked, 9)).toEqual([]);
  expect(unresolved(withReceiptsStale(asked), 9)).toEqual([5]);
});

test("we_wait_for_our_newest_entry_until_the_driver_speaks_or_it_is_answered", () => {
  const ours = apply(empty, [accepted(1), accepted(2)]);
  expect(awaiting(ours)?.seq).toBe(2);
  expect(awaiting(apply(ours, [accepted(3, DRIVER)]))).toBeNull();
  expect(awaiting(apply(ours, [event("waypost.entry.acted", { stream: "4711", seq: 2, member: DRIVER, answer_stream: "4711", answer_seq: 3 })]))).toBeNull();
});

test("the_answer_to_a_broadcast_answers_nothing_in_the_conversation_that_it_stands_in", () => {
  const thread = apply(empty, [accepted(1), accepted(2, DRIVER, { reply_to: 1, reply_to_stream: "900" })]);
  expect(states(thread)[0]).toBe("Accepted");
  expect(states(apply(thread, [accepted(3, DRIVER, { reply_to: 1, reply_to_stream: "4711" })]))[0]).toBe("Answered");
});

const OFFICE = { id: "office", kind: "office" as const, name: "Office" };
const [A, B, C] = ["a", "b", "c"].map(driver) as [Member, Member, Member];
const group = withStream(empty, stream({ kind: "group", members: [A, B, C, OFFICE] }));
const label = (thread: Thread, seq = 1) => standingLabel(standingOf(thread, thread.entries.find((one) => one.seq === seq)!, T0));

test("in_a_group_an_entry_counts_its_members_on_the_rung_that_some_have_yet_to_reach", () => {
  let thread = apply(group, [accepted(1)]);
  const seen = [label(thread)];
  for (const one of [climbed("sent", 1, 1, A), climbed("delivered", 1, 1, A), climbed("read", 1, 1, A), climbed("delivered", 1, 1, B), climbed("read", 1, 1, C), acted("4711", 1, B), climbed("read", 1, 1, B), acted("4711", 1, A), acted("4711", 1, C)]) {
    thread = withEvent(thread, one, ME.id);
    seen.push(label(thread));
  }
  expect(seen).toEqual([
    "Accepted",
    "Sent 1 of 3",
    "Delivered 1 of 3",
    "Delivered 1 of 3",
    "Delivered 2 of 3",
    "Read 2 of 3",
    "Answered 1 of 3",
    "Answered 1 of 3",
    "Answered 2 of 3",
    "Answered",
  ]);
});

test("in_a_group_events_in_any_order_give_the_same_tally_and_no_rung_is_taken_back", () => {
  const ladder = ["Accepted", "Sent", "Delivered", "Read", "Answered"];
  const events = [climbed("delivered", 1, 1, A), climbed("read", 1, 1, A), climbed("delivered", 1, 1, B), climbed("read", 1, 1, C), acted("4711", 1, C)];
  for (const order of permutations(events)) {
    let thread = apply(group, [accepted(1)]);
    let rank = 0;
    for (const one of order) {
      thread = withEvent(thread, one, ME.id);
      const next = ladder.indexOf(label(thread).split(" ")[0]!);
      expect(next).toBeGreaterThanOrEqual(rank);
      rank = next;
    }
    expect(tallyOf(thread, thread.entries[0]!)).toEqual({ recipients: 3, sent: 3, delivered: 3, read: 2, acted: 1 });
  }
});

test("what_a_driver_writes_to_a_group_is_for_the_others_and_the_office", () => {
  const thread = apply(group, [accepted(1, A), climbed("read", 1, 1, B), climbed("read", 1, 1, ME)]);
  expect(tallyOf(thread, thread.entries[0]!)).toMatchObject({ recipients: 3, read: 2 });
});

test("an_entry_is_counted_over_those_who_were_members_when_it_was_written", () => {
  const told = withReceipts(apply(group, [accepted(1)]), 1, [receipt({ delivered: rung, member: A }), receipt({ member: driver("gone") })]);
  expect(label(told)).toBe("Delivered 1 of 2");
});

test("a_group_in_which_nobody_received_an_entry_in_time_says_so", () => {
  const late = apply(group, [accepted(1, ME, { expires_at: at(-1) })]);
  expect(label(late)).toBe("Expired");
  expect(label(apply(late, [climbed("delivered", 1, 1, A)]))).toBe("Delivered 1 of 3");
});

test("an_entry_for_nobody_stays_accepted", () => {
  expect(standingIn({ recipients: 0, sent: 0, delivered: 0, read: 0, acted: 0 })).toEqual({ state: "Accepted", count: null });
});

test("in_a_group_receipts_are_asked_for_everyones_entries_until_one_that_all_have_read", () => {
  const thread = apply(group, [accepted(1), accepted(2), accepted(3, A), ...[A, B, C].map((member) => climbed("read", 1, 2, member))]);
  expect(unresolved(thread, 9)).toEqual([3]);
});

test("the_progress_of_an_entry_changes_with_every_receipt_and_with_nothing_else", () => {
  const thread = apply(group, [accepted(1), climbed("delivered", 1, 1, A)]);
  const progress = (one: Thread) => progressOf(one, one.entries[0]!, T0);
  expect(progress(apply(thread, [climbed("read", 1, 1, A)]))).not.toBe(progress(thread));
  expect(progress(withReceipts(thread, 1, [A, B, C].map((member) => receipt({ member }))))).toBe(progress(thread));
});

test("an_urgent_entry_is_marked_until_what_its_author_wrote_before_it_has_come", () => {
  const urgent = accepted(3, DRIVER, { urgent: true, author_op: 9, earlier_op: 8, earlier_under_way: true });
  const other: Member = { id: "7d", kind: "device", name: "Other" };
  const marked = (...events: FleetEvent[]) => {
    const thread = apply(empty, [urgent, ...events]);
    return hasOvertaken(thread, thread.entries.find((one) => one.seq === 3)!);
  };
  expect(marked()).toBe(true);
  expect(marked(accepted(4, DRIVER, { author_op: 7 }))).toBe(true);
  expect(marked(accepted(4, DRIVER, { author_op: 10, urgent: true }))).toBe(true);
  expect(marked(accepted(4, other, { author_op: 8 }))).toBe(true);
  expect(marked(accepted(2, DRIVER, { author_op: 50 }))).toBe(true);
  expect(marked(accepted(4, ME))).toBe(true);
  expect(marked(accepted(4, DRIVER, { author_op: 7 }), accepted(5, DRIVER, { author_op: 8 }))).toBe(false);
  expect(marked(accepted(4, DRIVER, { author_op: 10 }))).toBe(false);
});

test("an_entry_that_overtook_nothing_or_whose_earlier_ones_had_come_is_not_marked", () => {
  const thread = apply(empty, [accepted(1, DRIVER), accepted(2, DRIVER, { urgent: true, author_op: 9, earlier_op: 8, earlier_under_way: false })]);
  expect(thread.entries.map((one) => hasOvertaken(thread, one))).toEqual([false, false]);
});
