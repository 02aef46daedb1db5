//! `hookgate config show`: the settings that count, and where each comes from.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, Subcommand};
use serde::Serialize;
use url::Url;

use super::CliError;
use super::output::{Output, lines};
use crate::config::Config;

/// What is shown in place of a secret.
const MASK: &str = "***";

#[derive(Subcommand, Debug)]
pub(super) enum ConfigCommand {
    /// Print every setting of `serve` with the value that counts and where it comes from; secrets are masked
    Show(Box<ShowArgs>),
}

/// What the command takes: what `serve` takes, and how to answer.
#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// Only settings that do not have their default
    #[arg(long)]
    changed: bool,
    /// How the answer is written
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    _config: Config,
}

/// A setting with the value that counts.
#[derive(Serialize, Debug)]
pub(super) struct Setting {
    name: String,
    /// `None` when it is unset.
    value: Option<String>,
    /// `default`, `environment`, `command line` or `unset`.
    source: &'static str,
}

/// Prints the settings.
pub(super) fn run(command: ConfigCommand, settings: Vec<Setting>) -> Result<(), CliError> {
    let ConfigCommand::Show(args) = command;
    let is_shown =
        |setting: &Setting| !args.changed || !matches!(setting.source, "default" | "unset");
    let settings: Vec<_> = settings.into_iter().filter(is_shown).collect();
    args.output.write(&settings, |settings| lines(settings, line))?;
    Ok(())
}

fn line(setting: &Setting) -> String {
    let Setting { name, value, source } = setting;
    match value {
        Some(value) => format!("{name}={value}  ({source})"),
        None => format!("{name}  ({source})"),
    }
}

/// The settings that `hookgate config show` was given; none for other commands.
pub(super) fn shown(command: &Command, matches: &ArgMatches) -> Vec<Setting> {
    let path = ["config", "show"];
    let (mut command, mut matches) = (command, matches);
    for name in path {
        let Some(inner) = command.find_subcommand(name).zip(matches.subcommand_matches(name))
        else {
            return Vec::new();
        };
        (command, matches) = inner;
    }
    command.get_arguments().filter_map(|arg| setting(arg, matches)).collect()
}

/// A setting; `None` for an argument without a variable.
fn setting(arg: &Arg, matches: &ArgMatches) -> Option<Setting> {
    let name = arg.get_env()?.to_str()?;
    let name = name.strip_prefix("HOOKGATE_").unwrap_or(name).to_owned();
    let id = arg.get_id().as_str();
    let source = match matches.value_source(id) {
        Some(ValueSource::DefaultValue) => "default",
        Some(ValueSource::EnvVariable) => "environment",
        Some(_) => "command line",
        None => "unset",
    };
    let given = matches.get_raw(id).map(|values| {
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        values.join(",")
    });
    let value =
        given.map(|value| if arg.is_hide_env_values_set() { masked(&value) } else { value });
    Some(Setting { name, value, source })
}

/// A URL without its password and its query, which may hold another; anything else not at all.
fn masked(secret: &str) -> String {
    let Some(mut url) = Url::parse(secret).ok().filter(Url::has_host) else {
        return MASK.to_owned();
    };
    if url.password().is_some() && url.set_password(Some(MASK)).is_err() {
        return MASK.to_owned();
    }
    url.set_query(url.query().map(|_| MASK));
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_databases_named() {
        assert_eq!(masked("hg_0123"), "***");
        let url = masked("postgres://me:secret@db:5433/hooks?password=secret&sslmode=require");
        assert_eq!(url, "postgres://me:***@db:5433/hooks?***");
    }
}
