/** Quick replies, groups and broadcasts of the dashboard's state against the mock, whose drivers do only what a test says. */

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { missingIn, viewOf, type Missing } from "../dashboard/src/state/broadcasts.ts";
import { Dispatch } from "../dashboard/src/state/dispatch.svelte.ts";
import { shownIn } from "../dashboard/src/state/outbox.ts";
import { standingLabel, standingOf } from "../dashboard/src/state/thread.ts";
import { browserFor, type Fault } from "./cookie-jar.ts";
import { startMock } from "./mock.mjs";

let mock: Awaited<ReturnType<typeof startMock>>;
let dispatch: Dispatch;
let fault: Fault | null;

/** A vehicle, its conversation, and those of the group North: the mock names its vehicles b, c, d, e. */
const STREAM = "4712";
const NORTH = ["c", "d", "e"];

beforeEach(async () => {
  const kept = new Map<string, string>();
  vi.stubGlobal("navigator", { languages: ["en-GB", "en"] });
  vi.stubGlobal("localStorage", { getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, value: string) => kept.set(key, value) });
  mock = await startMock({ vehicles: 4, idle: true });
  fault = null;
  dispatch = new Dispatch(browserFor(() => mock.url, () => fault));
  await dispatch.signIn("dispatcher@example.com", "waypost");
  await vi.waitFor(() => expect([dispatch.connected, dispatch.templates.length > 0, dispatch.groups.length > 0]).toEqual([true, true, true]));
});

afterEach(async () => {
  vi.useRealTimers();
  await dispatch.signOut().catch(() => {});
  await mock.close();
  vi.unstubAllGlobals();
});

const template = (key: string) => dispatch.templates.find((candidate) => candidate.key === key)!;
const north = () => dispatch.groups.find((group) => group.name === "North")!;
const bodies = (stream: string) => dispatch.thread(stream).entries.map((entry) => entry.body);

test("a_quick_reply_with_a_slot_is_sent_and_comes_back_as_text", async () => {
  dispatch.sendReply(STREAM, template("late"), { minutes: "15" }, false, null);
  expect(shownIn(dispatch.outbox, STREAM)).toMatchObject([{ text: "Running late 15 min" }]);
  await vi.waitFor(() => expect(bodies(STREAM).at(-1)).toMatchObject({ kind: "reply", template: "late", version: 1, slots: { minutes: "15" }, text: "Running late 15 min" }));
  expect(dispatch.outbox).toEqual([]);
});

test("a_quick_reply_that_one_click_sends_can_be_taken_back_and_is_never_sent_then", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  dispatch.sendReply(STREAM, template("ok"), {}, false, null);
  dispatch.discard(dispatch.outbox[0]!);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(dispatch.outbox).toEqual([]);
  expect(mock.requests.filter((request) => request.startsWith("POST") && request.endsWith("/entries"))).toEqual([]);
});

test("a_quick_reply_that_nobody_takes_back_is_sent_once", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  dispatch.sendReply(STREAM, template("ok"), {}, false, null);
  expect(dispatch.outbox).toMatchObject([{ state: "held" }]);
  await vi.advanceTimersByTimeAsync(60_000);
  vi.useRealTimers();
  await vi.waitFor(() => expect(bodies(STREAM).filter((body) => body.kind === "reply")).toHaveLength(1));
  expect(mock.requests.filter((request) => request.startsWith("POST") && request.endsWith("/entries"))).toHaveLength(1);
});

test("a_message_to_a_group_counts_its_members_as_they_receive_and_read", async () => {
  const { stream } = north();
  dispatch.send(stream, "to all of you", false, null);
  await vi.waitFor(() => expect(bodies(stream).at(-1)).toEqual({ kind: "text", text: "to all of you" }));
  const said = dispatch.thread(stream).entries.at(-1)!;
  const label = () => standingLabel(standingOf(dispatch.thread(stream), said, dispatch.now));
  expect(label()).toBe("Accepted");
  mock.climb(stream, said.seq, "delivered", "c");
  await vi.waitFor(() => expect(label()).toBe("Delivered 1 of 3"));
  for (const device of NORTH) mock.climb(stream, said.seq, "read", device);
  await vi.waitFor(() => expect(label()).toBe("Read"));
  mock.answer(stream, said.seq, "d", "understood");
  await vi.waitFor(() => expect([label(), dispatch.groupRows.find((row) => row.stream.id === stream)?.unread]).toEqual(["Answered 1 of 3", 1]));
});

test("a_broadcast_shows_who_is_missing_and_moves_by_events_alone", async () => {
  const sent = await dispatch.sendBroadcast({ to: { groups: [north().id] }, body: { kind: "text", text: "Where are you?" } }, "k1");
  const view = () => viewOf(dispatch.broadcasts.get(sent.id)!);
  const missing = () => names(missingIn(view().outstanding ?? [], dispatch.fleet));
  expect(missing()).toEqual({ notReceived: ["c", "d", "e"], notRead: [], notAnswered: [] });
  fault = (path, _, go) => (path.includes("/broadcasts") ? Promise.reject(new TypeError("cut")) : go());
  mock.climb(sent.stream, 1, "delivered", "c");
  mock.climb(sent.stream, 1, "read", "d");
  await vi.waitFor(() => expect(missing()).toEqual({ notReceived: ["e"], notRead: ["c"], notAnswered: ["d"] }));
  mock.answer(sent.stream, 1, "d", "North of Gretna");
  await vi.waitFor(() => expect(missing()).toEqual({ notReceived: ["e"], notRead: ["c"], notAnswered: [] }));
  expect(view().counts).toEqual({ recipients: 3, sent: 2, delivered: 2, read: 1, acted: 1 });
  const answered = dispatch.thread("4713").entries.at(-1);
  expect(answered).toMatchObject({ reply_to: 1, reply_to_stream: sent.stream, body: { text: "North of Gretna" } });
});

const names = (missing: Missing) => Object.fromEntries(Object.entries(missing).map(([key, rows]) => [key, rows.map((row: { member: { id: string } }) => row.member.id).sort()]));

test("a_broadcast_whose_answer_was_lost_and_is_sent_again_is_one", async () => {
  const to = { to: { devices: ["b"] }, body: { kind: "text" as const, text: "once" } };
  fault = async (path, init, go) => {
    const answer = await go();
    if (init.method === "POST" && path.endsWith("/broadcasts")) throw new TypeError("connection reset");
    return answer;
  };
  await expect(dispatch.sendBroadcast(to, "same")).rejects.toMatchObject({ kind: "unreachable" });
  fault = null;
  await dispatch.sendBroadcast(to, "same");
  await dispatch.loadOffice();
  expect(dispatch.sentBroadcasts).toHaveLength(1);
});

test("a_broadcast_by_a_colleague_appears_by_itself_and_tells_who_is_missing_once_it_moves", async () => {
  const colleague = new Dispatch(browserFor(() => mock.url));
  await colleague.signIn("admin@example.com", "waypost");
  const sent = await colleague.sendBroadcast({ to: { groups: [north().id] }, body: { kind: "text", text: "theirs" } }, "k1");
  await vi.waitFor(() => expect(dispatch.sentBroadcasts.map((view) => view.broadcast.id)).toEqual([sent.id]));
  expect(dispatch.sentBroadcasts[0]?.outstanding).toBeNull();
  mock.climb(sent.stream, 1, "delivered", "c");
  await vi.waitFor(() => expect(dispatch.sentBroadcasts[0]).toMatchObject({ counts: { delivered: 1 }, outstanding: expect.arrayContaining([expect.objectContaining({ stage: "delivered" })]) }));
  await colleague.signOut();
});

test("what_a_broadcast_did_while_the_stream_was_down_is_there_after_it", async () => {
  const sent = await dispatch.sendBroadcast({ to: { groups: [north().id] }, body: { kind: "text", text: "meanwhile" } }, "k1");
  mock.dropStreams();
  await vi.waitFor(() => expect(dispatch.connected).toBe(false));
  for (const device of NORTH) mock.climb(sent.stream, 1, "read", device);
  await vi.waitFor(() => expect(dispatch.sentBroadcasts[0]?.counts).toMatchObject({ delivered: 3, read: 3, acted: 0 }), 5000);
});

test("what_no_event_told_of_a_broadcast_is_asked_for_when_the_connection_is_made_anew", async () => {
  const sent = await dispatch.sendBroadcast({ to: { groups: [north().id] }, body: { kind: "text", text: "unheard" } }, "k1");
  for (const device of NORTH) mock.climb(sent.stream, 1, "delivered", device, { quiet: true });
  mock.dropStreams();
  await vi.waitFor(() => expect(dispatch.sentBroadcasts[0]).toMatchObject({ counts: { delivered: 3 }, outstanding: [{ stage: "delivered" }, { stage: "delivered" }, { stage: "delivered" }] }), 5000);
});

test("a_server_that_knows_no_templates_groups_or_broadcasts_leaves_the_page_working", async () => {
  fault = (path, _, go) => (/\/(templates|groups|broadcasts)\b/.test(path) ? Promise.resolve(new Response("{}", { status: 404 })) : go());
  const plain = new Dispatch(browserFor(() => mock.url, () => fault));
  await plain.signIn("dispatcher@example.com", "waypost");
  await vi.waitFor(() => expect(plain.connected).toBe(true));
  await plain.loadOffice();
  expect([plain.templates, plain.groups, plain.sentBroadcasts]).toEqual([[], [], []]);
  expect(plain.connected).toBe(true);
  await plain.signOut();
});
