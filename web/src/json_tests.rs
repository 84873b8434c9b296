use std::collections::BTreeMap;

use poem_openapi::Object;

use super::*;

#[derive(Debug, Object, PartialEq)]
struct Image {
    img_id: String,
    #[oai(validator(minimum(value = "0")))]
    width: u32,
}

#[derive(Debug, Object, PartialEq)]
struct Product {
    #[oai(validator(max_length = 5))]
    product_id: String,
    images: Vec<Image>,
    note: Option<String>,
    data: Option<BTreeMap<String, Value>>,
    /// A description makes the schema of a member a list of two.
    cover: Option<Image>,
}

fn errors(text: &str) -> Vec<(String, String)> {
    let problem = parse::<Product>(text.as_bytes()).unwrap_err();
    assert_eq!(problem.code, Code::InvalidRequest);
    problem.errors.into_iter().map(|error| (error.field, error.reason)).collect()
}

fn error(text: &str) -> (String, String) {
    let mut errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

#[test]
fn valid_body_is_parsed() {
    let product: Product = parse(br#"{"product_id": "a", "images": [{"img_id": "x", "width": 1}]}"#).unwrap();
    assert_eq!(product.images, [Image { img_id: "x".into(), width: 1 }]);
}

#[test]
fn object_with_a_description_is_read_with_its_members() {
    let product: Product =
        parse(br#"{"product_id": "a", "images": [], "cover": {"img_id": "x", "width": 1, "more": 2}}"#)
            .unwrap();
    assert_eq!(product.cover, Some(Image { img_id: "x".into(), width: 1 }));
    let wrong = r#"{"product_id": "a", "images": [], "cover": {"img_id": "x", "width": -1}}"#;
    assert_eq!(error(wrong).0, "cover.width");
    assert_eq!(parse::<Product>(br#"{"product_id": "a", "images": [], "cover": null}"#).unwrap().cover, None);
}

#[test]
fn malformed_json_is_reported_by_line_and_column() {
    let (field, reason) = error("{\n  \"product_id\": \"a\",,\n}");
    assert_eq!((field.as_str(), reason.as_str()), ("body", "line 2, column 21: key must be a string"));
}

#[test]
fn number_beyond_all_floats_is_said_to_be_one() {
    let problem = parse::<Product>(br#"{"product_id": 1e400}"#).unwrap_err();
    let detail = "the body has a number beyond 1.7e308: line 1, column 20: number out of range";
    assert_eq!(problem.detail, detail);
}

#[test]
fn empty_body_is_reported() {
    assert_eq!(error("").1, "is missing");
}

#[test]
fn missing_field_is_named() {
    assert_eq!(error(r#"{"images": []}"#), ("product_id".into(), "is missing".into()));
}

#[test]
fn mistyped_nested_field_is_named_by_its_path() {
    let text = r#"{"product_id": "a", "images": [{"img_id": "x", "width": 1}, {"img_id": 7, "width": 1}]}"#;
    assert_eq!(error(text), ("images[1].img_id".into(), "must be a string, not a number".into()));
}

#[test]
fn optional_member_may_be_null() {
    let text = br#"{"product_id": "a", "images": [], "note": null}"#;
    assert_eq!(parse::<Product>(text).unwrap().note, None);
    assert_eq!(error(r#"{"product_id": null, "images": []}"#).1, "must be a string, not null");
}

#[test]
fn all_errors_are_reported_at_once() {
    let errors = errors(r#"{"product_id": "abcdef", "images": [{"img_id": "x", "width": -1}]}"#);
    assert_eq!(
        errors,
        [
            ("product_id".to_owned(), "must have at most 5 characters".to_owned()),
            ("images[0].width".to_owned(), "must be at least 0".to_owned())
        ]
    );
}

#[test]
fn member_that_is_given_twice_is_refused() {
    for (text, field) in [
        (r#"{"product_id": "a", "images": [], "product_id": "b"}"#, "product_id"),
        (r#"{"product_id": "a", "images": [], "x": 1, "\u0078": 1}"#, "x"),
        (r#"{"product_id": "a", "images": [], "x": [{"y": 1, "y": 1}]}"#, "x[0].y"),
        (r#"{"product_id": "a", "images": [], "data": {"y": {"z": 1, "z": 1}}}"#, "data.y.z"),
    ] {
        assert_eq!(error(text), (field.to_owned(), "is given twice".to_owned()), "{text}");
    }
    assert_eq!(parse_strictly::<Value>(br#"{"a": 1, "a": 2}"#), Err("`a` is given twice".to_owned()));
}

#[test]
fn number_that_is_not_an_integer_gets_a_true_reason() {
    let reason = |width: &str| {
        let text = format!(r#"{{"product_id": "a", "images": [{{"img_id": "x", "width": {width}}}]}}"#);
        error(&text).1
    };
    let digits_only = "must be written in digits only, as 100, without a fraction or an exponent";
    assert_eq!(reason("100.0"), digits_only);
    assert_eq!(reason("1e2"), digits_only);
    assert_eq!(reason("-0"), "must be written as 0, without a sign");
    assert_eq!(reason("1.5"), "must be an integer, not a number with a fraction");
    assert_eq!(reason("18446744073709551616"), "must be at most 4294967295");
    assert_eq!(reason("5000000000"), "must be at most 4294967295");
}

#[test]
fn byte_order_mark_is_said_to_be_one() {
    assert!(error("\u{feff}{}").1.contains("a byte order mark"));
    let utf16 = parse::<Product>(b"\xff\xfe{\0}\0").unwrap_err();
    assert!(utf16.detail.contains("UTF-16"));
}

#[test]
fn text_that_is_nested_too_deeply_is_refused() {
    for text in ["[".repeat(100_000), format!("{{\"data\": {}", "{\"a\":".repeat(100_000))] {
        error(&text);
    }
}

#[test]
fn large_free_form_data_is_unprocessable() {
    let of_size = |size: usize| {
        format!(r#"{{"product_id": "a", "images": [], "data": {{"a": "{}"}}}}"#, "x".repeat(size - 8))
    };
    assert!(parse::<Product>(of_size(16_384).as_bytes()).is_ok());
    let problem = parse::<Product>(of_size(16_385).as_bytes()).unwrap_err();
    assert_eq!((problem.code, problem.errors[0].field.as_str()), (Code::Unprocessable, "data"));
}

#[test]
fn unknown_members_are_ignored_and_bounded() {
    let with = |count: usize| {
        let members: String = (0..count).map(|index| format!(r#", "k{index}": [{{}}]"#)).collect();
        parse::<Product>(format!(r#"{{"product_id": "a", "images": []{members}}}"#).as_bytes())
    };
    assert!(with(4096).is_ok());
    assert_eq!(with(4097).unwrap_err().errors[0].reason, "has more than 4096 unknown members");
}

#[test]
fn json_media_types_are_accepted_and_others_refused() {
    for accepted in ["application/json", "application/json; charset=utf-8", "application/vnd.api+JSON"] {
        assert!(<Json<Product> as Payload>::check_content_type(accepted), "{accepted}");
    }
    for refused in ["text/plain", "application/jsonp", "application/x-www-form-urlencoded"] {
        assert!(!<Json<Product> as Payload>::check_content_type(refused), "{refused}");
    }
}
