//! Which log the files of a folder belong to.
//!
//! `log.json` has no checksum, and the headers of segments have one: where all of them agree on another log, they are right.

use event_schemas::ids::Position;

use super::{Damage, VerifyError, damage_of};
use crate::Identity;
use crate::embedded::disk::Disk;
use crate::embedded::recovery::{LOG_FILE, OpenError, RESTORE, identify, read_header_of};
use crate::embedded::segment::segment_name;

/// Which log it should be, none if nothing says so; and what is wrong with its file.
pub(super) fn of(
    disk: &Disk,
    firsts: &[Position],
) -> Result<(Option<Identity>, Option<Damage>), VerifyError> {
    let damage = |what: String| Damage {
        file: LOG_FILE.to_owned(),
        offset: 0,
        position: Position::START,
        what,
        remedy: RESTORE,
    };
    let said = of_segments(disk, firsts)?;
    let first = said.first().copied();
    match identify(disk) {
        Ok(Some(identity)) => match first {
            Some(first) if said.iter().all(|said| said.id == first.id) && first.id != identity.id => {
                let what =
                    format!("it names the log {}, and all segments belong to {}", identity.id, first.id);
                Ok((newest(&said), Some(damage(what))))
            }
            _ => Ok((Some(identity), None)),
        },
        Ok(None) => Ok((newest(&said), Some(damage("the file is missing".to_owned())))),
        Err(error) => Ok((newest(&said), Some(damage_of(error)?))),
    }
}

/// What the segments say whose headers are whole.
fn of_segments(disk: &Disk, firsts: &[Position]) -> Result<Vec<Identity>, VerifyError> {
    let mut said = Vec::new();
    for first in firsts {
        match read_header_of(&disk.open_to_read(&segment_name(*first))?, None, *first) {
            Ok(header) => said.push(header.identity),
            Err(OpenError::Damaged { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(said)
}

/// The log of the first segment, in the latest epoch that one of its segments was made in.
fn newest(said: &[Identity]) -> Option<Identity> {
    let first = said.first()?;
    let epochs = said.iter().filter(|said| said.id == first.id).map(|said| said.epoch);
    Some(Identity { epoch: epochs.max()?, ..*first })
}
