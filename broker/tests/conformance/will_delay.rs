//! Wills that wait: for their delay, or for the end of the session, whichever comes first.

use crate::client::{Client, broker, pass};
use crate::wire::{Connect, Property, SESSION_EXPIRY, Version, WILL_DELAY, Will, disconnect};

/// A client with a will that waits, and a session that lasts for so long.
fn delayed(text: &str, delay: u32, expiry: u32) -> Connect {
    Connect::new(Version::V5, "c")
        .resume()
        .with(Property::Four(SESSION_EXPIRY, expiry))
        .will(Will::new("w", text).with(Property::Four(WILL_DELAY, delay)))
}

async fn watcher(broker: &waypost_broker::Broker) -> Client {
    let connect = Connect::new(Version::V5, "watcher").keep_alive(3_600);
    let mut watcher = Client::join(broker, &connect).await;
    watcher.subscribe("w", 1).await;
    watcher
}

/// 5: 3.1.2-8.
#[tokio::test(start_paused = true)]
async fn a_will_waits_for_its_delay_or_for_the_end_of_its_session() {
    let broker = broker();
    let mut watcher = watcher(&broker).await;
    // Delay, expiry of the session, and when it comes.
    for (delay, expiry, due) in [
        (10, 100, 10),
        (100, 10, 10),
        (10, 10, 10),
        (0, 100, 0),
        (100, 0, 0),
    ] {
        let text = format!("{delay} {expiry}");
        Client::join(&broker, &delayed(&text, delay, expiry))
            .await
            .cut()
            .await;
        if due > 0 {
            pass(due - 2).await;
            watcher.expect_nothing().await;
            pass(3).await;
        }
        watcher.expect_texts(&[&text]).await;
        // Once, also when its session ends later.
        pass(200).await;
        watcher.expect_nothing().await;
    }
}

/// 5: 3.1.2-8, 3.1.3-9.
#[tokio::test(start_paused = true)]
async fn the_will_of_a_client_that_is_back_in_time_is_not_sent() {
    let broker = broker();
    let mut watcher = watcher(&broker).await;
    Client::join(&broker, &delayed("first", 10, 100))
        .await
        .cut()
        .await;
    pass(8).await;
    let client = Client::join(&broker, &delayed("second", 20, 100)).await;
    pass(40).await;
    watcher.expect_nothing().await;
    // The one of the last connection counts, from when that ends.
    client.cut().await;
    pass(18).await;
    watcher.expect_nothing().await;
    pass(3).await;
    watcher.expect_texts(&["second"]).await;
    // A connection that is taken over in favour of its own session sends none that waits.
    let mut old = Client::join(&broker, &delayed("third", 10, 100)).await;
    let new = Client::join(&broker, &Connect::lasting(Version::V5, "c")).await;
    old.expect_disconnect(0x8E).await;
    pass(30).await;
    watcher.expect_nothing().await;
    new.leave().await;
    pass(2_000).await;
    watcher.expect_nothing().await;
}

/// 5: 3.1.2-4, 3.1.2-8. The session ends there, and with it the wait.
#[tokio::test(start_paused = true)]
async fn a_clean_start_sends_the_will_that_waits() {
    let broker = broker();
    let mut watcher = watcher(&broker).await;
    Client::join(&broker, &delayed("away", 100, 1_000))
        .await
        .cut()
        .await;
    watcher.expect_nothing().await;
    let clean = Client::plain(&broker, Version::V5, "c").await;
    watcher.expect_texts(&["away"]).await;
    clean.leave().await;
    let mut old = Client::join(&broker, &delayed("taken over", 100, 1_000)).await;
    let _clean = Client::plain(&broker, Version::V5, "c").await;
    old.expect_disconnect(0x8E).await;
    watcher.expect_texts(&["taken over"]).await;
    watcher.expect_nothing().await;
}

/// 5: 3.1.2-8, 3.1.2-10, 3.14.4-3.
#[tokio::test(start_paused = true)]
async fn a_goodbye_that_asks_for_the_will_has_it_wait_as_well() {
    let broker = broker();
    let mut watcher = watcher(&broker).await;
    let mut client = Client::join(&broker, &delayed("asked for", 10, 100)).await;
    client.send(&disconnect(0x04, &[])).await;
    client.expect_closed().await;
    pass(8).await;
    watcher.expect_nothing().await;
    pass(3).await;
    watcher.expect_texts(&["asked for"]).await;
    // Any other takes it away for good, also when the session ends.
    Client::join(&broker, &delayed("given up", 10, 100))
        .await
        .leave()
        .await;
    pass(1_000).await;
    watcher.expect_nothing().await;
}

/// 3.1.1: 3.1.2-8. A session that lasts does not hold a will back where there is no delay.
#[tokio::test(start_paused = true)]
async fn in_3_1_1_no_will_waits() {
    let broker = broker();
    let mut watcher = watcher(&broker).await;
    let connect = Connect::new(Version::V311, "c")
        .resume()
        .will(Will::new("w", "gone"));
    Client::join(&broker, &connect).await.cut().await;
    watcher.expect_texts(&["gone"]).await;
    let mut old = Client::join(&broker, &connect).await;
    let _new = Client::join(&broker, &Connect::new(Version::V311, "c").resume()).await;
    old.expect_closed().await;
    watcher.expect_texts(&["gone"]).await;
    watcher.expect_nothing().await;
}
