/** The words for a vehicle's state, for how long we have waited, and for numbers of things. */

import { age, ageSince } from "@waypost/shared/words";
import type { VehicleState } from "../state/fleet.ts";
import type { GroupRow } from "../state/groups.ts";
import type { Row } from "../state/rows.ts";

export function stateLabel(state: VehicleState, now: number): string {
  switch (state.kind) {
    case "moving":
      return "Moving";
    case "standing":
      return "Standing";
    case "cut_off":
      return `Cut off ${ageSince(state.since, now)}`;
    case "offline":
      return state.since === null ? "Offline" : `Offline ${ageSince(state.since, now)}`;
    case "silent":
      return `No fix ${ageSince(state.since, now)}`;
    case "no_position":
      return "No position yet";
  }
}

export interface Waiting {
  text: string;
  /** Whether it has not even reached the vehicle: the one case that is coloured. */
  missing: boolean;
}

/** Below this nobody has waited yet, and a sign that comes and goes would only be noise. */
const PATIENCE_MS = 3_000;

export function waitingLabel(waitsFor: Row["waitsFor"], now: number): Waiting | null {
  if (waitsFor === null) return null;
  const waited = now - Date.parse(waitsFor.entry.server_at);
  switch (waitsFor.state) {
    case "Accepted":
    case "Sent":
      return waited < PATIENCE_MS ? null : { text: `Not delivered ${age(waited)}`, missing: true };
    case "Expired":
      return { text: "Expired unseen", missing: true };
    case "Delivered":
      return { text: `Not read ${age(waited)}`, missing: false };
    case "Read":
      return { text: `No answer ${age(waited)}`, missing: false };
    case "Answered":
    case "Superseded":
      return null;
  }
}

/** The same for a group, where what counts is how many are missing. */
export function groupWaitingLabel(waitsFor: GroupRow["waitsFor"], now: number): Waiting | null {
  if (waitsFor === null) return null;
  const { recipients, delivered, read } = waitsFor.tally;
  const waited = now - Date.parse(waitsFor.entry.server_at);
  if (delivered < recipients) return waited < PATIENCE_MS ? null : { text: `${recipients - delivered} of ${recipients} not reached`, missing: true };
  return { text: `${recipients - read} of ${recipients} not read`, missing: false };
}

export function vehicles(count: number): string {
  return count === 1 ? "1 vehicle" : `${count} vehicles`;
}
