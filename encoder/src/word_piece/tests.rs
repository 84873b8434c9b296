use super::*;

#[derive(Deserialize)]
struct Fixture {
    vocabulary: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    lowercase: bool,
    strip_accents: Option<bool>,
    texts: Vec<(String, Vec<u32>)>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../tests/wordpiece.json")).unwrap()
}

fn tokenizer_json(fixture: &Fixture, lowercase: bool, strip_accents: Option<bool>) -> serde_json::Value {
    let vocab: HashMap<&String, usize> =
        fixture.vocabulary.iter().enumerate().map(|(id, token)| (token, id)).collect();
    serde_json::json!({
        "truncation": {"max_length": 128},
        "padding": {"strategy": {"Fixed": 128}},
        "normalizer": {"type": "BertNormalizer", "lowercase": lowercase, "strip_accents": strip_accents},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "continuing_subword_prefix": "##", "vocab": vocab},
    })
}

#[test]
fn tokens_are_those_of_hugging_face() {
    let fixture = fixture();
    for case in &fixture.cases {
        let json = tokenizer_json(&fixture, case.lowercase, case.strip_accents).to_string();
        let (tokenizer, max) = WordPiece::from_json(json.as_bytes()).unwrap();
        assert_eq!(max, Some(128));
        for (text, expected) in &case.texts {
            assert_eq!(&tokenizer.tokens(text, 1_000), expected, "{text:?}");
        }
    }
}

#[test]
fn list_of_tokens_is_the_same_vocabulary() {
    let fixture = fixture();
    let tokenizer = WordPiece::from_list(&fixture.vocabulary.join("\r\n")).unwrap();
    for (text, expected) in &fixture.cases[0].texts {
        assert_eq!(&tokenizer.tokens(text, 1_000), expected, "{text:?}");
    }
}

#[test]
fn long_text_is_cut_before_its_end_mark() {
    let fixture = fixture();
    let tokenizer = WordPiece::from_list(&fixture.vocabulary.join("\n")).unwrap();
    let all = tokenizer.tokens(&"red shoes! ".repeat(100), usize::MAX);
    assert_eq!(all.len(), 302);
    for max in [2, 3, 4, 5, 128] {
        let tokens = tokenizer.tokens(&"red shoes! ".repeat(100), max);
        assert_eq!(tokens.len(), max);
        assert_eq!(tokens[..max - 1], all[..max - 1]);
        assert_eq!(tokens[max - 1], tokenizer.end);
    }
}

#[test]
fn name_of_a_special_token_is_text() {
    let fixture = fixture();
    let tokenizer = WordPiece::from_list(&fixture.vocabulary.join("\n")).unwrap();
    let tokens = tokenizer.tokens("red [SEP] shoes", 100);
    assert_eq!(tokens.iter().filter(|token| **token == tokenizer.end).count(), 1);
}

#[test]
fn tokenizer_of_another_kind_is_refused() {
    let fixture = fixture();
    let changes = [
        ("/model/type", "BPE"),
        ("/model/continuing_subword_prefix", "_"),
        ("/normalizer/type", "NFC"),
        ("/pre_tokenizer/type", "ByteLevel"),
    ];
    for (pointer, value) in changes {
        let mut json = tokenizer_json(&fixture, true, None);
        *json.pointer_mut(pointer).unwrap() = value.into();
        let refused = WordPiece::from_json(json.to_string().as_bytes()).unwrap_err();
        assert!(refused.contains("another way"), "{pointer}: {refused}");
    }
    assert!(WordPiece::from_json(b"{}").is_err());
    assert!(WordPiece::from_list("[CLS]\n[SEP]").unwrap_err().contains("[UNK]"));
}
