/** Where the person is, as the address bar says it: which view, and which vehicle is open. Links can be kept, sent and gone back from. */

export type View = "map" | "inbox";

const PATHS: Record<View, string> = { map: "/", inbox: "/inbox" };

export class Place {
  view: View = $state("map");
  vehicle: string | null = $state(null);

  constructor() {
    this.#read();
  }

  /** Follows the browser's back and forward; call the answer to stop. */
  start(): () => void {
    const read = () => this.#read();
    window.addEventListener("popstate", read);
    return () => window.removeEventListener("popstate", read);
  }

  href(view: View, vehicle = this.vehicle): string {
    return PATHS[view] + (vehicle === null ? "" : `?vehicle=${encodeURIComponent(vehicle)}`);
  }

  go(view: View, vehicle = this.vehicle): void {
    this.#push(view, vehicle);
  }

  open(vehicle: string): void {
    this.#push(this.view, vehicle);
  }

  close(): void {
    this.#push(this.view, null);
  }

  #push(view: View, vehicle: string | null): void {
    if (view === this.view && vehicle === this.vehicle) return;
    history.pushState(null, "", this.href(view, vehicle));
    this.#read();
  }

  #read(): void {
    this.view = location.pathname.startsWith(PATHS.inbox) ? "inbox" : "map";
    this.vehicle = new URLSearchParams(location.search).get("vehicle");
  }
}
