//! Settings of an endpoint that share one JSON column of the store.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{InboxSettings, WebhookFormat};

/// Settings of an endpoint beyond those with a column of their own. The store keeps them as one JSON
/// object, so a new setting is a field here with its default and needs no migration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConfig {
    /// How an inbox gives events out; nothing is set of other endpoints.
    #[serde(flatten)]
    pub inbox: InboxSettings,
    /// The format of its webhooks.
    #[serde(skip_serializing_if = "WebhookFormat::is_standard")]
    pub format: WebhookFormat,
    /// Settings of a newer version, which this one does not know and keeps as they are.
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl EndpointConfig {
    /// The settings of a new endpoint. Each is a parameter, so that a caller which forgets one does not
    /// compile.
    pub fn new(inbox: InboxSettings, format: WebhookFormat) -> Self {
        Self { inbox, format, unknown: Map::new() }
    }
}

/// The JSON object that the store keeps.
impl fmt::Display for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for EndpointConfig {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_settings_survive_a_round_trip() {
        let text = r#"{"newer":{"a":[1,null]}}"#;
        assert_eq!(text.parse::<EndpointConfig>().unwrap().to_string(), text);
    }

    #[test]
    fn settings_of_inboxes_are_fields_of_the_object() {
        let text = r#"{"max_receives":3,"newer":1}"#;
        let config: EndpointConfig = text.parse().unwrap();
        assert_eq!(
            config.inbox,
            InboxSettings { max_receives: Some(3), ..InboxSettings::default() }
        );
        assert_eq!(config.to_string(), text);
    }

    #[test]
    fn format_is_kept_unless_it_is_the_default() {
        let config = EndpointConfig::new(InboxSettings::default(), WebhookFormat::CloudEvents);
        assert_eq!(config.to_string(), r#"{"format":"cloudevents"}"#);
        assert_eq!(config.to_string().parse::<EndpointConfig>().unwrap(), config);
    }

    #[test]
    fn no_settings_are_an_empty_object() {
        assert_eq!(EndpointConfig::default().to_string(), "{}");
        assert_eq!("{}".parse::<EndpointConfig>().unwrap(), EndpointConfig::default());
    }
}
