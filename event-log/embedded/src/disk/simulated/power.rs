//! The state of a simulated disk after a power cut.

use std::collections::BTreeMap;

use super::{DiskState, FileImage, NameChange, SECTOR_BYTES, folder_of};

impl NameChange {
    /// Applies the change. A rename is atomic, also between folders.
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Created(name, file) => {
                names.insert(name, file);
            }
            Self::Renamed { from, to, file } => {
                if names.get(&from) == Some(&file) {
                    names.remove(&from);
                    names.insert(to, file);
                }
            }
            Self::Removed(name) => {
                names.remove(&name);
            }
        }
    }

    fn touches(&self, folder: &str) -> bool {
        match self {
            Self::Created(name, _) | Self::Removed(name) => folder_of(name) == folder,
            Self::Renamed { from, to, .. } => folder_of(from) == folder || folder_of(to) == folder,
        }
    }
}

impl DiskState {
    /// Makes the changes in a folder durable, with both ends of renames into it or out of it.
    pub(super) fn sync_names(&mut self, folder: &str) {
        let (synced, unsynced): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|change| change.touches(folder));
        self.unsynced = unsynced;
        for change in synced {
            change.apply(&mut self.durable_names);
        }
        self.durable_names.retain(|name, _| folder_of(name) != folder);
        let live = self.names.iter().filter(|(name, _)| folder_of(name) == folder);
        self.durable_names.extend(live.map(|(name, file)| (name.clone(), *file)));
    }

    /// Keeps durable data and a random part of the rest.
    pub(super) fn lose_power(&mut self) {
        let mut files: Vec<u64> = self.files.keys().copied().collect();
        // A fixed order, so that every run makes the same random choices.
        files.sort_unstable();
        for number in files {
            let mut image = self.files.remove(&number).unwrap_or_default();
            self.tear(&mut image);
            self.files.insert(number, image);
        }
        let mut names = std::mem::take(&mut self.durable_names);
        for change in std::mem::take(&mut self.unsynced) {
            if self.random_below(2) == 0 {
                continue;
            }
            change.apply(&mut names);
        }
        // A file is lost with its folder.
        let folders = names.clone();
        names.retain(|name, _| folder_of(name).is_empty() || folders.contains_key(folder_of(name)));
        self.names.clone_from(&names);
        self.durable_names = names;
    }

    /// Gives each sector the state after a random number of the writes since the last sync; likewise the length.
    pub(super) fn tear(&mut self, image: &mut FileImage) {
        let writes = std::mem::take(&mut image.writes);
        let lengths = writes.iter().scan(image.durable.len(), |len, (offset, bytes)| {
            *len = (*len).max(offset + bytes.len());
            Some(*len)
        });
        let lengths: Vec<usize> = std::iter::once(image.durable.len()).chain(lengths).collect();
        let length = lengths[usize::try_from(self.random_below(lengths.len() as u64)).unwrap_or(0)];
        let mut torn = image.durable.clone();
        torn.resize(length, 0);
        for start in (0..length).step_by(SECTOR_BYTES) {
            let sector = start..(start + SECTOR_BYTES).min(length);
            let touching: Vec<_> = writes
                .iter()
                .filter(|(offset, bytes)| *offset < sector.end && offset + bytes.len() > sector.start)
                .collect();
            if touching.is_empty() {
                continue;
            }
            let kept = usize::try_from(self.random_below(touching.len() as u64 + 1)).unwrap_or(0);
            for (offset, bytes) in &touching[..kept] {
                let from = sector.start.max(*offset);
                let to = sector.end.min(offset + bytes.len());
                torn[from..to].copy_from_slice(&bytes[from - offset..to - offset]);
            }
        }
        image.live.clone_from(&torn);
        image.durable = torn;
    }
}
