//! The portal: how it looks, and links that open it.

use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::{PortalSettings, Scopes, Timestamp};

/// How the portal looks to an organisation's customers, and where it may be shown.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct PortalView {
    /// What customers know the organisation by; `null` for its own name.
    pub name: Option<String>,
    /// The colour of links and buttons, such as `#3545b0`; `null` for that of the console.
    pub colour: Option<String>,
    /// What stands at the top of each page: an image as a data URL.
    pub logo: Option<String>,
    /// The origins whose pages may show the portal in a frame.
    pub allowed_origins: Vec<String>,
}

/// A link that opens the portal once.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct PortalLinkView {
    /// The link. Whoever has it first is signed in.
    pub url: String,
    /// The account that its session is limited to.
    pub account_id: String,
    /// What its session may do.
    #[schemars(with = "Vec<String>")]
    pub scopes: Scopes,
    /// Whether its session only reads.
    pub read_only: bool,
    /// Where its pages lead back to.
    pub return_url: Option<String>,
    /// Until when it must be used.
    pub expires_at: Timestamp,
    /// Until when its session lasts.
    pub session_expires_at: Timestamp,
}

impl From<&PortalSettings> for PortalView {
    fn from(settings: &PortalSettings) -> Self {
        let PortalSettings { name, colour, logo, allowed_origins } = settings;
        let origins = allowed_origins.iter().map(|origin| origin.as_str().to_owned());
        Self {
            name: name.clone(),
            colour: colour.map(|colour| colour.to_string()),
            logo: logo.as_ref().map(ToString::to_string),
            allowed_origins: origins.collect(),
        }
    }
}
