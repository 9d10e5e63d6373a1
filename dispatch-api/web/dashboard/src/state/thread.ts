/**
 * One conversation as the page holds it: the entries it has, and how far each member has come.
 *
 * The rule: every function here only adds knowledge. Entries are a set by number, cursors are sets of numbers that grow, so
 * answers and events may come in any order and more than once; an entry is never shown twice, and no tick is ever taken back.
 */

import { add, firstGap, has, NONE, type Ranges } from "@waypost/shared/ranges";
import type { Entry, FleetEvent, Member, Receipt, Stream } from "@waypost/shared/wire";

export interface Thread {
  readonly stream: string;
  readonly kind: Stream["kind"];
  /** Who takes part now. */
  readonly members: readonly Member[];
  /** Whom single entries were for, as receipts told it: members come and go, and an entry is only for those of its time. */
  readonly recipients: ReadonlyMap<number, readonly Member[]>;
  /** Ascending by number, each once. */
  readonly entries: readonly Entry[];
  /** Which numbers the page has asked for and heard about: entries, and the holes between them that are none. */
  readonly held: Ranges;
  /** The highest number that is known to exist. */
  readonly head: number;
  /** Whether nothing stands before the first entry held. */
  readonly complete: boolean;
  /** What the server last counted as unread for this person, and up to which number it had counted. */
  readonly counted: { readonly unread: number; readonly head: number };
  /** This person's own read cursor, as far as known here. */
  readonly readUpTo: number;
  readonly climbs: ReadonlyMap<string, Climb>;
  readonly answered: ReadonlySet<number>;
  readonly expired: ReadonlySet<number>;
  /** Own entries whose receipts were asked for since the connection was last made. */
  readonly asked: ReadonlySet<number>;
}

export interface Climb {
  readonly kind: Member["kind"];
  readonly sent: Ranges;
  readonly delivered: Ranges;
  readonly read: Ranges;
  readonly acted: Ranges;
}

export type EntryState = "Accepted" | "Sent" | "Delivered" | "Read" | "Answered" | "Expired" | "Superseded";

/** How many of its recipients an entry has come to, each rung counting those above it too. */
export interface Tally {
  readonly recipients: number;
  readonly sent: number;
  readonly delivered: number;
  readonly read: number;
  readonly acted: number;
}

/** What an entry shows: a rung, and among several recipients how many of them have reached it. */
export interface Standing {
  readonly state: EntryState;
  /** Null between two, and where all of them have. */
  readonly count: { readonly reached: number; readonly of: number } | null;
}

export function emptyThread(stream: string): Thread {
  return {
    stream,
    kind: "direct",
    members: [],
    recipients: new Map(),
    entries: [],
    held: NONE,
    head: 0,
    complete: false,
    counted: { unread: 0, head: 0 },
    readUpTo: 0,
    climbs: new Map(),
    answered: new Set(),
    expired: new Set(),
    asked: new Set(),
  };
}

export function withStream(thread: Thread, stream: Stream): Thread {
  const newer = stream.head >= thread.counted.head;
  // Of two counts at the same head the smaller is the later one: reading only takes away.
  const unread = stream.head === thread.counted.head ? Math.min(stream.unread, thread.counted.unread) : stream.unread;
  return {
    ...thread,
    kind: stream.kind,
    members: stream.members,
    head: Math.max(thread.head, stream.head),
    counted: newer ? { unread, head: stream.head } : thread.counted,
    readUpTo: newer && stream.unread === 0 ? Math.max(thread.readUpTo, stream.head) : thread.readUpTo,
  };
}

/** Entries as an answer gave them, and the whole range that the answer speaks for: what is not among them there is no longer. */
export function withEntries(thread: Thread, entries: readonly Entry[], covers: readonly [from: number, to: number]): Thread {
  const known = new Set(thread.entries.map((entry) => entry.seq));
  const added = entries.filter((entry) => !known.has(entry.seq));
  let { held } = thread;
  held = add(held, covers[0], covers[1]);
  for (const entry of entries) held = add(held, entry.seq, entry.seq);
  if (added.length === 0 && held === thread.held) return thread;
  const answers = entries.filter((entry) => entry.reply_to !== null && repliesWithin(thread.stream, entry));
  const answered = { ...thread, answered: union(thread.answered, answers.map((entry) => entry.reply_to as number)) };
  return {
    ...answers.reduce((next, entry) => withClimb(next, entry.author, "acted", entry.reply_to as number, entry.reply_to as number), answered),
    entries: [...thread.entries, ...added].sort((a, b) => a.seq - b.seq),
    held,
    head: Math.max(thread.head, ...entries.map((entry) => entry.seq)),
    complete: thread.complete || has(held, 1),
  };
}

/** Whether what an entry answers stands in this stream: the answer to a broadcast carries a number of another. */
function repliesWithin(stream: string, entry: Entry): boolean {
  return (entry.reply_to_stream ?? stream) === stream;
}

/** An answer to "what stands before?" was empty. */
export function withNothingBefore(thread: Thread): Thread {
  return { ...thread, complete: true };
}

export function withOwnRead(thread: Thread, seq: number): Thread {
  return seq > thread.readUpTo ? { ...thread, readUpTo: seq } : thread;
}

/** The connection was made anew: what was asked before may have moved on since. */
export function withReceiptsStale(thread: Thread): Thread {
  return thread.asked.size === 0 ? thread : { ...thread, asked: new Set() };
}

export function withReceipts(thread: Thread, seq: number, receipts: readonly Receipt[]): Thread {
  let next: Thread = {
    ...thread,
    asked: union(thread.asked, [seq]),
    recipients: new Map(thread.recipients).set(seq, receipts.map((receipt) => receipt.member)),
  };
  if (receipts.some((receipt) => (receipt.expired ?? null) !== null)) next = { ...next, expired: union(next.expired, [seq]) };
  for (const receipt of receipts) {
    if (receipt.sent !== null) next = withClimb(next, receipt.member, "sent", seq, seq);
    if (receipt.delivered !== null) next = withClimb(next, receipt.member, "delivered", seq, seq);
    // Reading is cumulative: who has read this has read what stands before.
    if (receipt.read !== null) next = withClimb(next, receipt.member, "read", 1, seq);
    if (receipt.acted !== null) next = withClimb({ ...next, answered: union(next.answered, [seq]) }, receipt.member, "acted", seq, seq);
  }
  return next;
}

/** `me` is the signed-in person, whose own reading on another screen counts here too. */
export function withEvent(thread: Thread, event: FleetEvent, me: string): Thread {
  switch (event.type) {
    case "waypost.entry.accepted": {
      const { entry } = event.data;
      return withEntries(thread, [entry], [entry.seq, entry.seq]);
    }
    case "waypost.entry.sent":
      return withClimb(thread, event.data.member, "sent", event.data.from_seq, event.data.seq);
    case "waypost.entry.delivered":
      return withClimb(thread, event.data.member, "delivered", event.data.from_seq, event.data.seq);
    case "waypost.entry.read": {
      const { member, from_seq, seq } = event.data;
      const climbed = withClimb(thread, member, "read", from_seq, seq);
      return member.kind === "person" && member.id === me ? withOwnRead(climbed, seq) : climbed;
    }
    case "waypost.entry.acted":
      return withClimb({ ...thread, answered: union(thread.answered, [event.data.seq]) }, event.data.member, "acted", event.data.seq, event.data.seq);
    case "waypost.entry.expired":
      return event.data.hop === "server" ? { ...thread, expired: union(thread.expired, [event.data.seq]) } : thread;
    case "waypost.entry.superseded": {
      const { seq, superseded_by } = event.data;
      return { ...thread, entries: thread.entries.map((entry) => (entry.seq === seq ? { ...entry, superseded_by } : entry)) };
    }
    default:
      return thread;
  }
}

/** The stream that an event is about, if it is about one. */
export function streamOf(event: FleetEvent): string | null {
  if (event.type === "waypost.entry.accepted") return event.data.entry.stream;
  return "stream" in event.data ? event.data.stream : null;
}

function withClimb(thread: Thread, member: Member, rung: "sent" | "delivered" | "read" | "acted", from: number, to: number): Thread {
  const key = keyOf(member);
  const known = thread.climbs.get(key) ?? { kind: member.kind, sent: NONE, delivered: NONE, read: NONE, acted: NONE };
  const ranges = add(known[rung], from, to);
  if (ranges === known[rung]) return thread;
  return { ...thread, climbs: new Map(thread.climbs).set(key, { ...known, [rung]: ranges }) };
}

function keyOf(member: Member): string {
  return `${member.kind}/${member.id}`;
}

function union(set: ReadonlySet<number>, more: readonly number[]): ReadonlySet<number> {
  return more.every((n) => set.has(n)) ? set : new Set([...set, ...more]);
}

/** Whether another entry has taken its place. */
export function isSuperseded(entry: Entry): boolean {
  return (entry.superseded_by ?? null) !== null;
}

/**
 * Whether what its author wrote before this urgent entry is still under way. An author's ordinary messages come in their order: one that came
 * after this entry and was written as late as what it overtook shows that nothing of that is missing, also where the device gave some up.
 */
export function hasOvertaken(thread: Thread, entry: Entry): boolean {
  const overtaken = entry.earlier_op ?? null;
  if (entry.earlier_under_way !== true || overtaken === null) return false;
  const isCaughtUp = (other: Entry) => !other.urgent && other.seq > entry.seq && keyOf(other.author) === keyOf(entry.author) && (other.author_op ?? 0) >= overtaken;
  return !thread.entries.some(isCaughtUp);
}

/** Whether somebody in the office wrote it. */
export function isOurs(entry: Entry): boolean {
  return entry.author.kind === "person" || entry.author.kind === "office";
}

/** Whether a driver wrote it. What Waypost itself noted is nobody's: no person waits for it. */
export function isTheirs(entry: Entry): boolean {
  return entry.author.kind === "device";
}

/**
 * The highest rung that anybody on the other side has reached: a direct stream has one device there, and for the driver any
 * dispatcher's reading is the office's.
 */
export function stateOf(thread: Thread, entry: Entry, now: number): EntryState {
  if (isSuperseded(entry)) return "Superseded";
  if (thread.answered.has(entry.seq)) return "Answered";
  const others = [...thread.climbs.values()].filter((climb) => (climb.kind === "device") !== isTheirs(entry));
  // Whoever reads on passes over what had expired before it came: that is no reading.
  const passedOver = isOurs(entry) && thread.expired.has(entry.seq) && !others.some((climb) => has(climb.delivered, entry.seq));
  if (passedOver) return "Expired";
  if (others.some((climb) => has(climb.read, entry.seq))) return "Read";
  if (isTheirs(entry) && entry.seq <= ownReadUpTo(thread)) return "Read";
  if (others.some((climb) => has(climb.delivered, entry.seq))) return "Delivered";
  if (thread.expired.has(entry.seq)) return "Expired";
  if (entry.expires_at !== null && Date.parse(entry.expires_at) <= now) return "Expired";
  return others.some((climb) => has(climb.sent, entry.seq)) ? "Sent" : "Accepted";
}

/** What an entry shows in this conversation, whether one reads it or many. */
export function standingOf(thread: Thread, entry: Entry, now: number): Standing {
  if (thread.kind === "direct") return { state: stateOf(thread, entry, now), count: null };
  if (isSuperseded(entry)) return { state: "Superseded", count: null };
  const tally = tallyOf(thread, entry);
  const standing = standingIn(tally);
  const over = thread.expired.has(entry.seq) || (entry.expires_at !== null && Date.parse(entry.expires_at) <= now);
  return over && tally.delivered === 0 ? { state: "Expired", count: null } : standing;
}

/**
 * The lowest rung that some have yet to reach, since the one who is missing is what a dispatcher looks for: "Delivered 7 of 9" although
 * five have read it. The details tell the rest.
 */
export function standingIn({ recipients, sent, delivered, read, acted }: Tally): Standing {
  const counted = (state: EntryState, reached: number): Standing => ({ state, count: reached === recipients ? null : { reached, of: recipients } });
  if (delivered === 0) return sent === 0 || recipients === 0 ? { state: "Accepted", count: null } : counted("Sent", sent);
  if (delivered < recipients) return counted("Delivered", delivered);
  if (read < recipients) return read === 0 ? counted("Delivered", delivered) : counted("Read", read);
  return acted === 0 ? counted("Read", read) : counted("Answered", acted);
}

export function standingLabel({ state, count }: Standing): string {
  return count === null ? state : `${state} ${count.reached} of ${count.of}`;
}

/** How far an entry has come, as one text that changes with every receipt that the page hears of. */
export function progressOf(thread: Thread, entry: Entry, now: number): string {
  return thread.kind === "direct" ? stateOf(thread, entry, now) : Object.values(tallyOf(thread, entry)).join("/");
}

export function tallyOf(thread: Thread, entry: Entry): Tally {
  const of = (...rungs: (keyof Omit<Climb, "kind">)[]) =>
    recipients.filter((member) => climbsOf(thread, member).some((climb) => rungs.some((rung) => has(climb[rung], entry.seq)))).length;
  const recipients = recipientsOf(thread, entry);
  return {
    recipients: recipients.length,
    sent: of("sent", "delivered", "read", "acted"),
    delivered: of("delivered", "read", "acted"),
    read: of("read", "acted"),
    acted: of("acted"),
  };
}

/** The office reads its own words as they are written; everyone else but the author has yet to get an entry. */
function recipientsOf(thread: Thread, entry: Entry): Member[] {
  const all = thread.recipients.get(entry.seq) ?? thread.members;
  return all.filter((member) => (isOurs(entry) ? member.kind === "device" : keyOf(member) !== keyOf(entry.author)));
}

/** For the others, any person's reading is the office's. */
function climbsOf(thread: Thread, member: Member): Climb[] {
  if (member.kind === "device") return [thread.climbs.get(keyOf(member))].filter((climb) => climb !== undefined);
  return [...thread.climbs.values()].filter((climb) => climb.kind !== "device");
}

/**
 * How many of the driver's entries this person has not read: what the server had counted, and what has come since. Reading up to the number
 * the server had counted to clears its count; short of that, the entries at hand tell.
 */
export function unreadOf(thread: Thread): number {
  const theirs = (from: number) => thread.entries.filter((entry) => entry.seq > from && isTheirs(entry)).length;
  if (thread.readUpTo >= thread.counted.head) return theirs(thread.readUpTo);
  const countedFrom = ownReadUpTo({ ...thread, readUpTo: 0 });
  const readSince = thread.entries.filter((entry) => isTheirs(entry) && entry.seq > countedFrom && entry.seq <= thread.readUpTo);
  return Math.max(0, thread.counted.unread - readSince.length) + theirs(thread.counted.head);
}

/** This person's cursor: what was read here, or what follows from how many the server counted as unread. */
function ownReadUpTo(thread: Thread): number {
  let left = thread.counted.unread;
  if (left === 0) return Math.max(thread.readUpTo, thread.counted.head);
  for (let index = thread.entries.length - 1; index >= 0; index--) {
    const entry = thread.entries[index] as Entry;
    if (entry.seq > thread.counted.head || !isTheirs(entry)) continue;
    if (left === 0) return Math.max(thread.readUpTo, entry.seq);
    left--;
  }
  return thread.readUpTo;
}

export function lastEntry(thread: Thread): Entry | null {
  return thread.entries.at(-1) ?? null;
}

/** The newest entry that somebody wrote: who joins or leaves says nothing. */
export function lastSaid(thread: Thread): Entry | null {
  return thread.entries.findLast((entry) => entry.body.kind !== "system") ?? null;
}

/** Our newest entry when nobody on the other side has spoken since: the one that a dispatcher waits on. */
export function awaiting(thread: Thread): Entry | null {
  const last = lastEntry(thread);
  return last !== null && isOurs(last) && !thread.answered.has(last.seq) ? last : null;
}

/** The first numbers missing between what is held and the head; null when there are none, or nothing is held yet. */
export function gapOf(thread: Thread): readonly [from: number, to: number] | null {
  return firstGap(thread.held, thread.head);
}

/**
 * Our entries (in a group everyone's, since there they are for many), newest first, whose place on the ladder has not been asked for and is not
 * known: down to the newest that everyone has read, since all before it have been read too.
 */
export function unresolved(thread: Thread, atMost: number): number[] {
  const seqs: number[] = [];
  for (let index = thread.entries.length - 1; index >= 0 && seqs.length < atMost; index--) {
    const entry = thread.entries[index] as Entry;
    if (thread.kind === "direct" ? !isOurs(entry) : entry.author.kind === "system") continue;
    if (isReadByAll(thread, entry)) break;
    if (!thread.asked.has(entry.seq)) seqs.push(entry.seq);
  }
  return seqs;
}

function isReadByAll(thread: Thread, entry: Entry): boolean {
  if (thread.kind === "direct") return [...thread.climbs.values()].some((climb) => climb.kind === "device" && has(climb.read, entry.seq));
  const { recipients, read } = tallyOf(thread, entry);
  return recipients > 0 && read === recipients;
}
