/**
 * The stream of events, held open: the one thing on a page that knows whether it is up to date.
 *
 * Read with `fetch` and not with `EventSource`, which hides three things that a dispatcher's page needs: that the session is over (a 401
 * looks to it like any failure), that keep-alives have stopped (it waits on a dead connection for as long as the system does), and when it will try again. Like
 * it, this goes on from the last cursor by `Last-Event-ID`.
 *
 * Nothing is kept here: at most one event is in hand, and `onEvent` takes it before the next is read.
 */

import { BASE } from "./api.ts";
import { SseParser } from "./sse.ts";
import type { FleetEvent } from "./wire.ts";

/** The server speaks every 15 s at least; silence for longer than two of those is a dead connection. */
const SILENCE_MS = 40_000;
const BACKOFF_FIRST_MS = 1_000;
const BACKOFF_MAX_MS = 15_000;

export interface LiveHandlers {
  onEvent(event: FleetEvent): void;
  /** Connected, for the first time or again. What has no cursor (positions, presence) must now be asked for. */
  onConnected(): void;
  onLost(): void;
  onSignedOut(): void;
}

export class Live {
  readonly #types: readonly string[];
  readonly #handlers: LiveHandlers;
  readonly #fetch: typeof fetch;
  #stopped = false;
  #lastId = "";
  #attempt: AbortController | null = null;
  #wake: (() => void) | null = null;

  constructor(types: readonly string[], handlers: LiveHandlers, fetchWith: typeof fetch) {
    this.#types = types;
    this.#handlers = handlers;
    this.#fetch = fetchWith;
  }

  /** Runs until {@link stop}, or until the session is over. */
  async run(): Promise<void> {
    let backoff = BACKOFF_FIRST_MS;
    while (!this.#stopped) {
      const outcome = await this.#once();
      if (this.#stopped) return;
      if (outcome.kind === "signed_out") {
        this.#stopped = true;
        this.#handlers.onSignedOut();
        return;
      }
      this.#handlers.onLost();
      if (outcome.kind === "was_connected") backoff = outcome.retryMs ?? BACKOFF_FIRST_MS;
      await this.#sleep(backoff * (0.5 + Math.random() / 2));
      backoff = Math.min(backoff * 2, BACKOFF_MAX_MS);
    }
  }

  /** Tries at once: the network is said to be back, or somebody is looking again. */
  hurry(): void {
    this.#wake?.();
  }

  /** The network is said to be gone: do not wait for the silence. */
  drop(): void {
    this.#attempt?.abort();
  }

  stop(): void {
    this.#stopped = true;
    this.#attempt?.abort();
    this.#wake?.();
  }

  async #once(): Promise<{ kind: "failed" } | { kind: "signed_out" } | { kind: "was_connected"; retryMs: number | null }> {
    const attempt = new AbortController();
    this.#attempt = attempt;
    let silence = setTimeout(() => attempt.abort(), SILENCE_MS);
    const parser = new SseParser(this.#lastId);
    let connected = false;
    try {
      const headers: Record<string, string> = { accept: "text/event-stream" };
      if (this.#lastId !== "") headers["last-event-id"] = this.#lastId;
      const response = await this.#fetch(`${BASE}/events/stream?types=${this.#types.join(",")}`, {
        headers,
        credentials: "same-origin",
        cache: "no-store",
        signal: attempt.signal,
      });
      if (response.status === 401) return { kind: "signed_out" };
      if (response.status === 410) this.#lastId = "";
      if (!response.ok || response.body === null) return { kind: "failed" };
      connected = true;
      this.#handlers.onConnected();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const piece = await reader.read();
        if (piece.done) break;
        clearTimeout(silence);
        silence = setTimeout(() => attempt.abort(), SILENCE_MS);
        for (const message of parser.push(piece.value)) {
          const event = eventOf(message.data);
          if (event !== null) this.#handlers.onEvent(event);
          this.#lastId = message.lastId;
        }
      }
    } catch {
      // Refused, cut, silent or unreadable: the remedy is the same, and the cursor stands after the last event that was taken.
    } finally {
      clearTimeout(silence);
      attempt.abort();
    }
    return connected ? { kind: "was_connected", retryMs: parser.retryMs } : { kind: "failed" };
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#wake = null;
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.#wake = done;
    });
  }
}

/** An event that cannot be read is stepped over: stopping at it would stop at it for ever. */
function eventOf(data: string): FleetEvent | null {
  try {
    return JSON.parse(data) as FleetEvent;
  } catch {
    return null;
  }
}
