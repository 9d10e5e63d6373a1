/** Things for tests, in which everything has a default, so that what a test sets is what it is about. */

import type { Broadcast, Device, Entry, FleetEvent, Member, Outstanding, Position, Stage, Stream } from "@waypost/shared/wire";

export const T0 = Date.parse("2026-11-24T12:00:00.000Z");

export const DRIVER: Member = { id: "7c", kind: "device", name: "Mia Keller" };
export const ME: Member = { id: "p1", kind: "person", name: "Dana Brooks" };

export function at(seconds: number): string {
  return new Date(T0 + seconds * 1000).toISOString();
}

export function position(over: Partial<Position> = {}): Position {
  return { lat: 41.25, lon: -96, speed_mps: 15, course_deg: 90, accuracy_m: 4, battery_pct: 80, at: at(0), received_at: at(0), ...over };
}

export function device(over: Partial<Device> = {}): Device {
  return {
    id: "7c",
    name: "truck-17",
    driver: { name: "Mia Keller", locale: "en" },
    groups: [],
    labels: [],
    presence: { state: "online", since: at(-600) },
    position: position(),
    app: null,
    last_seen: at(0),
    stream: "4711",
    revoked: false,
    ...over,
  };
}

export function stream(over: Partial<Stream> = {}): Stream {
  return { id: "4711", kind: "direct", title: "truck-17", members: [DRIVER], head: 0, unread: 0, ...over };
}

export function entry(seq: number, author: Member, over: Partial<Entry> = {}): Entry {
  return {
    stream: "4711",
    seq,
    id: `e${seq}`,
    author,
    device_at: author.kind === "device" ? at(seq) : null,
    server_at: at(seq),
    urgent: false,
    expires_at: null,
    reply_to: null,
    body: { kind: "text", text: `entry ${seq}` },
    ...over,
  };
}

let events = 0;

export function event<T extends FleetEvent["type"]>(type: T, data: Extract<FleetEvent, { type: T }>["data"], seconds = 0): FleetEvent {
  return { id: String(++events), source: "test", type, subject: "test", time: at(seconds), data } as FleetEvent;
}

export function driver(id: string): Member {
  return { id, kind: "device", name: `driver ${id}` };
}

export function outstanding(id: string, stage: Stage, seconds: number): Outstanding {
  return { member: driver(id), stage, since: at(seconds) };
}

/** To `a`, `b` and `c`, of whom nobody has received it. */
export function broadcast(over: Partial<Broadcast> = {}): Broadcast {
  return {
    id: "b1",
    stream: "900",
    author: ME,
    server_at: at(0),
    urgent: false,
    body: { kind: "text", text: "to all" },
    to: { devices: ["a", "b", "c"], groups: [] },
    counts: { recipients: 3, sent: 0, delivered: 0, read: 0, acted: 0 },
    outstanding: ["a", "b", "c"].map((id) => outstanding(id, "accepted", 0)),
    ...over,
  };
}

export function acted(stream: string, seq: number, member: Member = DRIVER, answer_seq = 1): FleetEvent {
  return event("waypost.entry.acted", { stream, seq, member, answer_stream: stream, answer_seq });
}

export function climbed(rung: "sent" | "delivered" | "read", from_seq: number, seq: number, member: Member = DRIVER, stream = "4711"): FleetEvent {
  return event(`waypost.entry.${rung}`, { stream, from_seq, seq, member, device_at: at(seq), server_at: at(seq), offset_ms: 0 });
}

/** Every order of a few things. */
export function permutations<T>(items: readonly T[]): T[][] {
  if (items.length === 0) return [[]];
  return items.flatMap((item, index) => permutations([...items.slice(0, index), ...items.slice(index + 1)]).map((rest) => [item, ...rest]));
}
