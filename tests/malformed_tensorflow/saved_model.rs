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
    let options = formats::Options::new().signature("train");
    let error = formats::open_with(&folder("signature", "", |_| {}), &options).unwrap_err();
    assert!(
        error.to_string().contains("'train'") && error.to_string().contains("serving_default"),
        "{error}"
    );
}

#[test]
fn saved_model_with_two_signatures_and_no_default_says_which_there_are() {
    let path = folder("signatures", "saved_model.pb", |bytes| {
        let key = b"\n\x0fserving_default";
        let at = bytes.windows(key.len()).position(|name| name == key).unwrap() + 2;
        bytes[at..at + 15].copy_from_slice(b"serving_anybody");
    });
    let error = formats::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    for name in ["serve", "serving_anybody"] {
        assert!(error.to_string().contains(name), "{error}");
        let options = formats::Options::new().signature(name);
        let read = formats::open_with(&path, &options);
        assert!(read.is_ok(), "{read:?}");
    }
}

/// One kind of thing that no part of a model is, put in the place of a part.
#[cfg(unix)]
fn refuses_part(name: &str, part: &str, make: impl Fn(&Path), words: &[&str]) {
    let path = folder(name, "", |_| {});
    let part = path.join(part);
    std::fs::remove_file(&part).unwrap();
    make(&part);
    let error = formats::open(&path).unwrap_err().to_string();
    std::fs::remove_file(&part).unwrap();
    let file = part.file_name().unwrap().to_str().unwrap();
    for word in words.iter().chain(&[file]) {
        assert!(error.contains(word), "'{word}' is not in: {error}");
    }
}

#[cfg(unix)]
#[test]
fn saved_model_whose_parts_are_pipes_devices_or_links_out_of_the_folder() {
    let outside = folder("outside", "", |_| {});
    for part in
        ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
    {
        let pipe = |path: &Path| {
            assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        };
        refuses_part("pipe", part, pipe, &["not a file"]);
        let device = |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap();
        refuses_part("device", part, device, &["link out of"]);
        let link = |path: &Path| std::os::unix::fs::symlink(outside.join(part), path).unwrap();
        refuses_part("link", part, link, &["link out of"]);
    }
}

#[cfg(unix)]
#[test]
fn saved_model_with_links_inside_of_the_folder_is_read() {
    let path = folder("inside", "", |_| {});
    let index = path.join("variables/variables.index");
    std::fs::rename(&index, path.join("index")).unwrap();
    std::os::unix::fs::symlink("../index", &index).unwrap();
    let read = formats::open(&path);
    std::fs::remove_file(&index).unwrap();
    assert!(read.is_ok(), "{read:?}");
}
