//! Clocks that are wrong.

use super::super::harness::Device;
use super::SECOND;

/// What the welcome of the harness says.
const SERVER_MS: i64 = 1_700_000_500_000;

#[test]
fn the_servers_clock_is_known_from_the_first_welcome_on_whatever_the_wall_clock_does() {
    let mut device = Device::new();
    assert_eq!(device.core.server_ms(device.now), None);
    device.connect();
    device.pass(2 * SECOND);
    let welcome = device.welcome();
    device.receive(&welcome);
    assert_eq!(
        device.core.server_ms(device.now),
        Some(SERVER_MS + 1_000),
        "half of the round trip has passed since"
    );
    device.pass(600 * SECOND);
    device.now.wall_ms -= 3 * 3_600_000;
    assert_eq!(device.core.server_ms(device.now), Some(SERVER_MS + 601_000));
    let mut device = device.restart();
    device.pass(10 * SECOND);
    assert_eq!(
        device.core.server_ms(device.now),
        Some(SERVER_MS + 611_000),
        "also in a later process, without a connection"
    );
}
