use super::*;
use crate::scenario::{at, decided, id};

fn cutout() -> CutoutId {
    id("7")
}

fn facts(upc: Option<&str>) -> Facts {
    Facts { image_url: "https://a.example/7.jpg".to_owned(), predicted_upc: upc.map(str::to_owned) }
}

fn command(action: Action) -> Command {
    Command { cutout_id: cutout(), at: at(0.0), action }
}

fn synced(upc: Option<&str>) -> CutoutEvent {
    let Facts { image_url, predicted_upc } = facts(upc);
    CutoutSynced { cutout_id: cutout(), image_url, predicted_upc }.into()
}

fn matched(product: &str) -> CutoutEvent {
    CutoutMatched { cutout_id: cutout(), product_id: id(product), similarity: Some(0.9) }.into()
}

fn unmatched(product: &str) -> CutoutEvent {
    CutoutUnmatched { cutout_id: cutout(), product_id: id(product) }.into()
}

fn shows(product: &str, reassign: bool) -> Command {
    command(Action::Match { product_id: id(product), similarity: Some(0.9), reassign })
}

fn decided_after(given: &[CutoutEvent], when: &Command) -> Result<Vec<CutoutEvent>, Refusal> {
    decided::<CutoutDecider>(given, when)
}

#[test]
fn unchanged_cutout_records_nothing() {
    let sync = |upc| command(Action::Sync(facts(upc)));
    assert_eq!(decided_after(&[], &sync(Some("1"))), Ok(vec![synced(Some("1"))]));
    assert_eq!(decided_after(&[synced(Some("1"))], &sync(Some("1"))), Ok(vec![]));
    assert_eq!(decided_after(&[synced(Some("1"))], &sync(None)), Ok(vec![synced(None)]));
    let script = Facts { image_url: "javascript:alert(1)".to_owned(), predicted_upc: None };
    assert_eq!(decided_after(&[], &command(Action::Sync(script))), Err(Refusal::Address));
}

#[test]
fn vectors_of_a_cutout_are_recorded_only_if_they_change() {
    let embed = |vectors: &[[f32; 2]]| {
        command(Action::Embed(vectors.iter().map(|values| (id("m"), Vector::new(*values))).collect()))
    };
    let embedded = |values: [f32; 2]| -> CutoutEvent {
        CutoutEmbedded { cutout_id: cutout(), model_id: id("m"), vector: Vector::new(values) }.into()
    };
    assert_eq!(decided_after(&[], &embed(&[[1.0, 0.0]])), Err(Refusal::Unknown));
    let known = [synced(None), embedded([1.0, 0.0])];
    assert_eq!(decided_after(&known[..1], &embed(&[[0.5, 0.5], [1.0, 0.0]])), Ok(known[1..].to_vec()));
    assert_eq!(decided_after(&known, &embed(&[[1.0, 0.0]])), Ok(vec![]));
    assert_eq!(decided_after(&known, &embed(&[[0.0, 1.0]])), Ok(vec![embedded([0.0, 1.0])]));
}

#[test]
fn cutout_shows_one_product_and_moves_only_if_asked() {
    assert_eq!(decided_after(&[], &shows("a", true)), Err(Refusal::Unknown));
    let known = [synced(None), matched("a")];
    assert_eq!(decided_after(&known[..1], &shows("a", false)), Ok(vec![matched("a")]));
    assert_eq!(decided_after(&known, &shows("a", false)), Ok(vec![]));
    let conflict = Refusal::OfAnother { cutout_id: cutout(), product_id: id("a") };
    assert_eq!(decided_after(&known, &shows("b", false)), Err(conflict));
    assert_eq!(decided_after(&known, &shows("b", true)), Ok(vec![matched("b")]));
}

#[test]
fn match_is_undone_once() {
    let undo = |product| command(Action::Unmatch { product_id: id(product) });
    let known = [synced(None), matched("a")];
    assert_eq!(decided_after(&known, &undo("b")), Err(Refusal::NotMatched(cutout())));
    assert_eq!(decided_after(&known, &undo("a")), Ok(vec![unmatched("a")]));
    let undone = [&known[..], &[unmatched("a")]].concat();
    assert_eq!(decided_after(&undone, &undo("a")), Err(Refusal::NotMatched(cutout())));
    assert_eq!(decided_after(&undone, &shows("b", false)), Ok(vec![matched("b")]));
}
