//! A disk that fills, as people and apps are told of it.

use super::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use waypost_bridge::SpaceProbe;
use waypost_bridge::core::CoreOptions;

/// A world whose disk has as many megabytes free as the test says; 600 are its reserve.
struct Disk {
    world: World,
    free_mb: Arc<AtomicU64>,
}

impl Disk {
    fn with_free(free_mb: u64) -> Self {
        let free_mb = Arc::new(AtomicU64::new(free_mb));
        let asked = free_mb.clone();
        let options = BridgeOptions {
            core: CoreOptions {
                disk_reserve_bytes: 600_000_000,
                ..CoreOptions::default()
            },
            space: SpaceProbe::new(move || Ok(asked.load(Ordering::SeqCst) * 1_000_000)),
            ..BridgeOptions::default()
        };
        let world = World::on(Arc::new(MemoryStore::new()), options, |state| state);
        Self { world, free_mb }
    }

    /// So much is free, and the bridge has looked.
    async fn free(&self, free_mb: u64) {
        self.free_mb.store(free_mb, Ordering::SeqCst);
        tokio::time::advance(Duration::from_secs(3)).await;
        // Any call is answered behind the look that was due.
        self.world.bridge.last_event().await.unwrap();
    }

    async fn ready(&self) -> (u16, String) {
        let answer = self.world.get("", "/readyz").await;
        let said = answer.json()["checks"]["space"].as_str().unwrap().to_owned();
        (answer.status.as_u16(), said)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_said_in_order_and_passes_by_itself() {
    let mut disk = Disk::with_free(1_000);
    let token = disk.world.token(Role::Dispatcher).await;
    let (_, stream) = disk.world.add_device("truck").await;
    let path = format!("/api/v1/streams/{stream}/entries");
    let body = json!({ "body": { "kind": "text", "text": "hello" } });
    for (free_mb, status, said, posted) in [
        (1_000, 200, "ok", 201),
        (599, 200, "files are refused", 201),
        (399, 200, "history of positions are refused", 201),
        (199, 503, "everything new is refused", 507),
        (700, 200, "ok", 201),
    ] {
        disk.free(free_mb).await;
        let (ready, text) = disk.ready().await;
        assert_eq!(ready, status, "{free_mb} MB: {text}");
        assert!(text.contains(said), "{free_mb} MB: {text}");
        let answer = disk.world.call(&token, "POST", &path, body.clone()).await;
        assert_eq!(answer.status, posted, "{free_mb} MB: {answer:?}");
        if posted == 507 {
            answer.expect_problem(507, "no-space");
            assert_eq!(answer.headers["retry-after"], "60");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_starts_on_a_full_disk_knows_it_before_it_takes_anything() {
    let disk = Disk::with_free(10);
    let (ready, _) = disk.ready().await;
    assert_eq!(ready, 503);
    // What keeps it in order works.
    let mut world = disk.world;
    let (person, token) = world.person(Role::Admin).await;
    let session = json!({ "email": person.email, "password": PASSWORD });
    let answer = world.call("", "POST", "/api/v1/session", session).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let (device, _) = world.add_device("truck").await;
    let revoked = world
        .send(request(
            "DELETE",
            &format!("/api/v1/devices/{device}"),
            &token,
            None,
        ))
        .await;
    assert_eq!(revoked.status, 204);
    let out = world
        .send(request("DELETE", "/api/v1/session", &token, None))
        .await;
    assert_eq!(out.status, 204);
}
