/** The dashboard's state against the mock over real HTTP: what a browser would do, without one. */

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { lastEntry, stateOf } from "../dashboard/src/state/thread.ts";
import { Dispatch } from "../dashboard/src/state/dispatch.svelte.ts";
import { browserFor, type Fault } from "./cookie-jar.ts";
import { startMock } from "./mock.mjs";

let mock: Awaited<ReturnType<typeof startMock>>;
let dispatch: Dispatch;
/** What the network does to a request; null leaves it alone. */
let fault: Fault | null;

beforeEach(async () => {
  const kept = new Map<string, string>();
  vi.stubGlobal("localStorage", { getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, value: string) => kept.set(key, value) });
  mock = await startMock({ vehicles: 4, hasty: true });
  fault = null;
  dispatch = new Dispatch(browserFor(() => mock.url, () => fault));
  await dispatch.signIn("dispatcher@example.com", "waypost");
  await vi.waitFor(() => expect(dispatch.connected).toBe(true));
});

afterEach(async () => {
  await dispatch.signOut().catch(() => {});
  await mock.close();
  vi.unstubAllGlobals();
});

const STREAM = "4712";
const texts = (text: string) => dispatch.thread(STREAM).entries.filter((entry) => entry.body.kind === "text" && entry.body.text === text);

test("a_message_climbs_the_ladder_by_events_alone", async () => {
  dispatch.send(STREAM, "hello", false, null);
  await vi.waitFor(() => expect(texts("hello").map((entry) => stateOf(dispatch.thread(STREAM), entry, dispatch.now))).toEqual([expect.stringMatching(/Read|Answered/)]), 5000);
  expect(dispatch.outbox).toEqual([]);
});

test("what_was_missed_while_the_stream_was_down_is_there_after_it_and_once", async () => {
  mock.dropStreams();
  await vi.waitFor(() => expect(dispatch.connected).toBe(false));
  for (let n = 0; n < 5; n++) mock.say("c", `missed ${n}`);
  await vi.waitFor(() => expect(dispatch.connected).toBe(true), 5000);
  await vi.waitFor(() => expect([0, 1, 2, 3, 4].map((n) => texts(`missed ${n}`).length)).toEqual([1, 1, 1, 1, 1]), 5000);
});

test("a_message_whose_answer_was_lost_stays_and_retry_makes_it_one_entry", async () => {
  fault = async (path, init, go) => {
    const answer = await go();
    if (init.method === "POST" && path.endsWith("/entries")) throw new TypeError("connection reset");
    return answer;
  };
  dispatch.send(STREAM, "once", false, null);
  dispatch.send(STREAM, "after it", false, null);
  await vi.waitFor(() => expect(dispatch.outbox.map((message) => message.state)).toEqual(["failed", "failed"]));
  fault = null;
  dispatch.retry(STREAM);
  await vi.waitFor(() => expect(dispatch.outbox).toEqual([]));
  expect([texts("once").length, texts("after it").length]).toEqual([1, 1]);
  expect(texts("once")[0]!.seq).toBeLessThan(texts("after it")[0]!.seq);
});

test("a_session_that_ends_leads_to_the_sign_in_page_and_keeps_what_was_being_written", async () => {
  dispatch.setDraft(STREAM, "half a sen");
  fault = async (path, init, go) => (init.method === "POST" && path.endsWith("/entries") ? Promise.reject(new TypeError("cut")) : go());
  dispatch.send(STREAM, "unsent", true, null);
  await vi.waitFor(() => expect(dispatch.outbox[0]?.state).toBe("failed"));
  fault = null;
  mock.endSessions();
  await vi.waitFor(() => expect(dispatch.access).toEqual({ kind: "signed_out", because: "ended" }), 5000);
  expect(dispatch.threads.size).toBe(0);
  await dispatch.signIn("dispatcher@example.com", "waypost");
  expect(dispatch.drafts.get(STREAM)).toBe("half a sen");
  expect(dispatch.outbox).toMatchObject([{ text: "unsent", urgent: true, state: "failed" }]);
});

test("opening_and_scrolling_up_reach_the_first_entry_and_every_entry_is_there_once", async () => {
  await dispatch.open("4711");
  while (!dispatch.thread("4711").complete) expect(await dispatch.loadOlder("4711")).toBe(true);
  const { entries, head } = dispatch.thread("4711");
  expect(entries.map((entry) => entry.seq)).toEqual(Array.from({ length: head }, (_, index) => index + 1));
});

test("an_entry_whose_event_never_came_is_fetched_when_the_next_shows_the_gap", async () => {
  await dispatch.open(STREAM);
  mock.say("c", "unheard", { quiet: true });
  mock.say("c", "heard");
  await vi.waitFor(() => expect([texts("unheard").length, texts("heard").length]).toEqual([1, 1]));
});

test("a_long_absence_is_caught_up_in_pages", async () => {
  await dispatch.open(STREAM);
  const known = dispatch.thread(STREAM).head;
  mock.dropStreams();
  await vi.waitFor(() => expect(dispatch.connected).toBe(false));
  for (let n = 0; n < 130; n++) mock.say("c", `late ${n}`);
  await vi.waitFor(() => expect(dispatch.thread(STREAM).entries.filter((entry) => entry.seq > known)).toHaveLength(130), 8000);
  expect(lastEntry(dispatch.thread(STREAM))?.seq).toBe(known + 130);
});

test("reading_is_told_to_the_server_once_and_clears_the_count", async () => {
  await dispatch.open(STREAM);
  await vi.waitFor(() => expect(dispatch.rowOfDevice.get("c")?.unread).toBeGreaterThan(0));
  await dispatch.markRead(STREAM);
  await dispatch.markRead(STREAM);
  expect(dispatch.rowOfDevice.get("c")?.unread).toBe(0);
  expect(mock.requests.filter((request) => request.startsWith("PUT"))).toHaveLength(1);
});

test("a_wrong_password_is_told_in_words_for_people", async () => {
  const other = new Dispatch(browserFor(() => mock.url));
  await expect(other.signIn("dispatcher@example.com", "wrong")).rejects.toMatchObject({ kind: "signed_out", message: "Email or password is wrong." });
});
