/**
 * The vehicles as the page knows them: values and the functions that make the next value from an answer or an event.
 *
 * The rule: answers and events may come in any order and more than once, and the result is the same. So each part of a vehicle is
 * replaced only by something newer by the clock that stamped it.
 */

import type { Device, FleetEvent, Position, Presence } from "@waypost/shared/wire";

export type Fleet = ReadonlyMap<string, Device>;

/** Takes the whole list as the server has it; a vehicle that is not in it is gone. */
export function withDevices(fleet: Fleet, devices: readonly Device[]): Fleet {
  return new Map(
    devices
      .filter((device) => !device.revoked)
      .map((device) => {
        const known = fleet.get(device.id);
        if (known === undefined) return [device.id, device];
        return [
          device.id,
          {
            ...device,
            position: newerPosition(known.position, device.position),
            presence: newerPresence(known.presence, device.presence),
          },
        ];
      }),
  );
}

export function withEvent(fleet: Fleet, event: FleetEvent): Fleet {
  switch (event.type) {
    case "waypost.position.updated":
      return change(fleet, event.data.device, (device) => {
        const position = newerPosition(device.position, event.data.position);
        return position === device.position ? device : { ...device, position };
      });
    case "waypost.device.online":
    case "waypost.device.offline":
      return change(fleet, event.data.device, (device) => {
        const state = event.type === "waypost.device.online" ? "online" : "offline";
        const presence = newerPresence(device.presence, { state, since: event.data.since ?? event.time });
        return presence === device.presence ? device : { ...device, presence };
      });
    case "waypost.device.revoked": {
      if (!fleet.has(event.data.device)) return fleet;
      const rest = new Map(fleet);
      rest.delete(event.data.device);
      return rest;
    }
    default:
      return fleet;
  }
}

function change(fleet: Fleet, id: string, next: (device: Device) => Device): Fleet {
  const device = fleet.get(id);
  if (device === undefined) return fleet;
  const changed = next(device);
  return changed === device ? fleet : new Map(fleet).set(id, changed);
}

function newerPosition(known: Position | null, heard: Position | null): Position | null {
  if (heard === null) return known;
  if (known === null) return heard;
  return Date.parse(heard.at) > Date.parse(known.at) ? heard : known;
}

/** "Unknown" means that the server has started again and has not heard the device: it says nothing newer than itself. */
function newerPresence(known: Presence, heard: Presence): Presence {
  if (heard.state === "unknown" || known.state === "unknown" || heard.since === null || known.since === null) return heard;
  return Date.parse(heard.since) > Date.parse(known.since) ? heard : known;
}

/**
 * What a dispatcher calls it.
 *
 * - `cut_off`: the link broke less than {@link OFFLINE_AFTER_MS} ago, which on these networks is an ordinary minute.
 * - `offline`: longer than that; somebody may want to call.
 * - `silent`: connected, and yet no position for longer than a device may stay quiet: its receiver sees no sky, or its clock is wrong.
 * - `no_position`: connected, and has never told where it is.
 */
export type VehicleState =
  | { kind: "moving" }
  | { kind: "standing" }
  | { kind: "cut_off"; since: string }
  | { kind: "offline"; since: string | null }
  | { kind: "silent"; since: string }
  | { kind: "no_position" };

export type VehicleStateKind = VehicleState["kind"];

/** Above a receiver's noise at a standstill, below a crawl in traffic. */
const MOVING_MPS = 1;
const OFFLINE_AFTER_MS = 15 * 60_000;
/** A device reports at least every 300 s while it is connected; half a minute for the way. */
const SILENT_AFTER_MS = 330_000;
/** Without word of the connection, a position this fresh is as good. */
const HEARD_LATELY_MS = 90_000;

export function stateOf(device: Pick<Device, "presence" | "position" | "last_seen">, now: number): VehicleState {
  const { presence, position } = device;
  const positionAge = position === null ? Infinity : now - Date.parse(position.at);
  const connected = presence.state === "online" || (presence.state === "unknown" && positionAge < HEARD_LATELY_MS);
  if (!connected) {
    const since = presence.state === "offline" ? (presence.since ?? device.last_seen) : (device.last_seen ?? position?.at ?? null);
    return since !== null && now - Date.parse(since) < OFFLINE_AFTER_MS ? { kind: "cut_off", since } : { kind: "offline", since };
  }
  if (position === null) return { kind: "no_position" };
  if (positionAge > SILENT_AFTER_MS) return { kind: "silent", since: position.at };
  return { kind: (position.speed_mps ?? 0) >= MOVING_MPS ? "moving" : "standing" };
}
