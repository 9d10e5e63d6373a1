/** What an entry says, as one line of text, whatever its kind: for names, previews and quotations. */

import type { Body } from "@waypost/shared/wire";

export function textOf(body: Body): string {
  switch (body.kind) {
    case "text":
    case "reply":
    case "alert":
    case "system":
      return body.text;
    case "place":
      return body.label ?? "Place";
    case "file":
      return body.caption ?? body.name;
    case "job":
      return "Job changed";
    default:
      // A newer server may send kinds that this page has not heard of.
      return "A kind of message that this page cannot show; reload to update it.";
  }
}
