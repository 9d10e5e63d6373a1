use super::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use waypost_bridge::store::{Engine, export};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is in a store that has begun, and `count` records beside it.
fn records(count: u32) -> Records {
    let folder = tempfile::tempdir().unwrap();
    Engine::Fjall.open(folder.path()).unwrap().load(77).unwrap();
    let mut records = Records::new();
    export(Engine::Fjall, folder.path(), &mut |key, value| {
        records.insert(key.to_vec(), value.to_vec());
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    records.extend((0..count).map(|number| record(number, "first")));
    records
}

fn record(number: u32, text: &str) -> (Vec<u8>, Vec<u8>) {
    let key = [b"e".as_slice(), &number.to_be_bytes()].concat();
    (key, format!("{text} {number} {}", "x".repeat(90)).into_bytes())
}

fn back_up(archive: &Archive, records: &Records) -> (Manifest, Written) {
    let mut draft = archive.begin().unwrap();
    for (key, value) in records {
        draft.record(key, value).unwrap();
    }
    let token = SideFile {
        path: "admin.token".to_owned(),
        content: b"secret".to_vec(),
    };
    draft.finish(Some("fjall"), &[token]).unwrap()
}

fn read(archive: &Archive, manifest: &Manifest) -> Records {
    archive.records(manifest).map(Result::unwrap).collect()
}

/// Every file of an archive but its lock.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in list(folder).unwrap() {
        let path = folder.join(&name);
        if path.is_dir() {
            found.extend(files(&path));
        } else if name != "lock" {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_backup_holds_every_record_and_is_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::at(&folder.path().join("new"));
    let all = records(9_000);
    let (manifest, written) = back_up(&archive, &all);
    assert!(written.blocks > 2, "{written:?}");
    assert_eq!(archive.find(None).unwrap(), manifest);
    archive.check(&manifest).unwrap();
    assert!(read(&archive, &manifest) == all);
    let side = archive.side_files(&manifest).unwrap();
    assert_eq!(
        (side[0].path.as_str(), side[0].content.as_slice()),
        ("admin.token", b"secret".as_slice())
    );
    assert_eq!(manifest.incarnation, "000000000000004d");
    for file in files(&archive.path) {
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
    assert_eq!(
        fs::metadata(&archive.path).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn any_byte_that_changes_is_noticed_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::at(folder.path());
    back_up(&archive, &records(20));
    let check = || archive.check(&archive.find(None)?);
    check().unwrap();
    let files = files(folder.path());
    assert_eq!(files.len(), 3);
    for file in files {
        let whole = fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let expect_damage = |content: &[u8], what: &str| {
            fs::write(&file, content).unwrap();
            let error = format!("{:#}", check().unwrap_err());
            assert!(error.contains(&name), "{what}: {error}");
        };
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1 << (place % 8);
            expect_damage(&changed, "a bit");
        }
        expect_damage(&whole[..whole.len() - 1], "cut short");
        expect_damage(&[whole.as_slice(), b"\n"].concat(), "grown");
        fs::remove_file(&file).unwrap();
        assert!(check().is_err(), "{name} is gone");
        fs::write(&file, &whole).unwrap();
        check().unwrap();
    }
}

#[test]
fn a_further_backup_writes_what_changed_and_little_else() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::at(folder.path());
    let mut all = records(60_000);
    let (first, everything) = back_up(&archive, &all);
    let (_, nothing) = back_up(&archive, &all);
    assert_eq!((nothing.blocks, nothing.bytes_there), (0, everything.bytes));
    // One goes at the front, one comes in the middle, one changes, and the log grows at its end.
    all.remove(&record(3, "first").0);
    all.extend([
        record(30_000, "changed"),
        (b"e\0\0\x40\0\x01".to_vec(), b"new".to_vec()),
    ]);
    all.extend((60_000..60_020).map(|number| record(number, "first")));
    let (second, changed) = back_up(&archive, &all);
    assert!(changed.blocks <= 5, "{changed:?}");
    assert!(
        changed.bytes * 4 < everything.bytes,
        "{changed:?} of {everything:?}"
    );
    assert!(read(&archive, &second) == all);
    assert!(
        read(&archive, &first) == records(60_000),
        "the one before is as it was"
    );
}

#[test]
fn a_damaged_block_is_written_again_by_the_next_backup() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::at(folder.path());
    let (manifest, _) = back_up(&archive, &records(20));
    fs::write(archive.block(&manifest.blocks[0].sha256), "damaged").unwrap();
    assert!(archive.check(&manifest).is_err());
    let (_, written) = back_up(&archive, &records(20));
    assert_eq!(written.blocks, 1);
    archive.check(&manifest).unwrap();
}

#[test]
fn what_an_interrupted_backup_leaves_is_no_backup() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::at(folder.path());
    let all = records(9_000);
    let mut draft = archive.begin().unwrap();
    for (key, value) in &all {
        draft.record(key, value).unwrap();
    }
    let second = archive.begin().err().unwrap().to_string();
    assert!(second.contains("another backup is being written"), "{second}");
    drop(draft);
    let none = archive.find(None).unwrap_err().to_string();
    assert!(none.contains("there is no backup"), "{none}");
    let (manifest, written) = back_up(&archive, &all);
    assert!(written.blocks_there > 2, "its blocks are used");
    assert!(read(&archive, &manifest) == all);
}

#[test]
fn the_newest_backup_of_a_time_or_before_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::at(folder.path());
    let taken: Vec<Manifest> = (1..4).map(|count| back_up(&archive, &records(count)).0).collect();
    let times: Vec<&str> = taken.iter().map(|manifest| manifest.taken_at.as_str()).collect();
    assert!(times.is_sorted() && times[0] != times[1]);
    for manifest in &taken {
        assert_eq!(archive.find(Some(&manifest.taken_at)).unwrap(), *manifest);
    }
    assert_eq!(archive.find(Some("2999-01-01T00:00:00+01:00")).unwrap(), taken[2]);
    for (at, expected) in [
        ("2001-01-01T00:00:00Z", "of that time or before"),
        ("noon", "is no time"),
    ] {
        let error = format!("{:#}", archive.find(Some(at)).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn pruning_keeps_the_newest_and_every_block_that_they_need() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::at(folder.path());
    let mut all = records(9_000);
    let mut taken = Vec::new();
    for round in 0..4 {
        all.extend([record(round, "changed")]);
        taken.push((back_up(&archive, &all).0, all.clone()));
    }
    let before = files(folder.path()).len();
    assert_eq!(archive.prune(2).unwrap(), 2);
    assert!(files(folder.path()).len() < before - 2, "blocks went as well");
    assert_eq!(archive.names().unwrap().len(), 2);
    for (manifest, all) in &taken[2..] {
        archive.check(manifest).unwrap();
        assert!(read(&archive, manifest) == *all);
    }
    assert!(archive.check(&taken[0].0).is_err());
    assert_eq!(archive.prune(2).unwrap(), 0);
}
