//! Opens the vault, and refuses one that knows none of the subjects in the log.
//!
//! A new vault over a log with subjects would give every user another subject, and no user would find their data any more.

use std::collections::HashSet;

use event_log::{EventLog, Filter, Log};
use event_schemas::Category;
use event_schemas::envelope::{Actor, Recorded};
use event_schemas::ids::{Position, SubjectId, Tenant};
use projections::ReadStore;
use vault::{Vault, VaultError};

use crate::config::Config;
use crate::failure::{Failure, vault_failure};

/// The number of events at the start of the log, of the players, and at the end of the log that are searched for subjects.
const SAMPLE_EVENTS: usize = 1_000;

/// Opens the vault of the settings.
///
/// # Errors
/// It cannot be used, or is not the vault of the log.
pub(crate) async fn open_vault(config: &Config, log: &Log) -> Result<Vault, Failure> {
    let file = config.vault_file();
    let store = config.read_store();
    if config.read_only
        && let ReadStore::Postgres(url) = &store
    {
        return Ok(Vault::read_database(url.options()));
    }
    let subjects = sampled_subjects(log).await;
    // In a log that other processes append to, subjects may be those of their vaults.
    let is_shared = !config.esdb_trusted_users.is_empty() || !config.matchmaking;
    let is_expected = !subjects.is_empty() && !config.accept_lost_vault && !is_shared;
    match store {
        ReadStore::Postgres(url) => {
            let opened = Vault::open_database(url.options(), file, is_expected).await;
            check(opened, &subjects, is_expected).await.map_err(|error| vault_failure(&url, &error))
        }
        ReadStore::Folder(_) => {
            let opened =
                if is_expected { Vault::open_existing(&file).await } else { Vault::open(&file).await };
            let checked = check(opened, &subjects, is_expected).await;
            checked.map_err(|error| vault_failure(&file.display(), &error))
        }
    }
}

async fn check(
    opened: Result<Vault, VaultError>,
    subjects: &HashSet<(Tenant, SubjectId)>,
    is_expected: bool,
) -> Result<Vault, VaultError> {
    let vault = opened?;
    if subjects.is_empty() {
        return Ok(vault);
    }
    for (tenant, subject) in subjects {
        match vault.knows(tenant, *subject).await {
            Ok(false) => {}
            // A database that is down is opened with the first use.
            Ok(true) | Err(VaultError::Unavailable(_)) => return Ok(vault),
            Err(error) => return Err(error),
        }
    }
    if is_expected {
        return Err(VaultError::Lost);
    }
    tracing::warn!("the vault knows none of the subjects in the event log: their users have no names");
    Ok(vault)
}

/// Some subjects of the log: of its first and last events, and of its first players.
async fn sampled_subjects(log: &Log) -> HashSet<(Tenant, SubjectId)> {
    let head = *log.head().borrow();
    let players = Filter::StreamPrefixes(vec![format!("{}-", Category::Player.as_str())]);
    let end = Position(head.0.saturating_sub(SAMPLE_EVENTS as u64));
    let mut found = HashSet::new();
    for (after, filter) in [(Position::START, Filter::All), (Position::START, players), (end, Filter::All)] {
        // Damage to these events is reported by the components that need them.
        if let Ok(page) = log.read_all(after, &filter, SAMPLE_EVENTS).await {
            found.extend(page.events.iter().flat_map(subjects));
        }
    }
    found
}

fn subjects(event: &Recorded) -> Vec<(Tenant, SubjectId)> {
    let Ok(envelope) = event.decode() else { return Vec::new() };
    let metadata = envelope.metadata;
    let actor = match metadata.actor {
        Actor::Subject(subject) => Some(subject),
        Actor::Worker(_) | Actor::Service(_) | Actor::System(_) => None,
    };
    let tenant = metadata.tenant;
    actor.into_iter().chain(metadata.subject).map(|subject| (tenant.clone(), subject)).collect()
}
