/** A broadcast that is being written: it outlives a look at the map, and ends with the session. */

import { filled } from "@waypost/shared/template";
import type { NewBody, Recipients, Template } from "@waypost/shared/wire";
import { Attempt } from "./attempt.ts";

export class BroadcastDraft {
  /** What was chosen from the list: `group/ID` and `device/ID`. */
  chosen: readonly string[] = $state.raw([]);
  kind: "text" | "reply" = $state("text");
  text = $state("");
  template: string | null = $state(null);
  values: Record<string, string> = $state.raw({});
  urgent = $state(false);
  readonly attempt = new Attempt();

  get to(): Recipients {
    return { devices: this.#chosenOf("device"), groups: this.#chosenOf("group") };
  }

  /** What would be sent; null while something is missing. */
  body(templates: readonly Template[]): NewBody | null {
    if (this.kind === "text") {
      const text = this.text.trim();
      return text === "" ? null : { kind: "text", text };
    }
    const template = templates.find((candidate) => candidate.key === this.template);
    const slots = template === undefined ? null : filled(template.slots, this.values);
    return template === undefined || slots === null ? null : { kind: "reply", template: template.key, slots };
  }

  clear(): void {
    this.chosen = [];
    this.kind = "text";
    this.text = "";
    this.template = null;
    this.values = {};
    this.urgent = false;
    this.attempt.done();
  }

  #chosenOf(kind: "device" | "group"): string[] {
    return this.chosen.filter((id) => id.startsWith(`${kind}/`)).map((id) => id.slice(kind.length + 1));
  }
}
