//! The dashboard in Chromium, against a demo with moving vehicles: signing in, watching them move, writing to one and
//! seeing its ticks change; quick replies, groups, broadcasts and the administration. What is checked stands in `dispatch-api/web/e2e/dashboard.mjs`.

use crate::server::WAYPOST;
use serde_json::Value;
use std::io::BufRead;
use std::process::{Command, Stdio};

#[test]
fn dashboard_in_chromium_signs_in_sees_vehicles_move_and_ticks_change() {
    let web = concat!(env!("CARGO_MANIFEST_DIR"), "/dispatch-api/web");
    assert!(
        std::path::Path::new(web)
            .join("node_modules/playwright-core")
            .exists(),
        "the browser test needs the web workspace: run `make web` (Node.js and npm) first"
    );
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut demo = Command::new(WAYPOST)
        .args([
            "--json",
            "demo",
            "--vehicles",
            "6",
            "--http",
            "127.0.0.1:0",
            "--mqtt",
            "127.0.0.1:0",
            "--https",
            "127.0.0.1:0",
            "--mqtts",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(&data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(demo.stdout.take().unwrap()).lines();
    let ready: Value = lines
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        .find(|line| line["ready"].is_object())
        .expect("a ready line");
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{ready}")).to_owned();
    let (url, sign_in) = (
        format!("http://{}", text(&ready["ready"]["http"])),
        &ready["sign_in"],
    );
    let token = std::fs::read_to_string(data.join("admin.token")).unwrap();
    let checked = Command::new("node")
        .args(["e2e/dashboard.mjs", "--url", &url])
        .args([
            "--email",
            &text(&sign_in["email"]),
            "--password",
            &text(&sign_in["password"]),
            "--token",
            token.trim(),
        ])
        .current_dir(web)
        .output();
    demo.kill().unwrap();
    demo.wait().unwrap();
    let checked = checked.expect("node is installed");
    let said = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&said));
}
