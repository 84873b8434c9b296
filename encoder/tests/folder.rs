//! Folders with small models, and what is wrong with them.

use std::fs;
use std::path::{Path, PathBuf};

use encoder::{EncodeError, Encoder, LoadError};

const VOCABULARY: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\nshoe\n##s\n!";

#[cfg(test)]
fn folder(root: &Path, name: &str, model: &str) -> PathBuf {
    let folder = root.join(name);
    fs::create_dir(&folder).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(model);
    fs::copy(model, folder.join("model.onnx")).unwrap();
    fs::write(folder.join("vocab.txt"), VOCABULARY).unwrap();
    folder
}

#[cfg(test)]
fn refused(folder: &Path) -> String {
    Encoder::load(folder).unwrap_err().to_string()
}

#[test]
fn vector_is_the_mean_of_the_tokens_with_length_1() {
    let root = tempfile::tempdir().unwrap();
    let encoder = Encoder::load(&folder(root.path(), "tiny-1.0", "tiny.onnx")).unwrap();
    assert_eq!((encoder.name(), encoder.dimension(), encoder.tokens_max()), ("tiny-1.0", 3, 256));
    // [CLS] red shoe ##s [SEP] have the ids 2, 4, 5, 6 and 3.
    assert_eq!(encoder.tokens("Red shoes"), [2, 4, 5, 6, 3]);
    let vector = encoder.encode("Red shoes").unwrap().unwrap();
    let expected = [1.0, 4.0, -1.0].map(|value: f32| value / 18.0_f32.sqrt());
    assert!(vector.iter().zip(expected).all(|(one, other)| (one - other).abs() < 1e-6), "{vector:?}");
    assert_eq!(encoder.encode("  \t").unwrap(), None);
    assert_eq!(encoder.encode("").unwrap(), None);
    // Long texts end at the limit.
    assert_eq!(encoder.tokens(&"red ".repeat(9_000)).len(), 256);
    assert!(encoder.encode(&"red ".repeat(9_000)).unwrap().is_some());
}

#[test]
fn vector_of_the_first_token_is_used_if_the_folder_says_so() {
    let root = tempfile::tempdir().unwrap();
    let folder = folder(root.path(), "first", "tiny.onnx");
    fs::create_dir(folder.join("1_Pooling")).unwrap();
    let write = |text| fs::write(folder.join("1_Pooling/config.json"), text).unwrap();
    let mean = Encoder::load(&folder).unwrap();
    write(r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#);
    let first = Encoder::load(&folder).unwrap();
    let vector = first.encode("shoe").unwrap().unwrap();
    assert!((vector[1] / vector[0] - 2.0).abs() < 1e-6, "{vector:?}");
    assert_ne!(mean.fingerprint(), first.fingerprint(), "their vectors are not comparable");
    write(r#"{"pooling_mode_max_tokens": true}"#);
    assert!(refused(&folder).contains("pooling"));
    write("{");
    assert!(matches!(Encoder::load(&folder), Err(LoadError::Settings { .. })));
}

#[test]
fn limit_of_the_folder_cuts_texts() {
    let root = tempfile::tempdir().unwrap();
    let folder = folder(root.path(), "short", "tiny.onnx");
    fs::write(folder.join("sentence_bert_config.json"), r#"{"max_seq_length": 4, "do_lower_case": false}"#)
        .unwrap();
    let encoder = Encoder::load(&folder).unwrap();
    assert_eq!(encoder.tokens("red red shoe shoe"), [2, 4, 4, 3]);
}

#[test]
fn error_names_what_is_missing_or_wrong() {
    let root = tempfile::tempdir().unwrap();
    assert!(refused(&root.path().join("none")).contains("is not a folder"));
    let one = folder(root.path(), "one", "tiny.onnx");
    fs::remove_file(one.join("vocab.txt")).unwrap();
    assert!(refused(&one).contains("has no tokenizer.json"));
    fs::write(one.join("tokenizer.json"), "{}").unwrap();
    assert!(refused(&one).contains("tokenizer.json: missing field"));
    fs::remove_file(one.join("model.onnx")).unwrap();
    assert!(refused(&one).contains("has no model.onnx"));
    assert!(refused(&folder(root.path(), "lexical", "tiny.onnx")).contains("`lexical`"));
    assert!(refused(&folder(root.path(), "with space", "tiny.onnx")).contains("rename it"));
    let image = refused(&folder(root.path(), "image", "image.onnx"));
    assert!(image.contains("unknown input `pixel_values`"), "{image}");
    let pooled = refused(&folder(root.path(), "pooled", "pooled.onnx"));
    assert!(pooled.contains("the model failed"), "{pooled}");
}

#[test]
fn damaged_model_and_foreign_tokenizer_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let damaged = folder(root.path(), "damaged", "tiny.onnx");
    let model = fs::read(damaged.join("model.onnx")).unwrap();
    for length in [0, 1, model.len() / 2, model.len() - 1] {
        fs::write(damaged.join("model.onnx"), &model[..length]).unwrap();
        assert!(matches!(Encoder::load(&damaged), Err(LoadError::Model { .. })), "{length}");
    }
    // The model has 12 tokens.
    let foreign = folder(root.path(), "foreign", "tiny.onnx");
    let more: Vec<String> = (0..20).map(|n| format!("word{n}")).collect();
    fs::write(foreign.join("vocab.txt"), format!("{VOCABULARY}\n{}", more.join("\n"))).unwrap();
    assert!(refused(&foreign).contains("the model failed"));
}

#[test]
fn any_changed_weight_changes_the_fingerprint() {
    let root = tempfile::tempdir().unwrap();
    let folder = folder(root.path(), "changed", "tiny.onnx");
    let first = Encoder::load(&folder).unwrap();
    let again = Encoder::load(&folder).unwrap();
    assert_eq!(first.fingerprint(), again.fingerprint());
    let mut model = fs::read(folder.join("model.onnx")).unwrap();
    let weight = model.windows(4).position(|bytes| bytes == 11.0_f32.to_le_bytes()).unwrap();
    model[weight..weight + 4].copy_from_slice(&12.0_f32.to_le_bytes());
    fs::write(folder.join("model.onnx"), model).unwrap();
    assert_ne!(first.fingerprint(), Encoder::load(&folder).unwrap().fingerprint());
}

#[test]
fn texts_are_encoded_on_many_threads_with_one_result() {
    let root = tempfile::tempdir().unwrap();
    let encoder = Encoder::load(&folder(root.path(), "threads", "tiny.onnx")).unwrap();
    let alone = encoder.encode("red shoes").unwrap();
    std::thread::scope(|scope| {
        let run = || (0..20).map(|_| encoder.encode("red shoes")).collect::<Result<Vec<_>, EncodeError>>();
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(run)).collect();
        for thread in threads {
            assert!(thread.join().unwrap().unwrap().iter().all(|vector| *vector == alone));
        }
    });
}
