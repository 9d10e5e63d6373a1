//! In which order messages arrive.

use crate::client::{Client, broker};
use crate::wire::{self, BOTH, Connect, Property, Publish, RECEIVE_MAXIMUM, Version};

/// 5: 4.6.0-5, 4.6.0-6. 3.1.1: 4.6.0-5, 4.6.0-6.
#[tokio::test(start_paused = true)]
async fn the_messages_of_one_author_arrive_in_the_order_in_which_they_were_sent() {
    let broker = broker();
    for version in BOTH {
        let connect = Connect::new(version, "subscriber").with(Property::Two(RECEIVE_MAXIMUM, 3));
        let mut subscriber = Client::join(&broker, &connect).await;
        subscriber.subscribe_all(&[], &[("a/+", 1), ("b", 0)]).await;
        let mut authors = Vec::new();
        for name in ["one", "two"] {
            authors.push((name, Client::plain(&broker, version, name).await, 0));
        }
        for number in 0_u16..60 {
            for (name, author, _) in &mut authors {
                let topic = if number % 3 == 0 {
                    "b".into()
                } else {
                    format!("a/{}", number % 2)
                };
                let qos = u8::from(number % 5 != 0);
                let publish =
                    Publish::new(&topic, format!("{name} {number}")).qos(qos, (number + 1) * u16::from(qos));
                author.publish(&publish).await;
            }
        }
        // Whatever the topic and the QoS: one stream for each author.
        for _ in 0..120 {
            let received = subscriber.take().await;
            let (name, number) = received.text().split_once(' ').unwrap();
            let author = authors.iter_mut().find(|(author, ..)| *author == name).unwrap();
            assert_eq!(number, author.2.to_string(), "{received:?}");
            author.2 += 1;
        }
        subscriber.expect_nothing().await;
    }
}

/// 5: 4.6.0-5. 3.1.1: 4.6.0-6. The acknowledgements stand in the order of what they acknowledge.
#[tokio::test(start_paused = true)]
async fn messages_are_acknowledged_in_the_order_in_which_they_came() {
    let broker = broker();
    for version in BOTH {
        let mut client = Client::plain(&broker, version, "c").await;
        let ids = [9, 3, 200, 1, 77];
        let mut bytes = Vec::new();
        for packet_id in ids {
            bytes.extend(Publish::new("a", "x").qos(1, packet_id).bytes(version));
        }
        client.send(&bytes).await;
        for packet_id in ids {
            assert_eq!(client.expect_puback().await.packet_id, packet_id);
        }
    }
}

/// 5: 4.6.0-5, 4.9.0-2. 3.1.1: 4.6.0-6. Acknowledged in another order, they go on in theirs.
#[tokio::test(start_paused = true)]
async fn the_order_holds_whatever_the_order_of_the_acknowledgements() {
    let broker = broker();
    let connect = Connect::new(Version::V5, "subscriber").with(Property::Two(RECEIVE_MAXIMUM, 2));
    let mut subscriber = Client::join(&broker, &connect).await;
    subscriber.subscribe("a", 1).await;
    let mut client = Client::plain(&broker, Version::V5, "c").await;
    for number in 0..10 {
        client.say("a", &number.to_string()).await;
    }
    let mut held = Vec::new();
    let mut texts = Vec::new();
    while texts.len() < 10 {
        let received = subscriber.expect_publish().await;
        texts.push(received.text().to_string());
        held.push(received.packet_id);
        if held.len() == 2 {
            // The younger first.
            subscriber.acknowledge(wire::PUBACK, held.pop().unwrap(), 0).await;
        }
    }
    assert_eq!(texts, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}
