//! Signatures of requests to S3: AWS Signature Version 4, in the header `Authorization`. The signature in a URL would be in the logs of
//! proxies.
//!
//! The crate rusty-s3 signs URLs only, and brings 34 crates, most of them for internationalized host names. What is needed here is one
//! request without a body; `ring`, which TLS uses, has the HMAC. Amazon's published examples are the tests.

use std::fmt::Write as _;

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use ring::hmac::{HMAC_SHA256, Key, sign};

use super::credentials::Credentials;

/// SHA-256 of an empty body.
pub(super) const EMPTY_BODY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A request for an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// Host, and port if it is not the default one, as in the header `Host`.
    pub(super) host: &'a str,
    /// Path, of characters that need no encoding.
    pub(super) path: &'a str,
    /// The region.
    pub(super) region: &'a str,
    /// The time, which servers accept within 15 minutes of their own.
    pub(super) time: Timestamp,
}

impl Request<'_> {
    /// Returns the headers to send, besides `Host`. `more` are further ones, with lower-case names.
    pub(super) fn headers(&self, credentials: &Credentials, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let time = self.time.strftime("%Y%m%dT%H%M%SZ").to_string();
        let date = self.time.strftime("%Y%m%d").to_string();
        let token = credentials.token.iter().map(|token| ("x-amz-security-token", token.as_str()));
        let mut headers: Vec<(&str, &str)> =
            [("x-amz-content-sha256", EMPTY_BODY), ("x-amz-date", &time)].into_iter().chain(token).collect();
        headers.extend(more);
        let mut signed = headers.clone();
        signed.push(("host", self.host));
        signed.sort_unstable();
        let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        // Method, path, query, headers, their names, body.
        let request = format!("GET\n{}\n\n{lines}\n{names}\n{EMPTY_BODY}", self.path);
        let scope = format!("{date}/{}/s3/aws4_request", self.region);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(digest(&SHA256, request.as_bytes()).as_ref()));
        let secret = format!("AWS4{}", credentials.secret);
        let key = [date.as_str(), self.region, "s3", "aws4_request"]
            .iter()
            .fold(secret.into_bytes(), |key, part| hmac(&key, part));
        let signature = hex(&hmac(&key, &text));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}",
            credentials.key
        );
        let mut all: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        all.push(("authorization".to_owned(), authorization));
        all
    }
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    sign(&Key::new(HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "GET Object" of Amazon's documentation, "Signature Calculations for the Authorization Header".
    #[test]
    fn amazons_example_has_its_signature() {
        let credentials = Credentials {
            key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
        };
        let request = Request {
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            region: "us-east-1",
            time: "2013-05-24T00:00:00Z".parse().unwrap(),
        };
        let headers = request.headers(&credentials, &[("range", "bytes=0-9")]);
        let expected = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
            SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
            Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert_eq!(headers.last().unwrap().1, expected);
        assert_eq!(headers[1], ("x-amz-date".to_owned(), "20130524T000000Z".to_owned()));
        let with_token = Credentials { token: Some("t".to_owned()), ..credentials };
        let headers = request.headers(&with_token, &[]);
        assert!(headers.contains(&("x-amz-security-token".to_owned(), "t".to_owned())));
        assert!(headers.last().unwrap().1.contains("x-amz-date;x-amz-security-token,"), "{headers:?}");
    }
}
