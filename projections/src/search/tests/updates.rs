//! Searches while vectors change.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use domain::search::exact::dot;

use super::*;

/// The vectors of each product so far.
type Versions = Mutex<BTreeMap<u32, Vec<(u64, Vec<f32>)>>>;

/// Whether the product had a vector with this score at the position, or at the next one: an answer may be a step ahead.
fn had_score(versions: &Versions, number: u32, query: &[f32], score: f32, position: u64) -> bool {
    let versions = versions.lock().unwrap();
    let all = &versions[&number];
    let last = all.iter().rposition(|(at, _)| *at <= position).unwrap_or_default();
    let scores =
        all[last..].iter().take(2).map(|(_, vector)| dot(query, &normalised(vector.clone()).unwrap()));
    scores.into_iter().any(|expected| expected == score)
}

#[tokio::test]
async fn searches_during_updates_agree_with_a_model() {
    on_a_thread(|| {
        let mut clusters = Clusters::new(6);
        let mut shop = Shop::new(&mut clusters);
        let mut builder = shop.builder(None);
        shop.build(&mut builder);
        let generation = Arc::clone(&shop.generation);
        let versions: Versions = Mutex::default();
        let is_over = AtomicBool::new(false);
        // A tenth of the products change: their vectors move, and every other one leaves and returns.
        let direction: Vec<f32> = (0..DIMENSION).map(|n| if n == 2 { 5.0 } else { 0.0 }).collect();
        let moved = |random: &mut fastrand::Rng| -> Vec<f32> {
            direction.iter().map(|value| value + random.f32() - 0.5).collect()
        };
        let mut random = fastrand::Rng::with_seed(7);
        for number in 0..scale() / 5 {
            let vector = moved(&mut random);
            shop.apply(vec![embedded(number, &vector)]);
            versions.lock().unwrap().insert(number, vec![(shop.position, vector)]);
        }
        std::thread::scope(|scope| {
            let searching = |seed| {
                let (versions, is_over, direction) = (&versions, &is_over, &direction);
                let generation = Arc::clone(&generation);
                move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let mut searches = 0;
                    while !is_over.load(Ordering::Relaxed) || searches < 20 {
                        let query: Vec<f32> =
                            direction.iter().map(|value| value + random.f32() - 0.5).collect();
                        let search = near(&query, 10, Filter::default());
                        let Question::Vector(query) = &search.question else { panic!() };
                        let (answer, position) = generation.search(&tenant(), &search).unwrap();
                        let distinct: BTreeSet<String> = found(&answer).into_iter().collect();
                        assert_eq!(distinct.len(), 10);
                        for result in &answer.results {
                            let number: u32 = result.product_id.as_str().parse().unwrap();
                            assert!(result.details.is_active && number < scale() / 5, "{number}");
                            assert!(had_score(versions, number, query, result.score, position.0), "{number}");
                        }
                        searches += 1;
                    }
                }
            };
            let searchers = [scope.spawn(searching(8)), scope.spawn(searching(9))];
            let built = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    builder.advance(&generation);
                }
            });
            for step in 0..scale() {
                let number = random.u32(..scale() / 5);
                if step % 3 == 0 {
                    shop.apply(vec![deactivated(number)]);
                    shop.apply(vec![upserted(number)]);
                } else {
                    let vector = moved(&mut random);
                    // Before it is visible, so that every answer finds it here.
                    versions
                        .lock()
                        .unwrap()
                        .get_mut(&number)
                        .unwrap()
                        .push((shop.position + 1, vector.clone()));
                    shop.apply(vec![embedded(number, &vector)]);
                }
            }
            is_over.store(true, Ordering::Relaxed);
            for searcher in searchers {
                searcher.join().unwrap();
            }
            built.join().unwrap();
        });
    })
    .await;
}
