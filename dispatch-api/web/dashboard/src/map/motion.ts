/**
 * Where a vehicle is drawn between two positions: it glides to the new one for a moment, so that the eye can follow it. What the list says is
 * always the newest position; this only concerns the drawing. Pure.
 */

export type Place = readonly [lon: number, lat: number];

export const GLIDE_MS = 700;
/** Further than this is no drive that one could have watched: the sign is simply there. */
const JUMP_DEG = 0.05;

export interface Glide {
  readonly from: Place;
  readonly to: Place;
  readonly since: number;
}

export function still(place: Place): Glide {
  return { from: place, to: place, since: -Infinity };
}

export function towards(glide: Glide, to: Place, now: number): Glide {
  if (glide.to[0] === to[0] && glide.to[1] === to[1]) return glide;
  const from = placeAt(glide, now);
  const far = Math.abs(from[0] - to[0]) > JUMP_DEG || Math.abs(from[1] - to[1]) > JUMP_DEG;
  return far ? still(to) : { from, to, since: now };
}

export function placeAt(glide: Glide, now: number): Place {
  const part = Math.min(1, (now - glide.since) / GLIDE_MS);
  if (part >= 1) return glide.to;
  const eased = part * (2 - part);
  return [glide.from[0] + (glide.to[0] - glide.from[0]) * eased, glide.from[1] + (glide.to[1] - glide.from[1]) * eased];
}

export function isMoving(glide: Glide, now: number): boolean {
  return now - glide.since < GLIDE_MS;
}
