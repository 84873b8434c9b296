//! Messages of real libraries, each labelled before it was classified. A third is held out by a hash of the
//! message: add phrases for the others only.

use std::collections::BTreeSet;
use std::fmt::Write;

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

/// The shares of the messages whose code and whose service is found, and those that are classified otherwise.
fn accuracy(held_out: bool) -> (f64, f64, String) {
    let (mut codes, mut services, mut all, mut otherwise) = (0, 0, 0, String::new());
    for labelled in messages().iter().filter(|labelled| labelled.held_out == held_out) {
        let error = classify(&labelled.message, None, None, JobId(Uuid::from_u128(1)), 1);
        let code = json!(error.code) == labelled.code;
        let service = json!(error.service) == json!(labelled.service);
        if !(code && service) {
            let Labelled { code, service, message, .. } = labelled;
            let found = (error.code, error.service);
            writeln!(otherwise, "{found:?} instead of {code} {service:?}: {message}").unwrap();
        }
        (codes, services, all) = (codes + u32::from(code), services + u32::from(service), all + 1);
    }
    (f64::from(codes) / f64::from(all), f64::from(services) / f64::from(all), otherwise)
}

#[test]
fn messages_are_classified_as_a_person_would() {
    for held_out in [false, true] {
        let (codes, services, otherwise) = accuracy(held_out);
        assert!(codes >= 0.95 && services >= 0.95, "codes {codes:.3}, services {services:.3}\n{otherwise}");
    }
}

/// What happened is found beside a service that the message names.
#[test]
fn name_of_a_service_does_not_hide_what_happened() {
    let code = |message: &str| classify(message, None, None, JobId(Uuid::from_u128(1)), 1).code;
    let is_of_worker = |labelled: &&Labelled| {
        // A file of an object storage is not a video, and neither is a page of a service.
        labelled.service.is_none() && !["unknown", "video_not_found"].contains(&labelled.code)
    };
    let (mut kept, mut all, mut otherwise) = (0, 0, String::new());
    for labelled in messages().iter().filter(is_of_worker) {
        let message = format!("deepgram: {}", labelled.message);
        let is_kept = json!(code(&message)) == labelled.code;
        if !is_kept {
            otherwise.push_str(&message);
            otherwise.push('\n');
        }
        (kept, all) = (kept + u32::from(is_kept), all + 1);
    }
    assert!(f64::from(kept) >= 0.95 * f64::from(all), "{kept} of {all}\n{otherwise}");
}

/// Workers put what they were doing before and after what happened.
#[test]
fn context_of_a_message_does_not_hide_what_happened() {
    let contexts = ["video 2039: ", "processing of the video failed: ", " (while downloading the video)"];
    let held_out: Vec<_> = messages().into_iter().filter(|labelled| labelled.held_out).collect();
    for context in contexts {
        let mut otherwise = Vec::new();
        for labelled in &held_out {
            let message = match context.strip_prefix(' ') {
                Some(_) => format!("{}{context}", labelled.message),
                None => format!("{context}{}", labelled.message),
            };
            let code = classify(&message, None, None, JobId(Uuid::from_u128(1)), 1).code;
            if json!(code) != labelled.code {
                otherwise.push(format!("{code:?} instead of {}: {message}", labelled.code));
            }
        }
        assert!(25 * otherwise.len() <= held_out.len(), "{}", otherwise.join("\n"));
    }
}

#[test]
fn held_out_third_follows_from_the_messages() {
    let messages = messages();
    let libraries: BTreeSet<_> = messages.iter().map(|labelled| labelled.library).collect();
    assert!(messages.len() >= 2000 && libraries.len() >= 300);
    for labelled in &messages {
        let drawn = Uuid::new_v5(&Uuid::NAMESPACE_OID, labelled.message.as_bytes()).as_u128();
        assert_eq!(labelled.held_out, drawn.is_multiple_of(3), "{}", labelled.message);
    }
}
