/** Where the person is, as the address bar says it: which view, what is shown in it, and which conversation is open. Links can be kept, sent and gone back from. */

export type View = "map" | "inbox" | "broadcast" | "admin";

/** A conversation: a vehicle's by the device's id, a group's by its stream's. */
export interface Open {
  readonly kind: "vehicle" | "group";
  readonly id: string;
}

const PATHS: Record<View, string> = { map: "/", inbox: "/inbox", broadcast: "/broadcast", admin: "/admin" };

export class Place {
  view: View = $state("map");
  /** The part of the view that is shown: a broadcast's id, a table of the administration. */
  item: string | null = $state(null);
  open: Open | null = $state.raw(null);

  constructor() {
    this.#read();
  }

  get vehicle(): string | null {
    return this.open?.kind === "vehicle" ? this.open.id : null;
  }

  get group(): string | null {
    return this.open?.kind === "group" ? this.open.id : null;
  }

  /** Follows the browser's back and forward; call the answer to stop. */
  start(): () => void {
    const read = () => this.#read();
    window.addEventListener("popstate", read);
    return () => window.removeEventListener("popstate", read);
  }

  href(view: View, item: string | null = null, open: Open | null = this.open): string {
    const path = item === null ? PATHS[view] : `${PATHS[view]}/${encodeURIComponent(item)}`;
    return open === null ? path : `${path}?${open.kind}=${encodeURIComponent(open.id)}`;
  }

  go(view: View, item: string | null = null, open: Open | null = this.open): void {
    const href = this.href(view, item, open);
    if (href === location.pathname + location.search) return;
    history.pushState(null, "", href);
    this.#read();
  }

  openVehicle(id: string): void {
    this.go(this.view, this.item, { kind: "vehicle", id });
  }

  openGroup(stream: string): void {
    this.go(this.view, this.item, { kind: "group", id: stream });
  }

  close(): void {
    this.go(this.view, this.item, null);
  }

  /** For a link: a plain click stays on this page; with a modifier the browser opens the link as ever. */
  follow(event: MouseEvent, view: View, item: string | null = null, open: Open | null = this.open): void {
    if (event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    this.go(view, item, open);
  }

  #read(): void {
    const [first = "", second = ""] = location.pathname.split("/").filter(Boolean);
    const view = (Object.keys(PATHS) as View[]).find((candidate) => PATHS[candidate] === `/${first}`) ?? "map";
    const query = new URLSearchParams(location.search);
    const [vehicle, group] = [query.get("vehicle"), query.get("group")];
    this.view = view;
    this.item = second === "" ? null : decoded(second);
    if (vehicle !== null) this.#setOpen({ kind: "vehicle", id: vehicle });
    else this.#setOpen(group === null ? null : { kind: "group", id: group });
  }

  /** The same conversation stays the same value, so that nothing that shows it starts again. */
  #setOpen(open: Open | null): void {
    if (open?.kind !== this.open?.kind || open?.id !== this.open?.id) this.open = open;
  }
}

/** A path that somebody typed may hold what is no encoding. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
