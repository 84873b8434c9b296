//! Stands in for the log on a cluster where the program is built without it.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::str::FromStr;

use event_log::Log;
use read_api::server::Part;

use crate::cli::Failure;

/// There is no such URL in this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClusterUrl {}

impl ClusterUrl {
    pub(crate) fn is_meant_by(text: &str) -> bool {
        text.contains("://")
    }
}

/// Why: it was built so.
#[derive(Clone, Debug)]
pub(crate) struct NotBuilt;

impl fmt::Display for NotBuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "this program was built without the log on a cluster; build it with the feature `eventstore`",
        )
    }
}

impl FromStr for ClusterUrl {
    type Err = NotBuilt;

    fn from_str(_: &str) -> Result<Self, NotBuilt> {
        Err(NotBuilt)
    }
}

pub(crate) fn lock(_: &Path) -> Result<File, Failure> {
    Err(Failure::Usage(NotBuilt.to_string()))
}

pub(crate) async fn open(url: ClusterUrl) -> Result<Log, Failure> {
    match url {}
}

pub(crate) async fn reach(url: ClusterUrl) -> Result<Log, Failure> {
    match url {}
}

pub(crate) fn url(_: &Log) -> Option<String> {
    None
}

pub(crate) fn part(_: &Log) -> Option<Part> {
    None
}

pub(crate) async fn close(_: &Log) {}
