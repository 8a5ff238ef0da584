use std::fs;
use std::path::PathBuf;
use std::thread;

use parallax_chunks::{Algorithm, Parameters, compress};

use super::*;
use crate::source::Counted;
use crate::source::directory::DirectorySource;

/// A file of five chunks, of which the first and the last are equal, and a chunk store with them.
struct Fixture {
    layer: UncachedLayer,
    content: Vec<u8>,
    ids: Vec<ChunkId>,
    store: tempfile::TempDir,
}

impl Fixture {
    fn path(&self, number: usize) -> PathBuf {
        self.store.path().join(self.ids[number].path())
    }

    fn read(&self, offset: usize, size: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0xee; size];
        let read = self.layer.read(&mut buffer, offset as u64)?;
        buffer.truncate(read);
        Ok(buffer)
    }
}

fn fixture() -> Fixture {
    let store = tempfile::tempdir().unwrap();
    let chunks: Vec<Vec<u8>> = [1_u8, 2, 3, 4, 1].map(|byte| vec![byte; 70_000]).into();
    let ids: Vec<ChunkId> = chunks.iter().map(|chunk| ChunkId::of(chunk, Algorithm::Sha256)).collect();
    for (id, chunk) in ids.iter().zip(&chunks) {
        fs::create_dir_all(store.path().join(id.directory())).unwrap();
        fs::write(store.path().join(id.path()), compress(chunk).unwrap()).unwrap();
    }
    let sizes: Vec<_> = ids.iter().map(|id| (*id, 70_000)).collect();
    let index = Index::new(Algorithm::Sha256, Parameters::default(), &sizes);
    let layer = UncachedLayer::new(
        Sha256::from([0; 32]),
        index,
        Sources::new(vec![Counted::new(DirectorySource::new(store.path()))]),
    );
    Fixture { layer, content: chunks.concat(), ids, store }
}

#[test]
fn any_part_of_the_file_can_be_read() {
    let fixture = fixture();
    for (offset, size) in [
        (0, 10),
        (0, 350_000),
        (69_999, 2),
        (70_000, 70_000),
        (139_999, 140_002),
        (349_990, 100),
        (350_000, 9),
        (400_000, 9),
    ] {
        let end = (offset + size).min(350_000);
        let expected = fixture.content.get(offset..end).unwrap_or_default();
        assert!(fixture.read(offset, size).unwrap() == expected, "{size} bytes at {offset}");
    }
}

#[test]
fn what_cannot_be_read_is_an_error_and_asked_for_again() {
    let fixture = fixture();
    let chunk = fs::read(fixture.path(1)).unwrap();
    fs::remove_file(fixture.path(1)).unwrap();
    assert!(fixture.read(60_000, 20_000).unwrap_err().to_string().contains("not found"));
    // Another chunk in its place.
    fs::copy(fixture.path(2), fixture.path(1)).unwrap();
    assert!(fixture.read(60_000, 20_000).unwrap_err().to_string().contains("the chunk is corrupt"));
    fs::write(fixture.path(1), chunk).unwrap();
    assert!(fixture.read(60_000, 20_000).unwrap() == fixture.content[60_000..80_000]);
}

#[test]
fn chunks_in_memory_are_bounded_and_the_one_read_least_recently_goes() {
    let mut state = State::default();
    let content: Arc<[u8]> = vec![0; 1 << 20].into();
    let ids: Vec<ChunkId> = (0..20_u8).map(|number| ChunkId::of(&[number], Algorithm::Sha256)).collect();
    for id in &ids {
        state.keep(*id, &content);
        assert!(state.get(&ids[0]).is_some());
    }
    assert_eq!((state.bytes, state.kept.len()), (16 << 20, 16));
    assert!(state.get(&ids[1]).is_none() && state.get(&ids[19]).is_some());
}

#[test]
fn many_readers_get_the_same() {
    let fixture = fixture();
    thread::scope(|scope| {
        let read = || fixture.read(0, 350_000).unwrap() == fixture.content;
        let readers: Vec<_> = (0..8).map(|_| scope.spawn(read)).collect();
        assert!(readers.into_iter().all(|reader| reader.join().unwrap()));
    });
    let state = fixture.layer.state();
    // Each is there once.
    assert_eq!((state.kept.len(), state.bytes, state.in_progress.len()), (4, 280_000, 0));
}
