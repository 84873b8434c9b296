//! Replaces `cluster.rs` in a program that is built without the feature `eventstore`.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::str::FromStr;

use event_log::Log;
use read_api::server::Component;

use crate::failure::Failure;

/// The URL of a cluster, which this program does not support.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterUrl {}

impl ClusterUrl {
    pub fn has_cluster_scheme(text: &str) -> bool {
        text.contains("://")
    }
}

/// The error of a program without this feature.
#[derive(Clone, Debug)]
pub struct NotBuilt;

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

/// A connected log.
#[derive(Debug)]
pub struct OpenedCluster {
    pub log: Log,
    pub address: String,
    pub connection: Component,
    pub lock: File,
}

pub async fn open(url: ClusterUrl, _: &Path) -> Result<OpenedCluster, Failure> {
    match url {}
}

pub async fn connect(url: ClusterUrl) -> Result<Log, Failure> {
    match url {}
}
