//! Carrying a repair out: first everything that it needs is written down, then files move.

use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::salvage::{Lines, Salvage};
use super::{Found, Plan, Replaced, Report, SetAside};
use crate::Identity;
use crate::clock::Clock;
use crate::embedded::Limits;
use crate::embedded::disk::{Disk, Fault};
use crate::embedded::keeper::extend;
use crate::embedded::recovery::{LOG_FILE, OpenError, REPAIR_FILE, RESTORE, put_log_file};
use crate::embedded::segment::{FORMAT, HEADER_BYTES, SegmentHeader, position_of_name, segment_name};
use crate::embedded::verify::VerifyError;

/// In the folder of what is set aside: the events that can be read there, one JSON object a line.
const EVENTS_FILE: &str = "events.ndjson";
/// Likewise: what was found and done.
pub(super) const REPORT_FILE: &str = "report.json";
/// Likewise, until it is put in place: what is kept of a segment.
const KEPT_FILE: &str = "kept.tmp";

/// The repair that broke off.
pub(super) fn begun(disk: &Disk) -> Result<Report, VerifyError> {
    let bytes = disk.read_small(REPAIR_FILE)?.unwrap_or_default();
    serde_json::from_slice(&bytes).map_err(|error| {
        let damaged = OpenError::Damaged {
            file: REPAIR_FILE.to_owned(),
            offset: 0,
            position: Position::START,
            what: error.to_string(),
            remedy: RESTORE,
        };
        VerifyError::Open(damaged)
    })
}

/// Writes down all that the rest needs. Until its last step the log is what it was.
pub(super) fn prepare(
    disk: &Disk,
    limits: &Limits,
    clock: &Clock,
    plan: &Plan,
) -> Result<Report, VerifyError> {
    let folder = &plan.folder;
    disk.make_folder(folder)?;
    disk.sync()?;
    let next = plan.identity.epoch.saturating_add(1);
    // Where nothing says how far epochs had come, one that no number of restores can have reached.
    let seconds = || u32::try_from(clock.now().micros() / 1_000_000).unwrap_or(0);
    let epoch = if plan.log_file { next.max(seconds()) } else { next };
    let report = Report {
        format: FORMAT,
        log: plan.identity.id,
        epoch_before: plan.identity.epoch,
        epoch,
        repaired_at: clock.now(),
        folder: folder.clone(),
        kept: plan.kept,
        damages: plan
            .found
            .damages
            .iter()
            .map(|damage| Found {
                file: damage.file.clone(),
                offset: damage.offset,
                position: damage.position,
                what: damage.what.clone(),
            })
            .collect(),
        set_aside: plan.set_aside.clone(),
        replaced: plan.replaced.map(|replaced| replaced.first),
        salvaged: plan.salvaged.clone(),
    };
    let mut lines = Some(Lines::create(disk, &format!("{folder}/{EVENTS_FILE}"))?);
    let mut salvage = Salvage::new(plan.identity.id, Position(plan.kept.0 + 1));
    for first in plan.set_aside.iter().filter_map(|aside| position_of_name(&aside.file)) {
        let within =
            plan.replaced.filter(|replaced| replaced.first == first).and_then(|replaced| replaced.kept);
        salvage.segment(disk, first, within.unwrap_or(HEADER_BYTES), &mut lines)?;
    }
    if let Some(lines) = lines {
        lines.end()?;
    }
    if let Some(before) = disk.read_small(LOG_FILE)? {
        let copy = disk.create(&format!("{folder}/{LOG_FILE}"))?;
        copy.write_all_at(&before, 0)?;
        copy.sync_all()?;
    }
    if let Some(replaced) = plan.replaced {
        let identity = Identity { epoch, ..plan.identity };
        keep(disk, limits, &format!("{folder}/{KEPT_FILE}"), replaced, identity)?;
    }
    disk.sync_within(folder)?;
    let text = serde_json::to_vec_pretty(&report).expect("a report is plain data with texts as keys");
    disk.put(REPAIR_FILE, &text)?;
    Ok(report)
}

/// Makes the file that takes a segment's place: its good groups and room behind them.
fn keep(
    disk: &Disk,
    limits: &Limits,
    name: &str,
    replaced: Replaced,
    identity: Identity,
) -> Result<(), Fault> {
    const STEP_BYTES: u64 = 1 << 20;
    let file = disk.create(name)?;
    let Some(kept) = replaced.kept else {
        let recorded_before = Timestamp::from_micros(i64::MIN);
        let header = SegmentHeader { format: FORMAT, identity, first: replaced.first, recorded_before };
        extend(&file, 0, limits.first_segment_bytes())?;
        file.write_all_at(&header.encode(), 0)?;
        return file.sync_all();
    };
    let source = disk.open_to_read(&segment_name(replaced.first))?;
    let len = source.len()?.max(kept);
    for offset in (0..kept).step_by(STEP_BYTES as usize) {
        let mut bytes = vec![0; usize::try_from((kept - offset).min(STEP_BYTES)).unwrap_or(0)];
        source.read_exact_at(&mut bytes, offset)?;
        file.write_all_at(&bytes, offset)?;
    }
    extend(&file, kept, len)
}

/// Does what is written down. Each step may have been done already.
pub(super) fn finish(disk: &Disk, report: &Report) -> Result<(), VerifyError> {
    let folder = &report.folder;
    let sync = || disk.sync_within(folder).and_then(|()| disk.sync());
    for SetAside { file, .. } in &report.set_aside {
        let aside = format!("{folder}/{file}");
        // `log.json` was copied there, and is replaced below.
        if file != LOG_FILE && !disk.has(&aside)? && disk.has(file)? {
            disk.rename(file, &aside)?;
        }
    }
    sync()?;
    let kept = format!("{folder}/{KEPT_FILE}");
    if let Some(first) = report.replaced
        && disk.has(&kept)?
    {
        disk.rename(&kept, &segment_name(first))?;
        sync()?;
    }
    put_log_file(disk, Identity { id: report.log, epoch: report.epoch })?;
    // Last of all: the log can be opened from here on.
    disk.rename(REPAIR_FILE, &format!("{folder}/{REPORT_FILE}"))?;
    Ok(sync()?)
}
