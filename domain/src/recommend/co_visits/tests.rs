use event_schemas::user::InteractionType;

use super::super::fixture::{Shop, interaction};
use super::*;

fn names(partners: &[(event_schemas::ids::ProductId, f64)]) -> Vec<&str> {
    partners.iter().map(|(id, _)| id.as_str()).collect()
}

#[test]
fn closer_and_later_products_are_stronger_partners() {
    let mut shop = Shop::default();
    shop.visit(1, &["before", "a", "next", "later"]);
    let partners = shop.partners("a");
    assert_eq!(names(&partners), ["next", "later", "before"]);
    let [next, later, before] = [0, 1, 2].map(|place| partners[place].1);
    assert!(
        (next - 1.0).abs() < 1e-9 && (before - Settings::default().backward).abs() < 1e-4,
        "{partners:?}"
    );
    let step = 0.5_f64.powf(1.0 / f64::from(Settings::default().half_life));
    assert!((later - step).abs() < 1e-3, "{partners:?}");
}

#[test]
fn products_beyond_the_window_are_no_partners() {
    let mut shop = Shop::default();
    let window = Settings::default().window;
    let others: Vec<String> = (0..=window).map(|n| format!("x{n}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    shop.visit(1, &["a"]);
    shop.visit(1, &others);
    let partners = shop.partners("a");
    assert_eq!(partners.len(), window);
    assert!(!names(&partners).contains(&others[window]));
}

#[test]
fn popular_product_is_a_weaker_partner() {
    let mut shop = Shop::default();
    shop.visit(1, &["a", "everywhere", "rare"]);
    for number in 2..10 {
        shop.visit(number, &["b", "everywhere"]);
    }
    assert_eq!(names(&shop.partners("a")), ["rare", "everywhere"]);
}

#[test]
fn products_of_different_users_are_no_partners() {
    let mut shop = Shop::default();
    shop.visit(1, &["a"]);
    shop.visit(2, &["b"]);
    assert_eq!(shop.partners("a"), []);
}

#[test]
fn repeated_visit_within_the_window_is_no_further_step() {
    let mut shop = Shop::default();
    shop.visit(1, &["a", "b"]);
    let once = shop.partners("a");
    for kind in [InteractionType::Click, InteractionType::AddToCart, InteractionType::Purchase] {
        shop.record(interaction(1, "a", kind));
    }
    assert_eq!(shop.partners("a"), once);
}

#[test]
fn only_the_last_steps_of_a_product_are_looked_at() {
    let mut shop = Shop::default();
    shop.visit(0, &["a", "early"]);
    let steps_max = Settings::default().steps_max as u128;
    for number in 1..=steps_max {
        shop.visit(number, &["a", "late"]);
    }
    assert_eq!(names(&shop.partners("a")), ["late"]);
}
