//! How long a client may be silent.

use waypost_broker::Limits;

use crate::client::{Client, broker, broker_with, pass};
use crate::wire::{BOTH, Connect, Packet, Property, SERVER_KEEP_ALIVE, Version};

/// 5: 3.1.2-22, 3.2.2-22. 3.1.1: 3.1.2-24.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_silent_for_one_and_a_half_keep_alives_is_disconnected() {
    let broker = broker();
    for version in BOTH {
        let connect = Connect::new(version, "c").keep_alive(20);
        let (mut client, connack) = Client::enter(&broker, &connect).await;
        assert_eq!(connack.property(SERVER_KEEP_ALIVE), None);
        // Anything that it says counts.
        for _ in 0..5 {
            pass(28).await;
            client.say("a", "x").await;
        }
        pass(29).await;
        assert_eq!(broker.stats().sessions, 1);
        pass(2).await;
        assert_eq!(broker.stats().sessions, 0);
        client.expect_disconnect(0x8D).await;
    }
}

/// 5: 3.1.2-21, 3.2.2-21, 3.2.2-22. 3.1.1: 3.1.2-24.
#[tokio::test(start_paused = true)]
async fn a_keep_alive_over_the_servers_is_told_the_servers() {
    let broker = broker_with(Limits {
        keep_alive_max_s: 100,
        ..Limits::default()
    });
    for asked in [0, 101, u16::MAX] {
        let connect = Connect::new(Version::V5, "c").keep_alive(asked);
        let (mut client, connack) = Client::enter(&broker, &connect).await;
        assert_eq!(
            connack.property(SERVER_KEEP_ALIVE),
            Some(&Property::Two(SERVER_KEEP_ALIVE, 100))
        );
        pass(149).await;
        client.expect_nothing().await;
        pass(151).await;
        client.expect_disconnect(0x8D).await;
    }
    let (_client, connack) = Client::enter(&broker, &Connect::new(Version::V5, "c").keep_alive(100)).await;
    assert_eq!(connack.property(SERVER_KEEP_ALIVE), None);
    // 3.1.1 cannot be told another, and zero is never.
    let mut client = Client::join(&broker, &Connect::new(Version::V311, "d").keep_alive(0)).await;
    pass(100_000).await;
    client.expect_nothing().await;
}

/// 5: 3.1.2-22. 3.1.1: 3.1.2-24. Nothing that the broker sends keeps a silent client alive.
#[tokio::test(start_paused = true)]
async fn what_a_client_hears_does_not_count_for_it() {
    let broker = broker();
    for version in BOTH {
        let mut client = Client::join(&broker, &Connect::new(version, "c").keep_alive(20)).await;
        client.subscribe("a", 0).await;
        let mut other = Client::plain(&broker, version, "other").await;
        for _ in 0..4 {
            pass(10).await;
            other.say("a", "x").await;
        }
        for _ in 0..2 {
            assert!(matches!(client.receive().await, Some(Packet::Publish(_))));
        }
        client.expect_disconnect(0x8D).await;
        other.leave().await;
    }
}
