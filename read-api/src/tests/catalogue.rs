use event_schemas::envelope::Event;
use event_schemas::ids::{ListId, Position, ProductId};
use event_schemas::merchandising::{MerchandisingEvent, RuleSet};
use event_schemas::product::{ProductDetails, ProductUpserted};
use event_schemas::stream::StreamId;
use event_schemas::user::{InteractionRecorded, InteractionType, ListContext, ListServed};
use serde_json::json;

use super::fixture::{ReadApiFixture, acme, player};

impl ReadApiFixture {
    pub(super) async fn product(&self, id: &str, facts: &str) {
        let product_id: ProductId = id.parse().unwrap();
        let details: ProductDetails = serde_json::from_str(facts).unwrap();
        let stream = StreamId::product(&acme(), &product_id);
        let upserted = ProductUpserted { product_id, details: Box::new(details) };
        self.append(stream, &[Event::Product(upserted.into())]).await;
    }

    pub(super) async fn interaction(&self, n: u128, product: &str, interaction_type: InteractionType) {
        let recorded = InteractionRecorded {
            subject_id: player(n),
            product_id: product.parse().unwrap(),
            interaction_type,
            value: None,
            context: None,
            list_id: None,
            slot: None,
            session_id: None,
        };
        let stream = StreamId::user(&acme(), player(n));
        self.append(stream, &[Event::User(recorded.into())]).await;
    }
}

const SHOE: &str = r#"{"name": "Shoe", "price": 89.95, "category_id": "shoes", "category_name": "Shoes",
    "aw_image_url": "/a.jpg", "large_image": "/l.jpg", "in_stock": true, "is_active": true}"#;
const HAT: &str = r#"{"name": "Hat", "in_stock": false, "is_active": true}"#;

#[tokio::test]
async fn product_has_all_facts_and_its_first_image() {
    let fixture = ReadApiFixture::open().await;
    fixture.product("1", SHOE).await;
    let read = fixture.get("/api/v1/products/1").await;
    insta::assert_snapshot!(read.snapshot());
    let etag = read.header("etag").to_owned();
    let again = fixture.get_with("/api/v1/products/1", &[("If-None-Match", &etag)]).await;
    assert_eq!(again.status, 304);
    assert_eq!(fixture.get("/api/v1/products/2").await.status, 404);
    let other = fixture.get_with("/api/v1/products/1", &[("X-Tenant", "other")]).await;
    assert_eq!(other.status, 404);
}

#[tokio::test]
async fn served_list_is_no_change_of_its_user() {
    let fixture = ReadApiFixture::open().await;
    fixture.product("1", SHOE).await;
    let mut changes = fixture.api.notifier.stream(StreamId::user(&acme(), player(1)));
    let others = fixture.api.notifier.stream(StreamId::user(&acme(), player(2)));
    let served = ListServed {
        subject_id: player(1),
        list_id: ListId(player(9).0),
        context: ListContext::Feed,
        items: Vec::new(),
        computed_from: Position(1),
        query: None,
        parameters: Box::default(),
        experiment: None,
        settings: None,
    };
    fixture.append(StreamId::user(&acme(), player(1)), &[Event::User(served.into())]).await;
    fixture.interaction(1, "1", InteractionType::View).await;
    changes.changed().await.unwrap();
    assert_eq!((*changes.borrow(), *others.borrow()), (1, 0));
}

#[tokio::test]
async fn products_are_listed_in_pages_and_by_filter() {
    let fixture = ReadApiFixture::open().await;
    for (id, facts) in [("3", HAT), ("1", SHOE), ("2", HAT)] {
        fixture.product(id, facts).await;
    }
    let ids = async |query: &str| {
        let page = fixture.get(&format!("/api/v1/products?{query}")).await.json();
        let items = page["items"].as_array().unwrap().iter().map(|item| item["id"].clone());
        (items.collect::<Vec<_>>(), page["next_cursor"].as_str().map(str::to_owned))
    };
    let (first, cursor) = ids("limit=2").await;
    assert_eq!(first, [json!(1), json!(2)]);
    let cursor = cursor.unwrap();
    assert_eq!(ids(&format!("limit=2&cursor={cursor}")).await, (vec![json!(3)], None));
    assert_eq!(ids("in_stock=true").await.0, [json!(1)]);
    assert_eq!(ids("category_id=shoes&max_price=90").await.0, [json!(1)]);
    assert_eq!(ids("q=ha").await.0, [json!(2), json!(3)]);
    let moved = fixture.get(&format!("/api/v1/products?in_stock=true&cursor={cursor}")).await;
    assert_eq!(moved.status, 400, "a cursor of another list");
    for wrong in ["limit=0", "limit=501", "min_price=-1", "min_price=x", "in_stock=maybe", "category_id="] {
        assert_eq!(fixture.get(&format!("/api/v1/products?{wrong}")).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn profile_has_interactions_session_and_top_categories() {
    let fixture = ReadApiFixture::open().await;
    fixture.product("1", SHOE).await;
    fixture.product("2", HAT).await;
    fixture.interaction(1, "1", InteractionType::Purchase).await;
    fixture.interaction(1, "2", InteractionType::View).await;
    fixture.interaction(1, "unknown", InteractionType::Click).await;
    insta::assert_snapshot!(fixture.get("/api/v1/users/player-1/profile").await.snapshot());
    for path in ["/api/v1/users/player-2/profile", "/api/v1/users/stranger/profile"] {
        assert_eq!(fixture.get(path).await.status, 404, "{path}");
    }
    let others = fixture.get_with("/api/v1/users/player-1/profile", &[("X-User", "player-2")]).await;
    assert_eq!(others.status, 404);
}

#[tokio::test]
async fn rules_are_read_by_services_only() {
    let fixture = ReadApiFixture::open().await;
    let set: RuleSet = serde_json::from_value(json!({
        "rule_id": "spring",
        "rule": {"effect": {"kind": "boost", "factor": 1.5}, "product_ids": ["1", "b"], "context": "feed"},
    }))
    .unwrap();
    let event = Event::Merchandising(MerchandisingEvent::RuleSet(set));
    fixture.append(StreamId::merchandising(&acme()), &[event]).await;
    let rule = fixture.get("/api/v1/merchandising/rules/spring").await;
    insta::assert_snapshot!(rule.snapshot());
    let list = fixture.get("/api/v1/merchandising/rules").await.json();
    assert_eq!(list, json!({"items": [rule.json()], "next_cursor": null}));
    let other = fixture.get_with("/api/v1/merchandising/rules/spring", &[("X-Tenant", "other")]).await;
    assert_eq!(other.status, 404);
}
