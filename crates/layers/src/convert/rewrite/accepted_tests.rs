//! Archives that Podman takes although they are odd, and what depends on other layers.

use super::tests::{names, refusal, run, run_by};
use super::*;
use crate::convert::below::Attributes;
use crate::testing::Archive;

fn written(archive: Archive) -> Vec<String> {
    names(archive.end())
}

#[test]
fn names_begin_at_the_root_and_stay_below_it() {
    let odd = Archive::default().file("/app/x", b"1").file("../../etc/y", b"2").file("a/../b", b"3").dir("//opt//z/./");
    assert_eq!(written(odd), ["app/x=1", "etc/y=2", "b=3", "app/", "etc/", "opt/", "opt/z/"]);
    let link = Archive::default().file("a", b"1").link(b'1', "/x/b", "/a").link(b'1', "c", "../../a");
    assert_eq!(written(link), ["a=1", "x/", "x/b=>a", "c=>a"]);
}

#[test]
fn entries_below_a_link_go_where_it_leads() {
    let merged = Archive::default().dir("usr/lib").link(b'2', "lib", "usr/lib").file("lib/x.so", b"1").dir("lib/d");
    assert_eq!(written(merged), ["lib->usr/lib", "usr/lib/x.so=1", "usr/", "usr/lib/", "usr/lib/d/"]);
    let hidden =
        Archive::default().link(b'2', "lib", "/usr/lib").file("lib/.wh.gone", b"").file("lib/.wh..wh..opq", b"");
    assert_eq!(written(hidden), ["lib->/usr/lib", "usr/lib/gone c0:0", "usr/", "usr/lib/"]);
    let through =
        Archive::default().link(b'2', "l", "d").file("d/a", b"1").link(b'1', "l/b", "l/a").link(b'1', "m", "l");
    let rows = written(through.clone()).join(" ");
    assert_eq!(rows, "l->d d/a=1 d/ d/b=>d/a m=>l");
    assert_eq!(written(through.file("m/c", b"2")).join(" "), "l->d d/a=1 d/c=2 d/ d/b=>d/a m=>l");
    // What stands under the link's name before or after it is replaced, as extraction does it.
    let before = Archive::default().file("lib/x", b"1").link(b'2', "lib", "usr").file("lib/y", b"2");
    assert_eq!(written(before), ["lib->usr", "usr/y=2", "usr/"]);
    let after = Archive::default().link(b'2', "lib", "usr").file("lib/y", b"2").dir("lib").file("lib/z", b"3");
    assert_eq!(written(after), ["usr/y=2", "lib/z=3", "lib/", "usr/"]);
}

#[test]
fn links_that_lead_nowhere_or_to_a_file_are_no_way_out() {
    let out = Archive::default().link(b'2', "a", "../../../etc").file("a/passwd", b"x");
    assert_eq!(written(out), ["a->../../../etc", "etc/passwd=x", "etc/"]);
    let file = Archive::default().file("f", b"").link(b'2', "l", "f").file("l/x", b"").end();
    assert!(refusal(&file).contains("not a directory"));
    let circle = Archive::default().link(b'2', "a", "b").link(b'2', "b", "a").file("a/x", b"").end();
    assert!(refusal(&circle).contains("too many symbolic links"));
}

#[test]
fn hard_links_come_last() {
    let archive = Archive::default().file("a", b"1").link(b'1', "b", "a").file("d/.wh.x", b"").file("z", b"2").dir("e");
    assert_eq!(written(archive.clone()), ["a=1", "z=2", "d/x c0:0", "d/", "e/", "b=>a"]);
    // In a layer that is read again too.
    assert_eq!(written(archive.file("z", b"3")), ["a=1", "z=3", "d/x c0:0", "d/", "e/", "b=>a"]);
}

#[test]
fn directories_of_the_layers_below_keep_their_attributes() {
    let archive = Archive::default().link(b'2', "tmp/link", "t").file("home/u/x", b"").dir("home").end();
    let (_, seen) = run_by(&archive, Rules::default()).unwrap();
    assert_eq!((&seen.shape.implied[..], seen.shape.root), (&["home/u".to_owned(), "tmp".into()][..], None));
    let mut below = Below::default();
    below.directories.insert("tmp".into(), Attributes { mode: 0o1777, uid: 0, gid: 0 });
    below.directories.insert("home/u".into(), Attributes { mode: 0o700, uid: 1000, gid: 100 });
    below.directories.insert("home".into(), Attributes { mode: 0, uid: 9, gid: 9 });
    let (rows, seen) = run_by(&archive, Rules { below: Some(&below), ..Rules::default() }).unwrap();
    let found: Vec<_> = rows[2..].iter().map(|row| (row.0.as_str(), row.2.mode, row.2.uid, row.2.gid)).collect();
    assert_eq!(found, [("home", 0o644, 5, 7), ("home/u", 0o700, 1000, 100), ("tmp", 0o1777, 0, 0)]);
    assert_eq!((seen.owners.max_uid, seen.owners.max_gid), (1000, 100));
}

#[test]
fn what_the_layer_hides_gives_its_directories_nothing() {
    let archive =
        Archive::default().file(".wh.a", b"").file("a/b/x", b"").file("o/p/x", b"").file("o/.wh..wh..opq", b"");
    let (_, seen) = run_by(&archive.end(), Rules::default()).unwrap();
    // The opaque directory itself is still the one of the layers below.
    assert_eq!(seen.shape.implied, ["o"]);
    assert_eq!(seen.shape.opaque, ["o", "a"]);
}

#[test]
fn an_opaque_root_hides_every_name_below_that_is_known() {
    let archive = Archive::default().file("new", b"").dir("both").file("kept/x", b"").file(".wh..wh..opq", b"").end();
    let (rows, seen) = run_by(&archive, Rules::default()).unwrap();
    assert_eq!((rows.len(), seen.shape.hides_all(), seen.shape.implied.len()), (4, true, 0));
    let below = Below { names: ["gone", "new", "both"].map(Into::into).into(), ..Below::default() };
    let (rows, _) = run_by(&archive, Rules { below: Some(&below), ..Rules::default() }).unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.0.as_str(), &row.1, row.2.xattrs.len())).collect();
    let (file, dir) = (&Kind::File(0), &Kind::Dir);
    let whiteout = &Kind::Char(0, 0);
    assert_eq!(
        rows,
        [("new", file, 0), ("kept/x", file, 0), ("gone", whiteout, 0), ("both", dir, 2), ("kept", dir, 0)]
    );
}

#[test]
fn owners_beyond_any_range_are_named_and_can_be_made_roots() {
    let id = b"1516583083";
    let archive =
        Archive::default().file("a", b"").pax(&[(b"uid", id)]).file("opt/odd", b"").pax(&[(b"gid", id)]).dir("d");
    let archive = archive.end();
    let (_, seen) = run_by(&archive, Rules::default()).unwrap();
    let odd = &seen.owners.unusual;
    assert_eq!((odd.entries, odd.path.as_str(), odd.uid, odd.gid), (2, "opt/odd", 1_516_583_083, 7));
    assert_eq!((seen.owners.max_uid, seen.owners.max_gid), (1_516_583_083, 1_516_583_083));
    let (rows, seen) = run_by(&archive, Rules { owners: Owners::Squash, ..Rules::default() }).unwrap();
    let owner = |name: &str| rows.iter().find(|row| row.0 == name).map(|row| (row.2.uid, row.2.gid)).unwrap();
    assert_eq!((owner("a"), owner("opt/odd"), owner("d")), ((5, 7), (0, 7), (5, 0)));
    assert_eq!((seen.owners.max_uid, seen.owners.max_gid, seen.owners.unusual.entries), (5, 7, 2));
}

#[test]
fn kinds_that_replace_each_other_and_devices() {
    let archive = Archive::default()
        .file("x", b"1")
        .dir("x/")
        .header(b'3', b"dev/null", b"", 0)
        .header(b'6', b"pipe/", b"", 0)
        .link(b'2', "s/", "x")
        .file(".wh.x", b"");
    assert_eq!(written(archive), ["dev/null c0:0", "pipe Fifo", "s->x", "dev/", "x/"]);
    let long = "n".repeat(250);
    let rows =
        run(&Archive::default().pax(&[(b"path", format!("./{long}/{long}/f").as_bytes())]).file("f", b"1").end());
    assert_eq!(rows.unwrap()[0].0, format!("{long}/{long}/f"));
}

/// A short name can lead through links to a long one, which is what is kept.
#[test]
fn names_that_links_make_long_count_as_long() {
    let long = vec!["d".repeat(200); 15].join("/");
    let archive = (0..20)
        .fold(Archive::default().pax(&[(b"linkpath", long.as_bytes())]).link(b'2', "l", "x"), |a, n| {
            a.file(&format!("l/{n}"), b"")
        });
    let archive = archive.end();
    let with = |entries| {
        let limits = Limits { entries, ..Limits::default() };
        let mut tar = TarReader::new(&archive[..]).limited_to(limits);
        rewrite(&mut tar, Rules { limits, ..Rules::default() }, |_| Ok(Vec::new())).map(drop)
    };
    with(21 + 12 + 15 * 13 + 20 * 12).unwrap();
    let Err(Stop::Failed(error)) = with(150) else { panic!("it was let through") };
    assert!(error.has_too_many_entries(), "{error}");
}
