/**
 * What can go wrong when the server is asked for something, sorted by what the caller does next.
 *
 * - `unreachable`: nothing came back. Keep what was to be sent and try again.
 * - `signed_out`: the session is over. Ask for the password, keep what was being written.
 * - `refused`: the server understood and said no; the reason is worth showing, trying again is not.
 * - `busy`: the server asks to wait, or is out of order for the moment. Try again later.
 */
export type ProblemKind = "unreachable" | "signed_out" | "refused" | "busy";

export interface FieldProblem {
  pointer: string;
  detail: string;
}

export class Problem extends Error {
  constructor(
    readonly kind: ProblemKind,
    message: string,
    /** The HTTP status; 0 when there was no answer. */
    readonly status: number = 0,
    /** The stable `type` of the problem document, for code that must tell one refusal from another. */
    readonly type: string = "about:blank",
    readonly fields: readonly FieldProblem[] = [],
  ) {
    super(message);
    this.name = "Problem";
  }
}

export function unreachable(): Problem {
  return new Problem("unreachable", "The server cannot be reached.");
}

/** Reads an answer that is not a success. A body that is no problem document (a proxy's page, say) is never shown to people. */
export async function problemOf(response: Response): Promise<Problem> {
  const document = await problemDocument(response);
  const fields = Array.isArray(document.errors) ? document.errors.filter(isFieldProblem) : [];
  const message = [document.detail ?? document.title ?? fallback(response.status), ...fields.map((field) => field.detail)]
    .filter((part, index, parts) => parts.indexOf(part) === index)
    .join(" ");
  return new Problem(
    kindOf(response.status),
    message,
    response.status,
    document.type ?? "about:blank",
    fields,
  );
}

/** For any thrown value, a sentence that a person can act on. */
export function reasonOf(error: unknown): string {
  return error instanceof Problem ? error.message : "Something went wrong on this page.";
}

interface ProblemDocument {
  type?: string;
  title?: string;
  detail?: string;
  errors?: unknown;
}

async function problemDocument(response: Response): Promise<ProblemDocument> {
  if (!/\bjson\b/.test(response.headers.get("content-type") ?? "")) return {};
  try {
    const value: unknown = await response.json();
    return typeof value === "object" && value !== null ? (value as ProblemDocument) : {};
  } catch {
    return {};
  }
}

function kindOf(status: number): ProblemKind {
  if (status === 401) return "signed_out";
  if (status === 408 || status === 425 || status === 429 || status >= 500) return "busy";
  return "refused";
}

function fallback(status: number): string {
  if (status === 401) return "You are not signed in.";
  if (status === 403) return "Your role does not allow this.";
  if (status === 404) return "This no longer exists.";
  if (status === 429) return "Too many requests; wait a moment.";
  if (status >= 500) return `The server has a problem (${status}).`;
  return `The server refused this (${status}).`;
}

function isFieldProblem(value: unknown): value is FieldProblem {
  const field = value as Partial<FieldProblem> | null;
  return typeof field?.pointer === "string" && typeof field?.detail === "string";
}
