//! A simulated disk in memory, which loses unsynced data in a power cut, and fails at injected calls.
//!
//! Every file has a live image, which reads see, and the writes since its last sync. After a power cut, each sector has
//! the state after a random one of those writes; unsynced changes of names are kept or lost at random. A failed sync keeps
//! the live image and discards the record of its unsynced writes, as Linux does.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Fault;

mod fault_points;
mod power;

pub use fault_points::FaultPoints;

/// The number of bytes that a disk writes atomically.
pub(in super::super) const SECTOR_BYTES: usize = 512;

/// A disk whose random choices come from a seed. Clones refer to the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<DiskState>>);

#[derive(Clone, Debug)]
pub(in super::super) struct SimFile {
    disk: SimDisk,
    number: u64,
    name: String,
}

/// The kind of fault that is injected at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The power fails: this call and all later ones have no effect, until [`SimDisk::restart`].
    PowerCut,
    /// This call fails. A write may be partial; a sync loses unsynced data.
    Error,
    /// The disk is full from this call on, until [`SimDisk::set_capacity`].
    Full,
    /// This call reports a full disk even if it needs no space, as copy-on-write file systems may do.
    NoSpace,
    /// The calling thread panics.
    Panic,
}

#[derive(Debug)]
struct DiskState {
    files: HashMap<u64, FileImage>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// The changes of names since the last sync of the folder.
    unsynced: Vec<NameChange>,
    next_file: u64,
    calls: u64,
    fault: Option<(u64, FaultKind)>,
    powered: bool,
    capacity: u64,
    random: u64,
    fault_points: FaultPoints,
}

#[derive(Clone, Debug, Default)]
struct FileImage {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// The writes since the last sync.
    writes: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Created(String, u64),
    Renamed { from: String, to: String, file: u64 },
    Removed(String),
}

impl SimDisk {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(DiskState {
            files: HashMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced: Vec::new(),
            next_file: 0,
            calls: 0,
            fault: None,
            powered: true,
            capacity: u64::MAX,
            random: seed.wrapping_mul(2).wrapping_add(1),
            fault_points: FaultPoints::default(),
        })))
    }

    /// The kinds of calls so far, and the faults that were injected at them.
    pub fn fault_points(&self) -> FaultPoints {
        self.locked().fault_points
    }

    /// Injects a fault at the `call`th call from now, counted from 1.
    pub fn inject_fault(&self, call: u64, kind: FaultKind) {
        let mut state = self.locked();
        state.fault = Some((state.calls + call, kind));
    }

    /// The number of calls so far.
    pub fn calls(&self) -> u64 {
        self.locked().calls
    }

    /// Restores the power. After a power cut, durable data is left, and a random part of the rest.
    pub fn restart(&self) {
        let mut state = self.locked();
        state.fault = None;
        if !state.powered {
            state.powered = true;
            state.lose_power();
        }
    }

    /// Cuts the power now and restores it.
    pub fn power_cycle(&self) {
        let mut state = self.locked();
        state.fault = None;
        state.powered = true;
        state.lose_power();
    }

    pub fn is_powered(&self) -> bool {
        self.locked().powered
    }

    /// Whether an injected fault has not happened yet.
    pub fn has_pending_fault(&self) -> bool {
        let state = self.locked();
        state.fault.is_some_and(|(at, _)| at > state.calls)
    }

    /// Sets the total number of bytes that all files may have.
    pub fn set_capacity(&self, bytes: u64) {
        self.locked().capacity = bytes;
    }

    /// The names of all files, in all folders.
    pub fn names(&self) -> Vec<String> {
        self.locked().names.keys().cloned().collect()
    }

    /// The bytes of a file, as reads see them.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.locked();
        state.names.get(name).and_then(|number| state.files.get(number)).map(|image| image.live.clone())
    }

    /// Replaces the bytes of a file, durably: simulates damage, or a restored file.
    pub fn replace(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.locked();
        let number = state.names.get(name).copied();
        let number = number.unwrap_or_else(|| state.new_file(name));
        state.durable_names.insert(name.to_owned(), number);
        state.files.insert(number, FileImage { live: bytes.clone(), durable: bytes, writes: Vec::new() });
    }

    /// Deletes a file, durably.
    pub fn delete(&self, name: &str) {
        let mut state = self.locked();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    /// A disk with the same durable and live contents and a seed of its own.
    pub fn copy(&self, seed: u64) -> Self {
        let state = self.locked();
        Self(Arc::new(Mutex::new(DiskState {
            files: state.files.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            unsynced: state.unsynced.clone(),
            random: seed.wrapping_mul(2).wrapping_add(1),
            ..*state
        })))
    }

    fn locked(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call; returns an error if a fault is injected at it.
    fn call(
        &self,
        action: &'static str,
        file: &str,
    ) -> Result<MutexGuard<'_, DiskState>, (Fault, MutexGuard<'_, DiskState>)> {
        let mut state = self.locked();
        state.calls += 1;
        let fault = |kind: ErrorKind, text: &str| Fault {
            action,
            file: file.to_owned(),
            source: io::Error::new(kind, text),
        };
        if !state.powered {
            return Err((fault(ErrorKind::Other, "the power is off"), state));
        }
        state.fault_points.reach(action, file);
        match state.fault {
            Some((at, kind)) if at == state.calls => {
                state.fault_points.inject(action, file, kind);
                match kind {
                    FaultKind::PowerCut => {
                        state.powered = false;
                        Err((fault(ErrorKind::Other, "the power fails"), state))
                    }
                    FaultKind::Error => Err((fault(ErrorKind::Other, "input/output error"), state)),
                    FaultKind::Panic => panic!("an injected panic"),
                    FaultKind::NoSpace => {
                        Err((fault(ErrorKind::StorageFull, "no space left on the disk"), state))
                    }
                    FaultKind::Full => {
                        // Affects only calls that need space.
                        state.capacity = state.used();
                        Ok(state)
                    }
                }
            }
            _ => Ok(state),
        }
    }

    fn plain(&self, action: &'static str, file: &str) -> Result<MutexGuard<'_, DiskState>, Fault> {
        self.call(action, file).map_err(|(fault, _)| fault)
    }

    pub(super) fn list(&self) -> Result<Vec<String>, Fault> {
        let state = self.plain("list", "the folder")?;
        Ok(state.names.keys().filter(|name| folder_of(name).is_empty()).cloned().collect())
    }

    pub(super) fn open(&self, name: &str) -> Result<SimFile, Fault> {
        let state = self.plain("open", name)?;
        match state.names.get(name) {
            Some(number) => Ok(self.open_file(name, *number)),
            None => Err(missing("open", name)),
        }
    }

    pub(super) fn create(&self, name: &str) -> Result<SimFile, Fault> {
        let mut state = self.plain("create", name)?;
        let number = state.new_file(name);
        Ok(self.open_file(name, number))
    }

    fn open_file(&self, name: &str, number: u64) -> SimFile {
        SimFile { disk: self.clone(), number, name: name.to_owned() }
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Fault> {
        let mut state = self.plain("rename", from)?;
        let file = state.names.remove(from).ok_or_else(|| missing("rename", from))?;
        state.names.insert(to.to_owned(), file);
        state.unsynced.push(NameChange::Renamed { from: from.to_owned(), to: to.to_owned(), file });
        Ok(())
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Fault> {
        let mut state = self.plain("remove", name)?;
        state.names.remove(name).ok_or_else(|| missing("remove", name))?;
        state.unsynced.push(NameChange::Removed(name.to_owned()));
        Ok(())
    }

    /// Makes the names in a folder durable; the empty name is the root folder.
    pub(super) fn sync(&self, folder: &str) -> Result<(), Fault> {
        let mut state = self.plain("sync", "the folder")?;
        state.sync_names(folder);
        Ok(())
    }

    pub(super) fn create_folder(&self, name: &str) -> Result<(), Fault> {
        let mut state = self.plain("create", name)?;
        if !state.names.contains_key(name) {
            state.new_file(name);
        }
        Ok(())
    }

    pub(super) fn free_bytes(&self) -> Result<u64, Fault> {
        let state = self.plain("get the free space of", "the folder")?;
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

/// The folder of a file: `a` for `a/b`, and the empty name for a file in the root folder.
fn folder_of(name: &str) -> &str {
    name.split_once('/').map_or("", |(folder, _)| folder)
}

fn missing(action: &'static str, name: &str) -> Fault {
    Fault { action, file: name.to_owned(), source: io::Error::new(ErrorKind::NotFound, "no such file") }
}

impl SimFile {
    fn fault(&self, action: &'static str, kind: ErrorKind) -> Fault {
        Fault { action, file: self.name.clone(), source: kind.into() }
    }

    pub(super) fn len(&self) -> Result<u64, Fault> {
        let mut state = self.disk.plain("get the length of", &self.name)?;
        Ok(state.image(self.number).live.len() as u64)
    }

    pub(super) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), Fault> {
        let mut state = self.disk.plain("read", &self.name)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let live = &state.image(self.number).live;
        let from = live.get(offset..).and_then(|live| live.get(..bytes.len()));
        bytes.copy_from_slice(from.ok_or_else(|| self.fault("read", ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<(), Fault> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        match self.disk.call("write", &self.name) {
            Ok(mut state) => {
                let grows = (offset + bytes.len()).saturating_sub(state.image(self.number).live.len());
                if state.used() + grows as u64 > state.capacity {
                    return Err(self.fault("write", ErrorKind::StorageFull));
                }
                state.image(self.number).write(offset, bytes);
                Ok(())
            }
            Err((fault, mut state)) => {
                let part = usize::try_from(state.random_below(bytes.len() as u64 + 1)).unwrap_or(0);
                if part > 0 {
                    state.image(self.number).write(offset, &bytes[..part]);
                }
                Err(fault)
            }
        }
    }

    pub(super) fn sync(&self) -> Result<(), Fault> {
        match self.disk.call("sync", &self.name) {
            Ok(mut state) => {
                let image = state.image(self.number);
                // Not the whole live image: data that an earlier failed sync lost stays lost.
                for (offset, bytes) in std::mem::take(&mut image.writes) {
                    put(&mut image.durable, offset, &bytes);
                }
                Ok(())
            }
            Err((fault, mut state)) => {
                if state.powered {
                    // Some sectors may have reached the disk; none will be written again.
                    let mut kept = state.image(self.number).clone();
                    state.tear(&mut kept);
                    kept.live.clone_from(&state.image(self.number).live);
                    *state.image(self.number) = kept;
                }
                Err(fault)
            }
        }
    }

    pub(super) fn allocate(&self, len: u64) -> Result<(), Fault> {
        let mut state = self.disk.plain("allocate space for", &self.name)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let had = state.image(self.number).live.len();
        if state.used() + len.saturating_sub(had) as u64 > state.capacity {
            return Err(self.fault("allocate space for", ErrorKind::StorageFull));
        }
        if len > had {
            state.image(self.number).write(had, &vec![0; len - had]);
        }
        Ok(())
    }
}

impl FileImage {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.live, offset, bytes);
        self.writes.push((offset, bytes.to_vec()));
    }
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl DiskState {
    fn image(&mut self, number: u64) -> &mut FileImage {
        self.files.entry(number).or_default()
    }

    fn new_file(&mut self, name: &str) -> u64 {
        self.next_file += 1;
        let number = self.next_file;
        self.files.insert(number, FileImage::default());
        self.names.insert(name.to_owned(), number);
        self.unsynced.push(NameChange::Created(name.to_owned(), number));
        number
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|number| self.files.get(number))
            .map(|image| image.live.len() as u64)
            .sum()
    }

    /// A random number below `end`. SplitMix64.
    fn random_below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }
}
