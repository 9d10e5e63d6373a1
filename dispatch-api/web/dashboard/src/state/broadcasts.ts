/**
 * Broadcasts as the page knows them: what the server last told, and what events have told about each recipient.
 *
 * The rule: a recipient only ever climbs, so answers and events may come in any order and more than once, and the result is the same.
 */

import type { Broadcast, Counts, FleetEvent, Member, Outstanding, Stage } from "@waypost/shared/wire";
import type { Fleet } from "./fleet.ts";

export interface Held {
  readonly told: Broadcast;
  /** The highest rung that events named for a recipient, by {@link keyOf}. */
  readonly heard: ReadonlyMap<string, Heard>;
}

interface Heard {
  readonly stage: Stage | "acted";
  readonly since: string;
}

export type Broadcasts = ReadonlyMap<string, Held>;

/** A broadcast with everything that is known put together. */
export interface View {
  readonly broadcast: Broadcast;
  readonly counts: Counts;
  /** Everyone who has not answered; null while the server has not been asked. */
  readonly outstanding: readonly Outstanding[] | null;
}

const LADDER = ["accepted", "sent", "delivered", "read", "acted"] as const;

/** Takes a broadcast as the server tells it: from a list, which may leave out who is outstanding, or on its own. */
export function withBroadcast(broadcasts: Broadcasts, told: Broadcast): Broadcasts {
  return new Map(broadcasts).set(told.id, heldOf(broadcasts.get(told.id), told));
}

/** The whole list as the server has it. */
export function withList(broadcasts: Broadcasts, list: readonly Broadcast[]): Broadcasts {
  return new Map(list.map((told) => [told.id, heldOf(broadcasts.get(told.id), told)]));
}

/** A list has no more to say than its counts: what is known of each recipient is worth more, and events keep it up to date. */
function heldOf(known: Held | undefined, told: Broadcast): Held {
  const kept = told.outstanding === undefined && known?.told.outstanding !== undefined ? known.told : told;
  return { told: kept, heard: known?.heard ?? new Map() };
}

export function withEvent(broadcasts: Broadcasts, event: FleetEvent): Broadcasts {
  if (!isClimb(event)) return broadcasts;
  const held = ofStream(broadcasts, event.data.stream);
  if (held === null || event.data.member.kind !== "device") return broadcasts;
  const stage = event.type.slice("waypost.entry.".length) as Heard["stage"];
  const key = keyOf(event.data.member);
  const known = held.heard.get(key);
  if (known !== undefined && LADDER.indexOf(known.stage) >= LADDER.indexOf(stage)) return broadcasts;
  const since = "server_at" in event.data ? (event.data.server_at ?? event.time) : event.time;
  return new Map(broadcasts).set(held.told.id, { ...held, heard: new Map(held.heard).set(key, { stage, since }) });
}

type Climb = Extract<FleetEvent, { data: { stream: string; member: Member } }>;

function isClimb(event: FleetEvent): event is Climb {
  return ["waypost.entry.sent", "waypost.entry.delivered", "waypost.entry.read", "waypost.entry.acted"].includes(event.type);
}

export function ofStream(broadcasts: Broadcasts, stream: string): Held | null {
  for (const held of broadcasts.values()) if (held.told.stream === stream) return held;
  return null;
}

export function viewOf({ told, heard }: Held): View {
  if (told.outstanding === undefined) return { broadcast: told, counts: cumulative(told.counts), outstanding: null };
  const outstanding = told.outstanding.flatMap((one): Outstanding[] => {
    const news = heard.get(keyOf(one.member));
    if (news === undefined || LADDER.indexOf(news.stage) <= LADDER.indexOf(one.stage)) return [one];
    return news.stage === "acted" ? [] : [{ ...one, stage: news.stage, since: news.since }];
  });
  const { recipients } = told.counts;
  const below = (stage: Stage | "acted") => outstanding.filter((one) => LADDER.indexOf(one.stage) < LADDER.indexOf(stage)).length;
  const counts = { recipients, sent: recipients - below("sent"), delivered: recipients - below("delivered"), read: recipients - below("read"), acted: recipients - below("acted") };
  return { broadcast: told, counts, outstanding };
}

/** Whoever has answered has read, and whoever has read has received, whether or not each step was reported. */
function cumulative({ recipients, sent, delivered, read, acted }: Counts): Counts {
  const readAtLeast = Math.max(read, acted);
  const deliveredAtLeast = Math.max(delivered, readAtLeast);
  return { recipients, sent: Math.max(sent, deliveredAtLeast), delivered: deliveredAtLeast, read: readAtLeast, acted };
}

/** Those who have not answered, sorted by what they have yet to do; each list has the longest silence first. */
export interface Missing {
  readonly notReceived: readonly Outstanding[];
  readonly notRead: readonly Outstanding[];
  readonly notAnswered: readonly Outstanding[];
}

export function missingIn(outstanding: readonly Outstanding[], fleet: Fleet): Missing {
  const sorted = [...outstanding].sort(bySilence(fleet));
  const on = (...stages: Stage[]) => sorted.filter((one) => stages.includes(one.stage));
  return { notReceived: on("accepted", "sent"), notRead: on("delivered"), notAnswered: on("read") };
}

/** Since when they have been on their rung; where that is the same for all, since when nothing at all was heard of them. */
function bySilence(fleet: Fleet): (a: Outstanding, b: Outstanding) => number {
  const contact = (one: Outstanding) => {
    const presence = fleet.get(one.member.id)?.presence;
    return presence?.state === "offline" && presence.since !== null ? Date.parse(presence.since) : Infinity;
  };
  const apart = (a: number, b: number) => (a === b ? 0 : a - b);
  return (a, b) =>
    apart(Date.parse(a.since), Date.parse(b.since)) || apart(contact(a), contact(b)) || collator.compare(a.member.name ?? a.member.id, b.member.name ?? b.member.id);
}

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

export function newestFirst(broadcasts: Broadcasts): View[] {
  return [...broadcasts.values()].map(viewOf).sort((a, b) => Date.parse(b.broadcast.server_at) - Date.parse(a.broadcast.server_at));
}

/** The devices that a choice of groups and devices comes to, each once. */
export function recipientsOf(to: { readonly devices: readonly string[]; readonly groups: readonly string[] }, groups: readonly { id: string; devices: readonly string[] }[], fleet: Fleet): string[] {
  const chosen = new Set(to.devices);
  for (const group of groups) if (to.groups.includes(group.id)) group.devices.forEach((device) => chosen.add(device));
  return [...chosen].filter((device) => fleet.has(device));
}

function keyOf(member: Member): string {
  return `${member.kind}/${member.id}`;
}
