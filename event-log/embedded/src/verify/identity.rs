//! Verifying the identity of a folder's log.
//!
//! `log.json` has no checksum, but the segments' headers have one: if all headers name the same other log, they are right.

use event_schemas::ids::Position;

use super::{Damage, VerifyError, damage_of};
use crate::disk::Disk;
use crate::head_file::HeadRecords;
use crate::recovery::{LOG_FILE, OpenError, RESTORE, identify, read_header_of};
use crate::segment::segment_name;
use event_log::Identity;

/// The identity of the log, `None` if no file contains it, and the damage to `log.json`.
pub(super) fn verify_identity(
    disk: &Disk,
    firsts: &[Position],
    heads: &HeadRecords,
) -> Result<(Option<Identity>, Option<Damage>), VerifyError> {
    let damage = |what: String| Damage {
        file: LOG_FILE.to_owned(),
        offset: 0,
        position: Position::START,
        what,
        remedy: RESTORE,
    };
    let identities = segment_identities(disk, firsts)?;
    let first = identities.first().copied();
    match identify(disk) {
        Ok(Some(identity)) => match first {
            Some(first) if identities.iter().all(|other| other.id == first.id) && first.id != identity.id => {
                let what =
                    format!("it names the log {}, and all segments belong to {}", identity.id, first.id);
                Ok((newest(&identities), Some(damage(what))))
            }
            _ => {
                let damage = heads.check_epoch(identity).map_err(damage_of).err().transpose()?;
                Ok((Some(identity), damage))
            }
        },
        Ok(None) => Ok((newest(&identities), Some(damage("the file is missing".to_owned())))),
        Err(error) => Ok((newest(&identities), Some(damage_of(error)?))),
    }
}

/// The identities in the valid headers of the segments.
fn segment_identities(disk: &Disk, firsts: &[Position]) -> Result<Vec<Identity>, VerifyError> {
    let mut identities = Vec::new();
    for first in firsts {
        match read_header_of(&disk.open_to_read(&segment_name(*first))?, None, *first) {
            Ok(header) => identities.push(header.identity),
            Err(OpenError::Damaged { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(identities)
}

/// The log of the first segment, with the highest epoch of its segments.
fn newest(identities: &[Identity]) -> Option<Identity> {
    let first = identities.first()?;
    let epochs = identities.iter().filter(|other| other.id == first.id).map(|other| other.epoch);
    Some(Identity { epoch: epochs.max()?, ..*first })
}
