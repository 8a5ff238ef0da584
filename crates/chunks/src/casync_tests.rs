//! The real casync (Debian: casync) writes the same indexes, reads what is written here, and is read.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::cutter::tests::cut_at;
use crate::{Algorithm, ChunkId, Cutter, Index, Parameters, compress, decode, split};

/// casync's names of the digests.
const ALGORITHMS: [(Algorithm, &str); 2] = [(Algorithm::Sha512_256, "sha512-256"), (Algorithm::Sha256, "sha256")];

/// Runs casync and returns what it prints.
fn casync(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("casync").args(arguments).current_dir(directory).output();
    let output = output.expect("casync cannot be run; install the package casync");
    assert!(output.status.success(), "casync {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A file system as the store has them, of the sources of this repository.
fn squashfs() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let (file, sources) = (directory.path().join("file"), Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
    let arguments = ["-comp", "zstd", "-no-progress", "-quiet"];
    let output = Command::new("mksquashfs").arg(sources).arg(&file).args(arguments).output();
    let output = output.expect("mksquashfs cannot be run; install the package squashfs-tools");
    assert!(output.status.success(), "{output:?}");
    fs::read(file).unwrap()
}

/// Files whose chunks are a matter of one byte more or less, and usual ones.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let (min, max) = (16 << 10, 256 << 10);
    let mut random = fastrand::Rng::with_seed(7);
    let data: Vec<u8> = (0..3 << 20).map(|_| random.u8(..)).collect();
    let joined = [cut_at(min, min), data[..100_000].to_vec(), cut_at(min, min), vec![0; max + 1]].concat();
    vec![
        ("empty", Vec::new()),
        ("one byte", vec![b'x']),
        ("less than the window", vec![b'x'; 47]),
        ("less than the minimum", data[..min - 1].to_vec()),
        ("the minimum", data[..min].to_vec()),
        ("more than the minimum", data[..=min].to_vec()),
        ("cut at the minimum", cut_at(min, 40 << 10)),
        ("cut behind the minimum", cut_at(min + 1, 40 << 10)),
        ("ends with a cut at the minimum", cut_at(min, min)),
        ("cut before the maximum", cut_at(max - 1, max + 5)),
        ("cut at the maximum", cut_at(max, max + 5)),
        ("the maximum", vec![0; max]),
        ("more than the maximum", vec![0; max + 1]),
        ("zeros", vec![0; 3 << 20]),
        ("several of these", joined),
        ("random", data),
        ("SquashFS", squashfs()),
    ]
}

/// Writes the chunks of a file to a chunk store and returns its index.
fn publish(data: &[u8], algorithm: Algorithm, store: &Path) -> Index {
    let take = |id: &ChunkId, content: &[u8]| {
        fs::create_dir_all(store.join(id.directory()))?;
        fs::write(store.join(id.path()), compress(content)?)
    };
    let chunks = split(data, Cutter::new(Parameters::default()), algorithm, 1, take).unwrap();
    Index::new(algorithm, Parameters::default(), &chunks)
}

#[test]
fn indexes_are_those_of_casync() {
    for (name, data) in files() {
        for (algorithm, digest) in ALGORITHMS {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("file"), &data).unwrap();
            let digest = format!("--digest={digest}");
            let of_file = casync(directory.path(), &["make", &digest, "theirs.caibx", "file"]);
            let index = publish(&data, algorithm, &directory.path().join("ours.castr"));
            let theirs = fs::read(directory.path().join("theirs.caibx")).unwrap();
            assert!(theirs == index.to_bytes(), "{name}, {digest}: {:?}\n{:?}", Index::parse(&theirs), index);
            assert_eq!(of_file, ChunkId::of(&data, algorithm).to_string(), "{name}");
            assert_eq!(casync(directory.path(), &["digest", &digest, "file"]), of_file, "{name}");
            // And what casync has written is read.
            let read = Index::parse(&theirs).unwrap();
            let store = directory.path().join("default.castr");
            let mut content = Vec::new();
            for part in read.parts() {
                let frame = fs::read(store.join(part.id.path())).unwrap();
                content.extend(decode(&frame, &part.id, algorithm, 256 << 10).unwrap());
            }
            assert!(content == data, "{name}");
        }
    }
}

#[test]
fn casync_extracts_from_a_directory_and_over_http() {
    let directory = tempfile::tempdir().unwrap();
    let address = serve(directory.path().to_owned());
    for (number, (name, data)) in files().into_iter().enumerate() {
        let algorithm = ALGORITHMS[number % 2].0;
        let digest = format!("--digest={}", ALGORITHMS[number % 2].1);
        let index = publish(&data, algorithm, &directory.path().join("default.castr"));
        fs::write(directory.path().join("ours.caibx"), index.to_bytes()).unwrap();
        let from = [directory.path().join("ours.caibx").display().to_string(), format!("http://{address}/ours.caibx")];
        for from in from {
            let into = tempfile::tempdir().unwrap();
            casync(into.path(), &["extract", &digest, &from, "out"]);
            assert!(fs::read(into.path().join("out")).unwrap() == data, "{name} from {from}");
        }
    }
}

#[test]
fn casync_refuses_a_corrupt_chunk() {
    let directory = tempfile::tempdir().unwrap();
    let data = vec![5; 1000];
    let store = directory.path().join("default.castr");
    let index = publish(&data, Algorithm::Sha512_256, &store);
    fs::write(directory.path().join("ours.caibx"), index.to_bytes()).unwrap();
    fs::write(store.join(index.parts().next().unwrap().id.path()), compress(&[6; 1000]).unwrap()).unwrap();
    let output = Command::new("casync").args(["extract", "ours.caibx", "out"]).current_dir(directory.path()).output();
    assert!(!output.unwrap().status.success());
}

/// Serves the files of a directory over HTTP while the test runs; returns the address.
fn serve(root: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| answer(stream, &root)));
    address
}

fn answer(mut stream: TcpStream, root: &Path) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let (status, body) = match fs::read(root.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(&[head.as_bytes(), &body].concat());
}
