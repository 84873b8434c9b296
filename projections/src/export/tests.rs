//! The formats byte by byte, on a few vectors, and the files.

use std::io::{Read, Write};

use event_schemas::ids::JobId;
use event_schemas::time::Timestamp;
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use super::files::{ExportFiles, FileName};
use super::zip::{Archive, Content};
use super::*;

/// Vectors in memory.
struct Listed {
    model_id: ModelId,
    rows: Vec<(ExportedRow, Vec<f32>)>,
}

impl Rows for Listed {
    fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    fn dimension(&self) -> u32 {
        2
    }

    fn model_id(&self) -> &ModelId {
        &self.model_id
    }

    fn for_each(
        &self,
        mut of_each: impl FnMut(&ExportedRow) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        self.rows.iter().try_for_each(|(row, _)| of_each(row))
    }

    fn for_each_block(
        &self,
        mut of_block: impl FnMut(&[u8]) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let bytes = |vector: &Vec<f32>| vector.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.rows.iter().try_for_each(|(_, vector)| of_block(&Vec::<u8>::from_iter::<Vec<u8>>(bytes(vector))))
    }

    fn for_each_vector(
        &self,
        mut of_each: impl FnMut(&ExportedRow, &[f32]) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        self.rows.iter().try_for_each(|(row, vector)| of_each(row, vector))
    }
}

fn row(kind: ExportedKind, id: &str, product_id: Option<&str>) -> ExportedRow {
    ExportedRow { kind, id: id.to_owned(), product_id: product_id.map(str::to_owned) }
}

fn listed() -> Listed {
    let rows = vec![
        (row(ExportedKind::Product, "1", Some("1")), vec![1.0, 0.0]),
        (row(ExportedKind::Image, "vorne/ö", Some("1")), vec![0.6, 0.8]),
        (row(ExportedKind::Cutout, "4711", None), vec![0.0, -1.0]),
    ];
    Listed { model_id: "clip".parse().unwrap(), rows }
}

fn written(rows: &Listed, format: ExportFormat) -> Vec<u8> {
    let (mut bytes, progress) = (Vec::new(), ExportProgress::default());
    write(rows, format, &progress, &mut bytes).unwrap();
    assert_eq!(progress.written(), rows.len(), "{format}");
    bytes
}

/// The number of two, four or eight bytes at an offset.
fn number(bytes: &[u8], offset: usize, length: usize) -> u64 {
    bytes[offset..offset + length].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The number of a field, or that of the ZIP64 field where it does not fit.
fn large(value: u64, extra: &mut &[u8]) -> u64 {
    if value != u64::from(u32::MAX) {
        return value;
    }
    let found = number(extra, 0, 8);
    *extra = &extra[8..];
    found
}

/// The entries of an archive, found by its directory, whose fields are compared with those before each entry.
fn entries(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let end = archive.len() - 22;
    assert_eq!(&archive[end..end + 4], b"PK\x05\x06");
    let (mut count, mut at) = (number(archive, end + 10, 2), number(archive, end + 16, 4));
    if count == u64::from(u16::MAX) {
        assert_eq!(&archive[end - 20..end - 16], b"PK\x06\x07");
        let record = number(archive, end - 12, 8) as usize;
        assert_eq!(&archive[record..record + 4], b"PK\x06\x06");
        (count, at) = (number(archive, record + 32, 8), number(archive, record + 48, 8));
    }
    let (mut at, mut found) = (at as usize, Vec::new());
    for _ in 0..count {
        assert_eq!(&archive[at..at + 4], b"PK\x01\x02");
        let (crc, length) = (number(archive, at + 16, 4), number(archive, at + 28, 2) as usize);
        let extra_length = number(archive, at + 30, 2) as usize;
        let name = String::from_utf8(archive[at + 46..at + 46 + length].to_vec()).unwrap();
        let mut extra = &archive[at + 46 + length..at + 46 + length + extra_length];
        extra = extra.get(4..).unwrap_or_default();
        let bytes = large(number(archive, at + 24, 4), &mut extra);
        let packed = large(number(archive, at + 20, 4), &mut extra);
        assert_eq!(bytes, packed, "nothing is compressed");
        let entry = large(number(archive, at + 42, 4), &mut extra) as usize;
        assert_eq!(&archive[entry..entry + 4], b"PK\x03\x04");
        assert_eq!(number(archive, entry + 14, 4), crc);
        let start = entry + 30 + length + number(archive, entry + 28, 2) as usize;
        let content = archive[start..start + bytes as usize].to_vec();
        assert_eq!(u64::from(crc32fast::hash(&content)), crc, "{name}");
        found.push((name, content));
        at += 46 + length + extra_length;
    }
    found
}

fn entry(archive: &[u8], name: &str) -> Vec<u8> {
    let found = entries(archive).into_iter().find(|(entry, _)| entry == name);
    found.unwrap_or_else(|| panic!("the archive has no {name}")).1
}

#[test]
fn lines_have_ids_and_exact_numbers() {
    let lines = String::from_utf8(written(&listed(), ExportFormat::Json)).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let image = json!({
        "id": "vorne/ö", "kind": "image", "model_id": "clip", "product_id": "1", "vector": [0.6, 0.8],
    });
    assert_eq!(lines[1], image);
    assert_eq!((&lines[2]["product_id"], &lines[2]["vector"]), (&Value::Null, &json!([0.0, -1.0])));
}

#[test]
fn arrays_of_numpy_have_aligned_headers_and_padded_texts() {
    let archive = written(&listed(), ExportFormat::Numpy);
    let names: Vec<String> = entries(&archive).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["embeddings.npy", "ids.npy", "product_ids.npy", "kinds.npy"]);
    let embeddings = entry(&archive, "embeddings.npy");
    assert_eq!(&embeddings[..8], b"\x93NUMPY\x01\x00");
    let start = 10 + number(&embeddings, 8, 2) as usize;
    assert_eq!((start % 64, embeddings[start - 1]), (0, b'\n'));
    let header = String::from_utf8_lossy(&embeddings[10..start]).into_owned();
    assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }"), "{header}");
    assert_eq!(&embeddings[start..start + 4], 1.0_f32.to_le_bytes());
    assert_eq!(embeddings.len() - start, 3 * 2 * 4);
    let ids = entry(&archive, "ids.npy");
    let start = 10 + number(&ids, 8, 2) as usize;
    assert!(String::from_utf8_lossy(&ids[10..start]).contains("'descr': '<U7'"));
    let second: String =
        (0..7).map(|at| char::from_u32(number(&ids, start + (7 + at) * 4, 4) as u32).unwrap()).collect();
    assert_eq!(second, "vorne/ö");
    assert_eq!(number(&ids, start + 4, 4), 0, "the id 1 is padded");
}

#[test]
fn index_of_faiss_has_the_bytes_that_faiss_writes() {
    let archive = written(&listed(), ExportFormat::Faiss);
    let index = entry(&archive, "index.faiss");
    // As faiss-cpu 1.15.1 writes `IndexIDMap(IndexFlatIP(2))` of three vectors.
    let header = |kind: &[u8]| {
        let mut header = kind.to_vec();
        header.extend(b"\x02\0\0\0\x03\0\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x10\0\0\0\0\0\x01\0\0\0\0");
        header
    };
    assert_eq!(index[..37], header(b"IxMp"));
    assert_eq!(index[37..74], header(b"IxFI"));
    assert_eq!(number(&index, 74, 8), 6, "numbers, not bytes");
    assert_eq!(index[82 + 20..82 + 24], (-1.0_f32).to_le_bytes());
    let ids = 82 + 24;
    let all: Vec<u64> = (0..4).map(|at| number(&index, ids + at * 8, 8)).collect();
    assert_eq!((all, index.len()), (vec![3, 0, 1, 2], ids + 32));
    let lines = String::from_utf8(entry(&archive, "ids.ndjson")).unwrap();
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last, json!({"number": 2, "id": "4711", "kind": "cutout", "product_id": null}));
}

#[test]
fn points_of_qdrant_have_ids_that_stay_the_same() {
    let first = written(&listed(), ExportFormat::Qdrant);
    let collection: Value = serde_json::from_slice(&entry(&first, "collection.json")).unwrap();
    assert_eq!(collection, json!({"vectors": {"size": 2, "distance": "Cosine"}}));
    let points =
        |archive: &[u8]| -> Value { serde_json::from_slice(&entry(archive, "points-00001.json")).unwrap() };
    let first = points(&first);
    let payload = json!({"id": "vorne/ö", "kind": "image", "model_id": "clip", "product_id": "1"});
    assert_eq!(first["points"][1]["payload"], payload);
    let mut matched = listed();
    matched.rows[2].0.product_id = Some("1".to_owned());
    let second = points(&written(&matched, ExportFormat::Qdrant));
    let ids = |points: &Value| -> Vec<Value> {
        points["points"].as_array().unwrap().iter().map(|point| point["id"].clone()).collect()
    };
    assert_eq!(ids(&first), ids(&second), "a cutout is the same point whatever it shows");
    assert_eq!(ids(&first)[0], "0c14dd03-0c65-510e-8318-f4281d64827c");
}

#[test]
fn points_of_qdrant_are_split_into_bodies() {
    let mut rows = listed();
    rows.rows = (0..2_001)
        .map(|number| (row(ExportedKind::Cutout, &number.to_string(), None), vec![1.0, 0.0]))
        .collect();
    let archive = written(&rows, ExportFormat::Qdrant);
    let counts: Vec<usize> = entries(&archive)[1..]
        .iter()
        .map(|(_, body)| serde_json::from_slice::<Value>(body).unwrap()["points"].as_array().unwrap().len())
        .collect();
    assert_eq!(counts, [1_000, 1_000, 1]);
}

#[test]
fn no_vectors_are_an_empty_export_in_each_format() {
    let rows = Listed { rows: Vec::new(), ..listed() };
    assert_eq!(written(&rows, ExportFormat::Json), b"");
    let numpy = written(&rows, ExportFormat::Numpy);
    assert!(String::from_utf8_lossy(&entry(&numpy, "ids.npy")).contains("'<U1'"));
    assert_eq!(entry(&written(&rows, ExportFormat::Faiss), "index.faiss").len(), 90);
    assert_eq!(entries(&written(&rows, ExportFormat::Qdrant)).len(), 1);
}

#[test]
fn large_numbers_of_an_archive_are_in_zip64_fields() {
    for zip64_from in [0, 10, 60, u64::MAX] {
        let mut archive = Vec::new();
        let mut zip = Archive::with_zip64_from(&mut archive, zip64_from);
        zip.add("small", b"123".as_slice()).unwrap();
        zip.add("large", b"0123456789ab".as_slice()).unwrap();
        zip.finish().unwrap();
        let found = entries(&archive);
        assert_eq!(found[0], ("small".to_owned(), b"123".to_vec()), "{zip64_from}");
        assert_eq!(found[1], ("large".to_owned(), b"0123456789ab".to_vec()), "{zip64_from}");
    }
}

#[test]
fn content_that_changes_while_it_is_written_is_refused() {
    struct Changing(std::cell::Cell<u8>);
    impl Content for Changing {
        fn write_to(&self, to: &mut impl Write) -> Result<(), ExportError> {
            self.0.set(self.0.get() + 1);
            Ok(to.write_all(&[self.0.get()])?)
        }
    }
    let error = Archive::new(Vec::new()).add("it", &Changing(0.into())).unwrap_err();
    assert!(error.to_string().contains("the content of it changed"), "{error}");
}

fn name(seconds: i64, format: ExportFormat) -> FileName {
    let (job_id, file_id) = (JobId(uuid::Uuid::from_u128(7)), uuid::Uuid::from_u128(9));
    let expires_at = Timestamp::from_micros(seconds * 1_000_000);
    FileName { owner: files::owner(&"acme".parse().unwrap()), expires_at, job_id, file_id, format }
}

#[test]
fn names_of_files_are_read_back_and_others_are_not() {
    for format in [ExportFormat::Json, ExportFormat::Numpy, ExportFormat::Faiss, ExportFormat::Qdrant] {
        let name = name(1_800_000_000, format);
        assert_eq!(name.to_string().parse(), Ok(name));
    }
    let good = name(5, ExportFormat::Numpy).to_string();
    for bad in [
        format!("../{good}"),
        good.replace("-5.", "-05."),
        format!("{good}#1"),
        good.replace("npz", "exe"),
        good.replacen('-', "/", 1),
        String::new(),
        "é-".repeat(40),
    ] {
        assert!(bad.parse::<FileName>().is_err(), "{bad}");
    }
}

async fn content(
    files: &ExportFiles,
    name: FileName,
    range: Option<std::ops::Range<u64>>,
) -> Option<Vec<u8>> {
    let part = files.read(name, range).await.unwrap()?;
    let chunks: Vec<bytes::Bytes> = part.bytes.try_collect().await.unwrap();
    Some(chunks.concat())
}

#[tokio::test]
async fn file_of_several_parts_is_visible_only_when_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let files = ExportFiles::in_folder(folder.path()).unwrap();
    let file = name(1_000, ExportFormat::Json);
    let large: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 251) as u8).collect();
    let (expected, path) = (large.clone(), folder.path().join(file.to_string()));
    let unseen = path.clone();
    let produce = move |to: &mut files::PartWriter| {
        to.write_all(&large)?;
        Ok(unseen.exists())
    };
    assert_eq!(files.write(file, produce).await.unwrap(), (false, 20_000_000));
    assert_eq!(content(&files, file, None).await.unwrap(), expected);
    let range = 8_388_600..8_388_700;
    assert_eq!(content(&files, file, Some(range)).await.unwrap(), expected[8_388_600..8_388_700]);
    assert_eq!(content(&files, name(1_001, ExportFormat::Json), None).await, None);
    let mut text = Vec::new();
    std::fs::File::open(path).unwrap().read_to_end(&mut text).unwrap();
    assert_eq!(text, expected);
}

#[tokio::test]
async fn export_that_fails_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let files = ExportFiles::in_folder(folder.path()).unwrap();
    let produce = |to: &mut files::PartWriter| {
        to.write_all(&vec![0; 10_000_000])?;
        Err::<(), _>(ExportError::Cancelled)
    };
    let failed = files.write(name(1, ExportFormat::Json), produce).await.unwrap_err();
    assert!(matches!(failed, ExportError::Cancelled), "{failed}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn expired_files_and_incomplete_ones_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let names = [10, 20, 30].map(|seconds| name(seconds, ExportFormat::Faiss));
    for file in names {
        std::fs::write(folder.path().join(file.to_string()), "x").unwrap();
        std::fs::write(folder.path().join(format!("{file}#1")), "x").unwrap();
    }
    std::fs::write(folder.path().join("notes.txt"), "of another program").unwrap();
    ExportFiles::delete_incomplete(folder.path()).unwrap();
    let files = ExportFiles::in_folder(folder.path()).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4, "the incomplete ones are gone");
    let next = files.delete_expired(Timestamp::from_micros(20_000_000)).await.unwrap();
    assert_eq!(next, Some(Timestamp::from_micros(30_000_000)));
    assert_eq!(content(&files, names[1], None).await, None);
    assert_eq!(content(&files, names[2], None).await.unwrap(), b"x");
    assert!(folder.path().join("notes.txt").exists());
    assert_eq!(files.delete_expired(Timestamp::from_micros(99_000_000)).await.unwrap(), None);
}

#[tokio::test]
async fn only_the_newest_files_of_a_tenant_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let files = ExportFiles::in_folder(folder.path()).unwrap();
    let own = |at: u64| FileName { file_id: uuid::Uuid::from_u64_pair(0, at), ..name(9, ExportFormat::Json) };
    let other = FileName { owner: uuid::Uuid::nil(), ..own(0) };
    for (age, name) in (0..102).map(|at| (at, own(at))).chain([(500, other)]) {
        let file = std::fs::File::create(folder.path().join(name.to_string())).unwrap();
        let written = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 - age);
        file.set_modified(written).unwrap();
    }
    files.keep_newest(own(0).owner).await.unwrap();
    for (name, is_kept) in
        [(own(0), true), (own(99), true), (own(100), false), (own(101), false), (other, true)]
    {
        assert_eq!(content(&files, name, None).await.is_some(), is_kept, "{name}");
    }
}
