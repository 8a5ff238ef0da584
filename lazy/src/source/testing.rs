//! What the test servers of several chunk stores have in common.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;

/// Reads a request: its first line, and its headers by their names in lower case.
pub(crate) fn request(stream: &mut TcpStream) -> (String, BTreeMap<String, String>) {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let line = lines.next().unwrap();
    let headers = lines.take_while(|line| !line.is_empty());
    let headers =
        headers.filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())));
    (line, headers.collect())
}
