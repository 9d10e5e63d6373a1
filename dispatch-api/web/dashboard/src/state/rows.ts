/** The vehicle list: what one line says, which lines are asked for, and in which order. Pure. */

import type { Device, Entry } from "@waypost/shared/wire";
import { stateOf as vehicleStateOf, type Fleet, type VehicleState, type VehicleStateKind } from "./fleet.ts";
import type { Outbox } from "./outbox.ts";
import { awaiting, isTheirs, lastEntry, stateOf, unreadOf, type EntryState, type Thread } from "./thread.ts";

export interface Row {
  readonly device: Device;
  readonly state: VehicleState;
  readonly unread: number;
  readonly urgentUnread: boolean;
  /** Our newest entry while the driver has not spoken since. */
  readonly waitsFor: { readonly entry: Entry; readonly state: EntryState } | null;
  /** Messages that failed to leave this page. */
  readonly unsent: number;
  readonly last: Entry | null;
}

export function rowsOf(fleet: Fleet, threads: ReadonlyMap<string, Thread>, outbox: Outbox, now: number): Row[] {
  return [...fleet.values()].map((device) => {
    const thread = threads.get(device.stream);
    const entry = thread === undefined ? null : awaiting(thread);
    const unread = thread === undefined ? 0 : unreadOf(thread);
    return {
      device,
      state: vehicleStateOf(device, now),
      unread,
      urgentUnread: unread > 0 && thread !== undefined && newestTheirs(thread, unread).some((theirs) => theirs.urgent),
      waitsFor: entry === null || thread === undefined ? null : { entry, state: stateOf(thread, entry, now) },
      unsent: outbox.filter((message) => message.stream === device.stream && message.state === "failed").length,
      last: thread === undefined ? null : lastEntry(thread),
    };
  });
}

function newestTheirs(thread: Thread, count: number): Entry[] {
  return thread.entries.filter(isTheirs).slice(-count);
}

export type Filter = "all" | "unread" | "unanswered" | "lost";

export function matches(row: Row, filter: Filter, search: string): boolean {
  return inFilter(row, filter) && foundBy(row, search);
}

export function inFilter(row: Row, filter: Filter): boolean {
  switch (filter) {
    case "all":
      return true;
    case "unread":
      return row.unread > 0;
    case "unanswered":
      return row.waitsFor !== null || row.unsent > 0;
    case "lost":
      return row.state.kind === "cut_off" || row.state.kind === "offline" || row.state.kind === "silent";
  }
}

function foundBy(row: Row, search: string): boolean {
  const words = search.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const text = [row.device.name, row.device.driver?.name ?? "", ...row.device.labels].join(" ").toLocaleLowerCase();
  return words.every((word) => text.includes(word));
}

export type Sort = "urgency" | "name";

/** What needs a dispatcher first; within the same need the one that has waited longest, then by name. */
export function inOrder(rows: readonly Row[], sort: Sort): Row[] {
  const byName = (a: Row, b: Row) => collator.compare(a.device.name, b.device.name) || a.device.id.localeCompare(b.device.id);
  if (sort === "name") return [...rows].sort(byName);
  return [...rows].sort((a, b) => need(a) - need(b) || waitingSince(a) - waitingSince(b) || byName(a, b));
}

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

const STATE_ORDER: Record<VehicleStateKind, number> = { cut_off: 6, silent: 6, no_position: 7, moving: 8, standing: 8, offline: 9 };

function need(row: Row): number {
  if (row.urgentUnread) return 0;
  if (row.unsent > 0) return 1;
  if (row.unread > 0) return 2;
  switch (row.waitsFor?.state) {
    case "Expired":
    case "Accepted":
    case "Sent":
      return 3;
    case "Delivered":
      return 4;
    case "Read":
      return 5;
    default:
      return STATE_ORDER[row.state.kind];
  }
}

function waitingSince(row: Row): number {
  if (row.unread > 0 && row.last !== null) return Date.parse(row.last.server_at);
  return row.waitsFor === null ? 0 : Date.parse(row.waitsFor.entry.server_at);
}

/**
 * Keeps an order that a person is pointing into: known rows stay where they are, new ones follow. A line that moves from under a finger opens
 * the wrong conversation.
 */
export function heldStill(rows: readonly Row[], shown: readonly string[]): Row[] {
  const place = new Map(shown.map((id, index) => [id, index]));
  return [...rows].sort((a, b) => (place.get(a.device.id) ?? Infinity) - (place.get(b.device.id) ?? Infinity) || 0);
}
