//! Messages of real libraries, each labelled as a person would label it. A third is held out by a rule that was
//! fixed beforehand: add phrases for the others only.

use std::collections::BTreeSet;

use event_schemas::ids::JobId;
use serde_json::json;
use uuid::Uuid;

use super::classify;

const MESSAGES: &str = include_str!("../../../fixtures/failures/messages.tsv");

struct Labelled {
    code: &'static str,
    service: Option<&'static str>,
    library: &'static str,
    held_out: bool,
    message: String,
}

fn messages() -> Vec<Labelled> {
    let lines = MESSAGES.lines().filter(|line| !line.starts_with('#'));
    let labelled = lines.map(|line| {
        let fields: Vec<&str> = line.splitn(5, '\t').collect();
        let [code, service, library, split, message] = fields[..] else { panic!("{line}") };
        Labelled {
            code,
            service: (service != "-").then_some(service),
            library,
            held_out: split == "held-out",
            message: message.replace("\\n", "\n").replace("\\t", "\t"),
        }
    });
    labelled.collect()
}

/// The share of the messages whose code, and the share whose service is found.
fn accuracy(held_out: bool) -> (f64, f64) {
    let (mut codes, mut services, mut all) = (0, 0, 0);
    for labelled in messages().iter().filter(|labelled| labelled.held_out == held_out) {
        let error = classify(&labelled.message, None, None, JobId(Uuid::from_u128(1)), 1);
        let (code, service) =
            (json!(error.code) == labelled.code, json!(error.service) == json!(labelled.service));
        if !(code && service) {
            println!(
                "{:?} {:?} {} {:?}: {}",
                error.code, error.service, labelled.code, labelled.service, labelled.message
            );
        }
        (codes, services, all) = (codes + u32::from(code), services + u32::from(service), all + 1);
    }
    println!("held out: {held_out}, messages: {all}, codes: {codes}, services: {services}");
    (f64::from(codes) / f64::from(all), f64::from(services) / f64::from(all))
}

#[test]
fn messages_are_classified_as_a_person_would() {
    for held_out in [false, true] {
        let (codes, services) = accuracy(held_out);
        assert!(codes >= 0.95, "{codes}");
        assert!(services >= 0.95, "{services}");
    }
}

#[test]
fn held_out_third_follows_from_the_messages() {
    let messages = messages();
    let libraries: BTreeSet<_> = messages.iter().map(|labelled| labelled.library).collect();
    assert!(messages.len() >= 300 && libraries.len() >= 25);
    for labelled in &messages {
        let drawn = Uuid::new_v5(&Uuid::NAMESPACE_OID, labelled.message.as_bytes()).as_u128();
        assert_eq!(labelled.held_out, drawn.is_multiple_of(3), "{}", labelled.message);
    }
}
