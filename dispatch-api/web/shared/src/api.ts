/**
 * The server's HTTP interface as functions. A browser's session is a cookie that scripts cannot read, so nothing here ever holds a token.
 * Every failure is thrown as a {@link Problem}.
 */

import type { ServerClock } from "./clock.ts";
import { problemOf, unreachable } from "./problem.ts";
import type {
  Broadcast,
  Credentials,
  Device,
  Entry,
  Group,
  Key,
  NewBody,
  Page,
  Person,
  Receipt,
  Recipients,
  Role,
  Session,
  Slot,
  Stream,
  Template,
  TrackFeature,
} from "./wire.ts";

export const BASE = "/api/v1";

/** How many entries are asked for at a time: more than a screen holds, little enough for a poor line. */
export const ENTRIES_PAGE = 50;

export interface Post {
  body: NewBody;
  urgent?: boolean;
  reply_to?: number;
}

export interface NewBroadcast {
  to: Partial<Recipients>;
  body: NewBody;
  urgent?: boolean;
}

export interface DeviceFields {
  name: string;
  driver: { name: string; locale: string } | null;
  groups: string[];
}

export interface GroupFields {
  name: string;
  devices: string[];
  history: Group["history"];
}

export class Api {
  readonly #clock: ServerClock;
  readonly #fetch: typeof fetch;

  constructor(clock: ServerClock, fetchWith: typeof fetch) {
    this.#clock = clock;
    this.#fetch = fetchWith;
  }

  session(): Promise<Session> {
    return this.#json("GET", "/session");
  }

  signIn(email: string, password: string): Promise<Session> {
    return this.#json("POST", "/session", { email, password }, crypto.randomUUID());
  }

  async signOut(): Promise<void> {
    await this.#request("DELETE", "/session");
  }

  devices(): Promise<Device[]> {
    return this.#all("/devices");
  }

  streams(): Promise<Stream[]> {
    return this.#all("/streams");
  }

  /** The newest entries, or those directly `before` or `after` a number; ascending in each case. */
  async entries(stream: string, range: { before?: number; after?: number; limit?: number } = {}): Promise<Entry[]> {
    const query = new URLSearchParams({ limit: String(range.limit ?? ENTRIES_PAGE) });
    if (range.before !== undefined) query.set("before", String(range.before));
    if (range.after !== undefined) query.set("after", String(range.after));
    return (await this.#json<Page<Entry>>("GET", `/streams/${encodeURIComponent(stream)}/entries?${query}`)).items;
  }

  /** The same key twice is one entry, however often the network makes us repeat it. */
  post(stream: string, post: Post, key: string): Promise<Entry> {
    return this.#json("POST", `/streams/${encodeURIComponent(stream)}/entries`, post, key);
  }

  async markRead(stream: string, seq: number): Promise<void> {
    await this.#request("PUT", `/streams/${encodeURIComponent(stream)}/cursor`, { read: seq });
  }

  async receipts(stream: string, seq: number): Promise<Receipt[]> {
    return (await this.#json<Page<Receipt>>("GET", `/streams/${encodeURIComponent(stream)}/receipts?seq=${seq}`)).items;
  }

  templates(): Promise<Template[]> {
    return this.#all("/templates");
  }

  putTemplate(key: string, template: { text: Record<string, string>; slots: Slot[] }): Promise<Template> {
    return this.#json("PUT", `/templates/${encodeURIComponent(key)}`, template);
  }

  async deleteTemplate(key: string): Promise<void> {
    await this.#request("DELETE", `/templates/${encodeURIComponent(key)}`);
  }

  broadcasts(): Promise<Broadcast[]> {
    return this.#all("/broadcasts");
  }

  broadcast(id: string): Promise<Broadcast> {
    return this.#json("GET", `/broadcasts/${encodeURIComponent(id)}`);
  }

  addBroadcast(broadcast: NewBroadcast, key: string): Promise<Broadcast> {
    return this.#json("POST", "/broadcasts", broadcast, key);
  }

  groups(): Promise<Group[]> {
    return this.#all("/groups");
  }

  addGroup(group: GroupFields, key: string): Promise<Group> {
    return this.#json("POST", "/groups", group, key);
  }

  changeGroup(id: string, group: Partial<GroupFields>): Promise<Group> {
    return this.#json("PATCH", `/groups/${encodeURIComponent(id)}`, group);
  }

  async deleteGroup(id: string): Promise<void> {
    await this.#request("DELETE", `/groups/${encodeURIComponent(id)}`);
  }

  addDevice(device: Omit<DeviceFields, "groups">, key: string): Promise<{ device: Device; credentials: Credentials }> {
    return this.#json("POST", "/devices", device, key);
  }

  changeDevice(id: string, device: Partial<DeviceFields>): Promise<Device> {
    return this.#json("PATCH", `/devices/${encodeURIComponent(id)}`, device);
  }

  /** Draws a new secret; the old one stops working. */
  rotateCredentials(id: string, key: string): Promise<Credentials> {
    return this.#json("POST", `/devices/${encodeURIComponent(id)}/credentials`, undefined, key);
  }

  async revokeDevice(id: string): Promise<void> {
    await this.#request("DELETE", `/devices/${encodeURIComponent(id)}`);
  }

  people(): Promise<Person[]> {
    return this.#all("/people");
  }

  addPerson(person: Omit<Person, "id"> & { password: string }, key: string): Promise<Person> {
    return this.#json("POST", "/people", person, key);
  }

  changePerson(id: string, person: Partial<Omit<Person, "id">> & { password?: string }): Promise<Person> {
    return this.#json("PATCH", `/people/${encodeURIComponent(id)}`, person);
  }

  async deletePerson(id: string): Promise<void> {
    await this.#request("DELETE", `/people/${encodeURIComponent(id)}`);
  }

  keys(): Promise<Key[]> {
    return this.#all("/keys");
  }

  addKey(key: { name: string; role: Role }, idempotencyKey: string): Promise<Key & { token: string }> {
    return this.#json("POST", "/keys", key, idempotencyKey);
  }

  async deleteKey(id: string): Promise<void> {
    await this.#request("DELETE", `/keys/${encodeURIComponent(id)}`);
  }

  async track(device: string, from: Date, to: Date): Promise<TrackFeature[]> {
    const query = new URLSearchParams({ from: from.toISOString(), to: to.toISOString(), format: "geojson" });
    const track = await this.#json<{ features: TrackFeature[] }>("GET", `/devices/${encodeURIComponent(device)}/track?${query}`);
    return track.features;
  }

  async #all<T>(path: string): Promise<T[]> {
    const items: T[] = [];
    let cursor: string | null = null;
    do {
      const query = new URLSearchParams({ limit: "500" });
      if (cursor !== null) query.set("cursor", cursor);
      const page: Page<T> = await this.#json("GET", `${path}?${query}`);
      items.push(...page.items);
      cursor = page.next;
    } while (cursor !== null);
    return items;
  }

  async #json<T>(method: string, path: string, body?: unknown, key?: string): Promise<T> {
    const response = await this.#request(method, path, body, key);
    try {
      return (await response.json()) as T;
    } catch {
      // The connection broke inside the answer: to the caller that is no answer.
      throw unreachable();
    }
  }

  async #request(method: string, path: string, body?: unknown, key?: string): Promise<Response> {
    const headers: Record<string, string> = { accept: "application/json" };
    if (body !== undefined) headers["content-type"] = "application/json";
    if (key !== undefined) headers["idempotency-key"] = key;
    const asked = Date.now();
    let response: Response;
    try {
      response = await this.#fetch(BASE + path, {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        credentials: "same-origin",
        cache: "no-store",
      });
    } catch {
      throw unreachable();
    }
    this.#clock.observeDate(response.headers.get("date"), asked, Date.now());
    if (!response.ok) throw await problemOf(response);
    return response;
  }
}
