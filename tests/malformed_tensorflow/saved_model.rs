//! SavedModel folders with broken files.

use super::*;

/// A copy of a SavedModel of the tests, with one file changed.
fn folder(name: &str, file: &str, change: impl Fn(&mut Vec<u8>)) -> std::path::PathBuf {
    let from = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tensorflow/stateful"));
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(to.join("variables")).unwrap();
    for part in
        ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
    {
        let mut bytes = std::fs::read(from.join(part)).unwrap();
        if part == file {
            change(&mut bytes);
        }
        std::fs::write(to.join(part), bytes).unwrap();
    }
    to
}

#[test]
fn saved_model_with_a_short_data_file() {
    let path =
        folder("short", "variables/variables.data-00000-of-00001", |bytes| bytes.truncate(8));
    let error = formats::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    assert!(error.to_string().contains("outside"), "{error}");
}

#[test]
fn saved_model_with_every_flipped_byte_of_its_index() {
    let length = std::fs::metadata(folder("flip", "", |_| {}).join("variables/variables.index"))
        .unwrap()
        .len() as usize;
    let path = folder("flip", "", |_| {});
    let index = path.join("variables/variables.index");
    let good = std::fs::read(&index).unwrap();
    for at in 0..length {
        let mut bytes = good.clone();
        bytes[at] ^= 0x15;
        std::fs::write(&index, bytes).unwrap();
        let _ = formats::open(&path);
    }
}

#[test]
fn saved_model_with_a_cut_index() {
    for keep in [0, 1, 47, 48, 100] {
        let path = folder("cut", "variables/variables.index", |bytes| bytes.truncate(keep));
        assert!(formats::open(&path).is_err());
    }
}

#[test]
fn saved_model_without_variables_names_the_one_that_is_missing() {
    let path = folder("gone", "", |_| {});
    std::fs::remove_file(path.join("variables/variables.index")).unwrap();
    let error = formats::open(&path).unwrap_err();
    assert!(error.to_string().contains("variable"), "{error}");
}

#[test]
fn saved_model_without_the_asked_signature() {
    let options =
        formats::Options { signature: Some("train".into()), ..formats::Options::default() };
    let error = formats::open_with(&folder("signature", "", |_| {}), &options).unwrap_err();
    assert!(
        error.to_string().contains("'train'") && error.to_string().contains("serving_default"),
        "{error}"
    );
}
