//! The portal: what an organisation's own customers see and manage, each of one account, and how it looks to them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::{Scope, Scopes, Violation};

/// What a session of the portal may do, and where it leads back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortalGrant {
    /// Its scopes. Its key must have them as well.
    pub scopes: Scopes,
    /// Seconds from the making of its link until it ends.
    pub lasts_seconds: u64,
    /// Where its pages lead back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_url: Option<ReturnUrl>,
}

/// A page of the organisation's own, to which the portal leads back: `https`, or `http` on the reader's machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReturnUrl(String);

/// The origin of a page that may show the portal in a frame, as browsers write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FrameOrigin(String);

/// A colour, `#rrggbb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortalColour(pub [u8; 3]);

/// An image of a kind that holds no script, at most [`PortalLogo::BYTES_MAX`] long.
#[derive(Clone, PartialEq, Eq)]
pub struct PortalLogo {
    media_type: &'static str,
    bytes: Vec<u8>,
}

/// How the portal looks, and where it may be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortalSettings {
    /// What customers know the organisation by; `None` for its own name.
    pub name: Option<String>,
    /// The colour of links and buttons.
    pub colour: Option<PortalColour>,
    /// What stands at the top of each page.
    pub logo: Option<PortalLogo>,
    /// The origins whose pages may show it in a frame.
    pub allowed_origins: Vec<FrameOrigin>,
}

/// A change of them; `None` leaves a field unchanged.
#[derive(Clone, Debug, Default)]
pub struct PortalChange {
    /// Another name, or none.
    pub name: Option<Option<String>>,
    /// Another colour, or none.
    pub colour: Option<Option<PortalColour>>,
    /// Another logo, or none.
    pub logo: Option<Option<PortalLogo>>,
    /// Other origins.
    pub allowed_origins: Option<Vec<FrameOrigin>>,
}

impl PortalGrant {
    /// What a portal may offer.
    pub const SCOPES: Scopes =
        Scopes::of(Scope::EventsRead).with(Scope::EndpointsRead).with(Scope::EndpointsManage);
}

impl ReturnUrl {
    /// Maximum bytes.
    pub const BYTES_MAX: usize = 2048;
    /// What it must be, for people.
    pub const RULE: &'static str = "must be an https URL, or an http URL of this machine, of at most 2048 bytes, without user and password";

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ReturnUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|_| Self::RULE)?;
        let is_plain = url.username().is_empty() && url.password().is_none();
        if !is_plain || !is_protected(&url) || url.as_str().len() > Self::BYTES_MAX {
            return Err(Self::RULE);
        }
        Ok(Self(url.into()))
    }
}

impl FrameOrigin {
    /// How many an organisation may allow.
    pub const MAX: usize = 10;
    /// What it must be, for people.
    pub const RULE: &'static str = "must be an origin such as https://app.example.com: https, or http of this machine, without a path";

    /// The origin.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FrameOrigin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|_| Self::RULE)?;
        let origin = url.origin().ascii_serialization();
        // What is written must be the origin and no more, so that nobody believes that a path counts.
        if !is_protected(&url) || text.trim_end_matches('/') != origin {
            return Err(Self::RULE);
        }
        // They stand in a header, separated by spaces and semicolons; `*` would be a pattern.
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b":/.-_[]".contains(&byte);
        if origin.bytes().all(is_host) { Ok(Self(origin)) } else { Err(Self::RULE) }
    }
}

/// Whether what is sent to a URL is protected on its way: by TLS, or since it does not leave the reader's machine.
fn is_protected(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => Ipv4Addr::is_loopback(&address),
        Some(Host::Ipv6(address)) => Ipv6Addr::is_loopback(&address),
        None => return false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback)
}

impl PortalColour {
    /// What it must be, for people.
    pub const RULE: &'static str = "must be a colour such as #3545b0";
}

impl FromStr for PortalColour {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6);
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let [_, red, green, blue] = number.ok_or(Self::RULE)?.to_be_bytes();
        Ok(Self([red, green, blue]))
    }
}

impl fmt::Display for PortalColour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

impl PortalLogo {
    /// Maximum bytes of the image.
    pub const BYTES_MAX: usize = 32 * 1024;
    /// What it must be, for people.
    pub const RULE: &'static str =
        "must be a data URL in base64 of a PNG, JPEG or WebP image of at most 32 KiB";
    const KINDS: [&'static str; 3] = ["image/png", "image/jpeg", "image/webp"];

    /// Its media type.
    pub const fn media_type(&self) -> &'static str {
        self.media_type
    }

    /// The image.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the bytes are, whatever they are said to be.
    fn sniff(bytes: &[u8]) -> Option<&'static str> {
        let [png, jpeg, webp] = Self::KINDS;
        match bytes {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(png),
            [0xff, 0xd8, 0xff, ..] => Some(jpeg),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(webp),
            _ => None,
        }
    }
}

impl FromStr for PortalLogo {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_prefix("data:").ok_or(Self::RULE)?;
        let (said, encoded) = text.split_once(";base64,").ok_or(Self::RULE)?;
        if encoded.len() > Self::BYTES_MAX.div_ceil(3) * 4 {
            return Err(Self::RULE);
        }
        let bytes = STANDARD.decode(encoded).map_err(|_| Self::RULE)?;
        let media_type = Self::sniff(&bytes).filter(|is| *is == said).ok_or(Self::RULE)?;
        if bytes.len() > Self::BYTES_MAX {
            return Err(Self::RULE);
        }
        Ok(Self { media_type, bytes })
    }
}

impl fmt::Display for PortalLogo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "data:{};base64,{}", self.media_type, STANDARD.encode(&self.bytes))
    }
}

impl fmt::Debug for PortalLogo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortalLogo({}, {} bytes)", self.media_type, self.bytes.len())
    }
}

impl PortalSettings {
    /// Maximum bytes of the name.
    pub const NAME_BYTES_MAX: usize = 100;

    /// Checks a name.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check_name(name: &str) -> Result<(), Violation> {
        let is_long = name.trim().is_empty() || name.len() > Self::NAME_BYTES_MAX;
        if is_long || name.chars().any(char::is_control) {
            let rule = "must be 1 to 100 bytes without control characters";
            return Err(Violation::new("name", "length", rule));
        }
        Ok(())
    }
}

impl PortalChange {
    /// Applies the change.
    pub fn apply(&self, settings: &mut PortalSettings) {
        let Self { name, colour, logo, allowed_origins } = self;
        if let Some(name) = name {
            settings.name.clone_from(name);
        }
        if let Some(colour) = colour {
            settings.colour = *colour;
        }
        if let Some(logo) = logo {
            settings.logo.clone_from(logo);
        }
        if let Some(origins) = allowed_origins {
            settings.allowed_origins.clone_from(origins);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portal_leads_back_to_protected_pages_alone() {
        for url in
            ["https://app.example.com/hooks?x=1#a", "http://localhost:8080/", "http://[::1]/"]
        {
            assert_eq!(url.parse::<ReturnUrl>().unwrap().as_str(), url);
        }
        for url in [
            "http://app.example.com/",
            "javascript:alert(1)",
            "data:text/html,x",
            "/console",
            "https://user:secret@app.example.com/",
            "http://localhost.example.com/",
        ] {
            assert!(url.parse::<ReturnUrl>().is_err(), "{url}");
        }
    }

    #[test]
    fn frames_are_of_whole_origins() {
        for (text, origin) in [
            ("https://app.example.com", "https://app.example.com"),
            ("https://app.example.com:8443/", "https://app.example.com:8443"),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ] {
            assert_eq!(text.parse::<FrameOrigin>().unwrap().as_str(), origin);
        }
        for text in [
            "https://app.example.com/path",
            "https://*.example.com",
            "http://app.example.com",
            "*",
            "https://a.example;script-src *",
            "https://a.example https://b.example",
            "null",
        ] {
            assert!(text.parse::<FrameOrigin>().is_err(), "{text}");
        }
    }

    #[test]
    fn logo_is_what_its_bytes_say() {
        let data =
            |kind: &str, bytes: &[u8]| format!("data:{kind};base64,{}", STANDARD.encode(bytes));
        let png = data("image/png", b"\x89PNG\r\n\x1a\nrest");
        let logo: PortalLogo = png.parse().unwrap();
        assert_eq!((logo.media_type(), logo.to_string()), ("image/png", png));
        assert!(data("image/webp", b"RIFF\0\0\0\0WEBPVP8 ").parse::<PortalLogo>().is_ok());
        let mut large = b"\xff\xd8\xff".to_vec();
        large.resize(PortalLogo::BYTES_MAX, 0);
        assert!(data("image/jpeg", &large).parse::<PortalLogo>().is_ok());
        large.push(0);
        for text in [
            data("image/jpeg", &large),
            data("image/png", b"<svg onload=alert(1)>"),
            data("image/svg+xml", b"<svg/>"),
            data("image/jpeg", b"\x89PNG\r\n\x1a\nrest"),
            "https://example.com/logo.png".to_owned(),
        ] {
            assert!(text.parse::<PortalLogo>().is_err(), "{}", text.len());
        }
    }

    #[test]
    fn colours_are_six_digits() {
        assert_eq!("#3545B0".parse::<PortalColour>().unwrap().to_string(), "#3545b0");
        for text in ["3545b0", "#35b", "#3545bg", "red", "#+3545b", "#3545b0;"] {
            assert!(text.parse::<PortalColour>().is_err(), "{text}");
        }
    }
}
