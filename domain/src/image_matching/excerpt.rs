//! The part of a job's matching that a batch concerns.
//!
//! A job may have a million requests, and a batch is decided on a copy of the state; so the copy contains
//! only what the batch names.

use super::{Action, Command, State};

/// The part of the state that these commands read or change. For commands that never come in batches, the
/// whole state.
pub(super) fn excerpt(commands: &[Command], state: &State) -> State {
    let mut part = state.with_sums();
    for command in commands {
        match &command.action {
            Action::RegisterImages { product_id, .. } => {
                if let Some(known) = state.products.get(product_id) {
                    part.products.entry(product_id.clone()).or_insert_with(|| known.clone());
                }
            }
            Action::RegisterFrames { video_id, .. } => {
                if let Some(known) = state.videos.get(video_id) {
                    part.videos.entry(video_id.clone()).or_insert_with(|| known.clone());
                }
            }
            Action::Request(event_schemas::image_match::MatchRequested { request_id, .. })
            | Action::Report { request_id, .. } => {
                if let Some(known) = state.requests.get(request_id) {
                    part.requests.entry(request_id.clone()).or_insert_with(|| known.clone());
                }
            }
            Action::Claim { .. }
            | Action::ExpireLease { .. }
            | Action::Fail { .. }
            | Action::EndWorker { .. }
            | Action::RetryParked => return state.clone(),
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use event_schemas::image_match::{Frames, ImageMatchEvent};
    use proptest::prelude::*;

    use super::*;
    use crate::decider::{Batch, Decider, RefusedItem, decide_all};
    use crate::image_matching::{ImageMatchingDecider, Refusal};
    use crate::job::JobAvailability;
    use crate::scenario::{at, id, image, lease, request, totals};

    fn command(action: Action) -> Command {
        Command { job: JobAvailability::Open, at: at(0.0), action }
    }

    fn name(n: u8) -> String {
        format!("n{n}")
    }

    /// The commands that come in batches, with few distinct ids, so that they often concern the same object.
    fn in_batches() -> impl Strategy<Value = Action> {
        let few = || 0..3_u8;
        prop_oneof![
            (few(), few()).prop_map(|(product, n)| Action::RegisterImages {
                product_id: id(&name(product)),
                images: vec![image(&name(n))],
            }),
            (few(), 0..4_u64).prop_map(|(video, count)| Action::RegisterFrames {
                video_id: id(&name(video)),
                frames: Frames::Counted(count),
            }),
            (few(), 4..6_u64).prop_map(|(n, candidates)| Action::Request(request(&name(n), candidates))),
            (few(), proptest::option::of(0..3_u128), 0..6_u64, any::<bool>()).prop_map(
                |(n, under, done, completed)| Action::Report {
                    request_id: id(&name(n)),
                    lease_id: under.map(lease),
                    totals: totals(done, done, 0),
                    completed,
                }
            ),
        ]
    }

    fn anything() -> impl Strategy<Value = Action> {
        let claim = (0..3_u8, 0..3_u128).prop_map(|(n, under)| Action::Claim {
            request_id: id(&name(n)),
            lease_id: lease(under),
            worker_id: id("w"),
            lease_until: at(45.0),
        });
        let expire = (0..3_u128).prop_map(|n| Action::ExpireLease { lease_id: lease(n) });
        prop_oneof![4 => in_batches(), 2 => claim, 1 => expire, 1 => Just(Action::RetryParked)]
    }

    /// Like [`decide_all`], on the whole state.
    fn decide_each(
        commands: &[Command],
        mut state: State,
    ) -> Result<Batch<ImageMatchEvent>, Vec<RefusedItem<Refusal>>> {
        let (mut batch, mut refused) = (Batch { events: Vec::new(), event_counts: Vec::new() }, Vec::new());
        for (index, command) in commands.iter().enumerate() {
            match ImageMatchingDecider::decide(command, &state) {
                Ok(events) => {
                    state = events
                        .iter()
                        .fold(state, |state, new| ImageMatchingDecider::evolve(state, &new.event, new.at));
                    batch.event_counts.push(events.len());
                    batch.events.extend(events);
                }
                Err(refusal) => refused.push(RefusedItem { index, refusal }),
            }
        }
        if refused.is_empty() { Ok(batch) } else { Err(refused) }
    }

    proptest! {
        #[test]
        fn batch_decision_on_the_excerpt_equals_the_whole_state(
            before in proptest::collection::vec(anything(), 0..20),
            batch in proptest::collection::vec(anything(), 2..8),
        ) {
            let state = before.into_iter().fold(State::default(), |state, action| {
                let events = ImageMatchingDecider::decide(&command(action), &state).unwrap_or_default();
                events.iter().fold(state, |state, new| ImageMatchingDecider::evolve(state, &new.event, new.at))
            });
            let batch: Vec<_> = batch.into_iter().map(command).collect();
            prop_assert_eq!(decide_all::<ImageMatchingDecider>(&batch, &state), decide_each(&batch, state));
        }
    }

    #[test]
    fn excerpt_contains_only_the_named_requests() {
        let events = (0..1000).map(|n| ImageMatchEvent::from(request(&format!("r{n}"), 1)));
        let state = events
            .fold(State::default(), |state, event| ImageMatchingDecider::evolve(state, &event, at(0.0)));
        let report = |n: u32| {
            command(Action::Report {
                request_id: id(&format!("r{n}")),
                lease_id: None,
                totals: totals(1, 1, 0),
                completed: false,
            })
        };
        assert_eq!(excerpt(&[report(7), report(8), report(7)], &state).requests.len(), 2);
    }
}
