//! A log that is backed up and restored, exported and imported, and moved from one place to another, by the real program.

mod backup;
