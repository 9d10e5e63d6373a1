/**
 * Vehicles that drive through a town laid out in blocks, lose their link now and then, read what they are sent and sometimes answer.
 * A stand-in for devices; nothing here knows HTTP.
 */

const METRES_PER_DEGREE = 111_320;
const CENTRE = { lat: 41.259, lon: -96.01 };
const BLOCK_M = 180;
const DRIVERS = [
  "Mia Keller", "Jonas Weber", "Aylin Demir", "Piotr Nowak", "Lucía Romero", "Tom Baker", "Fatou Diallo", "Erik Lindqvist",
  "Noor Haddad", "Marta Kowalska", "Sam O’Brien", "Ines Carvalho", "Viktor Petrov", "Hanna Virtanen", "Omar Farouk", "Grace Mensah",
];

/** Mulberry32: small, and the same fleet for the same seed. */
export function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export function makeVehicles(count, random, now) {
  return Array.from({ length: count }, (_, index) => {
    const away = index === count - 2;
    const never = index === count - 1;
    return {
      id: (index + 11).toString(36),
      name: `truck-${String(index + 1).padStart(2, "0")}`,
      driver: { name: DRIVERS[index % DRIVERS.length], locale: "en" },
      stream: String(4711 + index),
      clockOffsetMs: Math.round((random() - 0.5) * 8000),
      online: !away,
      since: now - (away ? 5.2 * 3_600_000 : random() * 3_600_000),
      cutsAt: away || never ? Infinity : now + 8_000 + random() * 80_000,
      returnsAt: Infinity,
      mute: never,
      x: Math.round((random() - 0.5) * 40) * BLOCK_M,
      y: Math.round((random() - 0.5) * 26) * BLOCK_M,
      course: Math.floor(random() * 4) * 90,
      cruise: 9 + random() * 9,
      speed: away || index % 5 === 3 ? 0 : 12,
      waitsUntil: index % 5 === 3 ? now + 60_000 : 0,
      track: [],
      position: null,
    };
  });
}

/** Moves a vehicle on by one step, and records where it is unless nobody could know. */
export function drive(vehicle, random, now, seconds) {
  if (vehicle.mute) return;
  if (now < vehicle.waitsUntil) {
    vehicle.speed = 0;
  } else {
    vehicle.speed += (vehicle.cruise - vehicle.speed) * 0.4;
    let metres = vehicle.speed * seconds;
    while (metres > 0) {
      const along = vehicle.course % 180 === 0 ? vehicle.y : vehicle.x;
      const sign = vehicle.course < 180 ? 1 : -1;
      const toCorner = BLOCK_M - ((((along * sign) % BLOCK_M) + BLOCK_M) % BLOCK_M) || BLOCK_M;
      const step = Math.min(metres, toCorner);
      if (vehicle.course % 180 === 0) vehicle.y += sign * step;
      else vehicle.x += sign * step;
      metres -= step;
      if (step === toCorner) turn(vehicle, random, now);
    }
  }
  if (vehicle.online) record(vehicle, random, now);
}

function turn(vehicle, random, now) {
  vehicle.x = Math.round(vehicle.x / BLOCK_M) * BLOCK_M;
  vehicle.y = Math.round(vehicle.y / BLOCK_M) * BLOCK_M;
  const chance = random();
  if (chance < 0.06) vehicle.waitsUntil = now + 6_000 + random() * 20_000;
  if (chance < 0.25) vehicle.course = (vehicle.course + 90) % 360;
  else if (chance > 0.78) vehicle.course = (vehicle.course + 270) % 360;
  if (Math.hypot(vehicle.x, vehicle.y) > 4_500) {
    const home = Math.abs(vehicle.x) > Math.abs(vehicle.y) ? (vehicle.x > 0 ? 270 : 90) : vehicle.y > 0 ? 180 : 0;
    vehicle.course = home;
  }
}

export function record(vehicle, random, now) {
  const lat = CENTRE.lat + (vehicle.y + (random() - 0.5) * 3) / METRES_PER_DEGREE;
  const lon = CENTRE.lon + (vehicle.x + (random() - 0.5) * 3) / (METRES_PER_DEGREE * Math.cos((CENTRE.lat * Math.PI) / 180));
  vehicle.position = {
    lat: Number(lat.toFixed(6)),
    lon: Number(lon.toFixed(6)),
    speed_mps: Number(vehicle.speed.toFixed(2)),
    course_deg: vehicle.course,
    accuracy_m: 4,
    battery_pct: 81,
    at: new Date(now - 300).toISOString(),
    received_at: new Date(now).toISOString(),
  };
  vehicle.track.push(vehicle.position);
  if (vehicle.track.length > 4000) vehicle.track.shift();
}

/** An hour of driving before the mock was started, so that there is a track to look back on. */
export function driveBefore(vehicle, random, now) {
  const { online, waitsUntil } = vehicle;
  const until = online ? now : vehicle.since;
  vehicle.online = true;
  vehicle.waitsUntil = 0;
  for (let at = until - 1_200_000; at < until; at += 5_000) drive(vehicle, random, at, 5);
  vehicle.online = online;
  vehicle.waitsUntil = waitsUntil;
}
