/**
 * The idempotency key of what a form sends. The same content keeps its key until the server has answered, so that pressing the button again after a lost answer
 * makes nothing twice; other content is another request.
 */
export class Attempt {
  #content = "";
  #key = "";

  keyFor(content: unknown): string {
    const text = JSON.stringify(content);
    if (text !== this.#content) {
      this.#content = text;
      this.#key = crypto.randomUUID();
    }
    return this.#key;
  }

  /** The server has answered: the same content again is meant as another. */
  done(): void {
    this.#content = "";
  }
}
