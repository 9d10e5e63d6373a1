/** Server-sent events, as the HTML standard's §9.2 defines them, from bytes that arrive in pieces. No IO. */

export interface Message {
  data: string;
  /** The cursor to go on from after this message; what the stream named last, so it also stands on messages without one of their own. */
  lastId: string;
}

export class SseParser {
  #rest = "";
  #data: string[] = [];
  #lastId: string;

  /** What the server asked to wait before the next attempt, in milliseconds. */
  retryMs: number | null = null;

  constructor(lastId = "") {
    this.#lastId = lastId;
  }

  get lastId(): string {
    return this.#lastId;
  }

  /** Takes the next piece of text and gives the messages that it completed. */
  push(text: string): Message[] {
    const messages: Message[] = [];
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line !== "") {
        this.#field(line);
      } else if (this.#data.length > 0) {
        messages.push({ data: this.#data.join("\n"), lastId: this.#lastId });
        this.#data = [];
      }
    }
    return messages;
  }

  #field(line: string): void {
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") this.#data.push(value);
    else if (name === "id" && !value.includes("\0")) this.#lastId = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
  }
}
