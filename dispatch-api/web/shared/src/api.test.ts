import { expect, test } from "vitest";
import { Api } from "./api.ts";
import { ServerClock } from "./clock.ts";
import { Problem, type ProblemKind } from "./problem.ts";

function apiThat(answers: (request: Request) => Response | Promise<Response>): { api: Api; requests: Request[] } {
  const requests: Request[] = [];
  const api = new Api(new ServerClock(), async (input, init) => {
    const request = new Request(new URL(String(input), "http://server"), init);
    requests.push(request);
    return answers(request.clone());
  });
  return { api, requests };
}

const problem = (status: number, body: unknown, type = "application/problem+json") =>
  new Response(typeof body === "string" ? body : JSON.stringify(body), { status, headers: { "content-type": type } });

test.each([
  [401, "signed_out"],
  [403, "refused"],
  [404, "refused"],
  [422, "refused"],
  [429, "busy"],
  [500, "busy"],
  [503, "busy"],
] as [number, ProblemKind][])("a_problem_with_status_%i_is_%s", async (status, kind) => {
  const { api } = apiThat(() => problem(status, { type: "/problems/x", title: "No", status, detail: "Because." }));
  const failure = await api.devices().catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(Problem);
  expect(failure).toMatchObject({ kind, status, type: "/problems/x", message: "Because." });
});

test("bad_fields_are_named_in_what_people_read", async () => {
  const { api } = apiThat(() => problem(400, { title: "Not valid.", errors: [{ pointer: "/body/text", detail: "A text is required." }, "?"] }));
  await expect(api.post("1", { body: { kind: "text", text: "" } }, "k")).rejects.toMatchObject({
    message: "Not valid. A text is required.",
    fields: [{ pointer: "/body/text", detail: "A text is required." }],
  });
});

test.each([
  ["a proxy's page", problem(502, "<h1>Bad gateway</h1>", "text/html"), "busy", "The server has a problem (502)."],
  ["broken JSON", problem(500, "{"), "busy", "The server has a problem (500)."],
  ["no object", problem(403, "7"), "refused", "Your role does not allow this."],
])("%s_is_never_shown_to_people", async (_, answer, kind, message) => {
  const { api } = apiThat(() => answer);
  await expect(api.streams()).rejects.toMatchObject({ kind, message });
});

test("no_answer_and_half_an_answer_are_both_unreachable", async () => {
  const none = apiThat(() => Promise.reject(new TypeError("fetch failed")));
  await expect(none.api.session()).rejects.toMatchObject({ kind: "unreachable", status: 0 });
  const half = apiThat(() => new Response('{"items":[', { status: 200 }));
  await expect(half.api.devices()).rejects.toMatchObject({ kind: "unreachable" });
});

test("a_list_is_read_to_its_last_page", async () => {
  const { api, requests } = apiThat((request) => {
    const cursor = new URL(request.url).searchParams.get("cursor");
    return Response.json(cursor === null ? { items: [{ id: "a" }], next: "n" } : { items: [{ id: "b" }], next: null });
  });
  expect((await api.devices()).map((device) => device.id)).toEqual(["a", "b"]);
  expect(requests).toHaveLength(2);
});

test("every_post_carries_its_key_and_no_request_carries_a_token", async () => {
  const { api, requests } = apiThat(() => Response.json({ items: [], next: null }));
  await api.post("4711", { body: { kind: "text", text: "x" }, urgent: true }, "key-1");
  await api.signIn("a@example.com", "p");
  await api.devices();
  expect(requests[0]!.headers.get("idempotency-key")).toBe("key-1");
  expect(requests[1]!.headers.get("idempotency-key")).toMatch(/^[0-9a-f-]{36}$/);
  for (const request of requests) {
    expect(request.headers.has("authorization")).toBe(false);
    expect(request.credentials).toBe("same-origin");
  }
});
