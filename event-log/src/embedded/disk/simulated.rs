//! A disk in memory that forgets what was not synced when its power fails, and fails where it is told to.
//!
//! Every file has a live image, which reads see, and the writes since its last sync. A power cut keeps of each sector
//! the state after any of those writes, drawn by lot; names that were not synced come and go likewise. A sync that
//! fails leaves the live image as it is and forgets that it was never written, which is what Linux does.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Fault;

mod points;
mod power;

pub use points::Points;

/// What a disk writes whole or not at all.
pub(in super::super) const SECTOR_BYTES: usize = 512;

/// A disk whose lots are drawn from a seed. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Clone, Debug)]
pub(in super::super) struct SimFile {
    disk: SimDisk,
    number: u64,
    name: String,
}

/// What goes wrong at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The power fails: this call and all later ones do nothing, until [`SimDisk::restart`].
    PowerCut,
    /// This call fails. A write may be done in part; a sync loses what it should have kept.
    Error,
    /// No room is left, from this call on, until [`SimDisk::set_capacity`].
    Full,
    /// This call finds no room, whatever it asks for: file systems that copy what is written over may answer so.
    NoRoom,
    /// The thread that makes this call panics.
    Panic,
}

#[derive(Debug)]
struct State {
    files: HashMap<u64, Image>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of names since the last sync of the folder.
    unsynced: Vec<NameChange>,
    next_file: u64,
    calls: u64,
    trouble: Option<(u64, Trouble)>,
    powered: bool,
    capacity: u64,
    random: u64,
    points: Points,
}

#[derive(Clone, Debug, Default)]
struct Image {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync.
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
        Self(Arc::new(Mutex::new(State {
            files: HashMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced: Vec::new(),
            next_file: 0,
            calls: 0,
            trouble: None,
            powered: true,
            capacity: u64::MAX,
            random: seed.wrapping_mul(2).wrapping_add(1),
            points: Points::default(),
        })))
    }

    /// Which kinds of calls were made, and what came at them.
    pub fn points(&self) -> Points {
        self.locked().points
    }

    /// Lets something go wrong at the `call`th call from now, counted from 1.
    pub fn trouble_at(&self, call: u64, trouble: Trouble) {
        let mut state = self.locked();
        state.trouble = Some((state.calls + call, trouble));
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.locked().calls
    }

    /// The power comes back. After a power cut only what is durable is left, and some of the rest by lot.
    pub fn restart(&self) {
        let mut state = self.locked();
        state.trouble = None;
        if !state.powered {
            state.powered = true;
            state.lose_power();
        }
    }

    /// Cuts the power now and brings it back.
    pub fn power_cycle(&self) {
        let mut state = self.locked();
        state.trouble = None;
        state.powered = true;
        state.lose_power();
    }

    pub fn is_powered(&self) -> bool {
        self.locked().powered
    }

    /// Whether the trouble that was asked for is still to come.
    pub fn has_trouble(&self) -> bool {
        let state = self.locked();
        state.trouble.is_some_and(|(at, _)| at > state.calls)
    }

    /// How many bytes all files may have together.
    pub fn set_capacity(&self, bytes: u64) {
        self.locked().capacity = bytes;
    }

    /// The names of all files, wherever they are.
    pub fn names(&self) -> Vec<String> {
        self.locked().names.keys().cloned().collect()
    }

    /// The bytes of a file, as a reader sees them.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.locked();
        state.names.get(name).and_then(|number| state.files.get(number)).map(|image| image.live.clone())
    }

    /// Puts other bytes into a file, durably: damage, or what someone restored.
    pub fn replace(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.locked();
        let number = state.names.get(name).copied();
        let number = number.unwrap_or_else(|| state.new_file(name));
        state.durable_names.insert(name.to_owned(), number);
        state.files.insert(number, Image { live: bytes.clone(), durable: bytes, writes: Vec::new() });
    }

    /// Takes a file away, durably.
    pub fn delete(&self, name: &str) {
        let mut state = self.locked();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    /// A disk with the same durable and live contents and lots of its own.
    pub fn copy(&self, seed: u64) -> Self {
        let state = self.locked();
        Self(Arc::new(Mutex::new(State {
            files: state.files.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            unsynced: state.unsynced.clone(),
            random: seed.wrapping_mul(2).wrapping_add(1),
            ..*state
        })))
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call; an error if it is the one that fails.
    fn call(
        &self,
        action: &'static str,
        file: &str,
    ) -> Result<MutexGuard<'_, State>, (Fault, MutexGuard<'_, State>)> {
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
        state.points.call(action, file);
        match state.trouble {
            Some((at, trouble)) if at == state.calls => {
                state.points.meet(action, file, trouble);
                match trouble {
                    Trouble::PowerCut => {
                        state.powered = false;
                        Err((fault(ErrorKind::Other, "the power fails"), state))
                    }
                    Trouble::Error => Err((fault(ErrorKind::Other, "input/output error"), state)),
                    Trouble::Panic => panic!("as it was told to"),
                    Trouble::NoRoom => {
                        Err((fault(ErrorKind::StorageFull, "no space left on the disk"), state))
                    }
                    Trouble::Full => {
                        // Only what asks for room will notice.
                        state.capacity = state.used();
                        Ok(state)
                    }
                }
            }
            _ => Ok(state),
        }
    }

    fn plain(&self, action: &'static str, file: &str) -> Result<MutexGuard<'_, State>, Fault> {
        self.call(action, file).map_err(|(fault, _)| fault)
    }

    pub(super) fn list(&self) -> Result<Vec<String>, Fault> {
        let state = self.plain("list", "the folder")?;
        Ok(state.names.keys().filter(|name| folder_of(name).is_empty()).cloned().collect())
    }

    pub(super) fn open(&self, name: &str) -> Result<SimFile, Fault> {
        let state = self.plain("open", name)?;
        match state.names.get(name) {
            Some(number) => Ok(self.file(name, *number)),
            None => Err(missing("open", name)),
        }
    }

    pub(super) fn create(&self, name: &str) -> Result<SimFile, Fault> {
        let mut state = self.plain("create", name)?;
        let number = state.new_file(name);
        Ok(self.file(name, number))
    }

    fn file(&self, name: &str, number: u64) -> SimFile {
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

    /// Makes the names in a folder durable; the empty name is that of the one that holds all others.
    pub(super) fn sync(&self, folder: &str) -> Result<(), Fault> {
        let mut state = self.plain("sync", "the folder")?;
        state.sync_names(folder);
        Ok(())
    }

    pub(super) fn make_folder(&self, name: &str) -> Result<(), Fault> {
        let mut state = self.plain("create", name)?;
        if !state.names.contains_key(name) {
            state.new_file(name);
        }
        Ok(())
    }

    pub(super) fn free_bytes(&self) -> Result<u64, Fault> {
        let state = self.plain("ask for the free space of", "the folder")?;
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

/// Where a file is: `a` for `a/b`, and the empty name for one that lies in no other folder.
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
        let mut state = self.disk.plain("ask for the length of", &self.name)?;
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
                let part = usize::try_from(state.lot(bytes.len() as u64 + 1)).unwrap_or(0);
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
                // Not all that is live: what an earlier sync failed to keep stays lost.
                for (offset, bytes) in std::mem::take(&mut image.writes) {
                    put(&mut image.durable, offset, &bytes);
                }
                Ok(())
            }
            Err((fault, mut state)) => {
                if state.powered {
                    // Some sectors may have reached the disk; none will be tried again.
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
        let mut state = self.disk.plain("allocate room for", &self.name)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let had = state.image(self.number).live.len();
        if state.used() + len.saturating_sub(had) as u64 > state.capacity {
            return Err(self.fault("allocate room for", ErrorKind::StorageFull));
        }
        if len > had {
            state.image(self.number).write(had, &vec![0; len - had]);
        }
        Ok(())
    }
}

impl Image {
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

impl State {
    fn image(&mut self, number: u64) -> &mut Image {
        self.files.entry(number).or_default()
    }

    fn new_file(&mut self, name: &str) -> u64 {
        self.next_file += 1;
        let number = self.next_file;
        self.files.insert(number, Image::default());
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

    /// A number below `end`. SplitMix64.
    fn lot(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }
}
