/**
 * The server's clock as seen from here. A dispatcher's PC may be minutes off, and "cut off 40 s" must not be; so the page measures how far
 * away the server's clock is and shows every age against that.
 *
 * Each observation bounds the offset (server minus local) from one or both sides; the bounds are intersected, so the estimate gets
 * better with every answer. An observation that contradicts the bounds means that a clock was set: it replaces them.
 */
export class ServerClock {
  #low = -Infinity;
  #high = Infinity;

  readonly #local: () => number;

  constructor(local: () => number = Date.now) {
    this.#local = local;
  }

  /** The server's time in milliseconds, as well as it is known. */
  now(): number {
    return this.#local() + this.offset();
  }

  offset(): number {
    if (this.#low === -Infinity) return 0;
    if (this.#high === Infinity) return this.#low;
    return (this.#low + this.#high) / 2;
  }

  /** An answer's `Date` header has whole seconds and was written between asking and hearing. */
  observeDate(header: string | null, askedMs: number, heardMs: number): void {
    const date = header === null ? NaN : Date.parse(header);
    if (Number.isNaN(date)) return;
    this.#narrow(date - heardMs, date + 1000 - askedMs);
  }

  /** Something the server stamped has arrived here, so the server's clock is at least that late by now. */
  observeStamp(time: string): void {
    const stamp = Date.parse(time);
    if (Number.isNaN(stamp)) return;
    const low = stamp - this.#local();
    // Before the first answer a single stamp says nothing about the other side, and an old one would mislead.
    if (this.#high === Infinity) return;
    if (low > this.#low) this.#narrow(low, Math.max(this.#high, low));
  }

  #narrow(low: number, high: number): void {
    const contradicts = low > this.#high || high < this.#low;
    this.#low = contradicts ? low : Math.max(this.#low, low);
    this.#high = contradicts ? high : Math.min(this.#high, high);
  }
}
