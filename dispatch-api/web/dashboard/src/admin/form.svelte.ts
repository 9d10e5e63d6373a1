/** What the forms of the administration have in common: one request at a time, and a refusal shown at the field that it is about. */

import { Problem, reasonOf, type FieldProblem } from "@waypost/shared/problem";
import { Attempt } from "../state/attempt.ts";

export class Form {
  busy = $state(false);
  /** What concerns the form as a whole, for people; empty when nothing does. */
  failure = $state("");
  #fields: readonly FieldProblem[] = $state.raw([]);
  readonly #shown: readonly string[];
  readonly #attempt = new Attempt();

  /** `shown` are the pointers (`/name`) that have a place of their own in the form, and speak for those below them. */
  constructor(...shown: string[]) {
    this.#shown = shown;
  }

  /** What is wrong with a field; empty when nothing is. */
  at(pointer: string): string {
    return this.#fields
      .filter((field) => isAtOrBelow(field.pointer, pointer))
      .map((field) => field.detail)
      .join(" ");
  }

  /** Sends `content`, with the same key as long as it is the same. False when it was refused, and the form says why. */
  async submit<T>(content: T, send: (content: T, key: string) => Promise<void>): Promise<boolean> {
    if (this.busy) return false;
    this.busy = true;
    this.failure = "";
    this.#fields = [];
    try {
      await send(content, this.#attempt.keyFor(content));
      this.#attempt.done();
      return true;
    } catch (error) {
      this.#fields = error instanceof Problem ? error.fields : [];
      const elsewhere = this.#fields.some((field) => !this.#shown.some((pointer) => isAtOrBelow(field.pointer, pointer)));
      this.failure = this.#fields.length > 0 && !elsewhere ? "Not saved: see the marked fields." : reasonOf(error);
      return false;
    } finally {
      this.busy = false;
    }
  }
}

function isAtOrBelow(pointer: string, above: string): boolean {
  return pointer === above || pointer.startsWith(`${above}/`);
}
