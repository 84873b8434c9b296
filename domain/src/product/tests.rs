use event_schemas::json_text::JsonText;

use super::view::{ProductView, image_url};
use super::*;
use crate::scenario::{at, decided, id};

fn shoe() -> ProductDetails {
    let text = r#"{"name": "Trail shoe", "price": 89.95, "in_stock": true, "is_active": true}"#;
    serde_json::from_str(text).unwrap()
}

fn command(action: Action) -> Command {
    Command { product_id: id("1"), at: at(0.0), action }
}

fn upsert(details: ProductDetails) -> Command {
    command(Action::Upsert(Box::new(details)))
}

fn upserted(details: ProductDetails) -> ProductEvent {
    ProductUpserted { product_id: id("1"), details: Box::new(details) }.into()
}

fn deactivated() -> ProductEvent {
    ProductDeactivated { product_id: id("1") }.into()
}

#[test]
fn same_facts_again_record_nothing() {
    assert_eq!(decided::<ProductDecider>(&[], &upsert(shoe())), Ok(vec![upserted(shoe())]));
    assert_eq!(decided::<ProductDecider>(&[upserted(shoe())], &upsert(shoe())), Ok(vec![]));
    let cheaper = ProductDetails { price: Some(79.95), ..shoe() };
    let decided = decided::<ProductDecider>(&[upserted(shoe())], &upsert(cheaper.clone()));
    assert_eq!(decided, Ok(vec![upserted(cheaper)]));
}

#[test]
fn product_is_deactivated_once_and_can_return() {
    let off = command(Action::Deactivate);
    assert_eq!(decided::<ProductDecider>(&[], &off), Err(Refusal::Unknown));
    let active = [upserted(shoe())];
    assert_eq!(decided::<ProductDecider>(&active, &off), Ok(vec![deactivated()]));
    let inactive = [upserted(shoe()), deactivated()];
    assert_eq!(decided::<ProductDecider>(&inactive, &off), Ok(vec![]));
    assert_eq!(decided::<ProductDecider>(&inactive, &upsert(shoe())), Ok(vec![upserted(shoe())]));
    let never_active = [upserted(ProductDetails { is_active: false, ..shoe() })];
    assert_eq!(decided::<ProductDecider>(&never_active, &off), Ok(vec![]));
}

fn embedded(image: Option<&str>, values: [f32; 2]) -> ProductEvent {
    let image_id = image.map(id);
    ProductEmbedded { product_id: id("1"), model_id: id("clip"), image_id, vector: Vector::new(values) }
        .into()
}

fn embed(vectors: &[(Option<&str>, [f32; 2])]) -> Command {
    let place = |image: Option<&str>| Place { model_id: id("clip"), image_id: image.map(id) };
    command(Action::Embed(
        vectors.iter().map(|(image, values)| (place(*image), Vector::new(*values))).collect(),
    ))
}

#[test]
fn vectors_are_recorded_only_if_they_change() {
    let both = embed(&[(None, [1.0, 0.0]), (Some("front"), [0.0, 1.0])]);
    assert_eq!(decided::<ProductDecider>(&[], &both), Err(Refusal::Unknown));
    let shoe = upserted(shoe());
    let events = [embedded(None, [1.0, 0.0]), embedded(Some("front"), [0.0, 1.0])];
    assert_eq!(decided::<ProductDecider>(std::slice::from_ref(&shoe), &both), Ok(events.to_vec()));
    let known = [shoe.clone(), events[0].clone(), events[1].clone()];
    assert_eq!(decided::<ProductDecider>(&known, &both), Ok(vec![]));
    let twice = embed(&[(None, [0.5, 0.5]), (None, [1.0, 0.0])]);
    assert_eq!(decided::<ProductDecider>(&known, &twice), Ok(vec![]), "the last one of a place counts");
    let new = embed(&[(None, [0.5, 0.5])]);
    assert_eq!(decided::<ProductDecider>(&known, &new), Ok(vec![embedded(None, [0.5, 0.5])]));
    let back = [&known[..], &[embedded(None, [0.5, 0.5])]].concat();
    assert_eq!(decided::<ProductDecider>(&back, &twice), Ok(vec![embedded(None, [1.0, 0.0])]));
}

#[test]
fn vectors_outlive_other_facts_of_a_product() {
    let known = [upserted(shoe()), embedded(None, [1.0, 0.0]), deactivated(), upserted(shoe())];
    assert_eq!(decided::<ProductDecider>(&known, &embed(&[(None, [1.0, 0.0])])), Ok(vec![]));
}

#[test]
fn addresses_that_a_page_must_not_follow_are_refused() {
    for refused in
        ["javascript:alert(1)", "ftp://a/b", "//evil.example/x", "https://", "http://a b", "shop.example", ""]
    {
        let product = ProductDetails { product_url: Some(refused.to_owned()), ..shoe() };
        assert_eq!(check(&product), Err(Refusal::Address("product_url")), "{refused}");
        let product = ProductDetails { images: vec!["/a.jpg".to_owned(), refused.to_owned()], ..shoe() };
        assert_eq!(check(&product), Err(Refusal::Address("images")), "{refused}");
    }
    for accepted in ["https://shop.example/1.jpg", "HTTP://a", "http://ä.example/é", "/media/1.jpg"] {
        let product = ProductDetails { image_url: Some(accepted.to_owned()), ..shoe() };
        assert_eq!(check(&product), Ok(()), "{accepted}");
    }
}

#[test]
fn image_is_the_first_that_is_there() {
    let mut product = ProductDetails { images: vec!["/6".to_owned()], ..shoe() };
    assert_eq!(image_url(&product), Some("/6"));
    product.large_image = Some("/5".to_owned());
    assert_eq!(image_url(&product), Some("/5"));
    product.aw_image_url = Some("/4".to_owned());
    assert_eq!(image_url(&product), Some("/4"));
    product.merchant_image_url = Some("/3".to_owned());
    assert_eq!(image_url(&product), Some("/3"));
    product.image_url = Some("/2".to_owned());
    assert_eq!(image_url(&product), Some("/2"));
    assert_eq!(image_url(&shoe()), None);
}

#[test]
fn view_has_every_member_and_plain_decimals_as_numbers() {
    let attributes = JsonText::from(serde_json::json!({"material": "mesh"}));
    let view = ProductView::new(&id("1"), ProductDetails { attributes, ..shoe() });
    insta::assert_json_snapshot!(serde_json::to_value(view).unwrap());
}
