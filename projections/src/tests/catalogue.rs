//! Products, users and merchandising rules.

use std::time::Duration;

use domain::user::interactions::Interactions;
use domain::user::profile::UNIT;
use event_schemas::cutout::{
    CutoutEmbedded, CutoutEvent, CutoutId, CutoutMatched, CutoutSynced, CutoutUnmatched,
};
use event_schemas::envelope::Event;
use event_schemas::ids::{ModelId, ProductId, SubjectId};
use event_schemas::merchandising::{Rule, RuleEffect, RuleRemoved, RuleSet};
use event_schemas::model::EmbeddingModelDeleted;
use event_schemas::product::{ProductDeactivated, ProductDetails, ProductUpserted};
use event_schemas::stream::StreamId;
use event_schemas::user::{InteractionRecorded, InteractionType, SubjectKeyDestroyed};
use event_schemas::vector::Vector;
use uuid::Uuid;

use super::history::{History, tenant};
use super::test_store::TestStore;
use super::{open, reach};
use crate::product::ProductFilter;

const KINDS: [InteractionType; 7] = [
    InteractionType::View,
    InteractionType::Click,
    InteractionType::AddToCart,
    InteractionType::Purchase,
    InteractionType::Like,
    InteractionType::Share,
    InteractionType::Rating,
];

fn product_id(n: u8) -> ProductId {
    n.to_string().parse().unwrap()
}

pub(super) fn user(n: u8) -> SubjectId {
    SubjectId(Uuid::from_u128(n.into()))
}

pub(super) fn upserted(id: &ProductId, facts: &str) -> Event {
    let details: ProductDetails = serde_json::from_str(facts).unwrap();
    Event::Product(ProductUpserted { product_id: id.clone(), details: Box::new(details) }.into())
}

fn interaction(of: u8, n: u8, interaction_type: InteractionType) -> Event {
    let recorded = InteractionRecorded {
        subject_id: user(of),
        product_id: product_id(n),
        interaction_type,
        value: (interaction_type == InteractionType::Rating).then_some(f64::from(n % 5) + 1.0),
        context: None,
        list_id: None,
        slot: None,
        session_id: None,
    };
    Event::User(recorded.into())
}

/// The number of actions of [`act`].
pub(super) const ACTIONS: u8 = 16;

/// An event about a cutout or a model, which need not exist.
fn cutout_event(action: u8, of: u8, n: u8) -> (StreamId, Event) {
    let cutout_id = CutoutId::new(u64::from(n)).unwrap();
    let model_id: ModelId = of.to_string().parse().unwrap();
    let event: CutoutEvent = match action {
        12 => {
            let predicted_upc = of.is_multiple_of(2).then(|| n.to_string());
            CutoutSynced { cutout_id, image_url: format!("/{of}.jpg"), predicted_upc }.into()
        }
        13 if of == 3 && n == 3 => {
            let deleted = EmbeddingModelDeleted { model_id };
            return (StreamId::models(&tenant()), Event::Model(deleted.into()));
        }
        13 => {
            let vector = Vector::new([f32::from(n) + 1.0, f32::from(of)]);
            CutoutEmbedded { cutout_id, model_id, vector }.into()
        }
        _ if of == 1 => CutoutUnmatched { cutout_id, product_id: product_id(n) }.into(),
        _ => CutoutMatched { cutout_id, product_id: product_id(of), similarity: Some(0.5) }.into(),
    };
    (StreamId::cutout(&tenant(), cutout_id), Event::Cutout(event))
}

/// Appends an event about a product, a user, a rule, a cutout or a model.
pub(super) async fn act(history: &History, action: u8, of: u8, n: u8) {
    let (id, tenant) = (product_id(n), tenant());
    match action {
        0 | 1 => {
            let facts = format!(
                r#"{{"name": "Shoe {of}", "price": {of}.95, "category_id": "{of}", "in_stock": {}, "is_active": true}}"#,
                of.is_multiple_of(2)
            );
            history.append(StreamId::product(&tenant, &id), &[upserted(&id, &facts)]).await;
        }
        2 => {
            let deactivated = ProductDeactivated { product_id: id.clone() };
            history.append(StreamId::product(&tenant, &id), &[Event::Product(deactivated.into())]).await;
        }
        3 => {
            let rule = Rule {
                effect: RuleEffect::Pin { slot: of.into() },
                product_ids: vec![id],
                context: None,
                category_id: None,
                valid_from: None,
                valid_until: None,
            };
            let set = RuleSet { rule_id: of.to_string().parse().unwrap(), rule };
            history.append(StreamId::merchandising(&tenant), &[Event::Merchandising(set.into())]).await;
        }
        4 => {
            let removed = RuleRemoved { rule_id: of.to_string().parse().unwrap() };
            history.append(StreamId::merchandising(&tenant), &[Event::Merchandising(removed.into())]).await;
        }
        12..15 => {
            let (stream, event) = cutout_event(action, of, n);
            history.append(stream, &[event]).await;
        }
        // A pause after which a session has ended.
        5 if of == 1 => {
            history.clock.advance(Duration::from_secs(4000));
        }
        5 if of == 2 => {
            let erased = Event::User(SubjectKeyDestroyed { subject_id: user(of) }.into());
            history.append(StreamId::user(&tenant, user(of)), &[erased]).await;
        }
        _ => {
            let kind = KINDS[usize::from(action) % KINDS.len()];
            history.append(StreamId::user(&tenant, user(of)), &[interaction(of, n, kind)]).await;
        }
    }
}

#[tokio::test]
async fn products_are_filtered_by_category_stock_price_and_text() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    for (id, facts) in [
        (
            "a",
            r#"{"name": "Red SHOE", "price": 10.01, "category_id": "1", "in_stock": true, "is_active": true}"#,
        ),
        (
            "b",
            r#"{"name": "100%_hat\u0000", "brand_name": "Ähre", "price": 20, "in_stock": false, "is_active": true}"#,
        ),
        (
            "B",
            r#"{"name": "Boot", "category_id": "1", "merchant_id": "7", "in_stock": true, "is_active": true}"#,
        ),
    ] {
        let id: ProductId = id.parse().unwrap();
        history.append(StreamId::product(&tenant(), &id), &[upserted(&id, facts)]).await;
    }
    let id: ProductId = "B".parse().unwrap();
    let off = Event::Product(ProductDeactivated { product_id: id.clone() }.into());
    let position = history.append(StreamId::product(&tenant(), &id), &[off]).await;
    reach(&models, position).await;
    let found = async |filter: ProductFilter| {
        let page = models.products().list(&tenant(), &filter, None, 10).await.unwrap();
        page.items.iter().map(|product| product.product_id.to_string()).collect::<Vec<_>>().join(" ")
    };
    let all = ProductFilter::default();
    assert_eq!(found(all.clone()).await, "B a b", "by the bytes of the ids");
    assert_eq!(found(ProductFilter { category_id: Some("1".parse().unwrap()), ..all.clone() }).await, "B a");
    assert_eq!(found(ProductFilter { merchant_id: Some("7".parse().unwrap()), ..all.clone() }).await, "B");
    assert_eq!(found(ProductFilter { in_stock: Some(false), ..all.clone() }).await, "b");
    assert_eq!(found(ProductFilter { is_active: Some(true), ..all.clone() }).await, "a b");
    assert_eq!(found(ProductFilter { min_price: Some(10.01), ..all.clone() }).await, "a b");
    assert_eq!(found(ProductFilter { max_price: Some(10.01), ..all.clone() }).await, "a");
    for (search, expected) in [("d sh", "a"), ("ÄHRE", "b"), ("0%_h", "b"), ("0x_h", ""), ("o", "B a")] {
        let filter = ProductFilter { search: Some(search.to_owned()), ..all.clone() };
        assert_eq!(found(filter).await, expected, "{search}");
    }
    let page = models.products().list(&tenant(), &all, None, 2).await.unwrap();
    let next = models.products().list(&tenant(), &all, page.next.as_ref(), 2).await.unwrap();
    assert_eq!((next.items[0].product_id.as_str(), next.next), ("b", None));
    let other = "other".parse().unwrap();
    assert!(models.products().get(&other, &id).await.unwrap().is_none());
    let some = models.products().some(&tenant(), &[id.clone(), "x".parse().unwrap()]).await.unwrap();
    assert_eq!(some.iter().map(|product| &product.product_id).collect::<Vec<_>>(), [&id]);
}

#[tokio::test]
async fn profile_has_the_strongest_products_and_the_session() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let stream = StreamId::user(&tenant(), user(1));
    history.append(stream.clone(), &[interaction(1, 1, InteractionType::Purchase)]).await;
    history.clock.advance(Duration::from_secs(7200));
    history.append(stream.clone(), &[interaction(1, 2, InteractionType::View)]).await;
    let position = history.append(stream, &[interaction(1, 3, InteractionType::Click)]).await;
    reach(&models, position).await;
    let profile = models.users().profile(&tenant(), user(1)).await.unwrap().unwrap();
    let ids = |products: &[domain::user::profile::Affinity]| {
        products.iter().map(|product| product.product_id.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids(&profile.long_term), "1 3 2");
    assert_eq!(ids(&profile.in_session), "3 2");
    assert_eq!((profile.user.activity.session.number, profile.user.activity.total()), (2, 3));
    let strongest = profile.long_term[0].long_term(profile.now);
    assert!(strongest < UNIT && strongest > UNIT * 99 / 100, "{strongest}");
    let viewed = &profile.in_session[1];
    let settings = Interactions::default();
    assert!(viewed.in_session(profile.now, &settings) < settings.weight(InteractionType::View, None));
    assert!(models.users().profile(&tenant(), user(2)).await.unwrap().is_none());
}

#[tokio::test]
async fn popular_products_are_listed_in_pages() {
    let (store, history) = (TestStore::new(), History::new());
    let models = open(&store, &history).await;
    let facts = r#"{"name": "Shoe", "in_stock": true, "is_active": true}"#;
    for n in 1..5 {
        history
            .append(StreamId::product(&tenant(), &product_id(n)), &[upserted(&product_id(n), facts)])
            .await;
    }
    let mut position = history.head();
    // The unknown product 9 is the most popular one, and nothing happened to product 4.
    for (n, kind) in [(9, 3), (3, 3), (2, 0), (1, 3), (9, 3)] {
        position =
            history.append(StreamId::user(&tenant(), user(1)), &[interaction(1, n, KINDS[kind])]).await;
    }
    reach(&models, position).await;
    let all = ProductFilter::default();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = models.products().most_popular(&tenant(), &all, after.as_ref(), 1).await.unwrap();
        listed.extend(page.items.iter().map(|product| product.product_id.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, ["1", "3", "2"], "of equal popularity by id");
}
