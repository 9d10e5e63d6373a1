//! Which filter matches which topic.

use crate::client::{Client, broker};
use crate::wire::{BOTH, Publish};

/// 5: 3.3.2-3, 4.7.1-1, 4.7.1-2, 4.7.2-1, 4.7.3-4. 3.1.1: 3.3.2-3, 4.7.1-2, 4.7.1-3, 4.7.2-1, 4.7.3-4.
#[tokio::test(start_paused = true)]
async fn a_filter_matches_as_the_standard_says() {
    let table: [(&str, &[&str], &[&str]); 16] = [
        (
            "sport/tennis/player1/#",
            &[
                "sport/tennis/player1",
                "sport/tennis/player1/ranking",
                "sport/tennis/player1/score/wimbledon",
            ],
            &["sport/tennis/player2", "sport/tennis"],
        ),
        ("sport/#", &["sport", "sport/", "sport/x"], &["sports", "/sport"]),
        ("#", &["a", "/", "a/b/c", "/finance"], &["$APP", "$APP/x", "$x/y"]),
        (
            "sport/tennis/+",
            &["sport/tennis/player1", "sport/tennis/"],
            &["sport/tennis/player1/ranking", "sport/tennis"],
        ),
        ("sport/+", &["sport/"], &["sport"]),
        ("+", &["a"], &["$", "/a", "a/", "a/b"]),
        ("+/+", &["/finance", "a/"], &["finance", "$APP/x"]),
        ("/+", &["/finance", "/"], &["finance", "//"]),
        ("+/tennis/#", &["a/tennis", "/tennis/x"], &["tennis", "$a/tennis"]),
        (
            "sport/+/player1",
            &["sport/x/player1", "sport//player1"],
            &["sport/player1"],
        ),
        ("$APP/#", &["$APP", "$APP/x"], &["APP/x", "x"]),
        ("$APP/monitor/+", &["$APP/monitor/Clients"], &["$APP/monitor"]),
        ("a/$x", &["a/$x"], &["a/x"]),
        ("+/$x", &["a/$x"], &["$x"]),
        (
            "ACCOUNTS payable",
            &["ACCOUNTS payable"],
            &["Accounts payable", "ACCOUNTS  payable"],
        ),
        // The same letter, composed and not.
        ("\u{E9}", &["\u{E9}"], &["e\u{301}", "\u{C9}"]),
    ];
    for version in BOTH {
        for (filter, matching, others) in table {
            let broker = broker();
            let mut subscriber = Client::plain(&broker, version, "subscriber").await;
            subscriber.subscribe(filter, 0).await;
            let mut client = Client::plain(&broker, version, "c").await;
            for topic in matching {
                client.publish_and_expect_success(&Publish::new(topic, "x")).await;
                assert_eq!(subscriber.expect_publish().await.topic, *topic, "{filter}");
            }
            for topic in others {
                client.publish_and_expect_success(&Publish::new(topic, "x")).await;
            }
            subscriber.expect_nothing().await;
        }
    }
}

/// 5: 4.7.2-1. 3.1.1: 4.7.2-1. What is kept is matched in the same way as what passes.
#[tokio::test(start_paused = true)]
async fn kept_messages_are_matched_in_the_same_way() {
    let broker = broker();
    for version in BOTH {
        let mut client = Client::plain(&broker, version, "c").await;
        for topic in ["$x", "$x/y", "a", "a/y", "/a"] {
            client
                .publish_and_expect_success(&Publish::new(topic, topic).retain())
                .await;
        }
        let table: [(&str, &[&str]); 6] = [
            ("#", &["/a", "a", "a/y"]),
            ("+", &["a"]),
            ("+/y", &["a/y"]),
            ("+/+", &["/a", "a/y"]),
            ("$x/#", &["$x", "$x/y"]),
            ("a/#", &["a", "a/y"]),
        ];
        for (filter, expected) in table {
            let mut subscriber = Client::plain(&broker, version, "subscriber").await;
            subscriber.subscribe(filter, 0).await;
            let mut found = Vec::new();
            for _ in expected {
                found.push(subscriber.expect_publish().await.topic);
            }
            found.sort();
            assert_eq!(found, expected, "{filter}");
            subscriber.expect_nothing().await;
        }
    }
}

/// 5: 4.7.1-1, 4.7.1-2, 4.7.3-1, 3.8.4-7. 3.1.1: 4.7.1-2, 4.7.1-3, 4.7.3-1, 3.8.4-5.
#[tokio::test(start_paused = true)]
async fn a_malformed_filter_is_not_granted() {
    let broker = broker();
    for version in BOTH {
        for filter in ["", "a/#/b", "a#", "#a", "a/b#", "##", "a+", "+a", "a/+b/c", "++"] {
            let mut client = Client::plain(&broker, version, "c").await;
            // A failure of the subscription, or the end of the connection: both say that it is wrong.
            client
                .send(&crate::wire::subscribe(
                    version,
                    1,
                    &[],
                    &[("fine", 0), (filter, 0)],
                ))
                .await;
            match client.receive().await {
                Some(crate::wire::Packet::SubAck(suback)) => {
                    let refused = if version == crate::wire::Version::V5 {
                        0x8F
                    } else {
                        0x80
                    };
                    assert_eq!(suback.codes, [0, refused], "{filter}");
                }
                other => panic!("{other:?} for {filter}"),
            }
        }
    }
}
