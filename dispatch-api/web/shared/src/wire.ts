/**
 * The JSON that the server speaks, as types: nothing here has behaviour. Times are RFC 3339 in UTC; ids are strings; a value that is
 * not known is null.
 */

export type Time = string;

export interface Page<T> {
  items: T[];
  next: string | null;
}

export type Role = "admin" | "dispatcher" | "viewer" | "integration" | "bot";

export interface Person {
  id: string;
  email: string;
  name: string;
  role: Role;
}

export interface Session {
  expires_at: Time;
  person: Person;
}

export interface Position {
  lat: number;
  lon: number;
  speed_mps: number | null;
  course_deg: number | null;
  accuracy_m: number | null;
  battery_pct: number | null;
  at: Time;
  received_at: Time | null;
}

export interface Presence {
  state: "online" | "offline" | "unknown";
  since: Time | null;
}

export interface Device {
  id: string;
  name: string;
  driver: { name: string; locale: string | null } | null;
  groups: string[];
  labels: string[];
  presence: Presence;
  position: Position | null;
  app: { version: string } | null;
  last_seen: Time | null;
  stream: string;
  revoked: boolean;
}

export interface Member {
  id: string;
  kind: "device" | "person" | "office" | "system";
  name?: string | null;
}

export interface Stream {
  id: string;
  kind: "direct" | "group" | "broadcast" | "job" | "control";
  title: string;
  members: Member[];
  head: number;
  unread: number;
}

export type SlotKind = "number" | "text" | "time";

export interface Slot {
  name: string;
  kind: SlotKind;
}

/** A quick reply: one text for each language, with `{name}` where a slot goes. */
export interface Template {
  key: string;
  version: number;
  text: Record<string, string>;
  slots: Slot[];
}

/** What is written into the slots of a template, by their names; a time is `HH:MM`. */
export type SlotValues = Record<string, string | number>;

export interface Group {
  id: string;
  name: string;
  stream: string;
  /** Ids of the devices that are in it. */
  devices: string[];
  /** Whether somebody who joins sees what was written before. */
  history: "none" | "all";
}

export interface Key {
  id: string;
  name: string;
  role: Role;
  created_at: Time;
  /** To the minute; null for never. */
  last_used_at: Time | null;
  revoked: boolean;
}

/** What a device needs to connect. Its secret is told once. */
export interface Credentials {
  device: string;
  name: string;
  secret: string;
  mqtt: string[];
  ca: string | null;
}

export interface Recipients {
  devices: string[];
  groups: string[];
}

/** How many recipients have come at least so far. */
export interface Counts {
  recipients: number;
  sent: number;
  delivered: number;
  read: number;
  acted: number;
}

/** The rung that a recipient stands on who has not answered. */
export type Stage = "accepted" | "sent" | "delivered" | "read";

export interface Outstanding {
  member: Member;
  stage: Stage;
  /** When the rung was reached. */
  since: Time;
}

export interface Broadcast {
  id: string;
  stream: string;
  author: Member;
  server_at: Time;
  urgent: boolean;
  body: Body;
  to: Recipients;
  counts: Counts;
  /** Everyone who has not answered; a list of broadcasts may leave it out. */
  outstanding?: Outstanding[];
}

/** What is written: the server turns it into a {@link Body}. */
export type NewBody = { kind: "text"; text: string } | { kind: "reply"; template: string; slots: SlotValues };

export type Body =
  | { kind: "text"; text: string }
  | { kind: "reply"; template: string; version: number; slots: SlotValues; text: string }
  | { kind: "alert"; text: string; level: string }
  | { kind: "place"; position: { lat: number; lon: number }; label: string | null }
  | { kind: "file"; file: string; name: string; type: string; bytes: number; caption: string | null }
  | { kind: "job"; job: string; change: unknown }
  | { kind: "system"; event: "joined" | "left"; device: Member; text: string };

export interface Entry {
  stream: string;
  seq: number;
  id: string;
  author: Member;
  /** The clock of the author's device; null for what people wrote in the office. */
  device_at: Time | null;
  server_at: Time;
  urgent: boolean;
  /** The number under which the author's device sent it, in the order of writing. */
  author_op?: number | null;
  /** The number of the newest message before an urgent one that had not come when that came. */
  earlier_op?: number | null;
  /** Whether that was still under way when the server said so. */
  earlier_under_way?: boolean;
  expires_at: Time | null;
  /** The later entry that has taken its place. */
  superseded_by?: number | null;
  /** The number of the entry that it answers. */
  reply_to: number | null;
  /** The stream of that entry where it is another: the answer to a broadcast stands in the driver's own conversation. */
  reply_to_stream?: string | null;
  body: Body;
}

/** One rung of the receipt ladder, with both clocks. */
export interface Rung {
  device_at: Time | null;
  server_at: Time | null;
  /** What to add to the device's clock to get the server's, as it was estimated at that moment, in milliseconds. */
  offset_ms: number | null;
}

export interface Receipt {
  member: Member;
  accepted: Rung | null;
  sent: Rung | null;
  delivered: Rung | null;
  read: Rung | null;
  acted: Rung | null;
  /** Where and when it expired before this member had it. */
  expired?: (Rung & { hop: "server" }) | null;
}

export interface TrackFeature {
  type: "Feature";
  geometry: { type: "Point"; coordinates: [number, number] };
  properties: { at: Time };
}

interface Cloud<T extends string, D> {
  id: string;
  source: string;
  type: T;
  subject: string;
  time: Time;
  data: D;
}

interface Climbed extends Rung {
  stream: string;
  from_seq: number;
  seq: number;
  member: Member;
}

/** The events that a page follows; `waypost.position.updated` is live only and has no place in the log. */
export type FleetEvent =
  | Cloud<"waypost.entry.accepted", { entry: Entry }>
  | Cloud<"waypost.entry.sent", Climbed>
  | Cloud<"waypost.entry.delivered", Climbed>
  | Cloud<"waypost.entry.read", Climbed>
  | Cloud<"waypost.entry.acted", { stream: string; seq: number; member: Member; answer_stream: string; answer_seq: number }>
  | Cloud<"waypost.entry.expired", { hop: "server"; stream: string; seq: number; missed: number } | { hop: "outbox"; device: string; op: number; count: number }>
  | Cloud<"waypost.entry.superseded", { stream: string; seq: number; superseded_by: number }>
  | Cloud<"waypost.device.online", { device: string; name: string; since: Time | null }>
  | Cloud<"waypost.device.offline", { device: string; name: string; since: Time | null }>
  | Cloud<"waypost.device.enrolled", { device: string; name: string }>
  | Cloud<"waypost.device.revoked", { device: string; name: string }>
  | Cloud<"waypost.position.updated", { device: string; position: Position }>;

export const FLEET_EVENT_TYPES: readonly FleetEvent["type"][] = [
  "waypost.entry.accepted",
  "waypost.entry.sent",
  "waypost.entry.delivered",
  "waypost.entry.read",
  "waypost.entry.acted",
  "waypost.entry.expired",
  "waypost.entry.superseded",
  "waypost.device.online",
  "waypost.device.offline",
  "waypost.device.enrolled",
  "waypost.device.revoked",
  "waypost.position.updated",
];
