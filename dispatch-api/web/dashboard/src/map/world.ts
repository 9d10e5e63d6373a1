/** Coasts, borders and country names of Natural Earth, from the file that the build put beside the page. */

import type { Feature, FeatureCollection, Geometry, MultiLineString, Point, Position } from "geojson";
import { feature, mesh } from "topojson-client";
import type { GeometryCollection, Topology } from "topojson-specification";
import worldUrl from "world-atlas/countries-50m.json?url";

export interface World {
  land: Feature<Geometry> | FeatureCollection<Geometry>;
  borders: MultiLineString;
  names: FeatureCollection<Point, { name: string; size: number }>;
}

interface Atlas extends Topology {
  objects: { countries: GeometryCollection<{ name: string }>; land: GeometryCollection };
}

export async function loadWorld(): Promise<World> {
  const answer = await fetch(worldUrl);
  if (!answer.ok) throw new Error(`the outlines could not be loaded (${answer.status})`);
  const atlas = (await answer.json()) as Atlas;
  return {
    land: feature(atlas, atlas.objects.land),
    borders: mesh(atlas, atlas.objects.countries, (a, b) => a !== b),
    names: {
      type: "FeatureCollection",
      features: feature(atlas, atlas.objects.countries).features.flatMap((country) => {
        const ring = largestRing(country.geometry);
        return ring === null ? [] : [nameOf(country.properties.name, ring)];
      }),
    },
  };
}

/** The outline of a country's largest part: its name belongs on the mainland and not between islands. */
function largestRing(geometry: Geometry): Position[] | null {
  const polygons = geometry.type === "Polygon" ? [geometry.coordinates] : geometry.type === "MultiPolygon" ? geometry.coordinates : [];
  const rings = polygons.flatMap((polygon) => polygon[0] ?? []).length === 0 ? [] : polygons.map((polygon) => polygon[0] as Position[]);
  return rings.reduce<Position[] | null>((largest, ring) => (largest === null || areaOf(ring) > areaOf(largest) ? ring : largest), null);
}

function areaOf(ring: Position[]): number {
  let sum = 0;
  for (let i = 1; i < ring.length; i++) sum += x(ring[i - 1]) * y(ring[i]) - x(ring[i]) * y(ring[i - 1]);
  return Math.abs(sum / 2);
}

/** At the ring's centre of mass. */
function nameOf(name: string, ring: Position[]): Feature<Point, { name: string; size: number }> {
  let [sum, lon, lat] = [0, 0, 0];
  for (let i = 1; i < ring.length; i++) {
    const cross = x(ring[i - 1]) * y(ring[i]) - x(ring[i]) * y(ring[i - 1]);
    sum += cross;
    lon += (x(ring[i - 1]) + x(ring[i])) * cross;
    lat += (y(ring[i - 1]) + y(ring[i])) * cross;
  }
  return { type: "Feature", geometry: { type: "Point", coordinates: [lon / (3 * sum), lat / (3 * sum)] }, properties: { name, size: areaOf(ring) } };
}

const x = (position: Position | undefined) => position?.[0] ?? 0;
const y = (position: Position | undefined) => position?.[1] ?? 0;
