/** A conversation in the pieces that it is drawn in: what Waypost itself noted is put together, so that it does not push away what people wrote. Pure. */

import type { Body, Entry } from "@waypost/shared/wire";

/** What somebody wrote, with the entry that stands before it, or consecutive notices of Waypost that are one line. */
export type Piece =
  | { readonly kind: "entry"; readonly entry: Entry; readonly before: Entry | undefined }
  | { readonly kind: "notice"; readonly entry: Entry; readonly before: Entry | undefined; readonly text: string; readonly all: readonly Entry[] };

/** As many notices of one minute stand alone, each on its line. */
const ALONE_AT_MOST = 3;
/** How many vehicles a line names when it speaks of more. */
const NAMED = 2;
const MINUTE_MS = 60_000;

export function piecesOf(entries: readonly Entry[]): Piece[] {
  const pieces: Piece[] = [];
  for (let index = 0; index < entries.length; ) {
    const run = runAt(entries, index);
    const together = run.length > ALONE_AT_MOST ? [run] : run.map((entry) => [entry]);
    for (const all of together) {
      const entry = all[0] as Entry;
      const before = entries[index - 1];
      pieces.push(entry.body.kind === "system" ? { kind: "notice", entry, before, text: textOf(all.map(noticeOf)), all } : { kind: "entry", entry, before });
      index += all.length;
    }
  }
  return pieces;
}

type Notice = Extract<Body, { kind: "system" }>;

function noticeOf({ body }: Entry): Notice {
  if (body.kind !== "system") throw new Error("only notices are put together");
  return body;
}

/** The entry at a place with those after it that tell of the same event in the same minute; what is no notice is by itself. */
function runAt(entries: readonly Entry[], start: number): Entry[] {
  const first = entries[start] as Entry;
  let end = start + 1;
  while (end < entries.length && belongs(first, entries[end] as Entry)) end++;
  return entries.slice(start, end);
}

function belongs(first: Entry, next: Entry): boolean {
  return first.body.kind === "system" && next.body.kind === "system" && first.body.event === next.body.event && minuteOf(first) === minuteOf(next);
}

function minuteOf(entry: Entry): number {
  return Math.floor(Date.parse(entry.server_at) / MINUTE_MS);
}

/** `truck-01 joined`, or for several `truck-01, truck-02 and 5 others joined`. */
function textOf(notices: readonly Notice[]): string {
  const [first] = notices as [Notice];
  if (notices.length === 1) return first.text;
  const names = notices.slice(0, NAMED).map(({ device }) => device.name ?? `Device ${device.id}`);
  return `${names.join(", ")} and ${notices.length - NAMED} others ${first.event}`;
}
