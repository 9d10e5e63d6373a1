/**
 * A stand-in for the server, for working on the web apps without one: the same routes and shapes, everything in memory. See README.md beside it.
 *
 *   node dev/mock.mjs [--port 8099] [--vehicles 12] [--seed 7]
 */

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { randomBytes, randomUUID } from "node:crypto";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { bodyOf, officeRoutes, seedOffice } from "./mock-office.mjs";
import { drive, driveBefore, makeVehicles, randomFrom } from "./mock-fleet.mjs";

const DIST = join(fileURLToPath(import.meta.url), "../../dist");
const PERSON = { id: "p1", email: "dispatcher@example.com", name: "Dana Brooks", role: "dispatcher" };
const ADMIN = { id: "p2", email: "admin@example.com", name: "Ada Whitfield", role: "admin" };
const OFFICE = { id: "office", kind: "office", name: "Office" };
const AUTHOR = authorOf(PERSON);
const CONTENT_SECURITY_POLICY =
  "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".json": "application/json" };
const STEP_MS = 1000;
const ANSWERS = ["Understood.", "On my way, about 15 minutes.", "At the gate, waiting for the dock.", "Traffic on Dodge Street, will be late.", "Done, papers are signed."];

/**
 * Starts a mock. For tests, `hasty` makes drivers read and answer within a fraction of a second, and `idle` makes them do nothing but what `climb` and
 * `answer` say. What happens `quiet` makes no event.
 * @returns {Promise<{url: string, close: () => Promise<void>, dropStreams: () => void, endSessions: () => void, say: (device: string, text: string, options?: {quiet?: boolean, urgent?: boolean}) => object, climb: (stream: string, seq: number, step: string, device: string, options?: {quiet?: boolean}) => void, answer: (stream: string, seq: number, device: string, text: string) => void, requests: string[]}>}
 */
export async function startMock({ port = 0, vehicles: count = 12, seed = 7, password = "waypost", hasty = false, idle = false } = {}) {
  const random = randomFrom(seed);
  const started = Date.now();
  const vehicles = makeVehicles(count, random, started);
  const streams = new Map();
  const people = [PERSON, ADMIN];
  const sessions = new Map();
  const answers = new Map();
  const log = [];
  const listeners = new Set();
  const requests = [];
  const timers = new Set();
  let lastId = 9000;

  const later = (ms, act) => {
    const timer = setTimeout(() => {
      timers.delete(timer);
      act();
    }, hasty ? ms / 20 : ms);
    timers.add(timer);
  };
  const iso = (ms = Date.now()) => new Date(ms).toISOString();

  for (const vehicle of vehicles) {
    driveBefore(vehicle, random, started);
    addStream(vehicle.stream, "direct", () => vehicle.name, () => [vehicle]);
  }
  const office = {
    vehicles, streams, people, addStream, append, answer, climb, deliver, emit, iso, later, random, started, vehicleOf, nextId,
    templates: new Map(), groups: new Map(), broadcasts: new Map(), keys: new Map(), passwords: new Map(),
    enrol: (fields) => enrol(fields),
  };
  seedConversations();
  seedOffice(office, AUTHOR);

  function emit(type, subject, data, logged = true) {
    const event = { specversion: "1.0", id: randomUUID(), source: "mock", type, subject, time: iso(), datacontenttype: "application/json", data };
    if (logged) log.push(event);
    const cursor = logged ? log.length : null;
    for (const listener of listeners) if (listener.wants(type)) listener.send(event, cursor);
  }

  function nextId() {
    return String(++lastId);
  }

  /** `members` tells who is in it now; an entry is for those who are when it is written. */
  function addStream(id, kind, title, members) {
    const stream = { id, kind, title, members, entries: [], rungs: new Map(), readByOffice: 0 };
    streams.set(id, stream);
    return stream;
  }

  function append(stream, author, body, { at = Date.now(), urgent = false, replyTo = null, replyToStream = null, quiet = false } = {}) {
    const vehicle = author.kind === "device" ? vehicleOf(author.id) : null;
    const entry = {
      stream: stream.id,
      seq: stream.entries.length + 1,
      id: randomBytes(16).toString("hex"),
      author,
      device_at: vehicle === null ? null : iso(at + vehicle.clockOffsetMs),
      server_at: iso(at),
      urgent,
      expires_at: null,
      reply_to: replyTo,
      reply_to_stream: replyToStream,
      body: typeof body === "string" ? { kind: "text", text: body } : body,
    };
    stream.entries.push(entry);
    stream.rungs.set(entry.seq, {
      accepted: rung(vehicle, at),
      office: {},
      devices: new Map(stream.members().filter((member) => member !== vehicle).map((member) => [member, {}])),
    });
    if (!quiet) emit("waypost.entry.accepted", `stream/${stream.id}/${entry.seq}`, { entry });
    return entry;
  }

  function rung(vehicle, at) {
    return {
      device_at: vehicle === null ? null : iso(at + vehicle.clockOffsetMs),
      server_at: iso(at),
      offset_ms: vehicle === null ? null : -vehicle.clockOffsetMs,
    };
  }

  function climb(stream, entry, step, vehicle, at = Date.now(), quiet = false) {
    const rungs = stream.rungs.get(entry.seq).devices.get(vehicle);
    if (rungs === undefined || rungs[step] !== undefined) return;
    rungs[step] = rung(vehicle, at);
    if (quiet) return;
    emit(`waypost.entry.${step}`, `stream/${stream.id}/${entry.seq}`, { stream: stream.id, from_seq: entry.seq, seq: entry.seq, member: deviceMember(vehicle), ...rungs[step] });
  }

  /** A driver answers a broadcast in his own conversation, and everything else where it was asked. */
  function answer(stream, entry, vehicle, body, options = {}) {
    const own = stream.kind === "broadcast" ? streams.get(vehicle.stream) : stream;
    const reply = append(own, deviceMember(vehicle), body, { ...options, replyTo: entry.seq, replyToStream: own === stream ? null : stream.id });
    const rungs = stream.rungs.get(entry.seq).devices.get(vehicle);
    if (rungs === undefined) return;
    rungs.acted = rung(vehicle, Date.parse(reply.server_at));
    if (options.quiet) return;
    emit("waypost.entry.acted", `stream/${stream.id}/${entry.seq}`, { stream: stream.id, seq: entry.seq, member: deviceMember(vehicle), answer_stream: own.id, answer_seq: reply.seq });
  }

  /** What was written goes to each device that is connected; the rest waits until it is. */
  function deliver(stream) {
    if (idle) return;
    for (const entry of stream.entries) {
      // Nobody waits for what the system noted.
      if (entry.body.kind === "system") continue;
      for (const [vehicle, rungs] of stream.rungs.get(entry.seq).devices) {
        if (rungs.sent !== undefined || !vehicle.online || vehicle.revoked) continue;
        climb(stream, entry, "sent", vehicle);
        later(500 + random() * 700, () => {
          if (!vehicle.online) {
            delete rungs.sent;
            return;
          }
          climb(stream, entry, "delivered", vehicle);
          if (vehicle.mute) return;
          later(2500 + random() * 3000, () => climb(stream, entry, "read", vehicle));
          if (entry.author.kind === "device" || random() >= (stream.kind === "group" ? 0.2 : 0.6)) return;
          later(7000 + random() * 4000, () => answer(stream, entry, vehicle, ANSWERS[Math.floor(random() * ANSWERS.length)]));
        });
      }
    }
  }

  function seedConversations() {
    const minute = 60_000;
    const [first, second, third, fourth, fifth, away] = [0, 1, 2, 3, 4, count - 2].map((index) => streams.get(vehicles[index]?.stream));
    const vehicleIn = (stream) => stream.members()[0];
    const driver = (stream) => deviceMember(vehicleIn(stream));
    const said = (stream, author, text, minutes, options = {}) => append(stream, author, text, { at: started - minutes * minute, quiet: true, ...options });
    const settle = (stream, entry, ...steps) => {
      for (const [index, step] of steps.entries()) climb(stream, entry, step, vehicleIn(stream), Date.parse(entry.server_at) + 800 + index * 9000, true);
    };
    for (let round = 0; round < 60; round++) {
      const asked = said(first, AUTHOR, `Stop ${round + 1}: how long until you are done?`, 3000 - round * 40);
      settle(first, asked, "sent", "delivered", "read");
      answer(first, asked, vehicleIn(first), `About ${5 + (round % 4) * 5} minutes.`, { at: started - (2990 - round * 40) * minute, quiet: true });
    }
    const dock = said(first, AUTHOR, "Dock 4 is free from 14:30. Please call the gate ten minutes before you arrive, the usual entrance is closed.", 42);
    settle(first, dock, "sent", "delivered", "read");
    answer(first, dock, vehicleIn(first), "Understood, I will call.", { at: started - 40 * minute, quiet: true });
    said(first, driver(first), "Queue at the scales, five trucks ahead of me.", 12);
    settle(first, said(first, AUTHOR, "Thank you. Take your break there if it takes longer.", 11), "sent", "delivered", "read");
    first.readByOffice = first.entries.length;
    if (second !== undefined) {
      settle(second, said(second, AUTHOR, "Can you take one pallet more from Papillion?", 9), "sent", "delivered", "read");
      second.readByOffice = 1;
      said(second, driver(second), "Yes, there is room for two.", 6);
      said(second, driver(second), "They ask for a reference number.", 3);
    }
    if (third !== undefined) said(third, driver(third), "Tyre pressure warning, rear left. I am stopping at the next lay-by.", 2, { urgent: true });
    if (fourth !== undefined) {
      settle(fourth, said(fourth, AUTHOR, "New window for stop 3: 16:00 to 17:00.", 24), "sent", "delivered");
      fourth.readByOffice = 1;
    }
    if (fifth !== undefined) {
      settle(fifth, said(fifth, AUTHOR, "Did the customer sign?", 33), "sent", "delivered", "read");
      fifth.readByOffice = 1;
    }
    if (away !== undefined && count > 6) {
      settle(away, said(away, AUTHOR, "Good night, see you tomorrow at six.", 1150), "sent", "delivered", "read");
      said(away, AUTHOR, "Change for tomorrow: you start in Bellevue, not in Omaha.", 180);
      away.readByOffice = 2;
    }
  }

  const stepping = setInterval(() => {
    const now = Date.now();
    for (const vehicle of vehicles.filter((candidate) => !candidate.revoked)) {
      const stream = streams.get(vehicle.stream);
      if (vehicle.online && now >= vehicle.cutsAt) setOnline(vehicle, false, now);
      if (!vehicle.online && now >= vehicle.returnsAt) setOnline(vehicle, true, now);
      drive(vehicle, random, now, STEP_MS / 1000);
      if (vehicle.online && !vehicle.mute && !(vehicle.speed === 0 && random() < 0.8)) {
        emit("waypost.position.updated", `device/${vehicle.id}`, { device: vehicle.id, position: vehicle.position }, false);
      }
      if (!hasty && vehicle.online && !vehicle.mute && random() < 0.0015) append(stream, deviceMember(vehicle), ANSWERS[Math.floor(random() * ANSWERS.length)]);
    }
    streams.forEach(deliver);
  }, hasty ? 200 : STEP_MS);
  const keepAlive = setInterval(() => listeners.forEach((listener) => listener.comment()), 15_000);

  function setOnline(vehicle, online, now) {
    vehicle.online = online;
    vehicle.since = now;
    vehicle.cutsAt = online ? now + 40_000 + random() * 60_000 : Infinity;
    vehicle.returnsAt = online ? Infinity : now + 5_000 + random() * 35_000;
    emit(`waypost.device.${online ? "online" : "offline"}`, `device/${vehicle.id}`, { device: vehicle.id, name: vehicle.name, since: iso(now) });
  }

  function deviceJson(vehicle) {
    return {
      id: vehicle.id,
      name: vehicle.name,
      driver: vehicle.driver,
      groups: [...office.groups.values()].filter((group) => group.vehicles.has(vehicle)).map((group) => group.id),
      labels: [],
      presence: vehicle.since === null ? { state: "unknown", since: null } : { state: vehicle.online ? "online" : "offline", since: iso(vehicle.since) },
      position: vehicle.position,
      app: { version: "0.1.0" },
      last_seen: vehicle.since === null ? null : iso(vehicle.online ? Date.now() : vehicle.since),
      stream: vehicle.stream,
      revoked: vehicle.revoked === true,
    };
  }

  function streamJson(stream) {
    return {
      id: stream.id,
      kind: stream.kind,
      title: stream.title(),
      members: [...stream.members().map(deviceMember), OFFICE],
      head: stream.entries.length,
      unread: stream.entries.filter((entry) => entry.seq > stream.readByOffice && entry.author.kind === "device").length,
    };
  }

  function feature(vehicle, { lat, lon, ...rest }) {
    return { type: "Feature", id: vehicle.id, geometry: { type: "Point", coordinates: [lon, lat] }, properties: { name: vehicle.name, ...rest } };
  }

  function signedIn(request) {
    const cookie = /(?:^|; )waypost_session=([^;]+)/.exec(request.headers.cookie ?? "")?.[1];
    const bearer = /^Bearer (.+)$/.exec(request.headers.authorization ?? "")?.[1];
    return sessions.get(bearer ?? cookie) ?? null;
  }

  /** Each route: method, pattern, and what it does with the match, the query and the body. A thrown array is a problem's status and detail. */
  const routes = [
    ["GET", /^\/session$/, (_, { session }) => [200, { expires_at: session.expires_at, person: session.person }]],
    ["GET", /^\/devices$/, () => [200, { items: vehicles.map(deviceJson), next: null }]],
    ["GET", /^\/devices\/(\w+)$/, ([, id]) => [200, deviceJson(vehicleOf(id))]],
    ["GET", /^\/streams$/, () => [200, { items: [...streams.values()].map(streamJson), next: null }]],
    ["GET", /^\/streams\/(\w+)$/, ([, id]) => [200, streamJson(streamOf(id))]],
    [
      "GET",
      /^\/streams\/(\w+)\/entries$/,
      ([, id], { query }) => {
        const limit = Math.min(Number(query.get("limit") ?? 50), 200);
        const before = Number(query.get("before") ?? Infinity);
        const after = Number(query.get("after") ?? 0);
        const range = streamOf(id).entries.filter((entry) => entry.seq < before && entry.seq > after);
        return [200, { items: query.has("after") ? range.slice(0, limit) : range.slice(-limit), next: null }];
      },
    ],
    [
      "POST",
      /^\/streams\/(\w+)\/entries$/,
      ([, id], { body, session }) => {
        const stream = streamOf(id);
        const entry = append(stream, authorOf(session.person), bodyOf(office, body?.body), { urgent: body.urgent === true, replyTo: body.reply_to ?? null });
        later(150, () => deliver(stream));
        return [201, entry];
      },
    ],
    [
      "PUT",
      /^\/streams\/(\w+)\/cursor$/,
      ([, id], { body, session }) => {
        const stream = streamOf(id);
        if (!Number.isInteger(body?.read)) throw [400, "The body is not valid.", [{ pointer: "/read", detail: "A number is required." }]];
        const from = stream.readByOffice + 1;
        if (body.read >= from) {
          stream.readByOffice = body.read;
          for (const entry of stream.entries.slice(from - 1, body.read)) {
            if (entry.author.kind === "device") stream.rungs.get(entry.seq).office.read ??= rung(null, Date.now());
          }
          emit("waypost.entry.read", `stream/${id}/${body.read}`, { stream: id, from_seq: from, seq: body.read, member: authorOf(session.person), ...rung(null, Date.now()) });
        }
        return [204];
      },
    ],
    [
      "GET",
      /^\/streams\/(\w+)\/receipts$/,
      ([, id], { query }) => {
        const stream = streamOf(id);
        const entry = stream.entries[Number(query.get("seq")) - 1];
        if (entry === undefined) throw [404, "There is no such entry."];
        const { accepted, office: ours, devices } = stream.rungs.get(entry.seq);
        const row = (member, rungs) => ({ member, accepted, sent: null, delivered: null, read: null, acted: null, ...rungs });
        const rows = [...devices].map(([vehicle, rungs]) => row(deviceMember(vehicle), rungs));
        return [200, { items: entry.author.kind === "device" ? [...rows, row(OFFICE, ours)] : rows, next: null }];
      },
    ],
    [
      "GET",
      /^\/positions$/,
      () => [200, { type: "FeatureCollection", features: vehicles.filter((vehicle) => vehicle.position !== null).map((vehicle) => feature(vehicle, vehicle.position)) }],
    ],
    [
      "GET",
      /^\/devices\/(\w+)\/track$/,
      ([, id], { query }) => {
        const vehicle = vehicleOf(id);
        const [from, to] = [Date.parse(query.get("from") ?? iso(0)), Date.parse(query.get("to") ?? iso())];
        const fixes = vehicle.track.filter((fix) => Date.parse(fix.at) >= from && Date.parse(fix.at) <= to);
        return [200, { type: "FeatureCollection", features: fixes.map((fix) => feature(vehicle, fix)) }];
      },
    ],
    ...officeRoutes(office, { authorOf, deviceJson }),
  ];

  /** A new unit, which nobody has switched on yet. */
  function enrol({ name, driver }) {
    const [vehicle] = makeVehicles(1, random, Date.now());
    Object.assign(vehicle, { id: nextId(), name, driver, stream: nextId(), since: null, online: false, cutsAt: Infinity, returnsAt: Infinity, mute: true });
    vehicles.push(vehicle);
    addStream(vehicle.stream, "direct", () => vehicle.name, () => [vehicle]);
    emit("waypost.device.enrolled", `device/${vehicle.id}`, { device: vehicle.id, name });
    return vehicle;
  }

  function vehicleOf(id) {
    const vehicle = vehicles.find((candidate) => candidate.id === id);
    if (vehicle === undefined) throw [404, "There is no such device."];
    return vehicle;
  }

  function streamOf(id) {
    const stream = streams.get(id);
    if (stream === undefined) throw [404, "There is no such stream."];
    return stream;
  }

  async function api(request, response, url) {
    const path = url.pathname.slice("/api/v1".length);
    const body = await jsonOf(request);
    if (request.method === "POST" && path === "/session") return signIn(response, body);
    const session = signedIn(request);
    if (session === null) throw [401, "You are not signed in."];
    if (request.method === "DELETE" && path === "/session") {
      sessions.delete(session.token);
      response.writeHead(204, { "set-cookie": "waypost_session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0" }).end();
      return;
    }
    if (request.method === "GET" && path === "/events/stream") return streamEvents(request, response, url.searchParams);
    const [, pattern, handle] = routes.find(([method, candidate]) => method === request.method && candidate.test(path)) ?? [];
    if (handle === undefined) throw [404, "There is no such page."];
    const act = () => handle(pattern.exec(path), { query: url.searchParams, body, session });
    const [status, answer] = request.method === "POST" ? once(request, body, act) : act();
    if (answer === undefined) response.writeHead(status).end();
    else response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" }).end(JSON.stringify(answer));
  }

  /** The same key and body give the first answer again. */
  function once(request, body, act) {
    const key = request.headers["idempotency-key"];
    if (key === undefined) throw [400, "Every POST takes an Idempotency-Key."];
    const digest = request.url + JSON.stringify(body);
    const known = answers.get(key);
    if (known !== undefined && known.digest !== digest) throw [422, "This key was used for something else."];
    const answer = known?.answer ?? act();
    answers.set(key, { digest, answer });
    return answer;
  }

  function signIn(response, body) {
    const person = people.find((candidate) => candidate.email === body?.email);
    if (person === undefined || body?.password !== (office.passwords.get(person.id) ?? password)) throw [401, "Email or password is wrong."];
    const session = { token: randomBytes(16).toString("hex"), expires_at: iso(Date.now() + 12 * 3_600_000), person };
    sessions.set(session.token, session);
    response
      .writeHead(200, { "content-type": "application/json", "set-cookie": `waypost_session=${session.token}; Path=/; HttpOnly; SameSite=Strict` })
      .end(JSON.stringify(session));
  }

  function streamEvents(request, response, query) {
    const types = query.get("types")?.split(",") ?? null;
    const wants = (type) => (types === null ? type !== "waypost.position.updated" : types.includes(type));
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    response.write("retry: 2000\n\n");
    const send = (event, cursor) => response.write(`${cursor === null ? "" : `id: ${cursor}\n`}data: ${JSON.stringify(event)}\n\n`);
    const after = request.headers["last-event-id"] ?? query.get("after");
    if (after !== null && after !== undefined) log.forEach((event, index) => index + 1 > Number(after) && wants(event.type) && send(event, index + 1));
    const listener = { wants, send, comment: () => response.write(": keep-alive\n\n"), drop: () => response.destroy() };
    listeners.add(listener);
    response.on("close", () => listeners.delete(listener));
  }

  const server = createServer((request, response) => {
    const url = new URL(request.url ?? "/", "http://mock");
    requests.push(`${request.method} ${url.pathname}${url.search}`);
    const answered = url.pathname.startsWith("/api/") ? api(request, response, url) : serveFile(response, url.pathname);
    answered.catch((error) => {
      const [status, detail, errors] = Array.isArray(error) ? error : [500, String(error)];
      const problem = { type: `/problems/${status}`, title: "Request failed", status, detail, ...(errors === undefined ? {} : { errors }) };
      response.writeHead(status, { "content-type": "application/problem+json" }).end(JSON.stringify(problem));
    });
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));

  return {
    url: `http://127.0.0.1:${server.address().port}`,
    requests,
    climb: (stream, seq, step, device, { quiet = false } = {}) => climb(streamOf(stream), streamOf(stream).entries[seq - 1], step, vehicleOf(device), Date.now(), quiet),
    answer: (stream, seq, device, text) => answer(streamOf(stream), streamOf(stream).entries[seq - 1], vehicleOf(device), text),
    dropStreams: () => listeners.forEach((listener) => listener.drop()),
    endSessions: () => {
      sessions.clear();
      listeners.forEach((listener) => listener.drop());
    },
    say: (device, text, options = {}) => append(streamOf(vehicleOf(device).stream), deviceMember(vehicleOf(device)), text, options),
    close: async () => {
      clearInterval(stepping);
      clearInterval(keepAlive);
      timers.forEach(clearTimeout);
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function authorOf(person) {
  return { id: person.id, kind: "person", name: person.name };
}

function deviceMember(vehicle) {
  return { id: vehicle.id, kind: "device", name: vehicle.name };
}

async function jsonOf(request) {
  let text = "";
  for await (const piece of request) text += piece;
  if (text === "") return null;
  try {
    return JSON.parse(text);
  } catch {
    throw [400, "The body is not JSON."];
  }
}

async function serveFile(response, path) {
  const name = extname(path) === "" ? "/index.html" : path;
  const file = join(DIST, normalize(name));
  if (!file.startsWith(DIST)) throw [404, "There is no such page."];
  const content = await readFile(file).catch(() => {
    throw [404, name === "/index.html" ? "Build the dashboard first: npm run build." : "There is no such page."];
  });
  response
    .writeHead(200, { "content-type": TYPES[extname(name)] ?? "application/octet-stream", "content-security-policy": CONTENT_SECURITY_POLICY, "x-content-type-options": "nosniff" })
    .end(content);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const option = (name, fallback) => {
    const index = process.argv.indexOf(`--${name}`);
    return index < 0 ? fallback : Number(process.argv[index + 1]);
  };
  const mock = await startMock({ port: option("port", 8099), vehicles: option("vehicles", 12), seed: option("seed", 7) });
  process.stdout.write(`ready ${mock.url} (dispatcher@example.com or admin@example.com, waypost)\n`);
}
