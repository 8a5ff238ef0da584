//! The script's configuration file: a Bash file that was executed. Here its assignments are read, and nothing is executed.
//!
//! A value may be plain, in quotes, or of several such pieces, and name variables (`$HOME`, `${TMPDIR:-/tmp}`). Other commands are
//! left out, which is logged. What cannot be told without executing it is an error: a value by a command (`$(…)`), and
//! conditions, loops and functions.
//!
//! No crate serves: `shlex` splits words and knows no variables, `shellexpand` knows variables and no quotes, and a shell's parser
//! would accept commands.

use std::ffi::{OsStr, OsString};
use std::iter::Peekable;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::slice::Iter;

/// Words that begin something other than an assignment or a simple command.
const COMPOUND: [&[u8]; 13] =
    [b"if", b"then", b"else", b"elif", b"fi", b"for", b"while", b"until", b"case", b"esac", b"function", b"{", b"[["];

/// A variable and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The variable.
    pub name: String,
    /// Its value, with all quotes and variables resolved.
    pub value: OsString,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}, line {line}: {what}; write the values themselves, this file is not executed", path.display())]
pub struct AssignmentError {
    path: PathBuf,
    line: usize,
    what: String,
}

type Bytes<'a> = Peekable<Iter<'a, u8>>;

/// Parses a file's text; `get` returns variables of the environment, `note` gets messages about ignored lines.
///
/// # Errors
/// Text that cannot be evaluated without executing it, with its line.
pub fn read(
    text: &[u8],
    path: &Path,
    get: &dyn Fn(&str) -> Option<OsString>,
    note: &mut dyn FnMut(String),
) -> Result<Vec<Assignment>, AssignmentError> {
    let mut assignments = Vec::new();
    for (number, line) in logical_lines(text) {
        let wrong = |what: String| AssignmentError { path: path.to_owned(), line: number, what };
        let mut bytes = line.iter().peekable();
        loop {
            while bytes.next_if(|byte| byte.is_ascii_whitespace() || **byte == b';').is_some() {}
            if bytes.peek().is_none_or(|byte| **byte == b'#') {
                break;
            }
            let rest: Vec<u8> = bytes.clone().copied().collect();
            let Some(name) = assigned_name(&rest) else {
                let word = rest.split(|byte| byte.is_ascii_whitespace() || *byte == b';').next().unwrap_or_default();
                let shown = String::from_utf8_lossy(word).into_owned();
                if word == b"export" {
                    bytes.by_ref().nth(word.len() - 1);
                    continue;
                }
                if COMPOUND.contains(&word) || word.ends_with(b"()") {
                    return Err(wrong(format!("\"{shown}\" decides what is set")));
                }
                note(format!("{}, line {number}: \"{shown}\" is no assignment and is not executed", path.display()));
                break;
            };
            bytes.by_ref().nth(name.len());
            let look_up = |wanted: &str| variable(wanted, &assignments, get);
            let value = value(&mut bytes, &look_up).map_err(|what| wrong(format!("{name} {what}")))?;
            assignments.push(Assignment { name, value });
        }
    }
    Ok(assignments)
}

/// The lines with their numbers, from 1; one that ends with a backslash goes on in the next.
fn logical_lines(text: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut lines: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (line, continued) = line.strip_suffix(b"\\").map_or((line, false), |line| (line, true));
        match lines.last_mut() {
            Some((_, last)) if goes_on => last.extend_from_slice(line),
            _ => lines.push((number + 1, line.to_vec())),
        }
        goes_on = continued;
    }
    lines
}

/// Returns the name, if the text begins with `NAME=`.
fn assigned_name(text: &[u8]) -> Option<String> {
    let at = text.iter().position(|byte| *byte == b'=')?;
    let name = text.get(..at)?;
    let is_name = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        && name.first().is_some_and(|first| !first.is_ascii_digit());
    is_name.then(|| String::from_utf8_lossy(name).into_owned())
}

/// What a variable is: assigned here, the user's id as people mean it (outside Podman's namespace), or of the environment.
fn variable(name: &str, assignments: &[Assignment], get: &dyn Fn(&str) -> Option<OsString>) -> Option<OsString> {
    if let Some(assignment) = assignments.iter().rev().find(|assignment| assignment.name == name) {
        return Some(assignment.value.clone());
    }
    if name == "UID" || name == "EUID" {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        return map.split_whitespace().nth(1).map(OsString::from);
    }
    get(name)
}

/// Parses one value, up to a blank or a semicolon outside quotes.
fn value(bytes: &mut Bytes<'_>, look_up: &dyn Fn(&str) -> Option<OsString>) -> Result<OsString, &'static str> {
    let mut value = Vec::new();
    while let Some(&&byte) = bytes.peek() {
        if byte.is_ascii_whitespace() || byte == b';' {
            break;
        }
        bytes.next();
        match byte {
            b'\'' => loop {
                match bytes.next() {
                    None => return Err("has a quote with no end"),
                    Some(b'\'') => break,
                    Some(&byte) => value.push(byte),
                }
            },
            b'"' => quoted(bytes, look_up, &mut value)?,
            b'\\' => value.extend(bytes.next()),
            b'$' => expand(bytes, look_up, &mut value)?,
            b'`' => return Err("is set by a command"),
            b'(' | b')' | b'|' | b'&' | b'<' | b'>' => return Err("is more than a value"),
            _ => value.push(byte),
        }
    }
    Ok(OsString::from_vec(value))
}

fn quoted(
    bytes: &mut Bytes<'_>,
    look_up: &dyn Fn(&str) -> Option<OsString>,
    value: &mut Vec<u8>,
) -> Result<(), &'static str> {
    loop {
        match bytes.next() {
            None => return Err("has a quote with no end"),
            Some(b'"') => return Ok(()),
            Some(b'`') => return Err("is set by a command"),
            Some(b'$') => expand(bytes, look_up, value)?,
            Some(b'\\') => match bytes.next() {
                None => return Err("has a quote with no end"),
                Some(&byte @ (b'$' | b'`' | b'"' | b'\\')) => value.push(byte),
                Some(&byte) => value.extend([b'\\', byte]),
            },
            Some(&byte) => value.push(byte),
        }
    }
}

/// What stands for `$…`: a variable that is not set is empty.
fn expand(
    bytes: &mut Bytes<'_>,
    look_up: &dyn Fn(&str) -> Option<OsString>,
    value: &mut Vec<u8>,
) -> Result<(), &'static str> {
    match bytes.peek() {
        Some(b'(') => return Err("is set by a command"),
        Some(b'{') => {
            bytes.next();
            let inside: Vec<u8> = bytes.by_ref().take_while(|byte| **byte != b'}').copied().collect();
            if inside.iter().any(|byte| b"$`{\"'".contains(byte)) {
                return Err("has a variable in a variable");
            }
            let inside = String::from_utf8_lossy(&inside).into_owned();
            let (name, default, empty_counts) = match (inside.split_once(":-"), inside.split_once('-')) {
                (Some((name, default)), _) => (name, default, false),
                (None, Some((name, default))) => (name, default, true),
                (None, None) => (inside.as_str(), "", true),
            };
            if assigned_name(format!("{name}=").as_bytes()).is_none() {
                return Err("has a variable in a form that is not known here");
            }
            let found = look_up(name).filter(|found| empty_counts || !found.is_empty());
            value.extend_from_slice(found.as_deref().unwrap_or(OsStr::new(default)).as_bytes());
        }
        Some(byte) if byte.is_ascii_alphabetic() || **byte == b'_' => {
            let mut name = String::new();
            while let Some(byte) = bytes.next_if(|byte| byte.is_ascii_alphanumeric() || **byte == b'_') {
                name.push(char::from(*byte));
            }
            value.extend_from_slice(look_up(&name).unwrap_or_default().as_bytes());
        }
        _ => value.push(b'$'),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = Vec<(String, String)>;

    /// What is assigned, or the error, and the notes.
    fn read_with(text: &str) -> (Result<Pairs, String>, Vec<String>) {
        let mut notes = Vec::new();
        let get = |name: &str| (name == "HOME").then(|| "/home/me".into());
        let read = read(text.as_bytes(), Path::new("/conf"), &get, &mut |note| notes.push(note));
        let text = |assignment: Assignment| (assignment.name, assignment.value.into_string().unwrap());
        (read.map(|read| read.into_iter().map(text).collect()).map_err(|error| error.to_string()), notes)
    }

    fn values(text: &str) -> Vec<String> {
        read_with(text).0.unwrap().into_iter().map(|(_, value)| value).collect()
    }

    #[test]
    fn assignments_as_people_write_them() {
        assert_eq!(
            values("# a comment\n\nA=plain\nexport B=\"with blanks\"  # why\nC='$HOME'; D=a\"b\"'c'\\ d\r\n").join("|"),
            "plain|with blanks|$HOME|ab".to_owned() + "c d"
        );
        assert_eq!(values("A=1 B=2;C=3").join("|"), "1|2|3");
        assert_eq!(values("A=\"-o \\\n allow_other\"").join("|"), "-o  allow_other");
        assert_eq!(values("A=\nB=x#y").join("|"), "|x#y");
    }

    #[test]
    fn variables() {
        assert_eq!(
            values("A=$HOME/x\nB=${A}.log\nC=\"${NONE:-/tmp}/$NONE\"\nD=5$").join("|"),
            "/home/me/x|/home/me/x.log|/tmp/|5$"
        );
        assert!(values("A=log-$UID")[0].trim_start_matches("log-").parse::<u32>().is_ok());
    }

    #[test]
    fn what_would_have_to_be_executed_is_an_error() {
        for text in [
            "A=$(id -u)",
            "A=\"x$(touch /tmp/x)\"",
            "A=`id -u`",
            "A=\"`id`\"",
            "if true; then",
            "[[ -n $A ]] && B=1",
            "f() { :; }",
            "A=(1 2)",
            "A=1&",
            "A=\"open",
            "A=${B/x/y}",
            "A=${B:-$(id)}",
        ] {
            let message = read_with(&format!("\n{text}\n")).0.expect_err(text);
            assert!(message.starts_with("/conf, line 2: ") && message.contains("not executed"), "{message}");
        }
    }

    #[test]
    fn other_commands_are_left_out_and_told() {
        let (read, notes) = read_with("umask 022\nA=1\n. /etc/other\nset -u; B=2\n");
        assert_eq!(read.unwrap(), [("A".to_owned(), "1".to_owned())]);
        assert_eq!(notes.len(), 3);
        assert!(notes[0].contains("/conf, line 1: \"umask\""), "{notes:?}");
    }

    #[test]
    fn bytes_need_not_be_text() {
        let read = read(b"A=/\xff", Path::new("/conf"), &|_| None, &mut |_| {}).unwrap();
        assert_eq!(read[0].value.as_bytes(), b"/\xff");
    }
}
