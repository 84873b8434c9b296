//! `merchandising_rules`: one row for each rule.

use std::sync::Arc;

use event_schemas::envelope::{Actor, Envelope, Event};
use event_schemas::ids::{Position, RuleId, Tenant};
use event_schemas::merchandising::{MerchandisingEvent, Rule};
use event_schemas::stream::Category;
use event_schemas::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::generation::{QueryError, Slot};
use crate::projection::Name;
use crate::row::to_json;
use crate::rows::{Rows, Table, TableModel, json};
use crate::sql::{Db, Ddl, SqlError, Statement, Value, ddl};

pub(crate) const UPSERT: &str = "INSERT INTO merchandising_rules (tenant, rule_id, view, position) \
     VALUES ($1, $2, $3, $4) \
     ON CONFLICT (tenant, rule_id) DO UPDATE SET view = excluded.view, position = excluded.position";
pub(crate) const DELETE: &str = "DELETE FROM merchandising_rules WHERE tenant = $1 AND rule_id = $2";
pub(crate) const ONE: &str = "SELECT view FROM merchandising_rules WHERE tenant = $1 AND rule_id = $2";
pub(crate) const LIST: &str =
    "SELECT view FROM merchandising_rules WHERE tenant = $1 AND rule_id > $2 ORDER BY rule_id LIMIT $3";

#[cfg(test)]
pub(crate) fn sql_texts() -> Vec<String> {
    [UPSERT, DELETE, ONE, LIST].map(str::to_owned).into()
}

/// A rule as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredRule {
    pub rule_id: RuleId,
    pub rule: Rule,
    /// The originator of the last change.
    pub set_by: Actor,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// The position of the last event that changed it.
    pub position: Position,
}

type RuleKey = (Tenant, RuleId);

/// The rows by rule.
#[derive(Debug)]
pub(crate) struct StoredRules;

impl Table for StoredRules {
    type Key = RuleKey;
    type Value = StoredRule;
    const ONE: &'static str = ONE;

    fn key((tenant, rule): &RuleKey) -> Vec<Value> {
        vec![tenant.as_str().into(), rule.as_str().into()]
    }

    fn write((tenant, id): &RuleKey, rule: Option<&StoredRule>) -> Option<Statement> {
        let statement = |sql| Statement::new(sql).bind(tenant.as_str()).bind(id.as_str());
        Some(match rule {
            Some(rule) => statement(UPSERT).bind(to_json(rule)).bind(rule.position.to_i64()),
            None => statement(DELETE),
        })
    }
}

pub(crate) type RuleRows = Rows<StoredRules>;

/// The rule that an event changes.
fn key(envelope: &Envelope) -> Option<RuleKey> {
    let Event::Merchandising(event) = &envelope.event else { return None };
    let rule = match event {
        MerchandisingEvent::RuleSet(set) => &set.rule_id,
        MerchandisingEvent::RuleRemoved(removed) => &removed.rule_id,
    };
    Some((envelope.metadata.tenant.clone(), rule.clone()))
}

impl TableModel for StoredRules {
    const NAME: Name = Name::MerchandisingRules;
    const REVISION: u32 = 1;
    const DDL: Ddl = ddl!("merchandising_rules");
    const CATEGORIES: &'static [Category] = &[Category::Merchandising];

    async fn fold(rows: &mut Rows<Self>, db: &Db, events: &[&Envelope]) -> Result<(), SqlError> {
        rows.load(db, events.iter().filter_map(|envelope| key(envelope))).await?;
        for envelope in events {
            let (Some(key), Event::Merchandising(event)) = (key(envelope), &envelope.event) else { continue };
            let rule = match event {
                MerchandisingEvent::RuleRemoved(_) => None,
                MerchandisingEvent::RuleSet(set) => {
                    let at = envelope.metadata.occurred_at;
                    Some(StoredRule {
                        rule_id: set.rule_id.clone(),
                        rule: set.rule.clone(),
                        set_by: envelope.metadata.actor.clone(),
                        created_at: rows.get(&key).map_or(at, |rule| rule.created_at),
                        updated_at: at,
                        position: envelope.position,
                    })
                }
            };
            rows.set(key, rule);
        }
        Ok(())
    }
}

/// A page of a tenant's rules, by id.
#[derive(Clone, Debug, PartialEq)]
pub struct RulePage {
    pub items: Vec<StoredRule>,
    /// The id after which the next page starts; none on the last page.
    pub next: Option<RuleId>,
}

/// The queries of `merchandising_rules`.
#[derive(Clone, Debug)]
pub struct MerchandisingRules {
    pub(crate) slot: Arc<Slot<()>>,
}

impl MerchandisingRules {
    /// Lists at most `limit` of the tenant's rules whose ids are greater than `after`.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn list(
        &self,
        tenant: &Tenant,
        after: Option<&RuleId>,
        limit: u32,
    ) -> Result<RulePage, QueryError> {
        let statement = Statement::new(LIST).bind(tenant.as_str()).bind(after.map_or("", RuleId::as_str));
        let parse = |row| json(Name::MerchandisingRules, row);
        let cursor = |last: &StoredRule| last.rule_id.clone();
        let generation = self.slot.live()?;
        let (items, next) =
            generation.page(Name::MerchandisingRules, statement, limit, parse, cursor).await?;
        Ok(RulePage { items, next })
    }

    /// One rule of the tenant.
    ///
    /// # Errors
    /// [`QueryError`] while the read model cannot be read.
    pub async fn get(&self, tenant: &Tenant, id: &RuleId) -> Result<Option<StoredRule>, QueryError> {
        let statement = Statement::new(ONE).bind(tenant.as_str()).bind(id.as_str());
        self.slot.live()?.one(Name::MerchandisingRules, statement).await
    }
}
