//! A file system in memory, mounted as a folder, that loses unsynced data in a power cut.
//!
//! Every file has its current content and the writes since its last sync; every folder has its current names and the changes
//! since its last sync. A power cut keeps, chosen at random, the state of each sector after any of those writes, and any subset
//! of the name changes. This is harsher than most real file systems, which keep the order of name changes and write the name
//! of a new file together with its content.

mod mount;

use std::collections::BTreeMap;

pub(crate) use mount::Mount;

use super::load::SeededRng;

/// The unit that a disk writes atomically.
const SECTOR_BYTES: u64 = 512;
/// The capacity that the file system reports.
const CAPACITY_BYTES: u64 = 8 << 30;

const ROOT: u64 = 1;

/// The system calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Write,
    Sync,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A failed sync also drops the unsynced data, so that the next sync succeeds without it. This is what Linux does.
    Io,
    NoSpace,
    /// This call and all later changes fail.
    ReadOnly,
}

/// A failure of the nth call to a file whose name ends with the suffix.
#[derive(Clone, Debug)]
pub(crate) struct PlannedFailure {
    pub(crate) call: Call,
    pub(crate) suffix: &'static str,
    pub(crate) nth: u64,
    pub(crate) failure: Failure,
}

#[derive(Debug)]
struct Files {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// The current inode number by folder and name.
    names: BTreeMap<(u64, String), u64>,
    durable_names: BTreeMap<(u64, String), u64>,
    unsynced: Vec<NameChange>,
    powered: bool,
    read_only: bool,
    planned: Option<PlannedFailure>,
    failures_injected: u64,
    rng: SeededRng,
}

#[derive(Debug, Default)]
struct Node {
    is_folder: bool,
    mode: u16,
    live: Vec<u8>,
    durable: Vec<u8>,
    /// The changes since the last sync, in order.
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Written { offset: u64, bytes: Vec<u8> },
    Resized(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    Created { at: (u64, String), node: u64 },
    Renamed { from: (u64, String), to: (u64, String), node: u64 },
    Removed { at: (u64, String) },
}

impl NameChange {
    fn touches(&self, folder: u64) -> bool {
        match self {
            Self::Created { at, .. } | Self::Removed { at } => at.0 == folder,
            Self::Renamed { from, to, .. } => from.0 == folder || to.0 == folder,
        }
    }

    fn apply(self, names: &mut BTreeMap<(u64, String), u64>) {
        match self {
            Self::Created { at, node } => {
                names.insert(at, node);
            }
            Self::Renamed { from, to, node } => {
                if names.get(&from) == Some(&node) {
                    names.remove(&from);
                    names.insert(to, node);
                }
            }
            Self::Removed { at } => {
                names.remove(&at);
            }
        }
    }
}

impl Node {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        write_at(&mut self.live, offset, bytes);
        self.changes.push(Change::Written { offset, bytes: bytes.to_vec() });
    }

    fn resize(&mut self, len: u64) {
        self.live.resize(len as usize, 0);
        self.changes.push(Change::Resized(len));
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            match change {
                // Only the changes, not the current content: data that a failed sync dropped stays lost.
                Change::Written { offset, bytes } => write_at(&mut self.durable, offset, &bytes),
                Change::Resized(len) => self.durable.resize(len as usize, 0),
            }
        }
    }

    /// The content after a power cut: each sector in the state after any of the changes, and likewise the length.
    fn after_power_cut(&mut self, rng: &mut SeededRng) -> Vec<u8> {
        let mut lengths = vec![self.durable.len() as u64];
        for change in &self.changes {
            let before = *lengths.last().unwrap();
            lengths.push(match change {
                Change::Written { offset, bytes } => before.max(offset + bytes.len() as u64),
                Change::Resized(len) => *len,
            });
        }
        let mut torn = self.durable.clone();
        let mut sectors: BTreeMap<u64, u64> = BTreeMap::new();
        let touched = |change: &Change| match change {
            Change::Written { offset, bytes } if !bytes.is_empty() => {
                offset / SECTOR_BYTES..(offset + bytes.len() as u64).div_ceil(SECTOR_BYTES)
            }
            _ => 0..0,
        };
        for sector in self.changes.iter().flat_map(touched) {
            *sectors.entry(sector).or_insert(0) += 1;
        }
        for (sector, count) in sectors {
            let kept = rng.below(count + 1);
            let here = self.changes.iter().filter(|change| touched(change).contains(&sector));
            for change in here.take(kept as usize) {
                let Change::Written { offset, bytes } = change else { continue };
                let start = (sector * SECTOR_BYTES).max(*offset);
                let end = ((sector + 1) * SECTOR_BYTES).min(offset + bytes.len() as u64);
                write_at(&mut torn, start, &bytes[(start - offset) as usize..(end - offset) as usize]);
            }
        }
        torn.resize(lengths[rng.below(lengths.len() as u64) as usize] as usize, 0);
        torn
    }
}

fn write_at(image: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if image.len() < end {
        image.resize(end, 0);
    }
    image[start..end].copy_from_slice(bytes);
}

impl Files {
    fn new(seed: u64) -> Self {
        let root = Node { is_folder: true, mode: 0o755, ..Node::default() };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced: Vec::new(),
            powered: true,
            read_only: false,
            planned: None,
            failures_injected: 0,
            rng: SeededRng(seed),
        }
    }

    /// The planned failure, if it is due at this call.
    fn take_failure(&mut self, call: Call, node: u64) -> Option<Failure> {
        if self.read_only {
            return Some(Failure::ReadOnly);
        }
        let planned = self.planned.as_mut().filter(|planned| planned.call == call)?;
        let named = self.names.iter().any(|((_, name), of)| *of == node && name.ends_with(planned.suffix));
        planned.nth -= u64::from(named);
        if planned.nth > 0 || !named {
            return None;
        }
        let failure = planned.failure;
        self.planned = None;
        self.failures_injected += 1;
        self.read_only = failure == Failure::ReadOnly;
        if call == Call::Sync && failure == Failure::Io {
            // Some sectors may have reached the disk; the others are not written again.
            let node = self.nodes.get_mut(&node)?;
            node.durable = node.after_power_cut(&mut self.rng);
            node.changes.clear();
        }
        Some(failure)
    }

    fn create(&mut self, folder: u64, name: &str, is_folder: bool, mode: u16) -> u64 {
        let number = self.next;
        self.next += 1;
        self.nodes.insert(number, Node { is_folder, mode, ..Node::default() });
        self.names.insert((folder, name.to_owned()), number);
        self.unsynced.push(NameChange::Created { at: (folder, name.to_owned()), node: number });
        number
    }

    fn rename(&mut self, from: (u64, String), to: (u64, String)) -> bool {
        let Some(node) = self.names.remove(&from) else { return false };
        self.names.insert(to.clone(), node);
        self.unsynced.push(NameChange::Renamed { from, to, node });
        true
    }

    fn remove(&mut self, at: (u64, String)) -> bool {
        let was = self.names.remove(&at).is_some();
        self.unsynced.push(NameChange::Removed { at });
        was
    }

    fn sync_names(&mut self, folder: u64) {
        let (synced, unsynced): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|change| change.touches(folder));
        self.unsynced = unsynced;
        for change in synced {
            change.apply(&mut self.durable_names);
        }
        self.durable_names.retain(|(within, _), _| *within != folder);
        let live = self.names.iter().filter(|((within, _), _)| *within == folder);
        self.durable_names.extend(live.map(|(at, node)| (at.clone(), *node)));
    }

    /// Keeps what is durable, and a random part of the rest.
    fn lose_power(&mut self) {
        let mut names = std::mem::take(&mut self.durable_names);
        for change in std::mem::take(&mut self.unsynced) {
            if self.rng.below(2) == 0 {
                change.apply(&mut names);
            }
        }
        // A file whose folder is lost cannot be reached.
        loop {
            let reachable: Vec<u64> = names.values().copied().chain([ROOT]).collect();
            let before = names.len();
            names.retain(|(folder, _), _| reachable.contains(folder));
            if names.len() == before {
                break;
            }
        }
        self.nodes.retain(|number, _| *number == ROOT || names.values().any(|named| named == number));
        for node in self.nodes.values_mut() {
            let left = node.after_power_cut(&mut self.rng);
            *node = Node { live: left.clone(), durable: left, changes: Vec::new(), ..*node };
        }
        self.names.clone_from(&names);
        self.durable_names = names;
        (self.powered, self.read_only, self.planned) = (true, false, None);
    }
}
