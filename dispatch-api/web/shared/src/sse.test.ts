import { expect, test } from "vitest";
import { SseParser, type Message } from "./sse.ts";

const STREAM = "retry: 2000\n\n: keep-alive\n\nid: 7\ndata: {\"a\":1}\n\ndata: live\n\nid: 8\r\ndata: two\r\ndata:lines\r\n\r\nevent: x\nid: 9\n\ndata\n\n";
const MESSAGES: Message[] = [
  { data: '{"a":1}', lastId: "7" },
  { data: "live", lastId: "7" },
  { data: "two\nlines", lastId: "8" },
  { data: "", lastId: "9" },
];

test("the_messages_are_the_same_wherever_the_bytes_are_cut", () => {
  for (let size = 1; size <= STREAM.length; size++) {
    const parser = new SseParser();
    const messages: Message[] = [];
    for (let at = 0; at < STREAM.length; at += size) messages.push(...parser.push(STREAM.slice(at, at + size)));
    expect(messages, `pieces of ${size}`).toEqual(MESSAGES);
    expect(parser.retryMs).toBe(2000);
    expect(parser.lastId).toBe("9");
  }
});

test("a_message_that_was_cut_off_is_not_given_and_does_not_move_a_new_parser", () => {
  const parser = new SseParser("41");
  expect(parser.push("data: half\n")).toEqual([]);
  expect(parser.lastId).toBe("41");
});
