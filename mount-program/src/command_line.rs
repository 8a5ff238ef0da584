//! Parser of the command line (pure).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// The parsed arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// A mount.
    Mount {
        /// The options, as one string.
        options: OsString,
        /// The mount point.
        target: PathBuf,
    },
    /// A mount of a SquashFS file alone, read-only.
    SquashFs {
        /// The file.
        file: PathBuf,
        /// The mount point.
        target: PathBuf,
    },
    /// The version.
    Version,
    /// The help.
    Help,
}

impl Order {
    /// Parses the arguments, without the program's name: `-o OPTIONS TARGET` as Podman writes it, and the forms that getopt(3) and
    /// the script that this program replaces treat as equal: `-oOPTIONS`, `-o OPTIONS` in one word, and several of these.
    ///
    /// # Errors
    /// The reason why the arguments are invalid.
    pub(crate) fn parse(arguments: &[OsString]) -> Result<Self, String> {
        match arguments {
            [one] if one == "--version" || one == "-V" => return Ok(Self::Version),
            [one] if one == "--help" || one == "-h" => return Ok(Self::Help),
            [first, file, target] if first == "--squashfs" => {
                return Ok(Self::SquashFs { file: file.into(), target: target.into() });
            }
            _ => {}
        }
        let (mut options, mut targets) = (Vec::<&[u8]>::new(), Vec::new());
        let mut arguments = arguments.iter();
        let mut only_targets = false;
        while let Some(argument) = arguments.next() {
            match argument.as_bytes() {
                b"--" if !only_targets => only_targets = true,
                b"-o" if !only_targets => {
                    options.push(arguments.next().ok_or("-o needs a value")?.as_bytes());
                }
                [b'-', b'o', rest @ ..] if !only_targets => options.push(rest.trim_ascii_start()),
                [b'-', ..] if !only_targets => return Err(format!("unknown option {}", argument.to_string_lossy())),
                _ => targets.push(argument),
            }
        }
        let [target] = targets[..] else {
            return Err(match targets.get(1) {
                None => "the target is missing".to_owned(),
                Some(second) => format!("more than one target: {}", second.to_string_lossy()),
            });
        };
        if options.is_empty() {
            return Err("missing options: -o is missing".to_owned());
        }
        Ok(Self::Mount {
            options: OsString::from_vec(options.join(&b','.to_owned())),
            target: OsStr::new(target).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Order, String> {
        Order::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn mount(options: &str) -> Order {
        Order::Mount { options: options.into(), target: "/t".into() }
    }

    #[test]
    fn options_in_one_word_or_two_are_the_same() {
        for words in [
            &["-o", "lowerdir=/a b,ro", "/t"][..],
            &["-olowerdir=/a b,ro", "/t"],
            &["-o lowerdir=/a b,ro", "/t"],
            &["/t", "-o", "lowerdir=/a b,ro"],
            &["-o", "lowerdir=/a b", "-o ro", "/t"],
            &["-o", "lowerdir=/a b,ro", "--", "/t"],
        ] {
            assert_eq!(parse(words), Ok(mount("lowerdir=/a b,ro")), "{words:?}");
        }
    }

    #[test]
    fn bytes_need_not_be_text() {
        let words = [OsString::from_vec(b"-o lowerdir=/\xff".to_vec()), "/t".into()];
        let Order::Mount { options, .. } = Order::parse(&words).unwrap() else { panic!() };
        assert_eq!(options.as_bytes(), b"lowerdir=/\xff");
    }

    #[test]
    fn mistakes_are_named() {
        for (words, says) in [
            (&[][..], "the target is missing"),
            (&["-o"], "-o needs a value"),
            (&["-o", "a"], "the target is missing"),
            (&["/t"], "-o is missing"),
            (&["-f", "-o", "a", "/t"], "unknown option -f"),
            (&["-o", "a", "/t", "/u"], "more than one target: /u"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.contains(says), "{words:?}: {error}");
        }
        assert_eq!(parse(&["--version"]), Ok(Order::Version));
        assert_eq!(parse(&["-h"]), Ok(Order::Help));
        let order = Order::SquashFs { file: "/a.sqsh".into(), target: "/t".into() };
        assert_eq!(parse(&["--squashfs", "/a.sqsh", "/t"]), Ok(order));
        assert!(parse(&["--squashfs", "/a.sqsh"]).is_err());
    }
}
