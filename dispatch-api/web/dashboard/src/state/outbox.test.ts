import { expect, test } from "vitest";
import { DRIVER, entry, ME } from "./samples.ts";
import {
  nextToSend,
  restored,
  shownIn,
  withAnswered,
  withDiscarded,
  withFailed,
  withRetry,
  withSeen,
  withSending,
  withWritten,
  type Outbox,
} from "./outbox.ts";

const written = (keys: string[], text = (key: string) => `text ${key}`, after = 0): Outbox =>
  keys.reduce<Outbox>((outbox, key) => withWritten(outbox, { key, stream: "4711", text: text(key), urgent: false, replyTo: null, after }), []);
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
