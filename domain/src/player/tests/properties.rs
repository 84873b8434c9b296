use proptest::prelude::*;

use super::*;

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (1_u128..4).prop_map(queue),
        (1_u128..4).prop_map(|n| Action::Cancel { entry_id: entry(n) }),
        (1_u128..4, 0_u32..3, 1_u128..4).prop_map(|(n, release_count, of)| reserve(n, release_count, of)),
        (1_u128..4).prop_map(release),
        (1_u128..4, 1_u32..3).prop_map(|(of, attempt)| reserve_for_challenge(of, attempt)),
        (1_u128..4, 1_u32..3).prop_map(|(of, attempt)| release_from_challenge(of, attempt)),
        (1_u128..4).prop_map(finish),
        (1_u128..4).prop_map(won),
    ]
}

proptest! {
    /// Any commands in any order, each of them twice.
    #[test]
    fn reservations_and_releases_of_a_player_alternate(
        actions in proptest::collection::vec(action(), 0..60),
    ) {
        let mut story = Story::of([]);
        for action in actions {
            let _ = story.then(action);
        }
        let (mut held, mut waits) = (false, false);
        for name in story.names() {
            match name.as_str() {
                "PlayerQueued" => {
                    prop_assert!(!held && !waits);
                    waits = true;
                }
                "QueueEntryMatched" => {
                    prop_assert!(!held && waits);
                    (held, waits) = (true, false);
                }
                "PlayerReserved" => (held, waits) = (true, false),
                "QueueEntryReleased" => {
                    prop_assert!(held);
                    (held, waits) = (false, true);
                }
                "PlayerReleased" => {
                    prop_assert!(held);
                    held = false;
                }
                "QueueEntryCancelled" | "QueueEntryExpired" => {
                    prop_assert!(waits);
                    waits = false;
                }
                _ => {}
            }
        }
        prop_assert_eq!(held, story.state.match_id().is_some());
    }
}
