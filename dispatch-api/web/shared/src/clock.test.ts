import { expect, test } from "vitest";
import { ServerClock } from "./clock.ts";

/** A PC whose clock is `off` behind the server's, and answers that take `rtt` there and back. */
function world(off: number) {
  let local = 1_000_000_000_000;
  const clock = new ServerClock(() => local);
  const ask = (rtt: number) => {
    const asked = local;
    const stamped = local + off + rtt / 2;
    local += rtt;
    clock.observeDate(new Date(Math.floor(stamped / 1000) * 1000).toUTCString(), asked, local);
  };
  return { clock, ask, wait: (ms: number) => (local += ms), server: () => local + off, jump: (ms: number) => ((local += ms), (off -= ms)) };
}

test.each([0, 400, -730, 17 * 60_000, -48 * 3_600_000])("a_clock_that_is_%i_ms_off_is_known_to_a_tenth_of_a_second_after_some_answers", (off) => {
  const { clock, ask, wait, server } = world(off);
  for (let i = 0; i < 40; i++) {
    ask(30);
    wait(1237);
  }
  expect(Math.abs(clock.now() - server())).toBeLessThan(100);
});

test("the_first_answer_already_brings_it_within_a_second", () => {
  const { clock, ask, server } = world(3_600_000);
  ask(80);
  expect(Math.abs(clock.now() - server())).toBeLessThan(600);
});

test("a_pc_clock_that_is_set_while_the_page_is_open_is_noticed_with_the_next_answer", () => {
  const { clock, ask, server, jump } = world(0);
  ask(20);
  jump(3_600_000);
  ask(20);
  expect(Math.abs(clock.now() - server())).toBeLessThan(600);
});

test("an_old_stamp_never_sets_the_clock_back_and_nonsense_is_ignored", () => {
  const { clock, ask, server } = world(5_000);
  ask(20);
  clock.observeStamp(new Date(server() - 86_400_000).toISOString());
  clock.observeStamp("yesterday");
  clock.observeDate("soon", 0, 1);
  expect(Math.abs(clock.now() - server())).toBeLessThan(600);
});
