/**
 * What the office keeps in the mock: templates, groups, broadcasts, people, keys and devices, with their routes. The world that they act on (vehicles,
 * streams, events) is handed in by mock.mjs.
 */

import { randomBytes } from "node:crypto";

const SYSTEM = { id: "system", kind: "system", name: "Waypost" };
const SLOT_KINDS = ["number", "text", "time"];
const PASSWORD_LENGTH = 12;
const TEMPLATES = [
  ["arrived", { en: "Arrived at the gate", de: "Bin am Tor" }],
  ["break", { en: "Take your break now", de: "Jetzt Pause machen" }],
  ["call", { en: "Please call the office", de: "Bitte im Büro anrufen" }],
  ["dock", { en: "Dock {dock} from {time}", de: "Rampe {dock} ab {time}" }, [["dock", "text"], ["time", "time"]]],
  ["late", { en: "Running late {minutes} min", de: "{minutes} min Verspätung" }, [["minutes", "number"]]],
  ["ok", { en: "OK, understood", de: "OK, verstanden" }],
];

export function seedOffice(world, author) {
  for (const [key, text, slots = []] of TEMPLATES) {
    world.templates.set(key, { key, version: 1, text, slots: slots.map(([name, kind]) => ({ name, kind })) });
  }
  const { vehicles, started } = world;
  const even = vehicles.filter((_, index) => index % 2 === 0);
  const north = addGroup(world, { name: "North", vehicles: vehicles.slice(-Math.ceil(vehicles.length * 0.75)), history: "none" }, { at: started - 90 * 60_000, quiet: true });
  addGroup(world, { name: "Refrigerated", vehicles: even, history: "all" }, { at: started - 80 * 60_000, quiet: true });
  world.keys.set("k1", { id: "k1", name: "ERP", role: "integration", created_at: world.iso(started - 86_400_000 * 12), last_used_at: world.iso(started - 240_000), revoked: false });
  if (vehicles.length < 6) return;
  const channel = world.streams.get(north.stream);
  const asks = channel.members()[2];
  const said = world.append(channel, author, "Winter tyres from Monday on. Please book your slot at the workshop.", { at: started - 55 * 60_000, quiet: true });
  channel.members().forEach((vehicle, index, all) => {
    const at = started - 54 * 60_000 + index * 4000;
    const steps = index === all.length - 1 ? [] : index < 5 ? ["sent", "delivered", "read"] : ["sent", "delivered"];
    for (const step of steps) world.climb(channel, said, step, vehicle, at, true);
  });
  world.answer(channel, said, channel.members()[1], "Tuesday at eight works for me.", { at: started - 50 * 60_000, quiet: true });
  world.append(channel, { id: asks.id, kind: "device", name: asks.name }, "Is the workshop open on Saturday?", { at: started - 48 * 60_000, quiet: true });
  channel.readByOffice = channel.entries.length - 1;
  const warned = addBroadcast(world, author, { to: { devices: [], groups: [north.id] }, body: { kind: "text", text: "Black ice on I-80 between Lincoln and Omaha. Keep your distance and tell us where you stand." }, urgent: true, at: started - 26 * 60_000, quiet: true });
  const stream = world.streams.get(warned.stream);
  stream.members().forEach((vehicle, index, all) => {
    const at = started - (25 - index) * 60_000;
    const steps = index >= all.length - 2 ? [] : ["sent", "delivered", "read"].slice(0, index > 4 ? 2 : 3);
    for (const step of steps) world.climb(stream, stream.entries[0], step, vehicle, at, true);
    if (index < 2) world.answer(stream, stream.entries[0], vehicle, index === 0 ? "North of Gretna, all good." : "Standing at the Flying J, waiting.", { at: at + 60_000, quiet: true });
  });
}

function addGroup(world, { name, vehicles, history }, options = {}) {
  const group = { id: world.nextId(), name, stream: world.nextId(), history, vehicles: new Set() };
  world.groups.set(group.id, group);
  world.addStream(group.stream, "group", () => group.name, () => [...group.vehicles].filter((vehicle) => !vehicle.revoked));
  setVehicles(world, group, new Set(vehicles), options);
  return group;
}

/** Its conversation tells who left and who joined. */
function setVehicles(world, group, vehicles, options = {}) {
  const before = group.vehicles;
  group.vehicles = vehicles;
  const note = (event) => (vehicle) => {
    const device = { id: vehicle.id, kind: "device", name: vehicle.name };
    world.append(world.streams.get(group.stream), SYSTEM, { kind: "system", event, device, text: `${vehicle.name} ${event}` }, options);
  };
  [...before].filter((vehicle) => !vehicles.has(vehicle)).forEach(note("left"));
  [...vehicles].filter((vehicle) => !before.has(vehicle)).forEach(note("joined"));
}

function addBroadcast(world, author, { to, body, urgent, at = Date.now(), quiet = false }) {
  const recipients = new Set((to.devices ?? []).map((id) => world.vehicleOf(id)));
  for (const id of to.groups ?? []) groupOf(world, id).vehicles.forEach((vehicle) => recipients.add(vehicle));
  const broadcast = { id: world.nextId(), stream: world.nextId(), author, to: { devices: to.devices ?? [], groups: to.groups ?? [] } };
  const stream = world.addStream(broadcast.stream, "broadcast", () => "Broadcast", () => [...recipients]);
  world.broadcasts.set(broadcast.id, broadcast);
  world.append(stream, author, body, { at, urgent, quiet });
  return broadcast;
}

/** As the server stores what is written: a quick reply gets its version and its text. */
export function bodyOf(world, body) {
  if (body?.kind === "text" && typeof body.text === "string" && body.text.trim() !== "") return { kind: "text", text: body.text };
  if (body?.kind !== "reply") throw invalid("/body/text", "A text is required.");
  const template = world.templates.get(body.template);
  if (template === undefined) throw invalid("/body/template", "There is no such template.");
  for (const { name, kind } of template.slots) {
    const value = String(body.slots?.[name] ?? "");
    const good = kind === "number" ? /^-?\d+(\.\d+)?$/ : kind === "time" ? /^([01]\d|2[0-3]):[0-5]\d$/ : /\S/;
    if (!good.test(value)) throw invalid(`/body/slots/${name}`, `A ${kind} is required.`);
  }
  return { kind: "reply", template: template.key, version: template.version, slots: body.slots ?? {}, text: render(template, body.slots ?? {}) };
}

function render(template, slots) {
  return (template.text.en ?? Object.values(template.text)[0]).replace(/\{(\w+)\}/g, (_, name) => String(slots[name]));
}

function invalid(pointer, detail) {
  return [422, "Fields of the body are wrong.", [{ pointer, detail }]];
}

function groupOf(world, id) {
  const group = world.groups.get(id);
  if (group === undefined) throw [404, "There is no such group."];
  return group;
}

function broadcastJson(world, broadcast, { detailed }) {
  const stream = world.streams.get(broadcast.stream);
  const [entry] = stream.entries;
  const { devices, accepted } = stream.rungs.get(entry.seq);
  const rungs = [...devices];
  const count = (step) => rungs.filter(([, reached]) => reached[step] !== undefined).length;
  const outstanding = rungs
    .filter(([, reached]) => reached.acted === undefined)
    .map(([vehicle, reached]) => {
      const stage = ["read", "delivered", "sent"].find((step) => reached[step] !== undefined) ?? "accepted";
      return { member: { id: vehicle.id, kind: "device", name: vehicle.name }, stage, since: (reached[stage] ?? accepted).server_at };
    });
  return {
    ...broadcast,
    server_at: entry.server_at,
    urgent: entry.urgent,
    body: entry.body,
    counts: { recipients: rungs.length, sent: count("sent"), delivered: count("delivered"), read: count("read"), acted: count("acted") },
    ...(detailed ? { outstanding } : {}),
  };
}

function groupJson({ vehicles, ...group }) {
  return { ...group, devices: [...vehicles].filter((vehicle) => !vehicle.revoked).map((vehicle) => vehicle.id) };
}

/** Each route as in mock.mjs. */
export function officeRoutes(world, { authorOf, deviceJson }) {
  const { templates, groups, broadcasts, people, keys } = world;
  const only = (roles, handle) => (match, context) => {
    if (!roles.includes(context.session.person.role)) throw [403, "Your role does not include this."];
    return handle(match, context);
  };
  const admin = (handle) => only(["admin"], handle);
  const page = (items) => [200, { items, next: null }];
  const named = (body, others, id = null) => {
    if (typeof body?.name !== "string" || body.name.trim() === "") throw invalid("/name", "A name is required.");
    if ([...others].some((other) => other.name === body.name && other.id !== id)) throw [409, `There is one of the name ${body.name} already.`];
    return body.name.trim();
  };
  const found = (collection, id, what) => {
    const one = collection.get(id);
    if (one === undefined) throw [404, `There is no such ${what}.`];
    return one;
  };
  const personOf = (id) => {
    const person = people.find((candidate) => candidate.id === id);
    if (person === undefined) throw [404, "There is no such person."];
    return person;
  };
  const checkPerson = (body, id = null) => {
    if (body.email !== undefined && !/^\S+@\S+\.\S+$/.test(body.email)) throw invalid("/email", "This is not an email address.");
    if (people.some((person) => person.email === body.email && person.id !== id)) throw invalid("/email", "Somebody has this address already.");
    if (body.password !== undefined && String(body.password).length < PASSWORD_LENGTH) throw invalid("/password", `A password has at least ${PASSWORD_LENGTH} characters.`);
  };
  const credentials = (vehicle) => ({ device: vehicle.id, name: vehicle.name, secret: randomBytes(16).toString("hex"), mqtt: ["mqtt://127.0.0.1:1883"], ca: null });
  const vehiclesOf = (ids) => new Set(ids.map((id) => world.vehicleOf(id)));

  return [
    ["GET", /^\/templates$/, () => page([...templates.values()])],
    ["GET", /^\/templates\/(\w+)$/, ([, key]) => [200, found(templates, key, "template")]],
    [
      "PUT",
      /^\/templates\/([\w-]+)$/,
      admin(([, key], { body }) => {
        if (!/^[a-z][a-z0-9_]*$/.test(key)) throw invalid("/key", "A key has small letters, digits and underscores.");
        if (Object.values(body?.text ?? {}).every((text) => text.trim() === "")) throw invalid("/text", "A text in at least one language is required.");
        const named = (body.slots ?? []).map((slot) => slot.name);
        for (const [language, text] of Object.entries(body.text)) {
          const unknown = [...text.matchAll(/\{(\w+)\}/g)].find(([, name]) => !named.includes(name));
          if (unknown !== undefined) throw invalid(`/text/${language}`, `${unknown[0]} is not one of the slots.`);
        }
        if (body.slots?.some((slot) => !SLOT_KINDS.includes(slot.kind))) throw invalid("/slots", "A slot is a number, a text or a time.");
        const template = { key, version: (templates.get(key)?.version ?? 0) + 1, text: body.text, slots: body.slots ?? [] };
        templates.set(key, template);
        return [200, template];
      }),
    ],
    ["DELETE", /^\/templates\/(\w+)$/, admin(([, key]) => (found(templates, key, "template"), templates.delete(key), [204]))],

    ["GET", /^\/groups$/, () => page([...groups.values()].map(groupJson))],
    ["GET", /^\/groups\/(\w+)$/, ([, id]) => [200, groupJson(groupOf(world, id))]],
    [
      "POST",
      /^\/groups$/,
      admin((_, { body }) => [201, groupJson(addGroup(world, { name: named(body, groups.values()), vehicles: vehiclesOf(body.devices ?? []), history: body.history ?? "none" }))]),
    ],
    [
      "PATCH",
      /^\/groups\/(\w+)$/,
      admin(([, id], { body }) => {
        const group = groupOf(world, id);
        if (body.name !== undefined) group.name = named(body, groups.values(), id);
        if (body.devices !== undefined) setVehicles(world, group, vehiclesOf(body.devices));
        group.history = body.history ?? group.history;
        return [200, groupJson(group)];
      }),
    ],
    ["DELETE", /^\/groups\/(\w+)$/, admin(([, id]) => (world.streams.delete(groupOf(world, id).stream), groups.delete(id), [204]))],

    ["GET", /^\/broadcasts$/, () => page([...broadcasts.values()].reverse().map((broadcast) => broadcastJson(world, broadcast, { detailed: false })))],
    ["GET", /^\/broadcasts\/(\w+)$/, ([, id]) => [200, broadcastJson(world, found(broadcasts, id, "broadcast"), { detailed: true })]],
    [
      "POST",
      /^\/broadcasts$/,
      only(["admin", "dispatcher"], (_, { body, session }) => {
        const content = bodyOf(world, body?.body);
        if (((body.to?.devices ?? []).length || (body.to?.groups ?? []).length) === 0) throw invalid("/to", "Choose whom it is for.");
        const broadcast = addBroadcast(world, authorOf(session.person), { to: body.to, body: content, urgent: body.urgent === true });
        world.later(150, () => world.deliver(world.streams.get(broadcast.stream)));
        return [201, broadcastJson(world, broadcast, { detailed: true })];
      }),
    ],

    ["GET", /^\/people$/, admin(() => page(people))],
    [
      "POST",
      /^\/people$/,
      admin((_, { body }) => {
        checkPerson({ email: "", password: "", ...body });
        const person = { id: world.nextId(), email: body.email, name: body.name ?? "", role: body.role };
        people.push(person);
        world.passwords.set(person.id, body.password);
        return [201, person];
      }),
    ],
    [
      "PATCH",
      /^\/people\/(\w+)$/,
      admin(([, id], { body }) => {
        const person = personOf(id);
        checkPerson(body, id);
        for (const field of ["email", "name", "role"]) person[field] = body[field] ?? person[field];
        if (body.password !== undefined) world.passwords.set(id, body.password);
        return [200, person];
      }),
    ],
    [
      "DELETE",
      /^\/people\/(\w+)$/,
      admin(([, id]) => {
        if (people.filter((person) => person.role === "admin" && person.id !== id).length === 0) throw [409, "This is the last administrator."];
        people.splice(people.indexOf(personOf(id)), 1);
        return [204];
      }),
    ],

    ["GET", /^\/keys$/, admin(() => page([...keys.values()]))],
    [
      "POST",
      /^\/keys$/,
      admin((_, { body }) => {
        const key = { id: world.nextId(), name: named(body, keys.values()), role: body.role, created_at: world.iso(), last_used_at: null, revoked: false };
        keys.set(key.id, key);
        return [201, { ...key, token: `wp_${randomBytes(16).toString("hex")}` }];
      }),
    ],
    ["DELETE", /^\/keys\/(\w+)$/, admin(([, id]) => ((found(keys, id, "key").revoked = true), [204]))],

    [
      "POST",
      /^\/devices$/,
      admin((_, { body }) => {
        const vehicle = world.enrol({ name: named(body, world.vehicles), driver: body.driver ?? null });
        return [201, { device: deviceJson(vehicle), credentials: credentials(vehicle) }];
      }),
    ],
    [
      "PATCH",
      /^\/devices\/(\w+)$/,
      admin(([, id], { body }) => {
        const vehicle = world.vehicleOf(id);
        if (body.name !== undefined) vehicle.name = named(body, world.vehicles, id);
        if (body.driver !== undefined) vehicle.driver = body.driver;
        if (body.groups !== undefined) {
          const chosen = body.groups.map((group) => groupOf(world, group));
          for (const group of groups.values()) {
            const others = [...group.vehicles].filter((other) => other !== vehicle);
            if (chosen.includes(group) !== group.vehicles.has(vehicle)) setVehicles(world, group, new Set(chosen.includes(group) ? [...others, vehicle] : others));
          }
        }
        return [200, deviceJson(vehicle)];
      }),
    ],
    ["POST", /^\/devices\/(\w+)\/credentials$/, admin(([, id]) => [200, credentials(world.vehicleOf(id))])],
    [
      "DELETE",
      /^\/devices\/(\w+)$/,
      admin(([, id]) => {
        const vehicle = world.vehicleOf(id);
        vehicle.revoked = true;
        vehicle.online = false;
        world.emit("waypost.device.revoked", `device/${id}`, { device: id, name: vehicle.name });
        return [204];
      }),
    ],
  ];
}
