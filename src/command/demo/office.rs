//! What the demo's office has prepared: quick replies in two languages, and two groups.

use anyhow::Context;
use waypost_bridge::Bridge;
use waypost_bridge::device::DeviceId;
use waypost_bridge::group::{History, NewGroup};
use waypost_bridge::template::{NewTemplate, Slot, SlotKind};

/// Key, English, German, slots.
type Offered = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, SlotKind)],
);
const TEMPLATES: [Offered; 6] = [
    ("ok", "OK", "OK", &[]),
    ("at_the_gate", "At the gate", "Am Tor", &[]),
    (
        "running_late",
        "Running late {minutes} min",
        "{minutes} Min. Verspätung",
        &[("minutes", SlotKind::Number)],
    ),
    (
        "there_at",
        "There at {eta}",
        "Da um {eta}",
        &[("eta", SlotKind::Time)],
    ),
    (
        "gate_closed",
        "Gate {gate} is closed until {until}",
        "Tor {gate} ist bis {until} geschlossen",
        &[("gate", SlotKind::Text), ("until", SlotKind::Time)],
    ),
    (
        "call_me",
        "Please call when you can stop",
        "Bitte anrufen, wenn du halten kannst",
        &[],
    ),
];
const GROUPS: [&str; 2] = ["North", "South"];

/// Offers the quick replies; those that are there already are left as they are.
pub(super) async fn offer_templates(bridge: &Bridge) -> anyhow::Result<()> {
    for (key, english, german, slots) in TEMPLATES {
        let slots = slots.iter().map(|(name, kind)| Slot {
            name: (*name).to_owned(),
            kind: *kind,
        });
        let template = NewTemplate {
            key: key.to_owned(),
            text: [
                ("en".to_owned(), english.to_owned()),
                ("de".to_owned(), german.to_owned()),
            ]
            .into(),
            slots: slots.collect(),
        };
        bridge
            .put_template(template)
            .await
            .with_context(|| format!("the quick reply {key} cannot be offered"))?;
    }
    Ok(())
}

/// Puts every other vehicle into each group; a folder that was kept has its groups already.
pub(super) async fn make_groups(bridge: &Bridge) -> anyhow::Result<()> {
    if !bridge.groups(None, 1).await?.is_empty() {
        return Ok(());
    }
    let devices = bridge.devices(None, usize::MAX).await?;
    let ids: Vec<DeviceId> = devices.iter().map(|view| view.device.id).collect();
    for (number, name) in GROUPS.into_iter().enumerate() {
        let members = ids.iter().skip(number).step_by(GROUPS.len());
        let group = NewGroup {
            name: name.to_owned(),
            devices: members.copied().collect(),
            history: History::SinceJoining,
        };
        bridge
            .add_group(group, None)
            .await
            .with_context(|| format!("the group {name} cannot be made"))?;
    }
    Ok(())
}
