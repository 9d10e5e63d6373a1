/**
 * What was written here and is not yet known to be on the server's disk. Nothing leaves this list but by the server's answer or by the
 * writer's own hand; it outlives the page in the browser's storage. Each message keeps its idempotency key through every attempt, so that
 * trying again is always safe.
 */

import { sameValues } from "@waypost/shared/template";
import type { Body, Entry, NewBody, SlotValues } from "@waypost/shared/wire";

export interface Unsent {
  readonly key: string;
  readonly stream: string;
  /** What people read. */
  readonly text: string;
  /** The template that it was made of; null for free text. */
  readonly reply: { readonly template: string; readonly slots: SlotValues } | null;
  readonly urgent: boolean;
  readonly replyTo: number | null;
  /** The highest number in the conversation when it was written: its own entry can only stand above. */
  readonly after: number;
  /** `held` while its writer may still take it back. */
  readonly state: "held" | "waiting" | "sending" | "failed";
  /** Why it failed, for people; empty otherwise. */
  readonly reason: string;
  /** The number under which an event has already shown it; the answer to our own request is still under way. */
  readonly seenAs: number | null;
}

export type Outbox = readonly Unsent[];

export type Written = Pick<Unsent, "key" | "stream" | "text" | "reply" | "urgent" | "replyTo" | "after">;

/** Whoever writes on has decided: what is still held in the same conversation goes out before it. */
export function withWritten(outbox: Outbox, message: Written, state: "held" | "waiting" = "waiting"): Outbox {
  return [...withReleased(outbox, (held) => held.stream === message.stream), { ...message, state, reason: "", seenAs: null }];
}

/** The time to take it back is over. */
export function withReleased(outbox: Outbox, which: (message: Unsent) => boolean): Outbox {
  return outbox.map((message) => (message.state === "held" && which(message) ? { ...message, state: "waiting" } : message));
}

/** What is sent to the server. */
export function bodyOf(message: Pick<Unsent, "text" | "reply">): NewBody {
  return message.reply === null ? { kind: "text", text: message.text } : { kind: "reply", ...message.reply };
}

/** Whether an entry says what was written here. The rendering of a reply may differ: it is the server's, in the reader's language. */
function says(body: Body, message: Unsent): boolean {
  if (message.reply === null) return body.kind === "text" && body.text === message.text;
  return body.kind === "reply" && body.template === message.reply.template && sameValues(body.slots, message.reply.slots);
}

/** The next to be sent to a conversation: one at a time and in the order of writing, so none while one is under way or has failed before it. */
export function nextToSend(outbox: Outbox, stream: string): Unsent | null {
  const first = outbox.find((message) => message.stream === stream);
  return first?.state === "waiting" ? first : null;
}

export function withSending(outbox: Outbox, key: string): Outbox {
  return outbox.map((message) => (message.key === key ? { ...message, state: "sending", reason: "" } : message));
}

/** The server has answered with the entry: this message is done. */
export function withAnswered(outbox: Outbox, key: string): Outbox {
  return outbox.filter((message) => message.key !== key);
}

/** It failed, and what was written after it to the same conversation waits behind it. */
export function withFailed(outbox: Outbox, key: string, reason: string): Outbox {
  const stream = outbox.find((message) => message.key === key)?.stream;
  return outbox.map((message) => {
    if (message.key === key) return { ...message, state: "failed", reason, seenAs: null };
    if (message.stream === stream) return { ...message, state: "failed", reason: "Waits for the message above." };
    return message;
  });
}

/** Tries this conversation again from its first unsent message on, in order. */
export function withRetry(outbox: Outbox, stream: string): Outbox {
  return outbox.map((message) =>
    message.stream === stream && message.state === "failed" ? { ...message, state: "waiting", reason: "" } : message,
  );
}

/** The writer throws it away. */
export function withDiscarded(outbox: Outbox, key: string): Outbox {
  return outbox.filter((message) => message.key !== key);
}

/**
 * An entry by this person has arrived by the event stream, perhaps before the answer to our own request: the first message under way that
 * reads the same is that entry, and must not stand beside it.
 */
export function withSeen(outbox: Outbox, entry: Entry, me: string): Outbox {
  if (entry.author.kind === "device" || entry.author.id !== me) return outbox;
  if (outbox.some((message) => message.stream === entry.stream && message.seenAs === entry.seq)) return outbox;
  const same = outbox.find(
    (message) =>
      message.stream === entry.stream &&
      message.state === "sending" &&
      message.seenAs === null &&
      message.after < entry.seq &&
      says(entry.body, message),
  );
  return same === undefined ? outbox : outbox.map((message) => (message === same ? { ...message, seenAs: entry.seq } : message));
}

export function shownIn(outbox: Outbox, stream: string): Unsent[] {
  return outbox.filter((message) => message.stream === stream && message.seenAs === null);
}

/** As read from storage after the page was closed: whether the server has it is not known, so a person decides. */
export function restored(stored: unknown): Outbox {
  if (!Array.isArray(stored)) return [];
  return stored.filter(isUnsent).map((message) => ({
    ...message,
    reply: message.reply ?? null,
    state: "failed",
    reason: "The page was closed before the server had answered.",
    seenAs: null,
  }));
}

function isUnsent(value: unknown): value is Unsent {
  const message = value as Partial<Unsent> | null;
  return (
    typeof message?.key === "string" &&
    typeof message.stream === "string" &&
    typeof message.text === "string" &&
    typeof message.urgent === "boolean" &&
    typeof message.after === "number" &&
    (message.replyTo === null || typeof message.replyTo === "number") &&
    isReply(message.reply ?? null)
  );
}

function isReply(value: Unsent["reply"]): boolean {
  return value === null || (typeof value.template === "string" && typeof value.slots === "object" && value.slots !== null);
}
