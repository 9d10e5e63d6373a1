/**
 * The dashboard's state and everything that changes it: answers, events, and what the person does. The logic is in the pure modules beside this
 * one; here they meet the network and the clock.
 *
 * Events are taken together every {@link EVENTS_MS}, so that a burst costs one rendering and not one each.
 */

import { SvelteMap } from "svelte/reactivity";
import { Api, ENTRIES_PAGE, type NewBroadcast } from "@waypost/shared/api";
import { ServerClock } from "@waypost/shared/clock";
import { Live, type LiveHandlers } from "@waypost/shared/live";
import { Problem, reasonOf } from "@waypost/shared/problem";
import { render, textIn } from "@waypost/shared/template";
import {
  FLEET_EVENT_TYPES,
  type Broadcast,
  type FleetEvent,
  type Group,
  type Person,
  type Receipt,
  type SlotValues,
  type Stream,
  type Template,
  type TrackFeature,
} from "@waypost/shared/wire";
import { BroadcastDraft } from "./broadcast-draft.svelte.ts";
import * as broadcasts from "./broadcasts.ts";
import * as fleet from "./fleet.ts";
import { groupRowsOf, type GroupRow } from "./groups.ts";
import * as outbox from "./outbox.ts";
import { rowsOf, type Row } from "./rows.ts";
import * as storage from "./storage.ts";
import * as threads from "./thread.ts";

const EVENTS_MS = 50;
/** Enough to show the last word of each conversation and to find our last one in most. */
const SUMMARY_ENTRIES = 10;
/** Requests that fill in conversations nobody is looking at; few, so that the one somebody looks at never waits. */
const SUMMARIES_AT_ONCE = 3;
const RECEIPTS_AT_ONCE = 20;
/** How long what left with one click can be taken back. */
const HOLD_MS = 3_000;

export type Access =
  | { kind: "checking" }
  | { kind: "signed_out"; because: "ended" | "unreachable" | null }
  | { kind: "signed_in"; person: Person };

export class Dispatch {
  access: Access = $state.raw({ kind: "checking" });
  connected = $state(false);
  /** Whether the list of vehicles has arrived at least once. */
  loaded = $state(false);
  fleet: fleet.Fleet = $state.raw(new Map());
  threads: ReadonlyMap<string, threads.Thread> = $state.raw(new Map());
  outbox: outbox.Outbox = $state.raw([]);
  streams: ReadonlyMap<string, Stream> = $state.raw(new Map());
  /** Whether it is known which templates, groups and broadcasts there are. */
  officeLoaded = $state(false);
  templates: readonly Template[] = $state.raw([]);
  groups: readonly Group[] = $state.raw([]);
  broadcasts: broadcasts.Broadcasts = $state.raw(new Map());
  /** Unfinished messages by stream. */
  readonly drafts = new SvelteMap<string, string>();
  readonly broadcastDraft = new BroadcastDraft();
  /** The server's time, to the second. */
  now = $state(0);

  readonly rows: Row[] = $derived(rowsOf(this.fleet, this.threads, this.outbox, this.now));
  readonly groupRows: GroupRow[] = $derived(groupRowsOf(this.streams, this.threads, this.outbox));
  readonly sentBroadcasts: broadcasts.View[] = $derived(broadcasts.newestFirst(this.broadcasts));
  readonly rowOfDevice: ReadonlyMap<string, Row> = $derived(new Map(this.rows.map((row) => [row.device.id, row])));

  readonly #clock: ServerClock;
  readonly #api: Api;
  readonly #fetch: typeof fetch;
  #live: Live | null = null;
  /** Counts lost connections, so that an answer asked for on one of them does not speak for the next. */
  #connection = 0;
  #events: FleetEvent[] = [];
  #eventsDue: ReturnType<typeof setTimeout> | null = null;
  #summarising = false;
  #filling = new Set<string>();
  /** Streams that events named before any list did, and for which the lists were asked again since the connection was made. */
  #newStreams = new Set<string>();
  #askingBroadcasts = new Set<string>();

  constructor(fetchWith: typeof fetch = (...request) => fetch(...request), clock = new ServerClock()) {
    this.#clock = clock;
    this.#fetch = fetchWith;
    this.#api = new Api(clock, fetchWith);
    this.now = clock.now();
  }

  /** Starts the page; call the answer to end it. */
  start(): () => void {
    const tick = setInterval(() => (this.now = this.#clock.now()), 1000);
    const online = () => this.#live?.hurry();
    const offline = () => this.#live?.drop();
    const looked = () => {
      if (document.visibilityState !== "visible") return;
      this.#live?.hurry();
      // Templates and groups change without an event: whoever comes back to the page sees them as they are now.
      if (this.connected) void this.loadOffice();
    };
    window.addEventListener("online", online);
    window.addEventListener("offline", offline);
    document.addEventListener("visibilitychange", looked);
    void this.#checkSession();
    return () => {
      clearInterval(tick);
      window.removeEventListener("online", online);
      window.removeEventListener("offline", offline);
      document.removeEventListener("visibilitychange", looked);
      this.#live?.stop();
    };
  }

  /** @throws Problem */
  async signIn(email: string, password: string): Promise<void> {
    this.#enter((await this.#api.signIn(email, password)).person);
  }

  async signOut(): Promise<void> {
    try {
      await this.#api.signOut();
    } catch (error) {
      if (error instanceof Problem && error.kind !== "signed_out") throw error;
    }
    this.#leave(null);
  }

  async #checkSession(): Promise<void> {
    try {
      this.#enter((await this.#api.session()).person);
    } catch (error) {
      const over = error instanceof Problem && error.kind === "signed_out";
      this.#leave(over ? null : "unreachable");
    }
  }

  #enter(person: Person): void {
    const words = storage.load(person.id);
    this.drafts.clear();
    for (const [stream, text] of words.drafts) this.drafts.set(stream, text);
    this.outbox = words.outbox;
    this.access = { kind: "signed_in", person };
    this.now = this.#clock.now();
    const handlers: LiveHandlers = {
      onEvent: (event) => this.#take(event),
      onConnected: () => void this.#refresh(),
      onLost: () => {
        this.#connection++;
        this.connected = false;
      },
      onSignedOut: () => this.#leave("ended"),
    };
    this.#live = new Live(FLEET_EVENT_TYPES, handlers, this.#fetch);
    void this.#live.run();
  }

  /** What was written stays in the browser's storage for the same person's return; what was read does not stay in this page. */
  #leave(because: "ended" | "unreachable" | null): void {
    this.#live?.stop();
    this.#live = null;
    this.connected = false;
    this.loaded = false;
    this.officeLoaded = false;
    this.#events = [];
    this.fleet = new Map();
    this.threads = new Map();
    this.streams = new Map();
    this.templates = [];
    this.groups = [];
    this.broadcasts = new Map();
    this.outbox = [];
    this.drafts.clear();
    this.broadcastDraft.clear();
    this.access = { kind: "signed_out", because };
  }

  /** The person who is signed in. Only called where that is certain. */
  get me(): Person {
    if (this.access.kind !== "signed_in") throw new Error("nobody is signed in");
    return this.access.person;
  }

  get mayWrite(): boolean {
    return this.me.role === "admin" || this.me.role === "dispatcher";
  }

  get isAdmin(): boolean {
    return this.me.role === "admin";
  }

  thread(stream: string): threads.Thread {
    return this.threads.get(stream) ?? threads.emptyThread(stream);
  }

  #change(stream: string, next: (thread: threads.Thread) => threads.Thread): void {
    const thread = this.thread(stream);
    const changed = next(thread);
    if (changed !== thread) this.threads = new Map(this.threads).set(stream, changed);
  }

  #take(event: FleetEvent): void {
    this.#clock.observeStamp(event.time);
    this.#events.push(event);
    this.#eventsDue ??= setTimeout(() => this.#applyEvents(), EVENTS_MS);
  }

  #applyEvents(): void {
    this.#eventsDue = null;
    if (this.access.kind !== "signed_in") return;
    const events = this.#events;
    this.#events = [];
    let nextFleet = this.fleet;
    let nextOutbox = this.outbox;
    let nextBroadcasts = this.broadcasts;
    const changed = new Map<string, threads.Thread>();
    for (const event of events) {
      nextFleet = fleet.withEvent(nextFleet, event);
      if (event.type === "waypost.entry.accepted") nextOutbox = outbox.withSeen(nextOutbox, event.data.entry, this.me.id);
      nextBroadcasts = broadcasts.withEvent(nextBroadcasts, event);
      const stream = threads.streamOf(event);
      if (stream !== null) changed.set(stream, threads.withEvent(changed.get(stream) ?? this.thread(stream), event, this.me.id));
    }
    this.fleet = nextFleet;
    this.outbox = nextOutbox;
    this.#setBroadcasts(nextBroadcasts);
    if (changed.size > 0) this.threads = new Map([...this.threads, ...changed]);
    for (const stream of changed.keys()) void this.#fillGaps(stream);
    if (events.some((event) => this.#changesLists(event))) void this.#refresh();
  }

  /** Whether an event is about something that only the lists tell: a new vehicle, conversation or broadcast, or who is in a group. */
  #changesLists(event: FleetEvent): boolean {
    if (event.type === "waypost.device.enrolled") return true;
    if (event.type !== "waypost.entry.accepted") return false;
    const { stream, body } = event.data.entry;
    if (this.streams.has(stream)) return body.kind === "system";
    if (broadcasts.ofStream(this.broadcasts, stream) !== null) return false;
    // What no list names after all is asked for once and not at each of its entries.
    const unheard = !this.#newStreams.has(stream);
    this.#newStreams.add(stream);
    return unheard;
  }

  /** A broadcast that moves while only its counts are known: who it was is worth asking. */
  #setBroadcasts(next: broadcasts.Broadcasts): void {
    if (next === this.broadcasts) return;
    const moved = [...next].filter(([id, held]) => held !== this.broadcasts.get(id) && held.told.outstanding === undefined && held.heard.size > 0);
    this.broadcasts = next;
    for (const [id] of moved) void this.loadBroadcast(id);
  }

  /** After connecting: what has no cursor, and whatever the log may have said while nobody listened. */
  async #refresh(): Promise<void> {
    const connection = this.#connection;
    try {
      const [devices, streams] = await Promise.all([this.#api.devices(), this.#api.streams()]);
      if (this.access.kind !== "signed_in") return;
      this.fleet = fleet.withDevices(this.fleet, devices);
      const next = new Map(this.threads);
      this.streams = new Map(streams.map((stream) => [stream.id, stream]));
      for (const stream of streams) {
        next.set(stream.id, threads.withStream(threads.withReceiptsStale(next.get(stream.id) ?? threads.emptyThread(stream.id)), stream));
      }
      this.threads = next;
      this.now = this.#clock.now();
      this.loaded = true;
      this.connected = connection === this.#connection;
      void this.#summarise();
      void this.loadOffice();
    } catch (error) {
      this.#onProblem(error);
      // Connected and yet unable to ask: begin again, so that the page never claims to be up to date when it is not.
      if (connection === this.#connection) this.#live?.drop();
    }
  }

  /**
   * What changes by hand and seldom, and has no events of its own: templates, groups, and the list of broadcasts. Each by itself, since a role may not see
   * all of them, and a page without quick replies is still a page.
   */
  async loadOffice(): Promise<void> {
    this.#newStreams.clear();
    await Promise.all([
      this.#load(this.#api.templates(), (templates) => (this.templates = [...templates].sort((a, b) => a.key.localeCompare(b.key)))),
      this.#load(this.#api.groups(), (groups) => (this.groups = [...groups].sort((a, b) => a.name.localeCompare(b.name)))),
      this.#load(this.#api.broadcasts(), (list) => {
        const opened = [...this.broadcasts].filter(([, held]) => held.told.outstanding !== undefined);
        this.broadcasts = broadcasts.withList(this.broadcasts, list);
        for (const [id] of opened) void this.loadBroadcast(id);
      }),
    ]);
    this.officeLoaded = this.access.kind === "signed_in";
  }

  async #load<T>(asked: Promise<T>, take: (answer: T) => void): Promise<void> {
    try {
      const answer = await asked;
      if (this.access.kind === "signed_in") take(answer);
    } catch (error) {
      // The next connection asks again.
      this.#onProblem(error);
    }
  }

  /** Asks who has not answered a broadcast. */
  async loadBroadcast(id: string): Promise<void> {
    if (this.#askingBroadcasts.has(id)) return;
    this.#askingBroadcasts.add(id);
    await this.#load(this.#api.broadcast(id), (told) => (this.broadcasts = broadcasts.withBroadcast(this.broadcasts, told)));
    this.#askingBroadcasts.delete(id);
  }

  /** @throws Problem */
  async sendBroadcast(broadcast: NewBroadcast, key: string): Promise<Broadcast> {
    const told = await this.ask((api) => api.addBroadcast(broadcast, key));
    this.broadcasts = broadcasts.withBroadcast(this.broadcasts, told);
    return told;
  }

  /**
   * For pages that ask for more than what is kept here.
   *
   * @throws Problem
   */
  async ask<T>(request: (api: Api) => Promise<T>): Promise<T> {
    try {
      return await request(this.#api);
    } catch (error) {
      this.#onProblem(error);
      throw error;
    }
  }

  /** Asks for vehicles and conversations anew, after something here has changed them. */
  async refresh(): Promise<void> {
    await this.#refresh();
  }

  /** Fetches the end of every conversation, the liveliest first, so that the list can tell who has not answered. */
  async #summarise(): Promise<void> {
    if (this.#summarising) return;
    this.#summarising = true;
    try {
      const waiting = [...this.threads.values()].filter((thread) => thread.head > 0 && thread.kind !== "broadcast").sort((a, b) => b.counted.unread - a.counted.unread);
      const worker = async () => {
        for (let thread = waiting.shift(); thread !== undefined; thread = waiting.shift()) {
          await this.#catchUp(thread.stream, SUMMARY_ENTRIES, 1);
        }
      };
      await Promise.all(Array.from({ length: SUMMARIES_AT_ONCE }, worker));
    } finally {
      this.#summarising = false;
    }
  }

  /** Opens a conversation: its newest page, and the place of each of our entries on the ladder. */
  async open(stream: string): Promise<void> {
    await this.#catchUp(stream, ENTRIES_PAGE, RECEIPTS_AT_ONCE);
  }

  async #catchUp(stream: string, entries: number, receipts: number): Promise<void> {
    try {
      if (this.thread(stream).entries.length < entries && !this.thread(stream).complete) {
        const page = await this.#api.entries(stream, { limit: entries });
        const first = page[0];
        if (first !== undefined) {
          this.#change(stream, (thread) => threads.withEntries(thread, page, [first.seq, (page.at(-1) ?? first).seq]));
        } else {
          this.#change(stream, threads.withNothingBefore);
        }
      }
      await this.#fillGaps(stream);
      for (const seq of threads.unresolved(this.thread(stream), receipts)) {
        const rows = await this.#api.receipts(stream, seq);
        this.#change(stream, (thread) => threads.withReceipts(thread, seq, rows));
        if (!threads.unresolved(this.thread(stream), RECEIPTS_AT_ONCE).some((left) => left < seq)) break;
      }
    } catch (error) {
      // The next connection, or the next look, tries again.
      this.#onProblem(error);
    }
  }

  /** Entries that events did not bring, from the numbers that are missing. */
  async #fillGaps(stream: string): Promise<void> {
    if (this.#filling.has(stream)) return;
    this.#filling.add(stream);
    try {
      for (let gap = threads.gapOf(this.thread(stream)); gap !== null; gap = threads.gapOf(this.thread(stream))) {
        const [from, to] = gap;
        const page = await this.#api.entries(stream, { after: from - 1 });
        const last = page.at(-1);
        const reached = last === undefined || page.length < ENTRIES_PAGE ? Math.max(to, last?.seq ?? 0) : last.seq;
        this.#change(stream, (thread) => threads.withEntries(thread, page, [from, reached]));
      }
    } catch (error) {
      this.#onProblem(error);
    } finally {
      this.#filling.delete(stream);
    }
  }

  /** Entries from before those held. False when it could not be done now. */
  async loadOlder(stream: string): Promise<boolean> {
    const thread = this.thread(stream);
    const first = thread.entries[0];
    if (thread.complete || first === undefined) return true;
    try {
      const page = await this.#api.entries(stream, { before: first.seq });
      const oldest = page[0];
      this.#change(stream, (current) =>
        oldest === undefined ? threads.withNothingBefore(current) : threads.withEntries(current, page, [oldest.seq, first.seq - 1]),
      );
      return true;
    } catch (error) {
      this.#onProblem(error);
      return false;
    }
  }

  /** The person has seen this conversation to its end. */
  async markRead(stream: string): Promise<void> {
    const thread = this.thread(stream);
    const last = threads.lastEntry(thread);
    if (last === null || threads.unreadOf(thread) === 0) return;
    this.#change(stream, (current) => threads.withOwnRead(current, last.seq));
    try {
      await this.#api.markRead(stream, last.seq);
    } catch (error) {
      this.#change(stream, (current) => (current.readUpTo === last.seq ? { ...current, readUpTo: thread.readUpTo } : current));
      this.#onProblem(error);
    }
  }

  /** @throws Problem */
  async receipts(stream: string, seq: number): Promise<Receipt[]> {
    const rows = await this.#api.receipts(stream, seq);
    this.#change(stream, (thread) => threads.withReceipts(thread, seq, rows));
    return rows;
  }

  /** Where a vehicle was in the last hour; empty when that cannot be told now, since a trail only decorates. */
  async recentTrack(device: string): Promise<TrackFeature[]> {
    const to = new Date(this.#clock.now());
    try {
      return await this.#api.track(device, new Date(to.getTime() - 3_600_000), to);
    } catch (error) {
      this.#onProblem(error);
      return [];
    }
  }

  setDraft(stream: string, text: string): void {
    if (text === "") this.drafts.delete(stream);
    else this.drafts.set(stream, text);
    this.#keepWords();
  }

  send(stream: string, text: string, urgent: boolean, replyTo: number | null): void {
    const message = { key: crypto.randomUUID(), stream, text, reply: null, urgent, replyTo, after: this.thread(stream).head };
    this.#setOutbox(outbox.withWritten(this.outbox, message));
    void this.#sendNext(stream);
  }

  /** Sends a quick reply: what one click sends can be taken back for {@link HOLD_MS}, what was typed into slots has been thought about. */
  sendReply(stream: string, template: Template, slots: SlotValues, urgent: boolean, replyTo: number | null): void {
    const text = render(textIn(template.text, this.languages), slots);
    const message = { key: crypto.randomUUID(), stream, text, reply: { template: template.key, slots }, urgent, replyTo, after: this.thread(stream).head };
    const hold = template.slots.length === 0;
    this.#setOutbox(outbox.withWritten(this.outbox, message, hold ? "held" : "waiting"));
    void this.#sendNext(stream);
    if (!hold) return;
    setTimeout(() => this.#release(message.key, stream), HOLD_MS);
  }

  /** The reader's, best first. */
  get languages(): readonly string[] {
    return navigator.languages;
  }

  #release(key: string, stream: string): void {
    this.#setOutbox(outbox.withReleased(this.outbox, (held) => held.key === key));
    void this.#sendNext(stream);
  }

  retry(stream: string): void {
    this.#setOutbox(outbox.withRetry(this.outbox, stream));
    void this.#sendNext(stream);
  }

  discard(message: outbox.Unsent): void {
    this.#setOutbox(outbox.withDiscarded(this.outbox, message.key));
    void this.#sendNext(message.stream);
  }

  async #sendNext(stream: string): Promise<void> {
    const message = outbox.nextToSend(this.outbox, stream);
    if (message === null) return;
    this.#setOutbox(outbox.withSending(this.outbox, message.key));
    const post = {
      body: outbox.bodyOf(message),
      ...(message.urgent ? { urgent: true } : {}),
      ...(message.replyTo === null ? {} : { reply_to: message.replyTo }),
    };
    try {
      const entry = await this.#api.post(stream, post, message.key);
      this.#change(stream, (thread) => threads.withEntries(thread, [entry], [entry.seq, entry.seq]));
      this.#setOutbox(outbox.withAnswered(this.outbox, message.key));
      void this.#fillGaps(stream);
    } catch (error) {
      this.#setOutbox(outbox.withFailed(this.outbox, message.key, reasonOf(error)));
      this.#onProblem(error);
    }
    void this.#sendNext(stream);
  }

  #setOutbox(next: outbox.Outbox): void {
    if (this.access.kind !== "signed_in") return;
    this.outbox = next;
    this.#keepWords();
  }

  #keepWords(): void {
    if (this.access.kind === "signed_in") storage.save(this.me.id, { drafts: this.drafts, outbox: this.outbox });
  }

  /** What concerns the whole page: the session being over. All else is told where it happened. */
  #onProblem(error: unknown): void {
    if (error instanceof Problem && error.kind === "signed_out") {
      if (this.access.kind === "signed_in") this.#leave("ended");
    } else if (!(error instanceof Problem)) {
      throw error;
    }
  }
}
