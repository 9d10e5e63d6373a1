import { expect, test } from "vitest";
import type { Entry, Member } from "@waypost/shared/wire";
import { piecesOf } from "./notices.ts";
import { at, DRIVER, entry, ME } from "./samples.ts";

const WAYPOST: Member = { id: "system", kind: "system", name: "Waypost" };

function notice(seq: number, event: "joined" | "left" = "joined", seconds = 0, name: string | null = `truck-${seq}`): Entry {
  const device: Member = { id: `d${seq}`, kind: "device", name };
  return entry(seq, WAYPOST, { server_at: at(seconds), body: { kind: "system", event, device, text: `${name ?? `Device d${seq}`} ${event}` } });
}

const said = (entries: readonly Entry[]) => piecesOf(entries).map((piece) => (piece.kind === "notice" ? piece.text : piece.entry.seq));

test.each<[string, Entry[], (string | number)[]]>([
  ["nothing is nothing", [], []],
  ["up to three stand alone", [notice(1), notice(2), notice(3)], ["truck-1 joined", "truck-2 joined", "truck-3 joined"]],
  ["more are one line", [notice(1), notice(2), notice(3), notice(4)], ["truck-1, truck-2 and 2 others joined"]],
  ["leaving is another line than joining", [notice(1), ...[2, 3, 4, 5].map((seq) => notice(seq, "left"))], ["truck-1 joined", "truck-2, truck-3 and 2 others left"]],
  ["what somebody wrote parts them", [notice(1), notice(2), entry(3, ME), notice(4), notice(5)], ["truck-1 joined", "truck-2 joined", 3, "truck-4 joined", "truck-5 joined"]],
  ["another minute parts them", [notice(1), notice(2, "joined", 59), notice(3, "joined", 60), notice(4, "joined", 60)], [1, 2, 3, 4].map((n) => `truck-${n} joined`)],
  ["a vehicle without a name is told by its id", [notice(1, "left", 0, null), notice(2, "left"), notice(3, "left"), notice(4, "left")], ["Device d1, truck-2 and 2 others left"]],
  ["messages are never put together", [1, 2, 3, 4].map((seq) => entry(seq, DRIVER, { server_at: at(0) })), [1, 2, 3, 4]],
])("notices: %s", (_, entries, lines) => {
  expect(said(entries)).toEqual(lines);
});

test("no_entry_is_lost_and_each_piece_knows_what_stands_before_it", () => {
  const entries = [entry(1, ME), ...[2, 3, 4, 5, 6].map((seq) => notice(seq)), entry(7, DRIVER), notice(8), entry(9, ME)];
  const pieces = piecesOf(entries);
  expect(pieces.flatMap((piece) => (piece.kind === "notice" ? piece.all : [piece.entry]))).toEqual(entries);
  expect(pieces.map((piece) => piece.before?.seq)).toEqual([undefined, 1, 6, 7, 8]);
});
