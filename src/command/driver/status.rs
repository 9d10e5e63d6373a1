//! `waypost driver status`: what waits, what was given up, how the link is, and which groups and quick replies there
//! are.

use crate::output::{self, Format};
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;
use waypost_field_client::handover::{Driver, EarlierReport, StatusReport, TemplateReport};

/// A process that has just opened the folder is given this long to find out how the link is, and to fetch the quick
/// replies.
const LINK_WAIT: Duration = Duration::from_secs(3);
/// Between two looks at it.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// A clock that is less wrong than this is not worth a line.
const CLOCK_OFF_MS: i64 = 60_000;

#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    report: StatusReport,
    templates: Vec<TemplateReport>,
}

pub(super) async fn run(driver: &Driver, format: Format) -> anyhow::Result<()> {
    let report = settled(driver).await?;
    let templates = driver.templates().await?.templates;
    if format == Format::Json {
        return output::json(&Status { report, templates });
    }
    let StatusReport {
        link,
        detail,
        waiting,
        waiting_bytes,
        waiting_max,
        waiting_bytes_max,
        counters,
        parked,
        unshown,
        office_stream,
        earlier,
        groups,
        catalogue_version,
        clock_offset_ms,
        ..
    } = report;
    let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
    output::line(format_args!("Link:          {}{detail}", link.replace('_', " ")))?;
    output::line(format_args!(
        "Waiting:       {waiting} operations with {waiting_bytes} bytes, of at most {waiting_max} with {waiting_bytes_max}"
    ))?;
    let fixes_gone = counters.fixes_thinned + counters.fixes_refused;
    if fixes_gone > 0 {
        output::line(format_args!(
            "Thinned:       {fixes_gone} positions for want of room; the way is at most {} m off without them",
            counters.thinning_error_m
        ))?;
    }
    output::line(format_args!("Not yet shown: {unshown} entries"))?;
    output::line(format_args!(
        "Office:        conversation {}",
        office_stream.as_deref().unwrap_or("not known yet")
    ))?;
    if let Some(offset_ms) = clock_offset_ms.filter(|offset_ms| offset_ms.abs() >= CLOCK_OFF_MS) {
        let direction = if offset_ms < 0 { "ahead of" } else { "behind" };
        let minutes = offset_ms.abs() / 60_000;
        output::line(format_args!(
            "Clock:         {} h {:02} min {direction} the server",
            minutes / 60,
            minutes % 60
        ))?;
    }
    for EarlierReport { stream, until } in earlier {
        output::line(format_args!(
            "Earlier:       up to {stream}/{until} on the server"
        ))?;
    }
    for group in groups {
        output::line(format_args!(
            "Group:         {}, conversation {}",
            group.title, group.stream
        ))?;
    }
    match catalogue_version {
        0 => output::line("Quick replies: none yet")?,
        version => output::line(format_args!("Quick replies: version {version}"))?,
    }
    for template in templates {
        output::line(format_args!("               {}: {}", template.key, template.text))?;
    }
    for given_up in parked {
        output::line(format_args!(
            "Given up:      operation {}: {}",
            given_up.op, given_up.reason
        ))?;
    }
    Ok(())
}

/// The status once the link has made up its mind and the quick replies are those of the server, or after a moment.
pub(super) async fn settled(driver: &Driver) -> anyhow::Result<StatusReport> {
    let deadline = Instant::now() + LINK_WAIT;
    loop {
        let status = driver.status().await?;
        let undecided = match status.link.as_str() {
            "connecting" | "connected" => true,
            "in_step" => !status.catalogue_is_current,
            "offline" => status.detail.is_none(),
            _ => false,
        };
        if !undecided || Instant::now() >= deadline {
            return Ok(status);
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}
