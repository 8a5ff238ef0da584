use std::sync::mpsc::{Receiver, Sender, channel};

use parallax_chunks::{Algorithm, Index, Parameters, compress};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::cache::bounded::Cache;
use crate::source::{Counted, Source, SourceError};

const CHUNK: usize = 70_000;

/// Tells which chunk is asked for, and answers when it may: to each call as many times as the test says.
#[derive(Debug)]
struct Slow {
    asked: Sender<ChunkId>,
    may_answer: Mutex<Receiver<()>>,
}

impl Source for Slow {
    fn file(&self, _: &Sha256, id: &ChunkId, _: usize) -> Result<Vec<u8>, SourceError> {
        self.asked.send(*id).unwrap();
        self.may_answer.lock().unwrap().recv().map_err(|_| SourceError::NotFound)?;
        let chunk = (0..=u8::MAX).map(|byte| vec![byte; CHUNK]).find(|chunk| id_of(chunk) == *id);
        chunk.map_or(Err(SourceError::NotFound), |chunk| Ok(compress(&chunk).unwrap()))
    }

    fn name(&self) -> &'static str {
        "slow"
    }
}

fn id_of(chunk: &[u8]) -> ChunkId {
    ChunkId::of(chunk, Algorithm::Sha256)
}

struct Fixture {
    served: Arc<Served>,
    ids: Vec<ChunkId>,
    asked: Receiver<ChunkId>,
    answer: Sender<()>,
    /// The agent's side.
    channel: Channel,
    _directory: tempfile::TempDir,
}

/// A layer of this many chunks, none of which is there.
fn fixture(chunks: u8) -> Fixture {
    with_cache(chunks, 1 << 30)
}

/// As [`fixture`], with a cache of so many bytes.
fn with_cache(chunks: u8, limit: u64) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let ids: Vec<ChunkId> = (0..chunks).map(|byte| id_of(&[byte; CHUNK])).collect();
    let sizes: Vec<_> = ids.iter().map(|id| (*id, CHUNK as u64)).collect();
    let index = Index::new(Algorithm::Sha256, Parameters::default(), &sizes);
    let cache = Cache::open(&directory.path().join("cache"), limit).unwrap();
    let layer = cache.layer(&Sha256::from([1; 32]), &index).unwrap();
    let (asked_sender, asked) = channel();
    let (answer, may_answer) = channel();
    let source = Slow { asked: asked_sender, may_answer: Mutex::new(may_answer) };
    let sources = Sources::new(vec![Counted::new(source)]);
    let (agent, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let agent = Mutex::new(Arc::new(Channel::accepted(agent).unwrap()));
    let served = Arc::new_cyclic(|me| Served {
        me: Weak::clone(me),
        name: Sha256::from([1; 32]),
        layer,
        sources,
        queue: Arc::new(Queue::new(cache)),
        ahead: Ahead::start().unwrap(),
        timeout: Duration::from_secs(60),
        agent,
        state: State::default(),
    });
    let channel = Channel::accepted(other).unwrap();
    Fixture { served, ids, asked, answer, channel, _directory: directory }
}

/// The chunks that are asked for by now, while nothing is answered; as many as are expected are waited for.
fn asked(asked: &Receiver<ChunkId>, expected: usize) -> Vec<ChunkId> {
    let mut ids: Vec<_> = (0..expected).map(|_| asked.recv_timeout(Duration::from_secs(60)).unwrap()).collect();
    ids.sort_unstable();
    ids
}

fn sorted(ids: &[ChunkId]) -> Vec<ChunkId> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}

#[test]
fn the_chunks_of_one_read_are_fetched_at_once() {
    let Fixture { served, ids, asked: questions, answer, .. } = fixture(3);
    thread::scope(|scope| {
        let read = scope.spawn(|| {
            let mut buffer = vec![9; 2 * CHUNK];
            (served.read(&mut buffer, CHUNK as u64 / 2).unwrap(), buffer)
        });
        assert_eq!(asked(&questions, 3), sorted(&ids));
        (0..3).for_each(|_| answer.send(()).unwrap());
        let (length, buffer) = read.join().unwrap();
        assert_eq!((length, buffer[0], buffer[CHUNK], buffer[2 * CHUNK - 1]), (2 * CHUNK, 0, 1, 2));
    });
    assert!(questions.try_recv().is_err());
}

#[test]
fn what_follows_in_a_sequence_is_fetched_before_it_is_read() {
    let Fixture { served, ids, asked: questions, answer, .. } = fixture(12);
    (0..6).for_each(|_| answer.send(()).unwrap());
    for number in 0..4_usize {
        served.read(&mut [0; 10], (number * CHUNK) as u64).unwrap();
    }
    // Four chunks in a row were read, so two more are asked for.
    assert_eq!(asked(&questions, 6), sorted(&ids[..6]));
    assert!(questions.try_recv().is_err());
}

#[test]
fn a_read_fails_when_the_layer_is_no_longer_used() {
    let Fixture { served, asked: _questions, answer, .. } = fixture(1);
    drop(answer);
    served.end();
    assert!(served.read(&mut [0; 10], 0).is_err());
    let waiting = served.waiting();
    assert!(!waiting.reason.is_empty());
    assert_eq!(waiting.readers, 0);
}

#[test]
fn a_reader_waits_whatever_others_read() {
    let Fixture { served, answer, asked: _questions, .. } = fixture(1);
    answer.send(()).unwrap();
    served.read(&mut [0; 10], 0).unwrap();
    let waits = served.wait("no source has it");
    served.read(&mut [0; 10], 0).unwrap();
    assert!(served.status().waits);
    drop(waits);
    assert!(!served.status().waits);
}

#[test]
fn what_a_full_cache_cannot_take_is_read_all_the_same() {
    let Fixture { served, answer, channel, asked: _questions, .. } = with_cache(4, 2 * CHUNK as u64);
    (0..50).for_each(|_| answer.send(()).unwrap());
    served.fetch_beginning(2 * CHUNK as u64, true).unwrap();
    assert!(served.state.uncached.get().is_none());
    let mut buffer = vec![9; 2 * CHUNK];
    assert_eq!(served.read(&mut buffer, 3 * CHUNK as u64 / 2).unwrap(), 2 * CHUNK);
    assert_eq!((buffer[0], buffer[CHUNK], buffer[2 * CHUNK - 1]), (1, 2, 3));
    // The agent is told once, and so is the next one.
    let told = || {
        let (message, _) = channel.receive::<FromWorker>(Some(Duration::from_secs(60))).unwrap();
        assert!(
            matches!(&message, FromWorker::Waiting { reason } if reason.contains("the cache is full")),
            "{message:?}"
        );
    };
    told();
    served.read(&mut buffer, 2 * CHUNK as u64).unwrap();
    let agent = Arc::clone(&served.agent.lock().unwrap());
    served.set_agent(&agent);
    told();
    assert!(channel.receive::<FromWorker>(Some(Duration::ZERO)).is_err());
    let refused = served.fetch_beginning(4 * CHUNK as u64, true).unwrap_err();
    assert!(refused.contains("the cache is full"), "{refused}");
    served.fetch_beginning(4 * CHUNK as u64, false).unwrap();
}
