//! Lists of web origins, for `CORS_ORIGINS`.

use std::str::FromStr;
use std::sync::Arc;

use url::Url;

/// At most 64 origins such as `https://app.example.com`, or every origin, written `*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origins {
    /// Only these. An empty list turns cross-origin requests off.
    These(Arc<[String]>),
    /// Every origin.
    All,
}

/// Maximum origins: every cross-origin request is compared with the list.
const COUNT_MAX: usize = 64;

impl Origins {
    /// Whether pages of this origin may call the API.
    pub fn contain(&self, origin: &str) -> bool {
        match self {
            Self::These(origins) => origins.iter().any(|known| known == origin),
            Self::All => true,
        }
    }

    /// Whether no origin may call the API.
    pub fn are_none(&self) -> bool {
        matches!(self, Self::These(origins) if origins.is_empty())
    }
}

impl FromStr for Origins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "*" {
            return Ok(Self::All);
        }
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let origins = words.map(origin).collect::<Result<Vec<_>, _>>()?;
        if origins.len() > COUNT_MAX {
            return Err(format!("must list at most {COUNT_MAX} origins"));
        }
        Ok(Self::These(origins.into()))
    }
}

/// Parses an origin in the spelling that browsers send.
fn origin(text: &str) -> Result<String, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let origin = url.map(|url| url.origin().ascii_serialization());
    origin.filter(|origin| origin == text).ok_or_else(|| {
        format!("{text:?} is not an origin; write origins such as https://app.example.com, or *")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_listed_as_browsers_send_them() {
        let origins: Origins = "https://a.example, http://localhost:5173,".parse().unwrap();
        assert!(origins.contain("https://a.example") && origins.contain("http://localhost:5173"));
        for other in ["https://a.example:444", "http://a.example", "https://b.a.example", "null"] {
            assert!(!origins.contain(other), "{other}");
        }
        assert!("".parse::<Origins>().unwrap().are_none());
        assert!("*".parse::<Origins>().unwrap().contain("null"));
        let many = vec!["https://a.example"; 65].join(",");
        for bad in ["a.example", "https://a.example/", "https://A.example", "null", &many] {
            assert!(bad.parse::<Origins>().is_err(), "{bad}");
        }
    }
}
