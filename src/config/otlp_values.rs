//! Values of the settings of the export: URLs, headers, attributes, samplers.

use std::ffi::OsStr;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, Error, ValueEnum};
use percent_encoding::percent_decode_str;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use url::Url;

/// Maximum headers, and maximum attributes.
const PAIRS_MAX: usize = 64;

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SamplerName {
    /// Every one
    #[value(name = "always_on")]
    AlwaysOn,
    /// None
    #[value(name = "always_off")]
    AlwaysOff,
    /// A share of them
    #[value(name = "traceidratio")]
    Traceidratio,
    /// Those that the caller records, and every one without a caller
    #[value(name = "parentbased_always_on")]
    ParentbasedAlwaysOn,
    /// Those that the caller records
    #[value(name = "parentbased_always_off")]
    ParentbasedAlwaysOff,
    /// Those that the caller records, and a share of those without a caller
    #[value(name = "parentbased_traceidratio")]
    ParentbasedTraceidratio,
}

/// Attributes of this service, beside those that it gives itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceAttributes(Vec<(String, String)>);

impl ResourceAttributes {
    /// Names and values.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

impl FromStr for ResourceAttributes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        pairs(text).map(Self)
    }
}

/// Parses the headers. They may be secrets: an error has nothing of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadersParser;

impl TypedValueParser for HeadersParser {
    type Value = HeaderMap;

    fn parse_ref(&self, cmd: &Command, _: Option<&Arg>, value: &OsStr) -> Result<HeaderMap, Error> {
        headers(&value.to_string_lossy()).map_err(|rule| {
            let text = format!("OTEL_EXPORTER_OTLP_HEADERS {rule}\n");
            Error::raw(ErrorKind::ValueValidation, text).with_cmd(cmd)
        })
    }
}

fn headers(text: &str) -> Result<HeaderMap, String> {
    let rule = || {
        "must be name=value, separated by commas, with names of header fields and percent-encoded \
         values"
            .to_owned()
    };
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(text).map_err(|_| rule())? {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| rule())?;
        if [CONTENT_TYPE, CONTENT_LENGTH, HOST].contains(&name) {
            return Err(format!("must not have {name}"));
        }
        let mut value = HeaderValue::from_str(&value).map_err(|_| rule())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// Parses `name=value,name=value`, in which values are percent-encoded. Empty members are passed over.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let rule = || "must be name=value, separated by commas, with percent-encoded values".to_owned();
    let members = text.split(',').map(str::trim).filter(|member| !member.is_empty());
    let pair = |member: &str| {
        let (name, value) = member.split_once('=').ok_or_else(rule)?;
        let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| rule())?;
        match name.trim() {
            "" => Err(rule()),
            name => Ok((name.to_owned(), value.into_owned())),
        }
    };
    let pairs: Vec<_> = members.map(pair).collect::<Result<_, String>>()?;
    if pairs.len() > PAIRS_MAX {
        return Err(format!("must have at most {PAIRS_MAX}"));
    }
    Ok(pairs)
}

/// Parses the URL of a collector, to which paths are added.
pub(super) fn parse_collector(text: &str) -> Result<Url, String> {
    let url = parse_signal_url(text)?;
    if url.query().is_some() {
        return Err("must have no query: /v1/traces and /v1/logs are added".to_owned());
    }
    Ok(url)
}

/// Parses the URL that one signal goes to.
pub(super) fn parse_signal_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let url = url.ok_or("must be an http:// or https:// URL, such as http://localhost:4318")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must have no user or password; use OTEL_EXPORTER_OTLP_HEADERS".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must have no fragment".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_are_http_urls_without_secrets() {
        for good in ["http://localhost:4318", "https://otlp.example/base/"] {
            assert!(parse_collector(good).is_ok(), "{good}");
        }
        for bad in ["localhost:4318", "grpc://a", "http://u:p@a", "http://a?key=1", "http://a#b"] {
            assert!(parse_collector(bad).is_err(), "{bad}");
        }
        assert!(parse_signal_url("http://a/v1/traces?tenant=1").is_ok());
    }

    #[test]
    fn headers_are_decoded_and_hide_in_debug() {
        let parsed = headers("authorization=Bearer%20s3cret, x-tenant=a,").unwrap();
        assert_eq!(parsed["authorization"], "Bearer s3cret");
        assert_eq!(parsed["x-tenant"], "a");
        assert!(!format!("{parsed:?}").contains("s3cret"));
        let many = vec!["a=s3cret"; 65].join(",");
        for bad in ["s3cret", "=s3cret", "a b=s3cret", "a=s3cret%0a", "content-type=s3cret", &many]
        {
            let rule = headers(bad).unwrap_err();
            assert!(rule.starts_with("must") && !rule.contains("s3cret"), "{bad}: {rule}");
        }
    }

    #[test]
    fn attributes_are_pairs() {
        let attributes: ResourceAttributes =
            "deployment.environment.name=a%2Cb,x=".parse().unwrap();
        let expected = [("deployment.environment.name", "a,b"), ("x", "")];
        assert_eq!(attributes.pairs(), expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!("".parse(), Ok(ResourceAttributes::default()));
        assert!("x".parse::<ResourceAttributes>().is_err());
    }
}
