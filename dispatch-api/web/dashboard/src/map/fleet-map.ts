/**
 * The map itself: everything that knows MapLibre. Loaded when the page already works, since it is larger than all the rest together.
 * It asks nobody else for anything: outlines come with the page, letters are drawn from the system's fonts, and there are no tiles.
 */

import * as maplibre from "maplibre-gl";
import "maplibre-gl/dist/maplibre-gl.css";
import workerUrl from "maplibre-gl/dist/maplibre-gl-worker.mjs?worker&url";
import type { Feature, FeatureCollection, LineString, Point } from "geojson";
import type { VehicleStateKind } from "../state/fleet.ts";
import { drawGlyph, GLYPH_KINDS, GLYPH_RATIO } from "./glyphs.ts";
import { gridFor } from "./grid.ts";
import { isMoving, placeAt, still, towards, type Glide, type Place } from "./motion.ts";
import { loadWorld } from "./world.ts";

maplibre.setWorkerUrl(workerUrl);

export interface Marker {
  id: string;
  name: string;
  lon: number;
  lat: number;
  course: number;
  kind: VehicleStateKind;
  unread: boolean;
}

export interface MapHandlers {
  onChoose(device: string): void;
}

/** Enough steps for the eye; each costs the worker a pass over all vehicles. */
const GLIDE_STEP_MS = 50;
/** A machine that needs longer than this for a picture (no graphics card, say) is spared the gliding. */
const SLOW_FRAME_MS = 40;
const TRAIL_POINTS = 720;
/** Each vehicle's way since the page was opened, so that roads appear where there is no map of them; a bound for each vehicle and for all. */
const TAIL_POINTS = 90;
const TAILS_MAX = 500;
const FOLLOW_RESIZE_MS = 1000;

const EMPTY: FeatureCollection = { type: "FeatureCollection", features: [] };
const NAME_FONT = ["system-ui", "sans-serif"];
const NAME_LAYOUT: maplibre.SymbolLayerSpecification["layout"] = {
  "text-field": ["case", ["get", "unread"], ["concat", ["get", "name"], " ●"], ["get", "name"]],
  "text-font": NAME_FONT,
  "text-size": 12,
  "text-variable-anchor": ["left", "right", "top", "bottom"],
  "text-radial-offset": 1.5,
  "text-justify": "auto",
  "text-padding": 1,
  "symbol-sort-key": ["-", 0, ["get", "order"]],
};

export class FleetMap {
  readonly #map: maplibre.Map;
  readonly #dark = matchMedia("(prefers-color-scheme: dark)");
  readonly #calm = matchMedia("(prefers-reduced-motion: reduce)");
  readonly #repaint = () => this.#paint();
  #markers: readonly Marker[] = [];
  #glides = new Map<string, Glide>();
  #tails = new Map<string, Place[]>();
  #selected: string | null = null;
  #selectedAt = -Infinity;
  #trail: Place[] = [];
  #trailOf: string | null = null;
  #fitted = false;
  #ready = false;
  #gliding = false;
  #slow = false;

  /** @throws where there is no WebGL. */
  constructor(container: HTMLElement, handlers: MapHandlers, onReady: () => void) {
    this.#map = new maplibre.Map({
      container,
      style: { version: 8, sources: {}, layers: [] },
      center: [10, 35],
      zoom: 1.4,
      minZoom: 1,
      maxZoom: 18,
      attributionControl: { compact: false, customAttribution: "Outlines: Natural Earth" },
      dragRotate: false,
      pitchWithRotate: false,
      rollEnabled: false,
      fadeDuration: 0,
      locale: { "Map.Title": "Vehicles by position" },
      localIdeographFontFamily: getComputedStyle(document.documentElement).getPropertyValue("--font"),
    });
    this.#map.touchZoomRotate.disableRotation();
    this.#map.keyboard.disableRotation();
    this.#map.addControl(new maplibre.NavigationControl({ showCompass: false }), "top-right");
    this.#map.addControl(new maplibre.ScaleControl({ maxWidth: 120 }), "bottom-left");
    this.#dark.addEventListener("change", this.#repaint);
    this.#map.once("load", () => {
      this.#addLayers();
      this.#paint();
      this.#ready = true;
      this.#listen(handlers);
      this.#drawGrid();
      this.#drawAll();
      onReady();
      void this.#addWorld();
    });
  }

  destroy(): void {
    this.#dark.removeEventListener("change", this.#repaint);
    this.#map.remove();
  }

  show(markers: readonly Marker[]): void {
    const now = performance.now();
    const glides = new Map<string, Glide>();
    for (const marker of markers) {
      const place: Place = [marker.lon, marker.lat];
      const known = this.#glides.get(marker.id);
      glides.set(marker.id, known === undefined || this.#calm.matches || this.#slow ? still(place) : towards(known, place, now));
    }
    this.#glides = glides;
    this.#markers = markers;
    this.#growTails();
    if (!this.#ready) return;
    this.#followTrail();
    this.#drawTails();
    this.#drawAll();
  }

  /** Highlights one vehicle, and brings it into view where it is not. */
  select(device: string | null): void {
    if (this.#selected === device) return;
    this.#selected = device;
    this.#selectedAt = performance.now();
    this.#trail = [];
    this.#trailOf = null;
    if (!this.#ready) return;
    this.#drawAll();
    this.#drawTrail();
    this.#reveal();
  }

  /** Where the selected vehicle came from, oldest first; from here on it grows by itself. */
  setTrail(device: string, places: readonly Place[]): void {
    if (device !== this.#selected) return;
    this.#trailOf = device;
    this.#trail = places.slice(-TRAIL_POINTS);
    this.#followTrail();
    if (this.#ready) this.#drawTrail();
  }

  /** All vehicles in one view. */
  fit(animated = true): void {
    const [first, ...rest] = this.#markers;
    if (first === undefined) return;
    const bounds = new maplibre.LngLatBounds([first.lon, first.lat], [first.lon, first.lat]);
    for (const marker of rest) bounds.extend([marker.lon, marker.lat]);
    const { clientWidth, clientHeight } = this.#map.getContainer();
    const padding = Math.min(90, clientWidth / 6, clientHeight / 5);
    this.#map.fitBounds(bounds, { padding, maxZoom: 14, animate: animated && !this.#calm.matches, duration: 600 });
  }

  #listen(handlers: MapHandlers): void {
    const layers = ["vehicles", "names"];
    this.#map.on("click", layers, (event) => {
      const id: unknown = event.features?.[0]?.properties.id;
      if (typeof id === "string") handlers.onChoose(id);
    });
    this.#map.on("mouseenter", layers, () => (this.#map.getCanvas().style.cursor = "pointer"));
    this.#map.on("mouseleave", layers, () => (this.#map.getCanvas().style.cursor = ""));
    this.#map.on("moveend", () => this.#drawGrid());
    this.#map.on("resize", () => {
      this.#drawGrid();
      // The conversation has just opened over what was chosen.
      if (performance.now() - this.#selectedAt < FOLLOW_RESIZE_MS) this.#reveal();
    });
  }

  #addLayers(): void {
    const map = this.#map;
    for (const source of ["land", "borders", "countries", "grid", "tails", "trail", "fleet"]) map.addSource(source, { type: "geojson", data: EMPTY });
    map.addLayer({ id: "sea", type: "background" });
    map.addLayer({ id: "land", type: "fill", source: "land" });
    map.addLayer({ id: "grid", type: "line", source: "grid", paint: { "line-width": 1 } });
    map.addLayer({ id: "borders", type: "line", source: "borders", paint: { "line-width": ["interpolate", ["linear"], ["zoom"], 2, 0.6, 8, 1.4] } });
    map.addLayer({
      id: "grid-labels",
      type: "symbol",
      source: "grid",
      layout: {
        "symbol-placement": "line",
        "symbol-spacing": 420,
        "text-field": ["get", "label"],
        "text-font": NAME_FONT,
        "text-size": 10.5,
        "text-keep-upright": true,
        "text-padding": 20,
      },
      paint: { "text-halo-width": 2 },
    });
    map.addLayer({
      id: "countries",
      type: "symbol",
      source: "countries",
      maxzoom: 7,
      layout: {
        "text-field": ["get", "name"],
        "text-font": NAME_FONT,
        "text-size": ["interpolate", ["linear"], ["zoom"], 2, 10, 6, 15],
        "text-letter-spacing": 0.06,
        "text-max-width": 7,
        "symbol-sort-key": ["-", 0, ["get", "size"]],
      },
      paint: { "text-halo-width": 1.5 },
    });
    map.addLayer({
      id: "tails",
      type: "line",
      source: "tails",
      layout: { "line-cap": "round", "line-join": "round" },
      paint: { "line-width": 3, "line-opacity": 0.32 },
    });
    map.addLayer({
      id: "trail",
      type: "line",
      source: "trail",
      layout: { "line-cap": "round", "line-join": "round" },
      paint: { "line-width": 3.5, "line-opacity": 0.6 },
    });
    map.addLayer({ id: "selected", type: "circle", source: "fleet", filter: ["get", "selected"], paint: { "circle-radius": 17, "circle-opacity": 0.28, "circle-stroke-width": 2.5 } });
    // Below the signs, and so placed after them: a name gives way to a sign and never covers one.
    map.addLayer({ id: "names", type: "symbol", source: "fleet", filter: ["!", ["get", "selected"]], layout: NAME_LAYOUT, paint: { "text-halo-width": 2 } });
    map.addLayer({
      id: "vehicles",
      type: "symbol",
      source: "fleet",
      layout: {
        "icon-image": ["get", "kind"],
        "icon-rotate": ["case", ["==", ["get", "kind"], "moving"], ["get", "course"], 0],
        "icon-rotation-alignment": "map",
        "icon-allow-overlap": true,
        "symbol-sort-key": ["get", "order"],
      },
    });
    map.addLayer({
      id: "selected-name",
      type: "symbol",
      source: "fleet",
      filter: ["get", "selected"],
      layout: { ...NAME_LAYOUT, "text-radial-offset": 2, "text-allow-overlap": true },
      paint: { "text-halo-width": 2 },
    });
  }

  /** Colours are the page's own tokens, so that the map follows the colour scheme with everything else. */
  #paint(): void {
    const style = getComputedStyle(document.documentElement);
    const token = (name: string) => style.getPropertyValue(`--${name}`).trim();
    const map = this.#map;
    map.setPaintProperty("sea", "background-color", token("map-sea"));
    map.setPaintProperty("land", "fill-color", token("map-land"));
    map.setPaintProperty("borders", "line-color", token("map-border"));
    map.setPaintProperty("grid", "line-color", token("map-grid"));
    map.setPaintProperty("trail", "line-color", token("map-trail"));
    map.setPaintProperty("tails", "line-color", token("map-grid-text"));
    for (const layer of ["grid-labels", "countries"]) {
      map.setPaintProperty(layer, "text-color", token("map-grid-text"));
      map.setPaintProperty(layer, "text-halo-color", token("map-land"));
    }
    for (const layer of ["names", "selected-name"]) {
      map.setPaintProperty(layer, "text-color", token("ink"));
      map.setPaintProperty(layer, "text-halo-color", token("map-land"));
    }
    map.setPaintProperty("selected", "circle-color", token("mark"));
    map.setPaintProperty("selected", "circle-stroke-color", token("mark"));
    const colour: Record<VehicleStateKind, string> = {
      moving: token("moving"),
      standing: token("standing"),
      cut_off: token("lost"),
      silent: token("lost"),
      offline: token("gone"),
      no_position: token("gone"),
    };
    for (const kind of GLYPH_KINDS) {
      const image = drawGlyph(kind, { fill: colour[kind], casing: token("raised") });
      if (map.hasImage(kind)) map.updateImage(kind, image);
      else map.addImage(kind, image, { pixelRatio: GLYPH_RATIO });
    }
  }

  async #addWorld(): Promise<void> {
    const world = await loadWorld();
    this.#setData("land", world.land);
    this.#setData("borders", world.borders);
    this.#setData("countries", world.names);
  }

  #drawGrid(): void {
    const bounds = this.#map.getBounds();
    this.#setData("grid", gridFor({ west: bounds.getWest(), south: bounds.getSouth(), east: bounds.getEast(), north: bounds.getNorth() }));
  }

  #drawAll(): void {
    if (!this.#fitted && this.#markers.length > 0) {
      this.#fitted = true;
      this.fit(false);
      this.#reveal();
    }
    this.#drawVehicles();
    this.#glide();
  }

  #drawVehicles(): void {
    const now = performance.now();
    const features = this.#markers.map((marker): Feature<Point> => {
      const place = placeAt(this.#glides.get(marker.id) ?? still([marker.lon, marker.lat]), now);
      const selected = marker.id === this.#selected;
      return {
        type: "Feature",
        geometry: { type: "Point", coordinates: [...place] },
        properties: { ...marker, selected, order: selected ? 2 : marker.unread ? 1 : 0 },
      };
    });
    this.#setData("fleet", { type: "FeatureCollection", features });
  }

  #glide(): void {
    if (this.#gliding) return;
    const now = performance.now();
    if (![...this.#glides.values()].some((glide) => isMoving(glide, now))) return;
    this.#gliding = true;
    const began = performance.now();
    setTimeout(() => {
      requestAnimationFrame(() => {
        this.#gliding = false;
        this.#slow = performance.now() - began > GLIDE_STEP_MS + SLOW_FRAME_MS;
        if (this.#slow) for (const [id, glide] of this.#glides) this.#glides.set(id, still(glide.to));
        this.#drawVehicles();
        this.#glide();
      });
    }, GLIDE_STEP_MS);
  }

  #followTrail(): void {
    const marker = this.#markers.find((candidate) => candidate.id === this.#trailOf);
    const last = this.#trail.at(-1);
    if (marker === undefined || (last !== undefined && last[0] === marker.lon && last[1] === marker.lat)) return;
    this.#trail = [...this.#trail, [marker.lon, marker.lat] as const].slice(-TRAIL_POINTS);
    this.#drawTrail();
  }

  #growTails(): void {
    const tails = new Map<string, Place[]>();
    for (const { id, lon, lat } of this.#markers.slice(0, TAILS_MAX)) {
      const tail = this.#tails.get(id) ?? [];
      const last = tail.at(-1);
      const moved = last === undefined || last[0] !== lon || last[1] !== lat;
      tails.set(id, moved ? [...tail, [lon, lat] as const].slice(-TAIL_POINTS) : tail);
    }
    this.#tails = tails;
  }

  #drawTails(): void {
    const features = [...this.#tails.values()].filter((tail) => tail.length > 1).map(lineOf);
    this.#setData("tails", { type: "FeatureCollection", features });
  }

  #drawTrail(): void {
    this.#setData("trail", this.#trail.length < 2 ? EMPTY : lineOf(this.#trail));
  }

  #reveal(): void {
    const marker = this.#markers.find((candidate) => candidate.id === this.#selected);
    if (marker === undefined) return;
    const { x, y } = this.#map.project([marker.lon, marker.lat]);
    const { clientWidth, clientHeight } = this.#map.getContainer();
    const edge = Math.min(60, clientWidth / 6, clientHeight / 6);
    if (x > edge && y > edge && x < clientWidth - edge && y < clientHeight - edge) return;
    this.#map.easeTo({ center: [marker.lon, marker.lat], duration: this.#calm.matches ? 0 : 500 });
  }

  #setData(source: string, data: Parameters<maplibre.GeoJSONSource["setData"]>[0]): void {
    const target = this.#map.getSource<maplibre.GeoJSONSource>(source);
    void target?.setData(data);
  }
}

function lineOf(places: readonly Place[]): Feature<LineString> {
  return { type: "Feature", geometry: { type: "LineString", coordinates: places.map((place) => [...place]) }, properties: {} };
}
