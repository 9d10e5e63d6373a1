import { expect, test } from "vitest";
import { DRIVER, entry, ME } from "./samples.ts";
import {
  bodyOf,
  nextToSend,
  restored,
  shownIn,
  withAnswered,
  withDiscarded,
  withFailed,
  withReleased,
  withRetry,
  withSeen,
  withSending,
  withWritten,
  type Outbox,
} from "./outbox.ts";

const written = (keys: string[], text = (key: string) => `text ${key}`, after = 0): Outbox =>
  keys.reduce<Outbox>((outbox, key) => withWritten(outbox, { key, stream: "4711", text: text(key), reply: null, urgent: false, replyTo: null, after }), []);
const asEntry = (seq: number, text: string, author = ME) => entry(seq, author, { body: { kind: "text", text } });

test("messages_to_one_conversation_leave_one_at_a_time_and_in_order", () => {
  let outbox = written(["a", "b"]);
  expect(nextToSend(outbox, "4711")?.key).toBe("a");
  outbox = withSending(outbox, "a");
  expect(nextToSend(outbox, "4711")).toBeNull();
  outbox = withAnswered(outbox, "a");
  expect(nextToSend(outbox, "4711")?.key).toBe("b");
  expect(nextToSend(outbox, "other")).toBeNull();
});

test("a_failure_holds_what_was_written_after_it_and_retry_keeps_the_order_and_the_keys", () => {
  const failed = withFailed(withSending(written(["a", "b"]), "a"), "a", "The server cannot be reached.");
  expect(failed.map((message) => message.state)).toEqual(["failed", "failed"]);
  expect(nextToSend(failed, "4711")).toBeNull();
  const again = withRetry(failed, "4711");
  expect(again.map((message) => [message.key, message.state])).toEqual([["a", "waiting"], ["b", "waiting"]]);
  expect(nextToSend(withDiscarded(again, "a"), "4711")?.key).toBe("b");
});

test("an_entry_that_an_event_shows_first_does_not_stand_beside_its_message", () => {
  const outbox = withSeen(withSending(written(["a"]), "a"), asEntry(5, "text a"), ME.id);
  expect(shownIn(outbox, "4711")).toEqual([]);
  expect(withSeen(outbox, asEntry(5, "text a"), ME.id)).toBe(outbox);
});

test("and_comes_back_to_view_when_its_own_answer_is_lost_rather_than_be_lost_with_it", () => {
  const outbox = withFailed(withSeen(withSending(written(["a"]), "a"), asEntry(5, "text a"), ME.id), "a", "gone");
  expect(shownIn(outbox, "4711").map((message) => message.state)).toEqual(["failed"]);
});

test.each([
  ["somebody else's words", asEntry(5, "text a", { ...ME, id: "p2" })],
  ["the driver's words", asEntry(5, "text a", DRIVER)],
  ["other words", asEntry(5, "text b")],
  ["words from before", asEntry(4, "text a")],
])("%s_are_not_taken_for_the_message_under_way", (_, other) => {
  const outbox = withSending(written(["a"], undefined, 4), "a");
  expect(withSeen(outbox, other, ME.id)).toBe(outbox);
});

test("the_same_words_written_twice_are_two_messages", () => {
  let outbox = withSending(written(["a", "b"], () => "same"), "a");
  outbox = withSeen(outbox, asEntry(5, "same"), ME.id);
  expect(shownIn(outbox, "4711").map((message) => message.key)).toEqual(["b"]);
  outbox = withSending(withAnswered(outbox, "a"), "b");
  outbox = withSeen(outbox, asEntry(6, "same"), ME.id);
  expect(shownIn(outbox, "4711")).toEqual([]);
});

test("what_storage_gives_back_waits_for_a_person_and_nonsense_is_left_out", () => {
  const stored: unknown = JSON.parse(JSON.stringify(withSending(written(["a"]), "a")));
  expect(restored(stored)).toMatchObject([{ key: "a", text: "text a", state: "failed", seenAs: null }]);
  for (const nonsense of [null, "x", {}, [null, 3, { key: "a" }]]) expect(restored(nonsense)).toEqual([]);
});

const reply = { key: "r", stream: "4711", text: "Running late 15 min", reply: { template: "late", slots: { minutes: "15" } }, urgent: false, replyTo: null, after: 0 };

test("a_quick_reply_is_sent_as_its_template_and_slots_and_free_text_as_text", () => {
  expect(bodyOf(reply)).toEqual({ kind: "reply", template: "late", slots: { minutes: "15" } });
  expect(bodyOf({ text: "hello", reply: null })).toEqual({ kind: "text", text: "hello" });
});

test("what_is_held_goes_out_when_its_time_is_over_and_not_before", () => {
  const held = withWritten([], reply, "held");
  expect(nextToSend(held, "4711")).toBeNull();
  expect(shownIn(held, "4711")).toHaveLength(1);
  expect(nextToSend(withReleased(held, (message) => message.key === "other"), "4711")).toBeNull();
  expect(nextToSend(withReleased(held, (message) => message.key === "r"), "4711")?.key).toBe("r");
});

test("writing_on_sends_what_is_held_in_the_same_conversation_first", () => {
  const elsewhere = withWritten(withWritten([], reply, "held"), { ...reply, key: "s", stream: "other" });
  expect(nextToSend(elsewhere, "4711")).toBeNull();
  expect(nextToSend(withWritten(elsewhere, { ...reply, key: "t" }), "4711")?.key).toBe("r");
});

test("what_was_taken_back_is_gone_and_does_not_come_out_later", () => {
  const held = withWritten([], reply, "held");
  expect(withReleased(withDiscarded(held, "r"), () => true)).toEqual([]);
});

test.each([
  ["the same", { template: "late", slots: { minutes: 15 } }, 1],
  ["another slot", { template: "late", slots: { minutes: "20" } }, 0],
  ["another template", { template: "early", slots: { minutes: "15" } }, 0],
] as const)("an event shows a quick reply under way when it says %s, in whatever language", (_, said, seen) => {
  const under = withSending(withWritten([], reply), "r");
  const told = entry(3, ME, { body: { kind: "reply", version: 2, text: "15 min Verspätung", ...said } });
  expect(withSeen(under, told, ME.id).filter((message) => message.seenAs === 3)).toHaveLength(seen);
});

test("quick_replies_come_back_from_storage_and_what_is_no_reply_does_not", () => {
  const stored = JSON.parse(JSON.stringify([...withWritten([], reply, "held"), { ...reply, key: "x", reply: { template: 4 } }, { ...reply, key: "old", reply: undefined }]));
  expect(restored(stored).map((message) => [message.key, message.state, message.reply?.template ?? null])).toEqual([
    ["r", "failed", "late"],
    ["old", "failed", null],
  ]);
});
