//! What is known of a person, and erasures by another server.

use event_schemas::envelope::Event;
use event_schemas::player::{PlayerBlocked, PlayerRated};
use event_schemas::rating::Skill;
use event_schemas::stream::StreamId;
use event_schemas::user::{InteractionType, SubjectKeyDestroyed};
use serde_json::{Value, json};

use super::fixture::{ReadApiFixture, acme, player};

/// No other id of the test is the same number.
const PERSON: u128 = 500;
const REPORT: &str = "/audit/subjects/player-500/report";

#[tokio::test]
async fn report_has_every_event_that_names_the_person() {
    let fixture = ReadApiFixture::open().await;
    fixture.product("1", r#"{"name": "Shoe", "in_stock": true, "is_active": true}"#).await;
    let mut expected = Vec::new();
    for of in [PERSON, 2, PERSON] {
        fixture.interaction(of, "1", InteractionType::View).await;
        expected.extend((of == PERSON).then(|| fixture.api.head()));
    }
    let skill = Skill { rating: 1600.0, deviation: 100.0, volatility: 0.06 };
    let rated = PlayerRated {
        subject_id: player(PERSON),
        match_id: event_schemas::ids::GameMatchId(player(7).0),
        pool_key: "chess".parse().unwrap(),
        before: skill,
        after: skill,
    };
    expected.push(
        fixture.append(StreamId::player(&acme(), player(PERSON)), &[Event::Player(rated.into())]).await,
    );
    // What others do with the person is part of it, too.
    for (of, blocked) in [(2, PERSON), (2, 3)] {
        let event = PlayerBlocked { subject_id: player(of), blocked: player(blocked) };
        let stream = StreamId::player(&acme(), player(of));
        let position = fixture.append(stream, &[Event::Player(event.into())]).await;
        expected.extend((blocked == PERSON).then_some(position));
    }
    let report = fixture.get(REPORT).await.json();
    assert_eq!((&report["user_id"], &report["subject_id"]), (&json!("player-500"), &json!(player(PERSON))));
    assert_eq!(report["profile"]["interactions"]["views"], 2, "{report}");
    assert_eq!(report["ratings"][0]["pool_key"], "chess");
    let events = report["events"].as_array().unwrap();
    let positions: Vec<&Value> = events.iter().map(|event| &event["position"]).collect();
    assert_eq!(json!(positions), json!(expected));
    let unknown = fixture.get("/audit/subjects/player-950/report").await;
    assert_eq!(unknown.status, 404, "{}", unknown.text);
}

#[tokio::test]
async fn erasure_by_another_server_is_followed() {
    let fixture = ReadApiFixture::open().await;
    let subjects = fixture.api.server.subjects.clone();
    let user = async || subjects.user_ids(&acme(), [player(1)]).await.unwrap().user_id(player(1));
    assert_eq!(user().await, Some("player-1".parse().unwrap()));
    let following = tokio::spawn(subjects.clone().follow_erasures(fixture.log.clone()));
    tokio::task::yield_now().await;
    let erased = Event::User(SubjectKeyDestroyed { subject_id: player(1) }.into());
    fixture.append(StreamId::user(&acme(), player(1)), &[erased]).await;
    // The other server destroys the row; this one must not answer from its memory.
    while user().await.is_some() {
        tokio::task::yield_now().await;
    }
    following.abort();
}
