/** Numbers and times as people read them. Pure: the present is always an argument. */

import type { Position } from "./wire.ts";

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** An age in one unit, rounded down: `40 s`, `4 min`, `2 h`, `3 d`. A time slightly in the future counts as now. */
export function age(ms: number): string {
  if (!(ms >= SECOND)) return "0 s";
  if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min`;
  if (ms < 2 * DAY) return `${Math.floor(ms / HOUR)} h`;
  return `${Math.floor(ms / DAY)} d`;
}

export function ageSince(time: string, now: number): string {
  return age(now - Date.parse(time));
}

/** `54 km/h`; below walking pace a receiver's noise would flicker, so it is zero. */
export function speed(mps: number | null): string {
  if (mps === null) return "–";
  return `${mps < 0.5 ? 0 : Math.round(mps * 3.6)} km/h`;
}

const COMPASS = ["N", "NE", "E", "SE", "S", "SW", "W", "NW"];

export function compass(courseDeg: number): string {
  return COMPASS[Math.round((((courseDeg % 360) + 360) % 360) / 45) % 8] as string;
}

/** Degrees with five decimals, about a metre: what a driver can type into any other map. */
export function coordinates(position: Pick<Position, "lat" | "lon">): string {
  return `${position.lat.toFixed(5)}, ${position.lon.toFixed(5)}`;
}

export function clockTime(time: string): string {
  return new Date(time).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
}

/** Down to the millisecond, with the date: for details and tooltips, where two clocks are compared. */
export function exactTime(time: string): string {
  return new Date(time).toLocaleString(undefined, {
    year: "numeric",
    month: "short",
    day: "numeric",
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    fractionalSecondDigits: 3,
  });
}

/** Whether two times fall on the same day where the reader is. */
export function sameDay(a: string, b: string): boolean {
  return new Date(a).toDateString() === new Date(b).toDateString();
}

/** `Today`, `Yesterday`, or the date; the year only when it is another. */
export function day(time: string, now: number): string {
  const date = new Date(time);
  const today = new Date(now);
  const yesterday = new Date(today.getFullYear(), today.getMonth(), today.getDate() - 1);
  if (date.toDateString() === today.toDateString()) return "Today";
  if (date.toDateString() === yesterday.toDateString()) return "Yesterday";
  const year = date.getFullYear() === today.getFullYear() ? undefined : "numeric";
  return date.toLocaleDateString(undefined, { weekday: "long", day: "numeric", month: "long", year });
}

/** How far a clock is ahead of the server's, or behind it: `+0.2 s`, `−47 h`. */
export function clockOffset(ms: number): string {
  const sign = ms < 0 ? "−" : "+";
  const size = Math.abs(ms);
  return sign + (size < 10 * SECOND ? `${(size / SECOND).toFixed(1)} s` : age(size));
}
