import { expect, test } from "vitest";
import { Problem } from "@waypost/shared/problem";
import { Form } from "./form.svelte.ts";

const refusal = (...fields: { pointer: string; detail: string }[]) => new Problem("refused", "Fields of the body are wrong.", 422, "/problems/invalid-fields", fields);
const refused = (form: Form, error: unknown) => form.submit({}, () => Promise.reject(error));

test("a_refusal_is_shown_at_the_field_that_it_is_about", async () => {
  const form = new Form("/password", "/text");
  expect(await refused(form, refusal({ pointer: "/password", detail: "At least 12 characters." }, { pointer: "/text/de", detail: "{x} is no slot." }))).toBe(false);
  expect([form.at("/password"), form.at("/text"), form.at("/text/de"), form.at("/text/en"), form.at("/email")]).toEqual(["At least 12 characters.", "{x} is no slot.", "{x} is no slot.", "", ""]);
  expect(form.failure).toBe("Not saved: see the marked fields.");
});

test("a_field_that_has_no_place_in_the_form_is_told_for_the_form", async () => {
  const form = new Form("/text");
  await refused(form, refusal({ pointer: "/texture", detail: "Unknown." }));
  expect([form.at("/text"), form.failure]).toEqual(["", "Fields of the body are wrong."]);
});

test("trying_again_repeats_the_key_and_clears_what_was_wrong", async () => {
  const form = new Form("/name");
  const keys: string[] = [];
  const send = (fail: boolean) => form.submit({ name: "a" }, async (_, key) => {
    keys.push(key);
    if (fail) throw refusal({ pointer: "/name", detail: "No." });
  });
  expect([await send(true), await send(false), await send(false)]).toEqual([false, true, true]);
  expect([form.at("/name"), form.failure, form.busy]).toEqual(["", "", false]);
  expect(keys[0]).toBe(keys[1]);
  expect(keys[1]).not.toBe(keys[2]);
});

test("while_one_request_is_under_way_the_button_sends_no_second", async () => {
  const form = new Form();
  let finish = () => {};
  const first = form.submit({}, () => new Promise<void>((resolve) => (finish = resolve)));
  let sentTwice = false;
  expect(await form.submit({}, async () => void (sentTwice = true))).toBe(false);
  expect(sentTwice).toBe(false);
  finish();
  expect(await first).toBe(true);
});
