use super::*;
use crate::convert::owners::Owners;
use crate::tar::limits::Limits;
use crate::testing::Archive;

/// One entry of the result: name, kind, what its attributes are, content.
pub(super) type Row = (String, Kind, Meta, Vec<u8>);

fn rows(archive: &[u8]) -> Vec<Row> {
    let mut tar = TarReader::new(archive);
    let mut rows = Vec::new();
    while let Some(entry) = tar.next().unwrap() {
        let mut data = Vec::new();
        if let Kind::File(_) = entry.kind {
            tar.copy_data(&LayerPath::root(), &mut data).unwrap();
        }
        rows.push((String::from_utf8_lossy(&entry.name).into_owned(), entry.kind, entry.meta, data));
    }
    rows
}

pub(super) fn run(archive: &[u8]) -> Result<Vec<Row>, Stop> {
    run_by(archive, Rules::default()).map(|(rows, _)| rows)
}

pub(super) fn run_by(archive: &[u8], rules: Rules<'_>) -> Result<(Vec<Row>, Seen), Stop> {
    let done = match rewrite(&mut TarReader::new(archive), rules, |_| Ok(Vec::new())) {
        Err(Stop::NeedsPlan) => {
            let plan = plan(archive)?;
            rewrite_planned(&mut TarReader::new(archive), plan, rules, |_| Ok(Vec::new()))
        }
        done => done,
    };
    done.map(|(out, seen)| (rows(&out), seen))
}

fn plan(archive: &[u8]) -> Result<Plan, TarError> {
    Plan::make(&mut TarReader::new(archive), Limits::default(), Owners::Keep)
}

pub(super) fn names(archive: Vec<u8>) -> Vec<String> {
    run(&archive)
        .unwrap()
        .into_iter()
        .map(|(name, kind, _, data)| match kind {
            Kind::File(_) => format!("{name}={}", String::from_utf8_lossy(&data)),
            Kind::HardLink(target) => format!("{name}=>{}", String::from_utf8_lossy(&target)),
            Kind::Symlink(target) => format!("{name}->{}", String::from_utf8_lossy(&target)),
            Kind::Char(major, minor) => format!("{name} c{major}:{minor}"),
            Kind::Dir => format!("{name}/"),
            other => format!("{name} {other:?}"),
        })
        .collect()
}

pub(super) fn refusal(archive: &[u8]) -> String {
    match run(archive) {
        Err(Stop::Failed(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    let archive = Archive::default().dir("d/").file("d/.wh.gone", b"").file("d/x", b"1").end();
    assert_eq!(names(archive), ["d/x=1", "d/gone c0:0", "d/"]);
}

#[test]
fn an_opaque_marker_marks_its_directory_wherever_it_stands() {
    let before = Archive::default().file("d/.wh..wh..opq", b"").dir("d/").end();
    let after = Archive::default().dir("d/").file("d/x", b"").file("d/.wh..wh..opq", b"").end();
    let alone = Archive::default().file("d/.wh..wh..opq", b"").end();
    for archive in [before, after, alone] {
        let rows = run(&archive).unwrap();
        let (_, kind, meta, _) = rows.last().unwrap();
        assert_eq!(*kind, Kind::Dir);
        let opaque = |name: &[u8]| (name.to_vec(), b"y".to_vec());
        assert_eq!(meta.xattrs, [opaque(b"trusted.overlay.opaque"), opaque(b"user.overlay.opaque")]);
    }
}

#[test]
fn a_whiteout_of_what_the_layer_has_itself_hides_only_what_is_below() {
    let file = Archive::default().file(".wh.a", b"").file("a", b"new").end();
    assert_eq!(names(file), ["a=new"]);
    let directory = Archive::default().dir("d").file(".wh.d", b"").end();
    let rows = run(&directory).unwrap();
    assert_eq!((rows.len(), rows[0].2.xattrs.len()), (1, 2));
}

#[test]
fn directories_that_are_missing_are_made() {
    let rows = run(&Archive::default().file("a/b/c", b"").end()).unwrap();
    let made: Vec<_> = rows.iter().skip(1).map(|row| (row.0.as_str(), row.2.mode, row.2.uid)).collect();
    assert_eq!(made, [("a", 0o755, 0), ("a/b", 0o755, 0)]);
}

#[test]
fn the_last_of_several_entries_wins() {
    assert_eq!(names(Archive::default().file("a", b"1").file("a", b"2").end()), ["a=2"]);
    let replaced = Archive::default().dir("a").file("a/b", b"1").link(b'2', "a", "t").end();
    assert_eq!(names(replaced), ["a->t"]);
    let made = Archive::default().link(b'2', "a", "t").dir("a").file("a/b", b"1").end();
    assert_eq!(names(made), ["a/b=1", "a/"]);
    let marked = Archive::default().file("a/.wh.x", b"").file("a", b"f").end();
    assert_eq!(names(marked), ["a=f"]);
}

#[test]
fn a_hard_link_keeps_the_content_its_target_had_then() {
    let archive =
        Archive::default().file("a", b"old").link(b'1', "b", "a").link(b'1', "c", "b").file("a", b"new").end();
    assert_eq!(names(archive), ["b=old", "a=new", "c=>b"]);
    let dangling = Archive::default().link(b'1', "b", "a").end();
    assert!(refusal(&dangling).contains("hard link to \"a\""));
}

#[test]
fn the_root_is_known_before_anything_is_written() {
    let mut roots = Vec::new();
    let late = Archive::default().file("a", b"").dir("./").end();
    let mut start = |meta: &Meta| {
        roots.push((meta.mode, meta.uid));
        Ok(Vec::new())
    };
    let Err(Stop::NeedsPlan) = rewrite(&mut TarReader::new(&late[..]), Rules::default(), &mut start) else { panic!() };
    rewrite_planned(&mut TarReader::new(&late[..]), plan(&late).unwrap(), Rules::default(), &mut start).unwrap();
    assert_eq!(roots, [(0o755, 0), (0o644, 5)]);
}

#[test]
fn attributes_ids_and_long_names_survive() {
    let value = b"\x01\0\n=\xff";
    let long = "n".repeat(120);
    let archive = Archive::default()
        .pax(&[
            (b"SCHILY.xattr.security.capability", value),
            (b"SCHILY.xattr.system.posix_acl_access", b"acl"),
            (b"SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            (b"uid", b"3000000"),
            (b"path", long.as_bytes()),
            (b"mtime", b"17.25"),
        ])
        .file("short", b"x")
        .pax(&[(b"linkpath", "../".repeat(50).as_bytes())])
        .link(b'2', "s", "short")
        .end();
    let (out, seen) = rewrite(&mut TarReader::new(&archive[..]), Rules::default(), |_| Ok(Vec::new())).unwrap();
    let rows = rows(&out);
    assert_eq!(rows[0].0, long);
    assert_eq!((rows[0].2.uid, rows[0].2.gid, rows[0].2.mtime), (3_000_000, 7, 17));
    assert_eq!(rows[0].2.xattrs, [(b"security.capability".to_vec(), value.to_vec())]);
    assert_eq!(rows[1].1, Kind::Symlink("../".repeat(50).into_bytes()));
    assert_eq!((seen.owners.max_uid, seen.owners.max_gid), (3_000_000, 7));
    assert_eq!(seen.dropped_xattrs.len(), 2);
    // No user name reaches mksquashfs.
    assert!(out.chunks(512).all(|block| !block.windows(4).any(|bytes| bytes == b"root")));
}

#[test]
fn holes_become_zeros() {
    let map = b"2\n512\n3\n1024\n2\n";
    let mut data = [0; 512];
    data[..map.len()].copy_from_slice(map);
    let stored = [&data[..], b"abcde"].concat();
    let archive = Archive::default()
        .pax(&[
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"real"),
            (b"GNU.sparse.realsize", b"2000"),
        ])
        .file("GNUSparseFile.0/real", &stored)
        .file("next", b"n")
        .end();
    let rows = run(&archive).unwrap();
    let mut expected = vec![0; 2000];
    expected[512..515].copy_from_slice(b"abc");
    expected[1024..1026].copy_from_slice(b"de");
    assert_eq!((rows[0].0.as_str(), &rows[0].3), ("real", &expected));
    assert_eq!(rows[1].0, "next");
    let old = Archive::default()
        .pax(&[(b"GNU.sparse.size", b"10"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.map", b"4,9")])
        .file("bad", b"abcdefghi")
        .end();
    assert!(refusal(&old).contains("invalid sparse map"));
}

#[test]
fn bad_archives_are_refused() {
    assert!(refusal(&Archive::default().file("a", b"").file("a/b", b"").end()).contains("not a directory"));
    assert!(refusal(&Archive::default().file(".wh.", b"").end()).contains("whiteout"));
    assert!(refusal(&Archive::default().link(b'1', "b", "../../etc/shadow").end()).contains("hard link"));
    assert!(refusal(&Archive::default().header(b'V', b"label", b"", 0).end()).contains("unsupported type"));
    let whole = Archive::default().file("a", &[1; 2000]).end();
    assert!(refusal(&whole[..1000]).contains("middle of an entry"));
    assert!(refusal(&whole[..100]).contains("middle of an entry"));
    let mut damaged = whole;
    damaged[0] = b'x';
    assert!(refusal(&damaged).contains("checksum"));
    let huge = Archive::default().header(b'L', b"././@LongLink", b"", 1 << 32).end();
    assert!(refusal(&huge).contains("1 MiB"));
}

#[test]
fn an_archive_may_end_with_a_files_last_byte() {
    let whole = Archive::default().file("first", b"x").file("last", b"de").end();
    let rows = rows(&whole[..3 * 512 + 2]);
    assert_eq!(rows.iter().map(|row| (row.0.as_str(), row.3.len())).collect::<Vec<_>>(), [("first", 1), ("last", 2)]);
    assert!(refusal(&whole[..=3 * 512]).contains("middle of an entry"));
}

/// 40 kB of holes in a few hundred bytes.
#[test]
fn sizes_that_are_only_claimed_are_bounded() {
    let hole: [(&[u8], &[u8]); 3] =
        [(b"GNU.sparse.size", b"40000"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.map", b"0,1")];
    let archive = Archive::default().file("small", &[1; 2000]).pax(&hole).file("hole", b"x").end();
    let run = |bytes| {
        let limits = Limits { bytes, ..Limits::default() };
        let mut tar = TarReader::new(&archive[..]).limited_to(limits);
        rewrite(&mut tar, Rules { limits, ..Rules::default() }, |_| Ok(Vec::new())).map(drop)
    };
    run(42_000).unwrap();
    let Err(Stop::Failed(error)) = run(41_999) else { panic!("it was let through") };
    assert!(error.is_too_large() && error.to_string().contains("\"hole\" exceeds the limit for the size"), "{error}");
    let Err(Stop::Failed(error)) = run(1999) else { panic!("it was let through") };
    assert!(error.to_string().contains("\"small\""), "{error}");
}
