import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Live } from "./live.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

/** A server whose answers a test writes by hand, one connection after the other; null, and beyond the last, is a stream that stays open. */
function serverWith(...answers: ((() => Response) | null)[]) {
  const requests: Headers[] = [];
  const said: string[] = [];
  const streams: ReadableStreamDefaultController<Uint8Array>[] = [];
  const live = new Live(
    ["waypost.entry.accepted"],
    {
      onEvent: (event) => said.push(event.id),
      onConnected: () => said.push("connected"),
      onLost: () => said.push("lost"),
      onSignedOut: () => said.push("signed out"),
    },
    async (_, init) => {
      requests.push(new Headers(init?.headers));
      const answer = answers[requests.length - 1];
      if (answer) return answer();
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          streams.push(controller);
          init?.signal?.addEventListener("abort", () => controller.error(new Error("aborted")), { once: true });
        },
      });
      return new Response(body, { status: 200 });
    },
  );
  const send = (text: string) => streams.at(-1)!.enqueue(new TextEncoder().encode(text));
  const settle = () => vi.advanceTimersByTimeAsync(0);
  return { live, requests, said, streams, send, settle };
}

test("a_broken_connection_goes_on_after_the_last_event_that_was_taken", async () => {
  const { live, requests, said, streams, send, settle } = serverWith();
  void live.run();
  await settle();
  send('id: 7\ndata: {"id":"seven"}\n\nid: 8\ndata: {"id":"ei');
  await settle();
  streams[0]!.error(new Error("reset"));
  await vi.advanceTimersByTimeAsync(3_000);
  expect(said).toEqual(["connected", "seven", "lost", "connected"]);
  expect(requests.map((headers) => headers.get("last-event-id"))).toEqual([null, "7"]);
  live.stop();
});

test("silence_beyond_the_keep_alives_is_a_dead_connection", async () => {
  const { live, requests, said, send, settle } = serverWith();
  void live.run();
  await settle();
  for (let i = 0; i < 8; i++) {
    await vi.advanceTimersByTimeAsync(15_000);
    send(": keep-alive\n\n");
  }
  expect(said).toEqual(["connected"]);
  await vi.advanceTimersByTimeAsync(45_000);
  expect(said).toEqual(["connected", "lost", "connected"]);
  expect(requests).toHaveLength(2);
  live.stop();
});

test("a_session_that_is_over_ends_it_for_good", async () => {
  const { live, requests, said } = serverWith(() => new Response(null, { status: 401 }));
  await live.run();
  expect(said).toEqual(["signed out"]);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(requests).toHaveLength(1);
});

test("a_server_that_is_away_is_asked_less_and_less_often_and_at_once_when_the_network_is_back", async () => {
  const away = () => new Response(null, { status: 503 });
  const { live, requests } = serverWith(...Array.from({ length: 30 }, () => away));
  void live.run();
  await vi.advanceTimersByTimeAsync(120_000);
  const asked = requests.length;
  expect(asked).toBeGreaterThan(7);
  expect(asked).toBeLessThan(22);
  live.hurry();
  await vi.advanceTimersByTimeAsync(0);
  expect(requests.length).toBe(asked + 1);
  live.stop();
});

test("an_event_that_cannot_be_read_is_stepped_over", async () => {
  const { live, said, send, settle } = serverWith();
  void live.run();
  await settle();
  send('id: 1\ndata: {nonsense\n\nid: 2\ndata: {"id":"two"}\n\n');
  await settle();
  expect(said).toEqual(["connected", "two"]);
  live.stop();
});

test("a_cursor_that_the_server_no_longer_has_is_let_go", async () => {
  const { live, requests, said, streams, send, settle } = serverWith(null, () => new Response(null, { status: 410 }));
  void live.run();
  await settle();
  send('id: 900\ndata: {"id":"x"}\n\n');
  await settle();
  streams[0]!.error(new Error("reset"));
  await vi.advanceTimersByTimeAsync(10_000);
  expect(requests.map((headers) => headers.get("last-event-id"))).toEqual([null, "900", null]);
  expect(said).toEqual(["connected", "x", "lost", "lost", "connected"]);
  live.stop();
});
