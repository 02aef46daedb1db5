//! Commands on profiles: `profile`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use reqwest::Url;
use serde::Serialize;
use serde_json::json;

use super::CliError;
use super::output::{Output, table};
use super::profiles::{Profile, Profiles, base_url, profile_name};
use super::target::key_argument;

#[derive(Subcommand, Debug)]
pub(super) enum ProfileCommand {
    /// Add a profile, or replace the one with this name; the first one is used from then on
    #[command(group = ArgGroup::new("key").required(true))]
    Add {
        /// Its name: letters, digits, hyphens, underscores and dots
        #[arg(value_parser = profile_name)]
        name: String,
        /// Base URL of the server
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3000", value_parser = base_url)]
        url: Url,
        /// The API key; - reads it from standard input, and keeps it out of the shell's history
        #[arg(long, value_name = "KEY", group = "key")]
        api_key: Option<String>,
        /// A file whose first line is the API key, read whenever it is used
        #[arg(long, value_name = "FILE", group = "key")]
        api_key_file: Option<PathBuf>,
        #[command(flatten)]
        answer: AnswerArgs,
    },
    /// List profiles, without their keys
    List(AnswerArgs),
    /// Remove a profile with its key
    Remove(OneProfile),
    /// Use a profile wherever none is named
    Use(OneProfile),
}

/// A profile.
#[derive(Args, Debug)]
pub(super) struct OneProfile {
    /// The profile
    name: String,
    #[command(flatten)]
    answer: AnswerArgs,
}

/// How a command answers.
#[derive(Args, Debug)]
pub(super) struct AnswerArgs {
    /// How the answer is written
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// A profile as it is shown.
#[derive(Serialize)]
struct ProfileView<'a> {
    name: &'a str,
    url: &'a str,
    /// Where its key is: `here`, a file, or nowhere.
    api_key: &'a str,
    in_use: bool,
}

/// Runs a command on profiles.
pub(super) fn run(command: ProfileCommand) -> Result<(), CliError> {
    let mut all = Profiles::read()?;
    match command {
        ProfileCommand::Add { name, url, api_key, api_key_file, answer } => {
            let api_key = api_key.map(key_argument).transpose()?;
            let api_key_file = api_key_file.map(std::path::absolute).transpose()?;
            let profile = Profile { url: url.into(), api_key, api_key_file };
            all.profiles.insert(name.clone(), profile);
            let in_use = *all.current.get_or_insert_with(|| name.clone()) == name;
            all.write()?;
            let used = if in_use { ", which is used from now on" } else { "" };
            answer.write("added", &name, used)
        }
        ProfileCommand::List(AnswerArgs { output }) => {
            let views: Vec<_> = all.views().collect();
            let rows = views.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
            output.write(&views, |_| table(&rows, &["name", "url", "api_key", "in_use"]))?;
            Ok(())
        }
        ProfileCommand::Remove(OneProfile { name, answer }) => {
            if all.profiles.remove(&name).is_none() {
                return Err(all.unknown(&name));
            }
            all.current.take_if(|current| *current == name);
            all.write()?;
            answer.write("removed", &name, "")
        }
        ProfileCommand::Use(OneProfile { name, answer }) => {
            if !all.profiles.contains_key(&name) {
                return Err(all.unknown(&name));
            }
            all.current = Some(name.clone());
            all.write()?;
            answer.write("using", &name, "")
        }
    }
}

impl AnswerArgs {
    fn write(&self, done: &str, name: &str, more: &str) -> Result<(), CliError> {
        let answer = json!({ "name": name, "done": done });
        self.output.write(&answer, |_| format!("{done} {name}{more}"))?;
        Ok(())
    }
}

impl Profiles {
    fn views(&self) -> impl Iterator<Item = ProfileView<'_>> {
        self.profiles.iter().map(|(name, profile)| {
            let file = profile.api_key_file.as_deref().and_then(|file| file.to_str());
            let here = if profile.api_key.is_some() { "here" } else { "nowhere" };
            let in_use = self.current.as_ref() == Some(name);
            ProfileView { name, url: &profile.url, api_key: file.unwrap_or(here), in_use }
        })
    }
}
