/** What a first visit loads before the map, compressed, against its limit. Reads `dist/`, so build first. */

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const LIMIT_BYTES = 60_000;
const dist = fileURLToPath(new URL("../dist/", import.meta.url));
const page = await readFile(`${dist}index.html`, "utf8");
const names = [...page.matchAll(/(?:src|href)="\/(assets\/[^"]+\.(?:js|css))"/g)].map((match) => match[1]);
let total = 0;
for (const name of names) {
  const { length } = gzipSync(await readFile(dist + name));
  total += length;
  process.stdout.write(`${String(length).padStart(7)}  ${name}\n`);
}
process.stdout.write(`${String(total).padStart(7)}  of at most ${LIMIT_BYTES} bytes\n`);
if (names.length === 0 || total > LIMIT_BYTES) process.exit(1);
