//! The server that a command calls, and its key: by flags, by the environment, or by a profile.
//!
//! A flag counts before everything. A profile that is named by `--profile` counts before the environment, as with the AWS
//! CLI; one that is merely in use counts after it. A profile's key goes to the profile's server alone. `API_URL` and `API_KEY`
//! without the prefix `HOOKGATE_` count only where no prefixed one and no profile does.

use std::io;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory};
use reqwest::Url;

use super::environment::{own_variable_text, variable_text};
use super::profiles::{Profiles, base_url};
use super::server::ApiServer;
use super::{Cli, CliError};

/// The server where none is named: one on this machine, by its default settings.
const LOCAL: &str = "http://127.0.0.1:3000";

/// The server to call, and with which key.
#[derive(Args, Debug)]
pub(super) struct TargetArgs {
    /// Base URL of the server; by default HOOKGATE_API_URL, that of a profile, or http://127.0.0.1:3000
    #[arg(long, value_name = "URL", value_parser = base_url)]
    pub(super) url: Option<Url>,
    /// The API key to call it with, - reads a line of standard input; by default HOOKGATE_API_KEY, or that of a profile
    #[arg(long, value_name = "KEY")]
    pub(super) api_key: Option<String>,
    /// The profile with the URL and the key; by default HOOKGATE_PROFILE, or the one in use
    #[arg(long, value_name = "NAME")]
    pub(super) profile: Option<String>,
}

/// What was found.
struct ChosenServer {
    url: Url,
    key: Option<String>,
}

impl TargetArgs {
    /// Whether the command line names a server, a key or a profile.
    pub(super) const fn is_given(&self) -> bool {
        self.url.is_some() || self.api_key.is_some() || self.profile.is_some()
    }

    /// Whether the command line or the environment does: more than that a profile is in use.
    pub(super) fn is_chosen(&self) -> bool {
        let names = ["API_URL", "API_KEY"];
        self.is_given()
            || names.iter().any(|name| variable_text(name).is_some())
            || own_variable_text("PROFILE").is_some()
    }

    /// The server to call. Without a key the process ends, as after any command line that lacks something.
    pub(super) fn server(&self) -> Result<ApiServer, CliError> {
        match self.server_if_any()? {
            Some(server) => Ok(server),
            None => missing_key("no API key"),
        }
    }

    /// The server to call; `None` without a key.
    pub(super) fn server_if_any(&self) -> Result<Option<ApiServer>, CliError> {
        let ChosenServer { url, key } = self.find()?;
        key.map(|key| ApiServer::new(&url, key)).transpose()
    }

    fn find(&self) -> Result<ChosenServer, CliError> {
        let is_named = self.profile.is_some();
        let variable = self.variables()?;
        let variable_url = variable("API_URL").map(|text| base_url(&text)).transpose();
        let variable_url = variable_url.map_err(|rule| format!("API_URL {rule}"))?;
        let url = self.url.clone().or(variable_url);
        let given = self.api_key.clone().map(key_argument).transpose()?;
        let variable_key = variable("API_KEY").filter(|_| given.is_none());
        let profile = match (is_named, &url, &given, &variable_key) {
            (false, _, _, Some(_)) | (false, Some(_), Some(_), None) => None,
            _ => Profiles::chosen(self.profile.as_deref())?,
        };
        let key = given.or(variable_key);
        let Some(profile) = profile else {
            return Ok(ChosenServer { url: url.map_or_else(|| LOCAL.parse(), Ok)?, key });
        };
        let own = profile.url.clone();
        let url = url.unwrap_or_else(|| own.clone());
        let key = match key {
            Some(key) => Some(key),
            None if url == own => profile.key()?,
            None => {
                let name = profile.name;
                return Err(
                    format!("the key of the profile {name} is for {own}, not for {url}").into()
                );
            }
        };
        Ok(ChosenServer { url, key })
    }

    /// The variables that count. Those without a prefix may be another product's: they do only where nothing else of
    /// ours names a server or a key.
    fn variables(&self) -> Result<fn(&str) -> Option<String>, CliError> {
        let is_ours = |name| own_variable_text(name).is_some();
        if self.profile.is_some() {
            Ok(|_| None)
        } else if is_ours("API_URL") || is_ours("API_KEY") || Profiles::chosen(None)?.is_some() {
            Ok(own_variable_text)
        } else {
            Ok(variable_text)
        }
    }
}

/// A key of the command line; `-` is a line of standard input.
pub(super) fn key_argument(text: String) -> Result<String, CliError> {
    if text != "-" {
        return Ok(text);
    }
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    match line.trim() {
        "" => Err("there is no API key on standard input".into()),
        key => Ok(key.to_owned()),
    }
}

/// Ends the process: a command needs an API key.
pub(super) fn missing_key(what: &str) -> ! {
    let how = "give --api-key, set HOOKGATE_API_KEY, or add a profile: hookgate profile add NAME --url URL --api-key -";
    Cli::command().error(ErrorKind::MissingRequiredArgument, format!("{what}: {how}")).exit()
}
