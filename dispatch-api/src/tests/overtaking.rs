//! An urgent entry says whether what its author wrote before it is still under way.

use super::*;

fn says(stream: &str, first_op: u64, urgent: bool, earlier: u32) -> wire::UpFrame {
    let stream: waypost_proto::StreamId = stream.parse().unwrap();
    let operation = wire::Operation {
        urgent,
        earlier,
        ..waypost_proto::Operation::text(stream, "At the gate").to_wire()
    };
    wire::UpFrame {
        first_op,
        ops: vec![operation],
        ..Default::default()
    }
}

#[tokio::test]
async fn an_urgent_entry_says_that_earlier_ones_are_under_way_until_they_have_come() {
    let mut world = World::new();
    let token = world.token(Role::Viewer).await;
    let (device, stream) = world.add_device("truck-17").await;
    let path = format!("/api/v1/streams/{stream}/entries");
    let marks = |list: &Value| -> Vec<Value> {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|entry| {
                json!([
                    entry["author_op"],
                    entry["earlier_op"],
                    entry["earlier_under_way"]
                ])
            })
            .collect()
    };
    world.hello(device, says(&stream, 2, true, 1));
    let list = world
        .until(&token, &path, |list| list["items"].as_array().unwrap().len() == 1)
        .await;
    assert_eq!(marks(&list), [json!([2, 1, true])]);
    let events = "/api/v1/events?types=waypost.entry.accepted";
    let told = world.get(&token, events).await.json();
    assert_eq!(
        told["items"][0]["data"]["entry"]["earlier_under_way"],
        json!(true)
    );

    world.hello(device, says(&stream, 1, false, 0));
    let list = world
        .until(&token, &path, |list| list["items"].as_array().unwrap().len() == 2)
        .await;
    assert_eq!(marks(&list), [json!([2, 1, false]), json!([1, null, false])]);
    let told = world.get(&token, events).await.json();
    assert_eq!(
        told["items"][0]["data"]["entry"]["earlier_under_way"],
        json!(false)
    );
}
