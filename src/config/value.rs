//! The values of settings that need a parser of their own, or are never printed.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::{Arg, Command};
use web::serve::Cors;

use crate::cluster::ClusterUrl;

/// A name and a password as one text, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Login(pub String);

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login")
    }
}

impl From<&str> for Login {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// An origin that becomes part of a Content-Security-Policy, in which a semicolon would start another rule.
pub(super) fn image_origin(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:/[]".contains(&byte));
    let checked = Cors::new(&[text]).map(|_| text.to_owned()).map_err(|error| error.to_string())?;
    if is_plain {
        Ok(checked)
    } else {
        Err("write the host in ASCII, such as https://xn--bcher-kva.example".to_owned())
    }
}

/// The location of the event log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventLogUrl {
    Embedded(PathBuf),
    Cluster(ClusterUrl),
}

impl FromStr for EventLogUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("embedded", folder)) if !folder.is_empty() => Ok(Self::Embedded(folder.into())),
            _ if ClusterUrl::has_cluster_scheme(text) => {
                text.parse::<ClusterUrl>().map(Self::Cluster).map_err(|error| error.to_string())
            }
            _ => Err("write the event log as embedded:FOLDER, such as embedded:./data/events, or as the URL of an \
                      EventStoreDB or KurrentDB cluster, such as esdb://db1,db2,db3"
                .to_owned()),
        }
    }
}

/// The store of exported vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportStore {
    /// Another process on the same log makes the exports.
    None,
    Folder(PathBuf),
    /// A bucket of an S3-compatible service, and the folder in it, which can be empty.
    Bucket {
        name: String,
        folder: String,
    },
}

impl FromStr for ExportStore {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        match text.split_once("://") {
            None if text == "none" => Ok(Self::None),
            None if !text.is_empty() => Ok(Self::Folder(text.into())),
            Some(("s3", bucket)) => {
                let (name, folder) = bucket.split_once('/').unwrap_or((bucket, ""));
                let folder = folder.trim_end_matches('/');
                let is_folder =
                    folder.is_empty() || folder.split('/').all(|name| is_name(name) && name != "..");
                if is_name(name) && is_folder {
                    return Ok(Self::Bucket { name: name.to_owned(), folder: folder.to_owned() });
                }
                Err("write a bucket as s3://NAME or s3://NAME/FOLDER, with letters, digits and -._"
                    .to_owned())
            }
            _ => Err("write the store of exports as a folder, as s3://NAME/FOLDER, or as none".to_owned()),
        }
    }
}

/// Parses a URL; its errors do not contain the URL, because it may contain a password.
#[derive(Clone, Debug)]
pub struct SecretUrlParser<T>(PhantomData<T>);

pub fn secret_url<T>() -> SecretUrlParser<T> {
    SecretUrlParser(PhantomData)
}

impl<T: FromStr<Err = String> + Clone + Send + Sync + 'static> TypedValueParser for SecretUrlParser<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<T, clap::Error> {
        let wrong = |why: &str| {
            let argument = argument.map(ToString::to_string).unwrap_or_default();
            let message = format!("{argument}: {why}\n");
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, message).with_cmd(command)
        };
        let text = value.to_str().ok_or_else(|| wrong("it is not valid UTF-8"))?;
        text.parse().map_err(|error: String| wrong(&error))
    }
}
