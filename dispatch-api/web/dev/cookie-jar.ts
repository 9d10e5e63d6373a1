/** What the network does to a request; it may call `go`, or not. */
export type Fault = (path: string, init: RequestInit, go: () => Promise<Response>) => Promise<Response>;

/** A `fetch` with a cookie jar of one, as a browser's page has it. */
export function browserFor(base: () => string, fault: () => Fault | null = () => null): typeof fetch {
  let cookie = "";
  return async (input, init = {}) => {
    const path = String(input);
    const go = async () => {
      const answer = await fetch(base() + path, { ...init, headers: { ...(init.headers as Record<string, string>), cookie } });
      cookie = answer.headers.get("set-cookie")?.split(";")[0] ?? cookie;
      return answer;
    };
    const happens = fault();
    return happens === null ? go() : happens(path, init, go);
  };
}
