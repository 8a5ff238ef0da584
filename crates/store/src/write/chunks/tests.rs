use std::process::Command;
use std::time::Duration;

use parallax_chunks::{Algorithm, Cutter, Parameters, split};
use parallax_format::record::ImageRecord;

use super::*;
use crate::testing::{image, publish, store};
use crate::write::remove::{Collected, Collection, Target};
use crate::{ChunkGarbage, RemovedFiles, Verifier};

/// Chunks the layers of an image as `parallax chunk` does, in one thread.
fn chunk(store: &Store, record: &ImageRecord, again: bool) -> Result<NewChunks, StoreError> {
    let work = store.chunk_directory()?;
    let mut all = NewChunks::default();
    for layer in &record.layers {
        let data = fs::read(store.root().join(layer.file_path())).unwrap();
        let (writer, index) = written(store, work.path(), &data, again);
        let done = writer.publish(&record.id, layer, &index)?;
        for (sum, part) in [(&mut all.totals, done.totals), (&mut all.new, done.new)] {
            sum.chunks += part.chunks;
            sum.stored += part.stored;
        }
    }
    Ok(all)
}

fn written<'a>(store: &'a Store, work: &Path, data: &[u8], again: bool) -> (ChunkWriter<'a>, Index) {
    let writer = ChunkWriter::new(store, work, again);
    let add = |id: &ChunkId, content: &[u8]| writer.add(id, content).map_err(io::Error::other);
    let cutter = Cutter::new(Parameters::default());
    let chunks = split(data, cutter, Algorithm::Sha512_256, 1, add).unwrap();
    (writer, Index::new(Algorithm::Sha512_256, Parameters::default(), &chunks))
}

fn problems(store: &Store, record: &ImageRecord) -> Vec<String> {
    let mut verifier = Verifier::new(store).unwrap();
    verifier.image(&record.id).unwrap();
    let first = verifier.problems().to_vec();
    // What was intact is not read again, and what was not is found again.
    verifier.again().unwrap();
    verifier.image(&record.id).unwrap();
    assert_eq!(verifier.problems(), first);
    first.iter().map(|problem| format!("{} {}", problem.path, problem.what)).collect()
}

/// The files of chunks in the store.
fn chunks(store: &Store) -> Vec<PathBuf> {
    let directories = fs::read_dir(store.root().join(CHUNK_STORE)).into_iter().flatten();
    let mut files: Vec<PathBuf> = directories
        .flat_map(|directory| fs::read_dir(directory.unwrap().path()).unwrap().map(|file| file.unwrap().path()))
        .collect();
    files.sort();
    files
}

/// Long texts, so that layers have several chunks, of which they share some.
fn long(seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..600_000).map(|_| random.alphanumeric()).collect()
}

fn two(store: &Store) -> [ImageRecord; 2] {
    let (base, top) = (long(1), format!("{}{}", long(1), long(2)));
    let new = image("one", "one:1", &[&base]);
    let one = publish(store, &new, &[&base]).unwrap();
    let new = image("two", "two:1", &[&base, &top]);
    [one, publish(store, &new, &[&base, &top]).unwrap()]
}

#[test]
fn layers_share_chunks_and_again_is_a_no_op() {
    let (_directory, store) = store();
    let [one, two] = two(&store);
    assert_eq!(store.complete_chunks(&one.layers[0]).unwrap(), None);
    let first = chunk(&store, &one, false).unwrap();
    assert_eq!(first.totals, first.new);
    assert_eq!(store.complete_chunks(&one.layers[0]).unwrap(), Some(first.totals));
    assert_eq!(store.chunk_totals(&two.layers[1]).unwrap(), None);
    let second = chunk(&store, &two, false).unwrap();
    // The base is there, and most of what the top has in common with it.
    assert!(second.new.chunks < second.totals.chunks - first.totals.chunks, "{second:?} {first:?}");
    assert_eq!(chunks(&store).len() as u64, first.new.chunks + second.new.chunks);
    let sizes: u64 = chunks(&store).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert_eq!(sizes, first.new.stored + second.new.stored);
    assert_eq!(chunk(&store, &two, false).unwrap().new, ChunkTotals::default());
    for record in [&one, &two] {
        assert_eq!(problems(&store, record), Vec::<String>::new());
    }
    assert_eq!(fs::read_dir(store.temporary()).unwrap().count(), 0);
    for file in chunks(&store) {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o644);
    }
    // The chunks give the file.
    let bytes = fs::read(store.root().join(two.layers[1].chunk_index_path())).unwrap();
    let index = Index::parse(&bytes).unwrap();
    let read = |part: parallax_chunks::Part| {
        let frame = fs::read(store.chunk_path(&part.id)).unwrap();
        parallax_chunks::decode(&frame, &part.id, index.algorithm(), 256 << 10).unwrap()
    };
    let file: Vec<u8> = index.parts().flat_map(read).collect();
    assert_eq!(file, fs::read(store.root().join(two.layers[1].file_path())).unwrap());
}

#[test]
fn each_damage_is_found_and_chunking_again_helps() {
    type Damage = fn(&Store, &ImageRecord);
    let damages: [(&str, Damage); 5] = [
        ("is not there", |store, _| fs::remove_file(&chunks(store)[0]).unwrap()),
        ("is corrupt: it is not compressed by zstd", |store, _| fs::write(&chunks(store)[0], "x").unwrap()),
        ("is corrupt: its content is another chunk's", |store, _| {
            let files = chunks(store);
            fs::copy(&files[0], &files[1]).unwrap();
        }),
        (".caibx is corrupt: it is not an index", |store, record| {
            fs::write(store.root().join(record.layers[0].chunk_index_path()), "x").unwrap();
        }),
        (".caibx is not that of the layer's file", |store, record| {
            let [from, to] = [1, 0].map(|at| store.root().join(record.layers[at].chunk_index_path()));
            fs::copy(from, to).unwrap();
        }),
    ];
    for (expected, damage) in damages {
        let (_directory, store) = store();
        let [_, record] = two(&store);
        chunk(&store, &record, false).unwrap();
        assert_eq!(problems(&store, &record), Vec::<String>::new());
        damage(&store, &record);
        let found = problems(&store, &record);
        assert!(found.len() <= 2 && found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:?}");
        chunk(&store, &record, true).unwrap();
        assert_eq!(problems(&store, &record), Vec::<String>::new());
    }
}

#[test]
fn chunks_go_when_no_index_names_them_any_more() {
    let (_directory, store) = store();
    let [one, two] = two(&store);
    chunk(&store, &one, false).unwrap();
    let of_one = chunks(&store);
    chunk(&store, &two, false).unwrap();
    let of_both = chunks(&store);
    let day = Collection { grace: Duration::from_secs(86_400), ..Collection::default() };
    let collect = |collection: Collection| {
        let collected = store.collect(collection).unwrap();
        store.collect_chunks(collection, &collected.garbage).unwrap()
    };
    assert_eq!(collect(Collection::default()), ChunkGarbage::default());
    store.remove(&Target::Image(two.id), false).unwrap();
    // A step may be reading them.
    assert_eq!(collect(day), ChunkGarbage::default());
    assert_eq!(chunks(&store), of_both);
    let dry = Collection { dry_run: true, ..Collection::default() };
    let would = collect(dry);
    assert_eq!(chunks(&store), of_both);
    let done = collect(Collection::default());
    assert_eq!((would, done.chunks), (done, of_both.len() - of_one.len()));
    assert!(done.bytes > 100_000, "{done:?}");
    assert_eq!(chunks(&store), of_one);
    assert_eq!(problems(&store, &one), Vec::<String>::new());
    store.remove(&Target::Image(one.id), false).unwrap();
    collect(Collection::default());
    assert_eq!(chunks(&store), Vec::<PathBuf>::new());
    let left = fs::read_dir(store.root().join(CHUNK_STORE)).unwrap().count();
    assert_eq!((left, store.collect(Collection::default()).unwrap()), (0, Collected::default()));
}

#[test]
fn no_chunk_goes_while_a_writer_works_or_an_index_is_unreadable() {
    let (_directory, store) = store();
    let [one, two] = two(&store);
    chunk(&store, &one, false).unwrap();
    let work = store.chunk_directory().unwrap();
    let data = fs::read(store.root().join(two.layers[1].file_path())).unwrap();
    let (writer, index) = written(&store, work.path(), &data, false);
    // The writer relies on chunks that are there.
    store.remove(&Target::Image(one.id), true).unwrap();
    let collect =
        || store.collect_chunks(Collection::default(), &store.collect(Collection::default()).unwrap().garbage);
    assert_eq!(collect().unwrap(), ChunkGarbage { writers: 1, ..ChunkGarbage::default() });
    writer.publish(&two.id, &two.layers[1], &index).unwrap();
    drop(work);
    // A migration at work keeps none.
    let _migration = store.work_directory().unwrap();
    assert_eq!(collect().unwrap().writers, 0);
    assert_eq!(problems(&store, &two), Vec::<String>::new());

    let path = store.root().join(two.layers[0].chunk_index_path());
    fs::write(&path, "x").unwrap();
    store.remove(&Target::Image(two.id), true).unwrap();
    let error = store.collect_chunks(Collection::default(), &[]).unwrap_err().to_string();
    assert!(error.contains("removed/") && error.contains("no chunk was removed"), "{error}");
    assert!(!chunks(&store).is_empty());
}

#[test]
fn an_image_that_is_removed_meanwhile_gets_no_index() {
    let (_directory, store) = store();
    let [one, _] = two(&store);
    let work = store.chunk_directory().unwrap();
    let data = fs::read(store.root().join(one.layers[0].file_path())).unwrap();
    let (writer, index) = written(&store, work.path(), &data, false);
    store.remove(&Target::Image(one.id), false).unwrap();
    let error = writer.publish(&one.id, &one.layers[0], &index).unwrap_err();
    assert!(matches!(error, StoreError::NoImage(_)), "{error}");
    assert!(!store.root().join(one.layers[0].chunk_index_path()).exists());
}

/// Not a test of its own: what [`killed_anywhere_the_chunks_are_whole`] runs in a process that dies on the way.
#[test]
fn chunk_as_told() {
    let Ok(root) = std::env::var("PARALLAX_TEST_CHUNK") else { return };
    let store = Store::create_or_open(Path::new(&root)).unwrap();
    for id in store.ids_with("").unwrap() {
        chunk(&store, &store.image(&id).unwrap().unwrap(), false).unwrap();
    }
}

#[test]
fn killed_anywhere_the_chunks_are_whole() {
    use std::os::unix::process::ExitStatusExt as _;
    let mut points = 0;
    for at in (1..).step_by(3) {
        let (_directory, store) = store();
        let (base, top) = (long(1), long(2));
        let new = image("two", "two:1", &[&base, &top]);
        let record = publish(&store, &new, &[&base, &top]).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "write::chunks::tests::chunk_as_told"])
            .env("PARALLAX_TEST_CHUNK", store.root())
            .env("PARALLAX_TEST_KILL_AT", at.to_string())
            .output()
            .unwrap();
        // An index is there or not, and what it names is there.
        assert_eq!(problems(&store, &record), Vec::<String>::new(), "killed at {at}");
        if output.status.success() {
            break;
        }
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        points = at;
        let collected = store.collect(Collection::default()).unwrap();
        store.collect_chunks(Collection::default(), &collected.garbage).unwrap();
        assert_eq!(problems(&store, &record), Vec::<String>::new(), "killed at {at}, collected");
        let done: u64 =
            record.layers.iter().filter_map(|layer| store.chunk_totals(layer).unwrap()).map(|it| it.chunks).sum();
        assert_eq!(chunks(&store).len() as u64, done, "killed at {at}");
        assert_eq!(fs::read_dir(store.temporary()).unwrap().count(), 0, "killed at {at}");
        chunk(&store, &record, false).unwrap();
        assert!(record.layers.iter().all(|layer| store.complete_chunks(layer).unwrap().is_some()), "killed at {at}");
    }
    assert!(points > 30, "only {points} points");
}

#[test]
fn without_its_file_a_layer_is_whole_and_comes_back() {
    let (_directory, store) = store();
    let [one, two] = two(&store);
    chunk(&store, &two, false).unwrap();
    let layer = &two.layers[1];
    let (file, bytes) = (store.root().join(layer.file_path()), layer.squashfs_size);
    let before = fs::read(&file).unwrap();
    // Of the base the other image needs the file.
    let removed = store.remove_whole_files(&[two.id].into()).unwrap();
    assert_eq!(removed, RemovedFiles { files: 1, bytes, needed: 1 });
    assert!(!file.exists() && store.is_in_chunks_only(layer).unwrap());
    assert!(!store.is_in_chunks_only(&two.layers[0]).unwrap());
    assert_eq!(store.image(&two.id).unwrap().as_ref(), Some(&two));
    assert!(store.layer(&layer.diff_id).unwrap().is_some());
    assert_eq!(problems(&store, &two), Vec::<String>::new());
    // An image with the layer is published without another file.
    let other = image("three", "three:1", &[&long(1), &format!("{}{}", long(1), long(2))]);
    publish(&store, &other, &[]).unwrap();
    store.remove(&Target::Image(other.id), true).unwrap();
    // What goes together needs nothing.
    let removed = store.remove_whole_files(&[one.id, two.id].into()).unwrap();
    assert_eq!((removed.files, removed.needed), (1, 0));
    assert_eq!(store.remove_whole_files(&[one.id, two.id].into()).unwrap(), RemovedFiles::default());
    store.collect_chunks(Collection::default(), &store.collect(Collection::default()).unwrap().garbage).unwrap();
    assert_eq!(problems(&store, &two), Vec::<String>::new());

    let work = store.work_directory().unwrap();
    for layer in &two.layers {
        let made = work.path().join("made");
        store.make_file(&layer.chunk_index_path(), layer.squashfs_sha256, &made).unwrap();
        store.add_whole_file(&two.id, layer, &made).unwrap();
        assert!(!store.is_in_chunks_only(layer).unwrap() && !store.chunk_totals(layer).unwrap().unwrap().only_chunks);
    }
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(problems(&store, &two), Vec::<String>::new());
    // A file that is lost is no file that was removed.
    fs::remove_file(&file).unwrap();
    assert!(!store.is_in_chunks_only(layer).unwrap() && store.image(&two.id).unwrap().is_none());
    assert!(problems(&store, &two).iter().any(|problem| problem.ends_with(".squash is not there")));
}

#[test]
fn chunks_that_do_not_give_the_file_are_found() {
    let (_directory, store) = store();
    let [_, two] = two(&store);
    chunk(&store, &two, false).unwrap();
    let [base, top] = [0, 1].map(|at| store.root().join(two.layers[at].chunk_index_path()));
    store.check_chunks(&two.layers[0]).unwrap();
    let right = fs::read(&base).unwrap();
    fs::copy(&top, &base).unwrap();
    let error = store.check_chunks(&two.layers[0]).unwrap_err().to_string();
    assert!(error.contains("its chunks do not give the layer's file"), "{error}");
    fs::write(&base, right).unwrap();
    store.remove_whole_files(&store.ids_with("").unwrap().into_iter().collect()).unwrap();
    fs::copy(&top, &base).unwrap();
    let found = problems(&store, &two);
    assert!(matches!(&found[..], [one] if one.contains(".caibx is corrupt: its chunks do not give")), "{found:?}");
    for chunk in chunks(&store) {
        fs::remove_file(chunk).unwrap();
    }
    let made = store.temporary().join("made");
    let error = store.make_file(&two.layers[1].chunk_index_path(), two.layers[1].squashfs_sha256, &made).unwrap_err();
    assert!(error.to_string().contains(".cacnk is not there"), "{error}");
    assert!(problems(&store, &two).iter().any(|problem| problem.contains("chunks that cannot be used")));
}
