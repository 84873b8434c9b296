//! `users`: what each user has done, and the weight of each product in the user's profile.

use std::sync::Arc;

use domain::user::interactions::Interactions;
use domain::user::profile::{Activity, Affinity};
use event_log::clock::Clock;
use event_schemas::envelope::{Envelope, Event};
use event_schemas::ids::{Position, ProductId, SubjectId, Tenant};
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use event_schemas::user::{InteractionRecorded, UserEvent};
use serde::{Deserialize, Serialize};

use crate::generation::{QueryError, Slot};
use crate::projection::Name;
use crate::row::to_json;
use crate::rows::{RowModel, Rows, Table, json};
use crate::sql::{Batch, Db, Ddl, SqlError, Statement, Value, ddl};

pub(crate) const UPSERT: &str = "INSERT INTO users (tenant, subject_id, view, position) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (tenant, subject_id) DO UPDATE SET view = excluded.view, position = excluded.position";
pub(crate) const DELETE: &str = "DELETE FROM users WHERE tenant = $1 AND subject_id = $2";
pub(crate) const ONE: &str = "SELECT view FROM users WHERE tenant = $1 AND subject_id = $2";
pub(crate) const UPSERT_AFFINITY: &str = "INSERT INTO user_products \
     (tenant, subject_id, product_id, session, weight_rank, view, position) VALUES ($1, $2, $3, $4, $5, $6, $7) \
     ON CONFLICT (tenant, subject_id, product_id) DO UPDATE SET session = excluded.session, \
     weight_rank = excluded.weight_rank, view = excluded.view, position = excluded.position";
pub(crate) const DELETE_AFFINITY: &str =
    "DELETE FROM user_products WHERE tenant = $1 AND subject_id = $2 AND product_id = $3";
pub(crate) const ONE_AFFINITY: &str =
    "SELECT view FROM user_products WHERE tenant = $1 AND subject_id = $2 AND product_id = $3";
pub(crate) const STRONGEST: &str = "SELECT view FROM user_products WHERE tenant = $1 AND subject_id = $2 \
     ORDER BY weight_rank DESC, product_id LIMIT $3";
pub(crate) const OF_SESSION: &str = "SELECT view FROM user_products WHERE tenant = $1 AND subject_id = $2 \
     AND session = $3 ORDER BY position DESC LIMIT $4";

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, DELETE, ONE, UPSERT_AFFINITY, DELETE_AFFINITY, ONE_AFFINITY, STRONGEST, OF_SESSION]
        .map(str::to_owned)
        .into()
}

/// What a user has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserActivity {
    pub activity: Activity,
    /// The time at which the log accepted the last interaction.
    pub updated_at: Timestamp,
    /// The position of the last interaction.
    pub position: Position,
}

type UserKey = (Tenant, SubjectId);

/// The rows by user.
#[derive(Debug)]
struct Activities;

impl Table for Activities {
    type Key = UserKey;
    type Value = UserActivity;
    const ONE: &'static str = ONE;

    fn key((tenant, subject): &UserKey) -> Vec<Value> {
        vec![tenant.as_str().into(), subject.0.into()]
    }

    fn write((tenant, subject): &UserKey, user: Option<&UserActivity>) -> Option<Statement> {
        let key = |sql| Statement::new(sql).bind(tenant.as_str()).bind(subject.0);
        let Some(user) = user else { return Some(key(DELETE)) };
        let statement = key(UPSERT).bind(to_json(user)).bind(user.position.to_i64());
        Some(statement)
    }
}

type AffinityKey = (Tenant, SubjectId, ProductId);

/// An affinity, and the position of its last interaction.
type PlacedAffinity = (Affinity, Position);

/// The rows by user and product.
#[derive(Debug)]
struct Affinities;

impl Table for Affinities {
    type Key = AffinityKey;
    type Value = PlacedAffinity;
    const ONE: &'static str = ONE_AFFINITY;

    fn key((tenant, subject, product): &AffinityKey) -> Vec<Value> {
        vec![tenant.as_str().into(), subject.0.into(), product.as_str().into()]
    }

    fn write((tenant, subject, product): &AffinityKey, value: Option<&PlacedAffinity>) -> Option<Statement> {
        let key = |sql| Statement::new(sql).bind(tenant.as_str()).bind(subject.0).bind(product.as_str());
        let Some((affinity, position)) = value else { return Some(key(DELETE_AFFINITY)) };
        let statement = key(UPSERT_AFFINITY)
            .bind(i64::try_from(affinity.session).unwrap_or(i64::MAX))
            .bind(affinity.rank())
            .bind(to_json(&value))
            .bind(position.to_i64());
        Some(statement)
    }
}

/// The users and their products.
#[derive(Debug, Default)]
pub(crate) struct UserRows {
    users: Rows<Activities>,
    affinities: Rows<Affinities>,
    settings: Interactions,
}

/// The keys that an interaction changes.
fn keys(envelope: &Envelope) -> Option<(UserKey, AffinityKey, &InteractionRecorded)> {
    let Event::User(UserEvent::InteractionRecorded(interaction)) = &envelope.event else { return None };
    let tenant = &envelope.metadata.tenant;
    let product = interaction.product_id.clone();
    let affinity = (tenant.clone(), interaction.subject_id, product);
    Some(((tenant.clone(), interaction.subject_id), affinity, interaction))
}

impl UserRows {
    fn add(
        &mut self,
        envelope: &Envelope,
        (user, product, interaction): (UserKey, AffinityKey, &InteractionRecorded),
    ) {
        let (at, position) = (envelope.metadata.occurred_at, envelope.position);
        let kind = interaction.interaction_type;
        let session = match self.users.change(&user) {
            Some(known) => {
                (known.updated_at, known.position) = (envelope.recorded_at, position);
                let belongs = known.activity.add(kind, at);
                belongs.then_some(known.activity.session.number)
            }
            None => {
                let activity = Activity::new(kind, at);
                let number = activity.session.number;
                let new = UserActivity { activity, updated_at: envelope.recorded_at, position };
                self.users.set(user, Some(new));
                Some(number)
            }
        };
        match self.affinities.change(&product) {
            Some((affinity, last)) => {
                affinity.add(interaction, at, session, &self.settings);
                *last = position;
            }
            None => {
                let mut affinity = Affinity::none(product.2.clone(), at);
                affinity.add(interaction, at, session, &self.settings);
                self.affinities.set(product, Some((affinity, position)));
            }
        }
    }
}

impl RowModel for UserRows {
    const NAME: Name = Name::Users;
    const REVISION: u32 = 1;
    const DDL: Ddl = ddl!("users");
    const CATEGORIES: &'static [Category] = &[Category::User];
    const COUNTS_INTERACTIONS: bool = true;

    fn configure(&mut self, settings: &Interactions) {
        self.settings = *settings;
    }

    async fn fold(&mut self, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        let changed = || events.iter().filter_map(|envelope| keys(envelope));
        self.users.load(db, changed().map(|(user, _, _)| user)).await?;
        self.affinities.load(db, changed().map(|(_, product, _)| product)).await?;
        for envelope in events {
            if let Some(keys) = keys(envelope) {
                self.add(envelope, keys);
            }
        }
        Ok(())
    }

    async fn forget(&mut self, _: &Db, _: &Envelope, earlier: &[Envelope]) -> Result<(), SqlError> {
        for (user, product, _) in earlier.iter().filter_map(keys) {
            self.users.set(user, None);
            self.affinities.set(product, None);
        }
        Ok(())
    }

    fn store(&self, batch: &mut Batch) {
        self.users.store(batch);
        self.affinities.store(batch);
    }

    fn has_changes(&self) -> bool {
        self.users.has_changes() || self.affinities.has_changes()
    }

    fn on_stored(&mut self) {
        self.users.on_stored();
        self.affinities.on_stored();
    }

    fn on_published(&mut self) {
        self.users.on_published();
        self.affinities.on_published();
    }
}

/// The most products of a profile.
const PROFILE_PRODUCTS_MAX: i64 = 500;

/// A user's activity, with the products that count most.
#[derive(Clone, Debug, PartialEq)]
pub struct UserProfile {
    pub user: UserActivity,
    /// The instant for which the weights are computed.
    pub now: Timestamp,
    /// How interactions count.
    pub settings: Interactions,
    /// The products of the long-term profile, the strongest first.
    pub long_term: Vec<Affinity>,
    /// The products of the latest session, in no order.
    pub in_session: Vec<Affinity>,
}

/// The queries of `users`.
#[derive(Clone, Debug)]
pub struct Users {
    pub(crate) slot: Arc<Slot<()>>,
    pub(crate) clock: Clock,
    pub(crate) shared: Interactions,
}

impl Users {
    /// The profile of a user; none without an interaction.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn profile(
        &self,
        tenant: &Tenant,
        subject: SubjectId,
    ) -> Result<Option<UserProfile>, QueryError> {
        let generation = self.slot.live()?;
        let statement = |sql| Statement::new(sql).bind(tenant.as_str()).bind(subject.0);
        let user: Option<UserActivity> = generation.one(Name::Users, statement(ONE)).await?;
        let Some(user) = user else { return Ok(None) };
        let session = i64::try_from(user.activity.session.number).unwrap_or(i64::MAX);
        let strongest = statement(STRONGEST).bind(PROFILE_PRODUCTS_MAX);
        let of_session = statement(OF_SESSION).bind(session).bind(PROFILE_PRODUCTS_MAX);
        let mut lists = Vec::with_capacity(2);
        for list in [strongest, of_session] {
            let rows: Vec<(String,)> =
                generation.db.all(list).await.map_err(|error| generation.query_error(Name::Users, error))?;
            let placed = rows.into_iter().map(|row| json::<PlacedAffinity>(Name::Users, row));
            let affinities = placed.map(|placed| Ok(placed?.0)).collect::<Result<Vec<_>, QueryError>>();
            lists.push(generation.parsed(affinities)?);
        }
        let in_session = lists.pop().unwrap_or_default();
        let long_term = lists.pop().unwrap_or_default();
        let (now, settings) = (self.clock.now(), self.shared);
        Ok(Some(UserProfile { user, now, settings, long_term, in_session }))
    }
}
