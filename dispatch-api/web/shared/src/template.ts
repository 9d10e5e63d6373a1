/** Quick replies: their texts, and what goes into their slots. Pure. */

import type { Slot, SlotKind, SlotValues, Template } from "./wire.ts";

const SLOT = /\{(\w+)\}/g;

/** A text in the first of these languages that it has (`de-AT` finds `de`), else in English, else in any. */
export function textIn(texts: Template["text"], languages: readonly string[]): string {
  for (const language of [...languages, "en"]) {
    const text = texts[language] ?? texts[language.split("-")[0] as string];
    if (text !== undefined) return text;
  }
  return Object.values(texts)[0] ?? "";
}

export interface Piece {
  /** The slot that this stands for; null for the words around it. */
  readonly slot: string | null;
  /** Empty for a slot that nothing is written into. */
  readonly text: string;
}

/** A text taken apart at its slots, with what is written into them. */
export function pieces(text: string, values: SlotValues): Piece[] {
  const found: Piece[] = [];
  let end = 0;
  for (const match of text.matchAll(SLOT)) {
    const name = match[1] as string;
    if (match.index > end) found.push({ slot: null, text: text.slice(end, match.index) });
    found.push({ slot: name, text: Object.hasOwn(values, name) ? String(values[name]) : "" });
    end = match.index + match[0].length;
  }
  if (end < text.length) found.push({ slot: null, text: text.slice(end) });
  return found;
}

/** The text as people read it; `…` stands where nothing is written. */
export function render(text: string, values: SlotValues): string {
  return pieces(text, values)
    .map((piece) => (piece.slot !== null && piece.text === "" ? "…" : piece.text))
    .join("");
}

/** The slots that texts name, in the order in which they are first named, each once. */
export function slotNames(texts: Iterable<string>): string[] {
  const names = new Set<string>();
  for (const text of texts) for (const match of text.matchAll(SLOT)) names.add(match[1] as string);
  return [...names];
}

/** What a value of a slot is sent as: without the blanks around it, a number with a point. */
export function normal(kind: SlotKind, value: string): string {
  const trimmed = value.trim();
  return kind === "number" ? trimmed.replace(",", ".") : trimmed;
}

/** What is wrong with a value, in words for the one who types it; null when it can be sent. */
export function fault(kind: SlotKind, value: string): string | null {
  const text = normal(kind, value);
  if (text === "") return "Fill this in.";
  if (kind === "number" && !/^-?\d+(\.\d+)?$/.test(text)) return "A number, such as 15.";
  if (kind === "time" && !/^([01]\d|2[0-3]):[0-5]\d$/.test(text)) return "A time of day, such as 14:30.";
  return null;
}

/** The values to send for these slots, or nothing while one of them is at fault. */
export function filled(slots: readonly Slot[], typed: Readonly<Record<string, string>>): SlotValues | null {
  if (slots.some((slot) => fault(slot.kind, typed[slot.name] ?? "") !== null)) return null;
  return Object.fromEntries(slots.map((slot) => [slot.name, normal(slot.kind, typed[slot.name] ?? "")]));
}

/** A slot's name as a label: `pallet_count` is `Pallet count`. */
export function labelOf(slot: string): string {
  const words = slot.replaceAll("_", " ");
  return words.charAt(0).toLocaleUpperCase() + words.slice(1);
}

/** Whether two sets of values say the same, whatever the order and whether numbers came as text. */
export function sameValues(a: SlotValues, b: SlotValues): boolean {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && String(a[name]) === String(b[name]));
}
