/**
 * What the page keeps in the browser for a person: unfinished and unsent words, and nothing that could sign anybody in. A browser that
 * refuses storage (private windows may) costs what a reload would lose, not the page.
 */

import { restored, type Outbox } from "./outbox.ts";

export interface Words {
  drafts: ReadonlyMap<string, string>;
  outbox: Outbox;
}

export function load(person: string): Words {
  try {
    const stored = JSON.parse(localStorage.getItem(keyOf(person)) ?? "{}") as { drafts?: unknown; outbox?: unknown };
    const drafts = Array.isArray(stored.drafts) ? stored.drafts.filter(isDraft) : [];
    return { drafts: new Map(drafts), outbox: restored(stored.outbox) };
  } catch {
    return { drafts: new Map(), outbox: [] };
  }
}

export function save(person: string, words: Words): void {
  try {
    localStorage.setItem(keyOf(person), JSON.stringify({ drafts: [...words.drafts], outbox: words.outbox }));
  } catch {
    // Full or forbidden: the page goes on with what it holds in memory.
  }
}

function keyOf(person: string): string {
  return `waypost.words.${person}`;
}

function isDraft(value: unknown): value is [string, string] {
  return Array.isArray(value) && value.length === 2 && typeof value[0] === "string" && typeof value[1] === "string";
}
