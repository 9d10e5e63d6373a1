/** Conversations with groups: what one line of the inbox says. Pure. */

import type { Entry, Stream } from "@waypost/shared/wire";
import type { Outbox } from "./outbox.ts";
import { isOurs, isTheirs, lastEntry, lastSaid, tallyOf, unreadOf, type Tally, type Thread } from "./thread.ts";

export interface GroupRow {
  readonly stream: Stream;
  readonly unread: number;
  readonly urgentUnread: boolean;
  /** Our newest entry while nobody has spoken since and not all have read it. */
  readonly waitsFor: { readonly entry: Entry; readonly tally: Tally } | null;
  /** Messages that failed to leave this page. */
  readonly unsent: number;
  readonly last: Entry | null;
}

export function groupRowsOf(streams: ReadonlyMap<string, Stream>, threads: ReadonlyMap<string, Thread>, outbox: Outbox): GroupRow[] {
  return [...streams.values()]
    .filter((stream) => stream.kind === "group")
    .map((stream) => {
      const thread = threads.get(stream.id);
      const last = thread === undefined ? null : lastEntry(thread);
      const unread = thread === undefined ? 0 : unreadOf(thread);
      return {
        stream,
        unread,
        urgentUnread: unread > 0 && thread !== undefined && thread.entries.filter(isTheirs).slice(-unread).some((entry) => entry.urgent),
        waitsFor: thread === undefined ? null : waitsFor(thread),
        unsent: outbox.filter((message) => message.stream === stream.id && message.state === "failed").length,
        last,
      };
    });
}

function waitsFor(thread: Thread): GroupRow["waitsFor"] {
  const last = lastSaid(thread);
  if (last === null || !isOurs(last)) return null;
  const tally = tallyOf(thread, last);
  return tally.read < tally.recipients ? { entry: last, tally } : null;
}
