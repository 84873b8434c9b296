//! The steps of a repair: first it writes its plan and all that it needs, then it moves files.

use event_schemas::ids::Position;
use event_schemas::time::Timestamp;

use super::salvage::{LineWriter, SalvageReader};
use super::{QuarantinedFile, RepairPlan, RepairReport, ReplacedSegment, ReportedDamage};
use crate::Limits;
use crate::disk::{Disk, Fault};
use crate::maintenance::extend;
use crate::recovery::{LOG_FILE, OpenError, REPAIR_FILE, RESTORE, write_log_file};
use crate::segment::{FORMAT, HEADER_BYTES, SegmentHeader, position_of_name, segment_name};
use crate::verify::VerifyError;
use event_log::Identity;
use event_log::clock::Clock;

/// The file in the quarantine folder with the readable events, one JSON object per line.
const EVENTS_FILE: &str = "events.ndjson";
/// The file in the quarantine folder with the report.
pub(super) const REPORT_FILE: &str = "report.json";
/// The file in the quarantine folder with the valid part of a segment, until it replaces the segment.
const KEPT_FILE: &str = "kept.tmp";

/// The report of an interrupted repair.
pub(super) fn read_unfinished(disk: &Disk) -> Result<RepairReport, VerifyError> {
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

/// Writes everything that the following steps need. Until the last write, the log is unchanged.
pub(super) fn prepare(
    disk: &Disk,
    limits: &Limits,
    clock: &Clock,
    plan: &RepairPlan,
) -> Result<RepairReport, VerifyError> {
    let folder = &plan.folder;
    disk.create_folder_within(folder)?;
    disk.sync()?;
    let next = plan.identity.epoch.saturating_add(1);
    // If the current epoch is not known, use one that no number of restores can have reached.
    let seconds = || u32::try_from(clock.now().micros() / 1_000_000).unwrap_or(0);
    let epoch = if plan.log_file { next.max(seconds()) } else { next };
    let report = RepairReport {
        format: FORMAT,
        log: plan.identity.id,
        epoch_before: plan.identity.epoch,
        epoch,
        repaired_at: clock.now(),
        folder: folder.clone(),
        kept: plan.kept,
        damages: plan
            .verified
            .damages
            .iter()
            .map(|damage| ReportedDamage {
                file: damage.file.clone(),
                offset: damage.offset,
                position: damage.position,
                what: damage.what.clone(),
            })
            .collect(),
        quarantined: plan.quarantined.clone(),
        replaced: plan.replaced.map(|replaced| replaced.first),
        salvaged: plan.salvaged.clone(),
    };
    let mut lines = Some(LineWriter::create(disk, &format!("{folder}/{EVENTS_FILE}"))?);
    let mut salvage =
        SalvageReader::new(plan.identity.id, Position(plan.kept.0 + 1), plan.verified.acknowledged);
    for first in plan.quarantined.iter().filter_map(|moved| position_of_name(&moved.file)) {
        let within =
            plan.replaced.filter(|replaced| replaced.first == first).and_then(|replaced| replaced.kept);
        salvage.read_segment(disk, first, within.unwrap_or(HEADER_BYTES), &mut lines)?;
    }
    if let Some(lines) = lines {
        lines.finish()?;
    }
    if let Some(before) = disk.read_small(LOG_FILE)? {
        let copy = disk.create(&format!("{folder}/{LOG_FILE}"))?;
        copy.write_all_at(&before, 0)?;
        copy.sync_all()?;
    }
    if let Some(replaced) = plan.replaced {
        let identity = Identity { epoch, ..plan.identity };
        write_kept_segment(disk, limits, &format!("{folder}/{KEPT_FILE}"), replaced, identity)?;
    }
    disk.sync_within(folder)?;
    let text = serde_json::to_vec_pretty(&report).expect("a report is plain data with texts as keys");
    disk.write_atomically(REPAIR_FILE, &text)?;
    Ok(report)
}

/// Writes the file that replaces a segment: its valid groups, followed by zeros.
fn write_kept_segment(
    disk: &Disk,
    limits: &Limits,
    name: &str,
    replaced: ReplacedSegment,
    identity: Identity,
) -> Result<(), Fault> {
    const CHUNK_BYTES: u64 = 1 << 20;
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
    for offset in (0..kept).step_by(CHUNK_BYTES as usize) {
        let mut bytes = vec![0; usize::try_from((kept - offset).min(CHUNK_BYTES)).unwrap_or(0)];
        source.read_exact_at(&mut bytes, offset)?;
        file.write_all_at(&bytes, offset)?;
    }
    extend(&file, kept, len)
}

/// Carries out the plan in the report. Every step is idempotent.
pub(super) fn finish(disk: &Disk, report: &RepairReport) -> Result<(), VerifyError> {
    let folder = &report.folder;
    let sync = || disk.sync_within(folder).and_then(|()| disk.sync());
    for QuarantinedFile { file, .. } in &report.quarantined {
        let target = format!("{folder}/{file}");
        // `log.json` was copied there, and is replaced below.
        if file != LOG_FILE && !disk.has(&target)? && disk.has(file)? {
            disk.rename(file, &target)?;
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
    write_log_file(disk, Identity { id: report.log, epoch: report.epoch })?;
    // The last step: from here on the log can be opened.
    disk.rename(REPAIR_FILE, &format!("{folder}/{REPORT_FILE}"))?;
    Ok(sync()?)
}
