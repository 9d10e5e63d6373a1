/** A list that one page of the administration shows and asks for anew after each change. */

import { reasonOf } from "@waypost/shared/problem";

export class Listing<T> {
  items: readonly T[] | null = $state.raw(null);
  failure = $state("");
  readonly #ask: () => Promise<T[]>;

  constructor(ask: () => Promise<T[]>) {
    this.#ask = ask;
  }

  async load(): Promise<void> {
    try {
      this.items = await this.#ask();
      this.failure = "";
    } catch (error) {
      this.failure = reasonOf(error);
    }
  }
}
