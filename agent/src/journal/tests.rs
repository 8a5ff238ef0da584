use super::*;
use crate::identity::{Ids, SubordinateRange};

fn entry() -> Entry {
    let step = StepId { job: 1, step: 0, restart: 3 };
    let request = LeaseRequest {
        step,
        uid: 1001,
        gid: 1001,
        groups: None,
        image: "a".into(),
        image_id: None,
        mode: Mode::Run,
        memory: None,
        as_root: false,
        container: None,
        rule: None,
    };
    let owner = Owner::of(i32::try_from(std::process::id()).unwrap()).unwrap();
    let ids = |own| Ids { own, subordinate: vec![SubordinateRange { start: 100_000, count: 65_536 }] };
    let identity =
        Some(Identity { name: "u1".into(), home: None, users: ids(1001), groups: ids(1001), subid_module: None });
    let image = Some(StoreImage { store: "/s".into(), id: "ab".repeat(32).parse().unwrap() });
    Entry {
        version: VERSION,
        request,
        key: "1.0-0001".into(),
        owner,
        layers: Vec::new(),
        since: 7,
        image,
        image_names: Vec::new(),
        source: Some(SourceStatus { kind: "squashfs".into(), backend: "native".into(), reason: "it can".into() }),
        control_group: None,
        scratch: Some("/local/scratch".into()),
        container: None,
        identity,
    }
}

fn written(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value = serde_json::to_value(entry()).unwrap();
    change(&mut value);
    serde_json::to_vec(&value).unwrap()
}

fn read(directory: &Path) -> Vec<Recorded> {
    Journal::new(directory.to_owned()).read().unwrap()
}

#[test]
fn entries_come_back_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::new(directory.path().to_owned());
    journal.write(&entry()).unwrap();
    assert_eq!(journal.read().unwrap(), [Recorded::Entry(Box::new(entry()))]);
    journal.remove(&entry()).unwrap();
    journal.remove(&entry()).unwrap();
    assert!(journal.read().unwrap().is_empty());
}

#[test]
fn what_was_half_written_is_cleared_away() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("1.0-0001.3.5.77.new"), "{").unwrap();
    fs::write(directory.path().join("b.json"), "{").unwrap();
    assert!(read(directory.path()).is_empty());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn unknown_fields_are_accepted_at_every_level() {
    let bytes = written(|value| {
        value["later"] = 1.into();
        for part in ["request", "owner", "image", "identity"] {
            value[part]["later"] = 1.into();
        }
    });
    assert_eq!(parse(&bytes, Some(&entry().header())), Ok(Recorded::Entry(Box::new(entry()))));
}

#[test]
fn what_cannot_be_read_keeps_its_header_and_its_image() {
    let directory = tempfile::tempdir().unwrap();
    let header = entry().header();
    let unreadable: [Vec<u8>; 4] = [
        b"not JSON".to_vec(),
        written(|value| value["version"] = (VERSION + 1).into()),
        written(|value| value["request"]["mode"] = "a later mode".into()),
        written(|value| value["key"] = "../../etc".into()),
    ];
    for (number, bytes) in unreadable.iter().enumerate() {
        fs::write(directory.path().join(header.file_name()), bytes).unwrap();
        let found = read(directory.path());
        let [Recorded::Unreadable { header: kept, image, .. }] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((kept, image.is_some()), (&header, number > 0));
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn an_entry_without_a_version_is_taken_over_under_its_new_name() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = written(|value| {
        let fields = value.as_object_mut().unwrap();
        fields.remove("version");
        fields.remove("identity");
    });
    fs::write(directory.path().join("1.0-0001.json"), bytes).unwrap();
    for _ in 0..2 {
        assert_eq!(
            read(directory.path()),
            [Recorded::Entry(Box::new(Entry { version: 0, identity: None, ..entry() }))]
        );
    }
    Journal::new(directory.path().to_owned()).remove(&entry()).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_header_is_read_as_it_is_written() {
    for directory in ["1.0-0001", "12.batch-ffff", "12.interactive-0000"] {
        let (job, step) = StepId::numbers(directory.split_once('-').unwrap().0).unwrap();
        let key = LeaseKey { step: StepId { job, step, restart: 2 }, directory: directory.to_owned() };
        let header = Header { key, owner: Owner { pid: 4242, start_time: 99 } };
        assert_eq!(Header::parse(&header.file_name()), Some(header));
    }
    for name in ["1.0-0001.json", "b.json", "1.0-0001.0.x.1.json", "1.0.0.1.1.json", ".0.1.1.json", "1.0-1.0.1.1"] {
        assert_eq!(Header::parse(name), None, "{name}");
    }
}

#[test]
fn an_owner_is_told_from_a_later_process_with_its_number() {
    let mut owner = entry().owner;
    assert!(owner.open_process().is_some());
    owner.start_time += 1;
    assert!(owner.open_process().is_none());
}
