use parallax_chunks::{Algorithm, Parameters};
use tempfile::TempDir;

use super::*;

const CHUNK: usize = 4096;

/// A file of chunks that begin with these numbers; and its index.
fn file(numbers: &[u8]) -> (Vec<u8>, Index) {
    let chunks: Vec<Vec<u8>> = numbers.iter().map(|number| vec![*number; CHUNK]).collect();
    let ids = chunks.iter().map(|chunk| (id(chunk), CHUNK as u64));
    let parameters = Parameters::new(64, CHUNK as u64, 2 * CHUNK as u64).unwrap();
    let index = Index::new(Algorithm::Sha256, parameters, &ids.collect::<Vec<_>>());
    (chunks.concat(), index)
}

fn id(content: &[u8]) -> ChunkId {
    ChunkId::of(content, Algorithm::Sha256)
}

fn name(digit: &str) -> Sha256 {
    Sha256::parse(&digit.repeat(64)).unwrap()
}

fn cache(limit: u64) -> (TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(&directory.path().join("cache"), limit).unwrap();
    (directory, cache)
}

fn put(cache: &Cache, layer: &CachedLayer, number: u8) -> Result<(), CacheError> {
    let content = vec![number; CHUNK];
    cache.put(layer, &id(&content), &content)
}

#[test]
fn only_chunks_that_were_checked_can_be_read() {
    let (_directory, cache) = cache(1 << 20);
    let (data, index) = file(&[1, 2, 1, 3]);
    let layer = cache.layer(&name("a"), &index).unwrap();
    let mut buffer = [0; 100];
    assert_eq!(layer.read_at(&mut buffer, 0).unwrap(), None);
    let [one, two, three] = [1, 2, 3].map(|number| id(&[number; CHUNK]));
    assert_eq!(layer.missing(0, 1 << 20), [one, two, three]);
    assert_eq!(layer.missing(CHUNK as u64 - 1, 2), [one, two]);
    assert_eq!(layer.missing(CHUNK as u64, 1), [two]);
    assert_eq!(layer.missing(u64::MAX, u64::MAX), []);
    // A chunk is written wherever the file has it.
    put(&cache, &layer, 1).unwrap();
    assert_eq!((layer.missing(0, 1 << 20), layer.bytes()), (vec![two, three], 2 * CHUNK as u64));
    let wrong = cache.put(&layer, &two, &[9; CHUNK]);
    assert!(matches!(wrong, Err(CacheError::OtherContent(id)) if id == two), "{wrong:?}");
    assert_eq!(layer.missing(0, 1 << 20), [two, three]);
    assert_eq!(layer.read_at(&mut buffer, CHUNK as u64 - 1).unwrap(), None);
    assert_eq!(layer.sha256().unwrap(), None);
    put(&cache, &layer, 2).unwrap();
    put(&cache, &layer, 3).unwrap();
    assert!(layer.is_complete());
    let mut all = vec![0; data.len() + 10];
    assert_eq!(layer.read_at(&mut all, 0).unwrap(), Some(data.len()));
    assert_eq!(all[..data.len()], data);
    assert_eq!(layer.read_at(&mut buffer, data.len() as u64 + 5).unwrap(), Some(0));
    let digest: [u8; 32] =
        sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), &data)).into();
    assert_eq!(layer.sha256().unwrap(), Some(digest.into()));
    assert_eq!(cache.chunk(&two).unwrap(), [2; CHUNK]);
    assert_eq!(cache.chunk(&id(b"none")), None);
}

#[test]
fn what_was_saved_is_there_in_the_next_process_and_the_rest_is_not() {
    let (directory, cache) = cache(1 << 20);
    let path = directory.path().join("cache");
    let (_, index) = file(&[1, 2, 3]);
    let layer = cache.layer(&name("a"), &index).unwrap();
    put(&cache, &layer, 1).unwrap();
    layer.save().unwrap();
    put(&cache, &layer, 2).unwrap();
    assert!(matches!(Cache::open(&path, 1), Err(CacheError::InUse(_))));
    drop((layer, cache));
    let cache = Cache::open(&path, 1 << 20).unwrap();
    let layer = cache.layer(&name("a"), &index).unwrap();
    assert_eq!(layer.missing(0, 1 << 20), [2, 3].map(|number| id(&[number; CHUNK])));
    layer.save().unwrap();
    drop(layer);
    // Another index for the name: nothing of the file is believed.
    let (_, other) = file(&[1, 2, 4]);
    let layer = cache.layer(&name("a"), &other).unwrap();
    assert_eq!(layer.missing(0, 1 << 20).len(), 3);
}

#[test]
fn files_of_unknown_state_are_dropped() {
    type Damage = fn(&Path);
    let damages: [Damage; 5] = [
        |directory| fs::remove_file(directory.join(format!("{}.data", name("a")))).unwrap(),
        |directory| fs::remove_file(directory.join(format!("{}.bits", name("a")))).unwrap(),
        |directory| fs::write(directory.join(format!("{}.bits", name("a"))), "x").unwrap(),
        |directory| {
            let path = directory.join(format!("{}.bits", name("a")));
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        },
        |directory| {
            let data = File::options().write(true).open(directory.join(format!("{}.data", name("a")))).unwrap();
            data.set_len(CHUNK as u64).unwrap();
        },
    ];
    for damage in damages {
        let (directory, cache) = cache(1 << 20);
        let path = directory.path().join("cache");
        let (_, index) = file(&[1, 2]);
        let layer = cache.layer(&name("a"), &index).unwrap();
        put(&cache, &layer, 1).unwrap();
        layer.save().unwrap();
        drop((layer, cache));
        damage(&path);
        let cache = Cache::open(&path, 1 << 20).unwrap();
        let layer = cache.layer(&name("a"), &index).unwrap();
        assert_eq!(layer.missing(0, 1 << 20).len(), 2);
        assert_eq!(layer.bytes(), 0);
    }
}

#[test]
fn the_layer_that_is_idle_longest_makes_room() {
    let (directory, cache) = cache(4 * CHUNK as u64);
    let path = directory.path().join("cache");
    let exists = |digit: &str| path.join(format!("{}.data", name(digit))).exists();
    for (digit, number) in [("a", 1), ("b", 2)] {
        let (_, index) = file(&[number, number + 10]);
        let layer = cache.layer(&name(digit), &index).unwrap();
        put(&cache, &layer, number).unwrap();
        put(&cache, &layer, number + 10).unwrap();
        layer.save().unwrap();
    }
    assert_eq!(cache.bytes(), 4 * CHUNK as u64);
    // "a" is used again, so "b" goes.
    drop(cache.layer(&name("a"), &file(&[1, 11]).1).unwrap());
    let third = cache.layer(&name("c"), &file(&[3, 13, 23, 33, 43]).1).unwrap();
    put(&cache, &third, 3).unwrap();
    assert_eq!((exists("a"), exists("b"), cache.bytes()), (true, false, 3 * CHUNK as u64));
    for number in [13, 23] {
        put(&cache, &third, number).unwrap();
    }
    assert!(!exists("a"));
    put(&cache, &third, 33).unwrap();
    // What is open stays.
    let full = put(&cache, &third, 43);
    assert!(matches!(full, Err(CacheError::Full { used, limit }) if used == limit), "{full:?}");
    assert_eq!(third.missing(0, 1 << 20), [id(&[43; CHUNK])]);
    // What is there needs no room.
    put(&cache, &third, 33).unwrap();
    third.save().unwrap();
    drop((third, cache));
    // A lower limit holds at once.
    let cache = Cache::open(&path, CHUNK as u64).unwrap();
    assert_eq!((exists("c"), cache.bytes()), (false, 0));
}

/// The kernel's loop device has a copy of the descriptor as long as the layer is mounted.
#[test]
fn a_layer_that_is_mounted_stays() {
    let (directory, cache) = cache(2 * CHUNK as u64);
    let path = directory.path().join("cache");
    let first = cache.layer(&name("a"), &file(&[1]).1).unwrap();
    put(&cache, &first, 1).unwrap();
    first.save().unwrap();
    let mounted = first.file().unwrap();
    drop((first, cache));
    // Another process does not know it from before.
    let cache = Cache::open(&path, 2 * CHUNK as u64).unwrap();
    let second = cache.layer(&name("b"), &file(&[2, 3]).1).unwrap();
    put(&cache, &second, 2).unwrap();
    assert!(matches!(put(&cache, &second, 3), Err(CacheError::Full { .. })));
    assert!(matches!(cache.make_room_for(&second, &id(&[3; CHUNK])), Err(CacheError::Full { .. })));
    drop(mounted);
    put(&cache, &second, 3).unwrap();
    assert_eq!(cache.bytes(), 2 * CHUNK as u64);
    assert!(!path.join(format!("{}.data", name("a"))).exists());
}

#[test]
fn a_cache_that_others_may_write_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    for mode in [0o770, 0o777, 0o702] {
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(Cache::open(directory.path(), 1), Err(CacheError::NotSafe { .. })), "{mode:o}");
    }
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    Cache::open(directory.path(), 1).unwrap();
}
