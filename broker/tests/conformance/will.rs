//! Wills: what is published for a client that goes without a word. How a will waits stands in `will_delay.rs`.

use waypost_broker::Reason;

use crate::client::{Client, broker, pass};
use crate::wire::{self, BOTH, Connect, Version, Will, disconnect, frame};

/// 5: 3.1.2-7, 3.1.2-8, 3.1.2-14, 3.1.2-15, 3.1.2-9. 3.1.1: 3.1.2-8, 3.1.2-9, 3.1.2-16, 3.1.2-17.
#[tokio::test(start_paused = true)]
async fn the_will_of_a_client_that_is_lost_is_published_as_it_asked() {
    for version in BOTH {
        for qos in 0..2 {
            for retain in [false, true] {
                let broker = broker();
                let mut watcher = Client::plain(&broker, version, "watcher").await;
                watcher.subscribe("w", 1).await;
                let mut will = Will::new("w", "gone");
                (will.qos, will.retain) = (qos, retain);
                let client = Client::join(&broker, &Connect::new(version, "c").will(will)).await;
                watcher.expect_nothing().await;
                client.cut().await;
                let received = watcher.take().await;
                assert_eq!(
                    (received.text(), received.qos, received.retain),
                    ("gone", qos, false)
                );
                watcher.expect_nothing().await;
                assert_eq!(broker.stats().retained, usize::from(retain));
                // A will without a payload is one as well.
                let empty = Connect::new(version, "c").will(Will::new("w", ""));
                Client::join(&broker, &empty).await.cut().await;
                watcher.expect_texts(&[""]).await;
            }
        }
    }
}

/// 5: 3.1.2-8, 3.1.2-10. 3.1.1: 3.1.2-8, 3.1.2-10.
#[tokio::test(start_paused = true)]
async fn every_end_but_a_goodbye_publishes_the_will_once() {
    for version in BOTH {
        let broker = broker();
        let mut watcher = Client::join(&broker, &Connect::new(version, "watcher").keep_alive(3_600)).await;
        watcher.subscribe("w", 1).await;
        let connect = |text: &str| {
            Connect::new(version, "c")
                .keep_alive(10)
                .will(Will::new("w", text))
        };
        Client::join(&broker, &connect("cut")).await.cut().await;

        let silent = Client::join(&broker, &connect("silent")).await;
        pass(16).await;
        drop(silent);

        let mut wrong = Client::join(&broker, &connect("wrong")).await;
        wrong.send(&frame(0x00, &[])).await;
        wrong.expect_refused(&[0x81, 0x82]).await;

        let mut old = Client::join(&broker, &connect("taken over")).await;
        let mut new = Client::join(&broker, &connect("ended")).await;
        old.expect_disconnect(0x8E).await;

        broker.disconnect(|who| &*who.client_id == "c", Reason::Administrative);
        new.expect_disconnect(0x98).await;

        let whole = Client::join(&broker, &connect("within a packet")).await;
        let mut half = whole;
        half.send(&[0x30, 10, 0]).await;
        half.cut().await;
        watcher
            .expect_texts(&["cut", "silent", "wrong", "taken over", "ended", "within a packet"])
            .await;
        watcher.expect_nothing().await;
    }
}

/// 5: 3.1.2-8, 3.1.2-10, 3.14.4-3. 3.1.1: 3.1.2-8, 3.1.2-10, 3.14.4-3.
#[tokio::test(start_paused = true)]
async fn a_goodbye_takes_the_will_with_it() {
    for version in BOTH {
        let broker = broker();
        let mut watcher = Client::plain(&broker, version, "watcher").await;
        watcher.subscribe("w", 1).await;
        let connect = Connect::new(version, "c").will(Will::new("w", "gone"));
        Client::join(&broker, &connect).await.leave().await;
        watcher.expect_nothing().await;
        // Nor does it come back with the next connection.
        Client::plain(&broker, version, "c").await.cut().await;
        watcher.expect_nothing().await;
    }
}

/// 5: 3.1.2-8, 3.14.4-3, 3.14.2-1. A goodbye of MQTT 5 can ask for the will.
#[tokio::test(start_paused = true)]
async fn a_goodbye_with_any_other_reason_publishes_the_will() {
    let broker = broker();
    let mut watcher = Client::plain(&broker, Version::V5, "watcher").await;
    watcher.subscribe("w", 1).await;
    for reason in [
        0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x99,
    ] {
        let connect = Connect::new(Version::V5, "c").will(Will::new("w", &format!("{reason:#x}")));
        let mut client = Client::join(&broker, &connect).await;
        client.send(&disconnect(reason, &[])).await;
        client.expect_closed().await;
        watcher.expect_texts(&[&format!("{reason:#x}")]).await;
    }
    watcher.expect_nothing().await;
}

/// 5: 3.1.2-11. 3.1.1: 3.1.2-12.
#[tokio::test(start_paused = true)]
async fn without_a_will_nothing_is_published() {
    for version in BOTH {
        let broker = broker();
        let mut watcher = Client::plain(&broker, version, "watcher").await;
        watcher.subscribe("#", 1).await;
        Client::plain(&broker, version, "c").await.cut().await;
        let mut client = Client::plain(&broker, version, "c").await;
        client.send(&wire::PINGREQ).await;
        client.cut().await;
        watcher.expect_nothing().await;
    }
}
