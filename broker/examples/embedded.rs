//! The smallest program around the broker: everybody on this machine may do everything under `a/`.
//!
//! `cargo run --release -p waypost-broker --example embedded -- 127.0.0.1:1883`

use std::sync::Arc;

use waypost_broker::{AllowList, Authenticate, Broker, ConnectAttempt, Limits, Principal, Refusal};

struct Loopback;

impl Authenticate for Loopback {
    fn authenticate(&self, attempt: &ConnectAttempt<'_>) -> Result<Principal, Refusal> {
        if attempt.peer.ip().is_loopback() {
            Ok(Principal::new(
                attempt.username.unwrap_or("anonymous"),
                attempt.client_id,
            ))
        } else {
            Err(Refusal::NotAuthorised)
        }
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:1883".into());
    let everything = AllowList {
        publish: vec!["a/#".into()],
        subscribe: vec!["a/#".into()],
    };
    let broker = Broker::new(Limits::default(), Arc::new(Loopback), Arc::new(everything));
    let listening = tokio::spawn(
        broker
            .clone()
            .listen_tcp(tokio::net::TcpListener::bind(address).await?),
    );
    tokio::signal::ctrl_c().await?;
    broker.shutdown().await;
    listening.await?;
    println!("{:#?}", broker.stats());
    Ok(())
}
