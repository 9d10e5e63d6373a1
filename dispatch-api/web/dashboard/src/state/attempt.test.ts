import { expect, test } from "vitest";
import { Attempt } from "./attempt.ts";

test("the_same_content_keeps_its_key_until_it_is_done_and_other_content_has_another", () => {
  const attempt = new Attempt();
  const first = attempt.keyFor({ name: "a" });
  expect(attempt.keyFor({ name: "a" })).toBe(first);
  const changed = attempt.keyFor({ name: "b" });
  expect(changed).not.toBe(first);
  attempt.done();
  expect(attempt.keyFor({ name: "b" })).not.toBe(changed);
});
