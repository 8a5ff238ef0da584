//! The settings of an image in the files that `enroot import` puts into it (`docker::configure` in enroot's `docker.sh`, 3.0 to 4.1).
//!
//! Its start script is a shell script of a fixed form. What is read of it has one meaning only: constants, in single quotes.

use crate::oci::Execution;

/// The start script, which enters the image's working directory and runs the entry point.
pub const START_SCRIPT: &str = "/etc/rc";
/// The file with the image's variables, `NAME=VALUE` on a line each. Distributions have a file of this name as well.
pub const VARIABLES: &str = "/etc/environment";

/// The start script's command that enters the working directory: what comes before and after it.
const ENTER: (&str, &str) = ("cd \"", "\" && unset OLDPWD || exit 1");
/// The start script's command that runs the entry point with the user's command.
const EXEC: (&str, &str) = ("exec ", " \"$@\"");

/// Returns an image's settings by its start script and its file of variables; `None` if the script is not one of enroot's.
#[must_use]
pub fn execution(script: &str, variables: &str) -> Option<Execution> {
    let between = |(before, after): (&str, &str)| {
        script.lines().find_map(|line| line.trim().strip_prefix(before)?.strip_suffix(after))
    };
    let directory = between(ENTER)?;
    let is_constant = !directory.contains(['$', '`', '\\', '"']);
    let variables = variables.lines().filter(|line| line.contains('=')).map(ToOwned::to_owned);
    Some(Execution {
        environment: Some(variables.collect()),
        entrypoint: between(EXEC).and_then(words).filter(|words| !words.is_empty()),
        working_directory: is_constant.then(|| directory.to_owned()),
        ..Execution::default()
    })
}

/// Reads words as bash quotes them (`${parameter@Q}`): in single quotes, with each single quote as `'\''`. `None` for other words.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let mut word = String::new();
        while !rest.is_empty() && !rest.starts_with(' ') {
            if let Some(after) = rest.strip_prefix("\\'") {
                word.push('\'');
                rest = after;
            } else {
                let (quoted, after) = rest.strip_prefix('\'')?.split_once('\'')?;
                word.push_str(quoted);
                rest = after;
            }
        }
        words.push(word);
        rest = rest.trim_start();
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(directory: &str, entrypoint: &str) -> String {
        format!(
            "# enroot-provenance: docker://python\n\nmkdir -p \"{directory}\" 2> /dev/null\ncd \"{directory}\" && unset OLDPWD || exit 1\n\n\
             if [ -s /etc/rc.local ]; then\n    . /etc/rc.local\nfi\n\nif [ $# -gt 0 ]; then\n    exec {entrypoint} \"$@\"\nelse\n    \
             exec {entrypoint} 'python3'\nfi\n"
        )
    }

    #[test]
    fn settings_are_read() {
        let variables = "PATH=/opt/bin:/usr/bin\nA=b c=d\n\nnothing\n";
        let read = execution(&script("/work", "'/entry point' 'it'\\''s' ''"), variables).unwrap();
        assert_eq!(read.environment.unwrap(), ["PATH=/opt/bin:/usr/bin", "A=b c=d"]);
        assert_eq!(read.entrypoint.unwrap(), ["/entry point", "it's", ""]);
        assert_eq!(read.working_directory.unwrap(), "/work");
    }

    #[test]
    fn an_image_without_an_entry_point_has_none() {
        assert_eq!(execution(&script("/", ""), "").unwrap().entrypoint, None);
    }

    #[test]
    fn what_is_not_constant_is_left_out() {
        let read = execution(&script("/$HOME", "$'\\n'"), "").unwrap();
        assert_eq!((read.entrypoint, read.working_directory), (None, None));
        for other in ["", "#!/bin/sh\ncd /work\nexec /entry \"$@\"\n"] {
            assert_eq!(execution(other, "PATH=/evil"), None);
        }
    }
}
