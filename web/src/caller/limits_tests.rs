use super::*;
use crate::caller::Credential;

fn caller(user: &str) -> CallerId {
    CallerId { via: Credential::Token, tenant: "acme".parse().unwrap(), user: Some(user.parse().unwrap()) }
}

fn callers(requests: u32, costly_reads: u32, streams: u32) -> Callers {
    let limits = CallerLimits {
        requests_per_minute: Some(requests),
        costly_reads_per_minute: Some(costly_reads),
        streams: Some(streams),
    };
    Callers::with_threads(limits, 2)
}

fn count(callers: &Callers, user: &str, is_costly: bool) -> Result<Quotas, Problem> {
    let mut quotas = Quotas::default();
    callers.count(&caller(user), is_costly, &mut quotas).map(|()| quotas)
}

#[tokio::test(start_paused = true)]
async fn quota_is_used_up_and_comes_back_within_a_minute() {
    let callers = callers(6, 100, 1);
    for _ in 0..6 {
        count(&callers, "ann", false).unwrap();
    }
    let refused = count(&callers, "ann", false).unwrap_err();
    assert_eq!(refused.status(), 429);
    assert!(count(&callers, "bob", false).is_ok());
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(count(&callers, "ann", false).is_ok());
    assert!(count(&callers, "ann", false).is_err());
}

#[tokio::test(start_paused = true)]
async fn costly_reads_have_their_own_quota() {
    let callers = callers(100, 2, 1);
    for _ in 0..2 {
        count(&callers, "ann", true).unwrap();
    }
    assert!(count(&callers, "ann", true).is_err());
    assert!(count(&callers, "ann", false).is_ok());
}

#[tokio::test(start_paused = true)]
async fn headers_say_what_is_left_of_each_quota() {
    let quotas = count(&callers(60, 2, 1), "ann", true).unwrap();
    let headers =
        quotas.headers().unwrap().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
    assert_eq!(
        headers,
        [
            "ratelimit-policy: \"requests\";q=60;w=60, \"costly-reads\";q=2;w=60",
            "ratelimit: \"requests\";r=59;t=1, \"costly-reads\";r=1;t=30",
        ]
    );
    assert!(Quotas::default().headers().is_none());
}

#[tokio::test]
async fn quota_of_zero_refuses_every_request() {
    assert!(count(&callers(0, 0, 0), "ann", false).is_err());
}

#[tokio::test]
async fn closed_stream_leaves_its_place() {
    let callers = callers(1, 1, 1);
    let place = callers.stream(&caller("ann")).unwrap();
    assert_eq!(callers.stream(&caller("ann")).unwrap_err().status(), 429);
    assert!(callers.stream(&caller("bob")).is_ok());
    drop(place);
    assert!(callers.stream(&caller("ann")).is_ok());
}

#[tokio::test(start_paused = true)]
async fn caller_with_many_costly_reads_lets_others_in() {
    let callers = Arc::new(callers(100, 100, 1));
    let patience = Duration::from_secs(10);
    let current = callers.turn(&caller("ann"), patience).await.unwrap();
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let callers = callers.clone();
            tokio::spawn(async move { callers.turn(&caller("ann"), patience).await.map(drop) })
        })
        .collect();
    tokio::task::yield_now().await;
    let bob = caller("bob");
    let bob = callers.turn(&bob, patience);
    tokio::pin!(bob);
    assert!(futures_util::poll!(bob.as_mut()).is_pending());
    drop(current);
    // Of the others at most one is before it.
    bob.await.unwrap();
    let first = waiting.iter().filter(|turn| turn.is_finished()).count();
    assert!(first <= 1, "{first}");
}

#[tokio::test(start_paused = true)]
async fn turn_that_does_not_come_in_time_is_refused() {
    let callers = callers(100, 100, 1);
    let _current = callers.turn(&caller("ann"), Duration::ZERO).await.unwrap();
    let refused = callers.turn(&caller("ann"), Duration::from_secs(10)).await.unwrap_err();
    assert_eq!(refused.status(), 429);
}

#[tokio::test(start_paused = true)]
async fn route_that_turns_out_costly_uses_quota_and_turn() {
    let callers = Arc::new(callers(100, 2, 1));
    let budget = |user| CostlyReads(Some((Arc::clone(&callers), caller(user), Duration::ZERO)));
    let current = budget("ann").turn().await.unwrap();
    assert!(current.is_some());
    assert_eq!(budget("bob").turn().await.unwrap_err().status(), 429);
    drop(current);
    budget("ann").turn().await.unwrap();
    assert_eq!(budget("ann").turn().await.unwrap_err().status(), 429);
    // A request that is costly itself has its turn already.
    assert!(CostlyReads::default().turn().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn table_of_callers_is_bounded() {
    let callers = callers(1, 1, 1);
    for n in 0..CALLERS_MAX + 10 {
        let _counted = count(&callers, &format!("user-{n}"), false);
    }
    assert_eq!(callers.known().states.len(), CALLERS_MAX);
    tokio::time::advance(Duration::from_secs(60)).await;
    count(&callers, "ann", false).unwrap();
    assert_eq!(callers.known().states.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn caller_has_a_share_only_while_others_send_requests() {
    let callers = callers(100, 100, 1);
    assert!(callers.share(&caller("ann")).is_whole());
    assert!(callers.share(&caller("ann")).is_whole());
    assert!(!callers.share(&caller("bob")).is_whole());
    assert!(!callers.share(&caller("ann")).is_whole());
    tokio::time::advance(ALONE_AFTER).await;
    assert!(callers.share(&caller("ann")).is_whole());
}

#[tokio::test(start_paused = true)]
async fn reads_wait_for_one_another_while_others_read() {
    let callers = callers(100, 100, 1);
    let (ann, patience) = (caller("ann"), Duration::from_secs(10));
    let _alone = [
        callers.read_turn(&ann, true, patience).await.unwrap(),
        callers.read_turn(&ann, true, patience).await.unwrap(),
    ];
    let first = callers.read_turn(&ann, false, patience).await.unwrap();
    assert_eq!(callers.read_turn(&ann, false, patience).await.unwrap_err().status(), 429);
    assert!(callers.read_turn(&caller("bob"), false, patience).await.is_ok());
    drop(first);
    assert!(callers.read_turn(&ann, false, patience).await.is_ok());
}
