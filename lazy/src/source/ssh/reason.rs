//! Reasons why ssh ended, from its messages.

use crate::source::SourceError;

/// Returns the reason why ssh ended. `messages` is what ssh printed, `host` the server, and `known_hosts` names the file with its host key.
pub(super) fn of(messages: &str, host: &str, known_hosts: &str) -> SourceError {
    let lines = || messages.lines().map(str::trim).filter(|line| !line.is_empty());
    let line_with = |part: &str| lines().find(|line| line.contains(part));
    if line_with("has changed and you have requested strict checking").is_some() {
        return SourceError::Denied(format!(
            "the host key of {host} is not the one in {known_hosts}: another machine may answer in its place, or it has a new key"
        ));
    }
    if line_with("host key is known for").is_some() {
        return SourceError::Denied(format!(
            "the host key of {host} is unknown; add it to {known_hosts} after a check of its fingerprint"
        ));
    }
    if line_with("Host key verification failed").is_some() {
        return SourceError::Denied(format!("the host key of {host} is not accepted by {known_hosts}"));
    }
    if let Some(line) = line_with("bad permissions").or_else(|| line_with("Permission denied")) {
        return SourceError::Denied(format!("{host} denies access: {line}"));
    }
    if let Some(line) = line_with("ubsystem request failed") {
        return SourceError::Permanent(format!("{host} offers no sftp: {line}"));
    }
    SourceError::Temporary(lines().next_back().unwrap_or("ssh ended without a message").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of OpenSSH 9.2.
    #[test]
    fn what_asking_again_cannot_help_is_told_from_the_rest() {
        let reason = |messages: &str| of(messages, "h", "/etc/hosts-known");
        let unknown = "No ED25519 host key is known for [127.0.0.1]:2222 and you have requested strict checking.\r\n\
                       Host key verification failed.\r\n";
        assert!(matches!(reason(unknown), SourceError::Denied(text) if text.contains("the host key of h is unknown")));
        let changed = "@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n\
                       Host key for [127.0.0.1]:2222 has changed and you have requested strict checking.\nHost key verification failed.";
        let text = "the host key of h is not the one in /etc/hosts-known";
        assert!(matches!(reason(changed), SourceError::Denied(reason) if reason.starts_with(text)));
        assert!(matches!(reason("Host key verification failed."), SourceError::Denied(_)));
        let denied = reason("Load key \"/k\": bad permissions\nu@h: Permission denied (publickey).");
        assert_eq!(denied, SourceError::Denied("h denies access: Load key \"/k\": bad permissions".to_owned()));
        assert!(matches!(reason("u@h: Permission denied (publickey)."), SourceError::Denied(_)));
        assert!(matches!(reason("subsystem request failed on channel 0"), SourceError::Permanent(_)));
        let refused = "ssh: connect to host h port 22: Connection refused";
        assert_eq!(reason(&format!("x\n{refused}\r\n")), SourceError::Temporary(refused.to_owned()));
        assert_eq!(reason(""), SourceError::Temporary("ssh ended without a message".to_owned()));
    }
}
