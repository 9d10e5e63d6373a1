/**
 * Drives the dashboard of a running Waypost (or of the mock) through Chromium, as a dispatcher would, by roles and names alone.
 *
 *   node e2e/dashboard.mjs --url http://127.0.0.1:8080 --email E --password P [--token T] [--vehicle NAME] [--shots FOLDER]
 *
 * Each option can also come from the environment: WAYPOST_URL, WAYPOST_EMAIL, WAYPOST_PASSWORD, WAYPOST_TOKEN, WAYPOST_VEHICLE; CHROMIUM names the
 * browser. The person who signs in is a dispatcher. It needs at least one vehicle that moves and whose driver's device is connected now and then, so that
 * it receives what is written. One line a check; exit status 1 when one fails.
 *
 * With an administrator's token it also checks quick replies, groups, broadcasts and the administration: it makes the templates, a group of all
 * vehicles, one more device that never connects, and an administrator, over HTTP and under names of their own.
 *
 * It asserts states and never frame rates: in a browser without a graphics card a map draws slowly.
 */

import { readFile, mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { values: options } = parseArgs({
  options: {
    url: { type: "string", default: process.env.WAYPOST_URL },
    email: { type: "string", default: process.env.WAYPOST_EMAIL },
    password: { type: "string", default: process.env.WAYPOST_PASSWORD },
    token: { type: "string", default: process.env.WAYPOST_TOKEN },
    vehicle: { type: "string", default: process.env.WAYPOST_VEHICLE },
    shots: { type: "string" },
  },
});
if (options.url === undefined || options.email === undefined || options.password === undefined) {
  process.stderr.write("usage: node e2e/dashboard.mjs --url URL --email EMAIL --password PASSWORD [--token TOKEN] [--vehicle NAME] [--shots FOLDER]\n");
  process.exit(2);
}

/** A device may be cut off for 40 s and takes a moment to be back; what waits for one waits longer than that. */
const DEVICE_MS = 120_000;
const PAGE_MS = 20_000;
const STATES = ["Accepted", "Sent", "Delivered", "Read", "Answered", "Expired"];

const origin = new URL(options.url).origin;
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const profile = await mkdtemp(join(tmpdir(), "waypost-e2e-"));
const complaints = [];
/** What the browser will rightly complain about while a check provokes it. */
let expected = [/401.*\/api\/v1\/session$/];
// A server that is not asked for these may be one that has none of them.
if (options.token === undefined) expected.push(/404.*\/api\/v1\/(templates|groups|broadcasts)\b/);

const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: false,
  viewport: { width: 1440, height: 900 },
  args: [
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
  ],
});
const page = browser.pages()[0] ?? (await browser.newPage());
page.setDefaultTimeout(PAGE_MS);
page.on("console", (message) => {
  if (message.type() !== "error") return;
  const complaint = `${message.text()} ${message.location().url}`;
  if (!expected.some((pattern) => pattern.test(complaint))) complaints.push(`console: ${complaint}`);
});
page.on("pageerror", (error) => complaints.push(`page error: ${error.stack ?? error.message}`));
page.on("request", (request) => {
  const url = new URL(request.url());
  if (["http:", "https:", "ws:", "wss:"].includes(url.protocol) && url.host !== new URL(origin).host) complaints.push(`request to another origin: ${request.url()}`);
});

let failed = false;
try {
  await run();
} catch (error) {
  failed = true;
  process.stdout.write(`not ok ${error.message}\n`);
  if (options.shots !== undefined) await page.screenshot({ path: join(options.shots, "failed.png") }).catch(() => {});
} finally {
  await browser.close();
  await rm(profile, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);

async function run() {
  const email = page.getByRole("textbox", { name: "Email" });
  const password = page.getByRole("textbox", { name: "Password" });
  const signIn = page.getByRole("button", { name: "Sign in" });
  const status = page.getByRole("status");
  const vehicles = page.getByRole("list", { name: "Vehicles" });
  const conversation = page.getByRole("region", { name: "Conversation" });
  const message = conversation.getByRole("textbox", { name: "Message" });
  const send = conversation.getByRole("button", { name: "Send", exact: true });
  const office = options.token === undefined ? null : await check("templates, a group, a device and an administrator are made over HTTP", prepare);

  await check("the sign-in page has its boxes and its button", async () => {
    await page.goto(origin);
    await Promise.all([email.waitFor(), password.waitFor(), signIn.waitFor()]);
  });
  await check("the sign-in page has no serious accessibility violation, light and dark", accessible);
  await shot("sign-in");

  await check("a wrong password is an alert, and nobody is signed in", async () => {
    await email.fill(options.email);
    await password.fill(`${options.password}-not`);
    await signIn.click();
    await page.getByRole("alert").waitFor();
    await email.waitFor();
  });

  await check("signing in opens the dashboard", async () => {
    await password.fill(options.password);
    await signIn.click();
    await page.getByRole("navigation", { name: "Main" }).getByRole("link", { name: "Map" }).waitFor();
  });

  await check("no script can read the session, and no token is kept", async () => {
    const kept = await page.evaluate(() => JSON.stringify([document.cookie, { ...localStorage }, { ...sessionStorage }]));
    if (/waypost_session|token/i.test(kept)) throw new Error(`kept where scripts can read it: ${kept}`);
  });

  await check("the status says Connected", () => textIs(status, /^Connected$/));
  await check("there are the regions and lists that scripts rely on", async () => {
    await page.getByRole("region", { name: "Map", exact: true }).waitFor();
    await vehicles.getByRole("listitem").first().waitFor();
  });

  await check("each vehicle shows its name, its state, and with a position its speed and age", async () => {
    const texts = await vehicles.getByRole("listitem").allInnerTexts();
    for (const text of texts) {
      if (!/Moving|Standing|Cut off|Offline|No fix|No position yet/.test(text)) throw new Error(`no state in: ${text}`);
      if (!/No position yet|Offline/.test(text) && !(/(\d+|–)\s*km\/h|–/.test(text) && /\d+ (s|min|h|d)/.test(text))) throw new Error(`no speed or age in: ${text}`);
    }
  });

  await check("the map is drawn, or says that it cannot be", () =>
    page.waitForFunction(() => ["ready", "unavailable"].includes(document.querySelector("[data-map]")?.getAttribute("data-map") ?? ""), null, { timeout: 60_000 }),
  );

  const mover = await check("a vehicle's position changes on the page without a reload", async () => {
    const before = await positions();
    const changed = await page.waitForFunction(
      (known) => {
        const items = [...document.querySelectorAll('ul[aria-label="Vehicles"] > li[data-lat]')];
        const moved = items.find((item) => known[item.dataset.device] !== undefined && known[item.dataset.device] !== `${item.dataset.lat},${item.dataset.lon}`);
        return moved?.dataset.device ?? false;
      },
      before,
      { timeout: DEVICE_MS },
    );
    return changed.jsonValue();
  });

  await check("the dashboard has no serious accessibility violation, light and dark", accessible);
  await shot("map");

  await check("choosing a vehicle opens its conversation beside the map", async () => {
    const item =
      options.vehicle === undefined
        ? vehicles.locator(`[data-device="${mover}"]`)
        : vehicles.getByRole("listitem").filter({ has: page.getByText(options.vehicle, { exact: true }) });
    await item.getByRole("button").click();
    await conversation.waitFor();
    await message.waitFor();
    await page.getByRole("region", { name: "Map", exact: true }).waitFor();
  });

  const words = `Is the gate open? ${Date.now().toString(36)}`;
  const entry = conversation.getByRole("article", { name: words });
  const seen = [];
  await check("a message that is sent shows Sending, then its state, once", async () => {
    await message.fill(words);
    await send.click();
    await entry.first().waitFor();
    await page.waitForFunction((text) => document.querySelector(`article[data-seq][aria-label$="${text}"]`) !== null, words);
    seen.push(await stateOf(entry));
    if ((await entry.count()) !== 1) throw new Error(`it is there ${await entry.count()} times`);
    if ((await message.inputValue()) !== "") throw new Error("the box is not empty");
  });

  await check("its state climbs to Delivered, Read or Answered without a reload", async () => {
    const until = Date.now() + DEVICE_MS;
    while (Date.now() < until) {
      const state = await stateOf(entry);
      if (state !== seen.at(-1)) seen.push(state);
      if (["Delivered", "Read", "Answered"].includes(state)) break;
      await page.waitForTimeout(50);
    }
    const ranks = seen.map((state) => STATES.indexOf(state));
    if (!["Delivered", "Read", "Answered"].includes(seen.at(-1))) throw new Error(`it went ${seen.join(", ")}`);
    if (ranks.some((rank, index) => index > 0 && rank < ranks[index - 1])) throw new Error(`it went back: ${seen.join(", ")}`);
    if ((await entry.count()) !== 1) throw new Error(`it is there ${await entry.count()} times`);
    return seen.join(", ");
  });

  await check("the details show the server's and the device's clock", async () => {
    await entry.getByRole("button", { name: new RegExp(STATES.join("|")) }).click();
    const rows = entry.getByRole("row");
    await rows.filter({ hasText: "Accepted" }).waitFor();
    await rows.filter({ hasText: "Delivered" }).waitFor();
    const delivered = await rows.filter({ hasText: "Delivered" }).innerText();
    if ((delivered.match(/\d{1,2}:\d{2}:\d{2}/g) ?? []).length !== 2) throw new Error(`not two clocks in: ${delivered}`);
  });

  await check("a message that cannot be sent keeps its words, and Retry sends it once", async () => {
    const lost = `Can you hear me? ${Date.now().toString(36)}`;
    const article = conversation.getByRole("article", { name: lost });
    const posts = "**/api/v1/streams/*/entries";
    const provoked = expected;
    expected = [...expected, /net::ERR_FAILED.*\/entries/];
    // The server takes it, and the answer is lost on the way: the hardest case for "once".
    await page.route(posts, async (route) => {
      if (route.request().method() !== "POST") return route.fallback();
      await route.fetch();
      await route.abort();
    });
    await message.fill(lost);
    await message.press("Enter");
    await article.getByText("Not sent").waitFor();
    await page.unroute(posts);
    await article.getByRole("button", { name: "Retry" }).click();
    await page.waitForFunction(
      (text) => [...document.querySelectorAll(`article[aria-label$="${text}"]`)].every((element) => element.dataset.seq !== undefined),
      lost,
    );
    await page.waitForTimeout(1000);
    if ((await article.count()) !== 1) throw new Error(`it is there ${await article.count()} times`);
    expected = provoked;
  });

  await check("the conversation has no serious accessibility violation, light and dark", accessible);
  await shot("conversation");

  await check("an unfinished message and the place survive a reload", async () => {
    await message.fill("not finished");
    await page.reload();
    await message.waitFor();
    if ((await message.inputValue()) !== "not finished") throw new Error(`the box has: ${await message.inputValue()}`);
    await entry.waitFor();
    await message.fill("");
  });

  await check("the inbox lists the conversation with its last words", async () => {
    await page.getByRole("navigation", { name: "Main" }).getByRole("link", { name: "Inbox" }).click();
    await page.getByRole("list", { name: "Conversations" }).getByRole("listitem").first().waitFor();
    await accessible();
  });
  await shot("inbox");

  if (office !== null) await writeToMany(office);

  await check("signing out goes back to the sign-in page, and the session is over", async () => {
    await page.getByRole("button", { name: "Sign out" }).click();
    await signIn.waitFor();
    const answer = await page.evaluate(() => fetch("/api/v1/session").then((response) => response.status));
    if (answer !== 401) throw new Error(`the session answered ${answer}`);
  });

  if (office !== null) await administer(office);

  await check("no console error and no request to another origin", async () => {
    if (complaints.length > 0) throw new Error(complaints.join("\n  "));
  });
}

/** The world of the checks that need more than a moving vehicle. */
async function prepare() {
  const tag = Date.now().toString(36);
  const call = async (method, path, body) => {
    const headers = { authorization: `Bearer ${options.token}`, "content-type": "application/json", ...(method === "POST" ? { "idempotency-key": crypto.randomUUID() } : {}) };
    const response = await fetch(`${origin}/api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path} answered ${response.status}: ${text}`);
    return JSON.parse(text);
  };
  await call("PUT", "/templates/e2e_late", { text: { en: "Late by {minutes} min", de: "{minutes} min Verspätung" }, slots: [{ name: "minutes", kind: "number" }] });
  await call("PUT", "/templates/e2e_seen", { text: { en: "Seen by dispatch", de: "Gesehen" }, slots: [] });
  const away = `away-${tag}`;
  await call("POST", "/devices", { name: away, driver: { name: "Nobody Yet", locale: "en" } });
  const devices = (await call("GET", "/devices?limit=500")).items.filter((device) => !device.revoked).map((device) => device.id);
  const group = `Everyone ${tag}`;
  await call("POST", "/groups", { name: group, devices, history: "none" });
  const admin = { email: `e2e-${tag}@example.com`, password: `${crypto.randomUUID()}-Aa1` };
  await call("POST", "/people", { ...admin, name: "Avery Admin", role: "admin" });
  return { tag, away, group, admin, size: devices.length };
}

/** Quick replies, a group and a broadcast. A conversation is open beside the inbox, where the checks before these have left it. */
async function writeToMany({ tag, away, group, size }) {
  const main = page.getByRole("navigation", { name: "Main" });
  const conversation = page.getByRole("region", { name: "Conversation" });
  const quickReplies = conversation.getByRole("list", { name: "Quick replies" });

  await check("a dispatcher has no link to the administration", async () => {
    if ((await main.getByRole("link", { name: "Admin" }).count()) !== 0) throw new Error("there is one");
  });

  await check("a quick reply with a slot is previewed as it is typed, refuses what is no number, and Enter sends it", async () => {
    const minutes = 100 + Math.floor(Math.random() * 9900);
    await quickReplies.getByRole("button", { name: /^Late by/ }).click();
    const field = conversation.getByRole("textbox", { name: "Minutes" });
    await field.fill("soon");
    await field.press("Enter");
    await conversation.getByText("A number, such as 15.").waitFor();
    await field.fill(String(minutes));
    await conversation.getByRole("form").getByText(`Late by ${minutes} min`).waitFor();
    await accessible();
    await field.press("Enter");
    const article = conversation.locator(`article[data-seq][aria-label$="Late by ${minutes} min"]`);
    await article.waitFor();
    if ((await article.count()) !== 1) throw new Error(`it is there ${await article.count()} times`);
  });

  await check("a quick reply that one click sends can be undone, and is sent when it is not", async () => {
    const article = conversation.getByRole("article", { name: "Seen by dispatch" });
    await quickReplies.getByRole("button", { name: "Seen by dispatch" }).click();
    await article.getByRole("button", { name: "Undo" }).click();
    await article.waitFor({ state: "detached" });
    await quickReplies.getByRole("button", { name: "Seen by dispatch" }).click();
    await conversation.locator('article[data-seq][aria-label$="Seen by dispatch"]').waitFor();
    if ((await article.count()) !== 1) throw new Error(`it is there ${await article.count()} times`);
  });

  await check("a group is a conversation whose ticks count its members, and who is missing stands first", async () => {
    await page.locator("li[data-group]").filter({ hasText: group }).getByRole("button").click();
    await conversation.getByRole("heading", { name: group }).waitFor();
    const words = `To all of you ${tag}`;
    await conversation.getByRole("textbox", { name: "Message" }).fill(words);
    await conversation.getByRole("textbox", { name: "Message" }).press("Enter");
    const article = conversation.getByRole("article", { name: words });
    const state = article.getByRole("button", { name: new RegExp(`^Delivered \\d+ of ${size}$`) });
    await state.waitFor({ timeout: DEVICE_MS });
    let asked = 0;
    const count = (request) => (asked += request.url().includes("/receipts") ? 1 : 0);
    page.on("request", count);
    await state.click();
    await article.getByRole("rowheader", { name: away }).waitFor();
    const first = await article.getByRole("rowheader").allInnerTexts();
    const missing = await article.getByRole("caption").innerText();
    if (!/^\d+ of \d+ ha(s|ve) not received it$/.test(missing)) throw new Error(`it says: ${missing}`);
    if (first.indexOf(away) >= Number(missing.split(" ")[0])) throw new Error(`the order is ${first.join(", ")}`);
    await page.waitForTimeout(1000);
    page.off("request", count);
    // One for each step that a member climbs while it is open, not one after the other without end.
    if (asked > 3 * size) throw new Error(`receipts were asked for ${asked} times`);
    await accessible();
  });
  await shot("group");

  const broadcast = page.getByRole("region", { name: "Broadcast", exact: true });
  const words = `Where are you? ${tag}`;
  await check("a broadcast says how many it goes to before it is sent", async () => {
    await main.getByRole("link", { name: "Broadcast" }).click();
    await page.getByRole("searchbox", { name: "Find a group, vehicle or driver" }).fill(group);
    await page.getByRole("checkbox", { name: group }).check();
    await page.getByRole("textbox", { name: "Text", exact: true }).fill(words);
    await accessible();
    await shot("broadcast-new");
    await page.getByRole("button", { name: `Send to ${size} vehicles` }).click();
    await broadcast.getByRole("heading", { name: words }).waitFor();
  });

  await check("it shows who has not received it, and its counts change as drivers read, without a reload", async () => {
    await broadcast.getByRole("list", { name: "Not received" }).getByRole("link", { name: away }).waitFor();
    const read = broadcast.locator("dl div").filter({ hasText: "Read" }).locator("dd");
    await read.filter({ hasText: /^[1-9]/ }).waitFor({ timeout: DEVICE_MS });
    const delivered = parseInt(await broadcast.locator("dl div").filter({ hasText: "Delivered" }).locator("dd").innerText(), 10);
    const missing = await broadcast.getByRole("list", { name: "Not received" }).getByRole("listitem").count();
    if (delivered > size - 1 || missing < 1) throw new Error(`delivered ${delivered} of ${size}, and ${missing} have not received it`);
    await accessible();
  });
  await shot("broadcast");

  await check("who has not received it leads to that vehicle's conversation", async () => {
    await broadcast.getByRole("list", { name: "Not received" }).getByRole("link", { name: away }).click();
    await conversation.getByRole("heading", { name: away }).waitFor();
    await page.keyboard.press("Escape");
    await conversation.waitFor({ state: "detached" });
  });

  await check("an answer to it stands in the driver's conversation and refers to it", async () => {
    const answers = broadcast.getByRole("list", { name: "Answers" }).getByRole("link");
    await answers.first().waitFor({ timeout: DEVICE_MS });
    await answers.first().click();
    await conversation.getByRole("link", { name: `In answer to broadcast: ${words}` }).first().waitFor();
  });
}

/** Devices and people by hand, signed in as an administrator. */
async function administer({ tag, admin }) {
  const dialog = page.getByRole("dialog");

  await check("an administrator signs in and finds the administration", async () => {
    await page.getByRole("textbox", { name: "Email" }).fill(admin.email);
    await page.getByRole("textbox", { name: "Password" }).fill(admin.password);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByRole("navigation", { name: "Main" }).getByRole("link", { name: "Admin" }).click();
    await page.getByRole("heading", { name: "Devices" }).waitFor();
    await accessible();
  });
  await shot("admin");

  const name = `unit-${tag}`;
  await check("a device that is added gives its credentials once, as a file", async () => {
    await page.getByRole("button", { name: "Add device" }).click();
    await dialog.getByRole("textbox", { name: "Name" }).fill(name);
    await dialog.getByRole("button", { name: "Add device" }).click();
    const [download] = await Promise.all([page.waitForEvent("download"), dialog.getByRole("link", { name: "Download credentials" }).click()]);
    const file = JSON.parse(await readFile(await download.path(), "utf8"));
    if (file.name !== name || typeof file.secret !== "string" || !Array.isArray(file.mqtt)) throw new Error(`the file has ${Object.keys(file)}`);
    await dialog.getByRole("button", { name: "Done" }).click();
    await page.getByRole("row", { name }).waitFor();
  });

  await check("revoking a device asks first, and takes it off the list", async () => {
    await page.getByRole("button", { name: `Revoke ${name}` }).click();
    await page.getByRole("alertdialog").getByRole("button", { name: "Revoke" }).click();
    await page.getByRole("row", { name }).waitFor({ state: "detached" });
  });

  await check("a password that breaks the rules is told at its field, and nobody is added", async () => {
    const provoked = expected;
    expected = [...expected, /4\d\d.*\/api\/v1\/people$/];
    await page.getByRole("link", { name: "People" }).click();
    await page.getByRole("button", { name: "Add person" }).click();
    await dialog.getByRole("textbox", { name: "Email" }).fill(`weak-${tag}@example.com`);
    await dialog.getByRole("textbox", { name: "Name" }).fill("Weak");
    const password = dialog.getByRole("textbox", { name: "Password" });
    await password.fill("x");
    await dialog.getByRole("button", { name: "Add person" }).click();
    await dialog.getByRole("alert").waitFor();
    if ((await password.getAttribute("aria-invalid")) !== "true") throw new Error("the field is not marked");
    await accessible();
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "detached" });
    if ((await page.getByRole("row", { name: `weak-${tag}` }).count()) !== 0) throw new Error("the person is there");
    expected = provoked;
  });

  await check("the tables of groups, quick replies and keys have no serious accessibility violation", async () => {
    for (const part of ["Groups", "Quick replies", "Keys"]) {
      await page.getByRole("navigation", { name: "Administration" }).getByRole("link", { name: part }).click();
      await page.getByRole("heading", { name: part }).waitFor();
      await accessible();
    }
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByRole("button", { name: "Sign in" }).waitFor();
  });
}

async function check(name, act) {
  const began = Date.now();
  let outcome;
  try {
    outcome = await act();
  } catch (error) {
    const more = complaints.length > 0 ? `\n  ${complaints.join("\n  ")}` : "";
    throw new Error(`${name}: ${error.message.split("\n").slice(0, 6).join("\n  ")}${more}`);
  }
  process.stdout.write(`ok ${name} (${typeof outcome === "string" ? `${outcome}; ` : ""}${Date.now() - began} ms)\n`);
  return outcome;
}

async function textIs(locator, pattern) {
  await locator.filter({ hasText: pattern }).waitFor();
}

async function positions() {
  return page.$$eval('ul[aria-label="Vehicles"] > li[data-lat]', (items) =>
    Object.fromEntries(items.map((item) => [item.dataset.device, `${item.dataset.lat},${item.dataset.lon}`])),
  );
}

/** The one state that an entry shows as text. */
async function stateOf(entry) {
  const text = await entry.getByRole("button", { name: new RegExp(`^(${STATES.join("|")})$`) }).innerText();
  return text.trim();
}

async function accessible() {
  for (const colorScheme of ["dark", "light"]) {
    await page.emulateMedia({ colorScheme });
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
    const serious = violations.filter((violation) => ["serious", "critical"].includes(violation.impact));
    if (serious.length > 0) {
      const told = serious.map((violation) => `${colorScheme}: ${violation.id}: ${violation.nodes.map((node) => `${node.target} ${node.failureSummary?.split("\n")[1] ?? ""}`).join("; ")}`);
      throw new Error(told.join("\n"));
    }
  }
}

async function shot(name) {
  if (options.shots !== undefined) await page.screenshot({ path: join(options.shots, `${name}.png`) });
}
