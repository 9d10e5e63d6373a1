/** The inbox: conversations with vehicles and with groups in one list. Pure. */

import type { Entry } from "@waypost/shared/wire";
import type { GroupRow } from "./groups.ts";
import type { Row } from "./rows.ts";

export type Conversation = { readonly kind: "vehicle"; readonly id: string; readonly row: Row } | { readonly kind: "group"; readonly id: string; readonly row: GroupRow };

export type Filter = "all" | "unread" | "unanswered";

export function inFilter({ row }: Conversation, filter: Filter): boolean {
  switch (filter) {
    case "all":
      return true;
    case "unread":
      return row.unread > 0;
    case "unanswered":
      return row.waitsFor !== null || row.unsent > 0;
  }
}

/**
 * The newest word first. A vehicle to which nothing was ever written is found on the map; a group is found only here, so it stands at the
 * end, by its name.
 */
export function conversationsOf(rows: readonly Row[], groups: readonly GroupRow[]): Conversation[] {
  const vehicles = rows.filter((row) => row.last !== null).map((row): Conversation => ({ kind: "vehicle", id: row.device.id, row }));
  const shared = groups.map((row): Conversation => ({ kind: "group", id: row.stream.id, row }));
  return [...vehicles, ...shared].sort((a, b) => spokenAt(b.row.last) - spokenAt(a.row.last) || collator.compare(titleOf(a), titleOf(b)));
}

function spokenAt(last: Entry | null): number {
  return last === null ? 0 : Date.parse(last.server_at);
}

function titleOf(one: Conversation): string {
  return one.kind === "vehicle" ? one.row.device.name : one.row.stream.title;
}

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
