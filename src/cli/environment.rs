//! Settings from the environment: `HOOKGATE_PORT` wins over `PORT`, an empty variable means unset, and a secret may be
//! in a file that a variable names, as container platforms provide them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{Arg, Command};

/// What may stand before the name of each variable.
const PREFIX: &str = "HOOKGATE_";

/// Settings that hold secrets. `<NAME>_FILE` names a file with the value.
const SECRETS: [&str; 7] = [
    "BOOTSTRAP_API_KEY",
    "BOOTSTRAP_OPERATOR_KEY",
    "DATABASE_LISTEN_URL",
    "DATABASE_READ_URL",
    "DATABASE_URL",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "SECRETS_KEY",
];

/// Why a setting cannot be read from the environment.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// It is given twice.
    #[error("{0} and {0}_FILE are both set; unset one of them")]
    Twice(&'static str),
    /// Its file cannot be read.
    #[error("cannot read {}, which {name}_FILE names: {error}", .path.display())]
    File {
        /// The setting.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

/// The command, with each setting read from the variable that counts.
///
/// # Errors
/// When the file of a secret cannot be read.
pub fn with_environment(command: Command) -> Result<Command, EnvironmentError> {
    let mut files = Vec::new();
    for name in SECRETS {
        if let Some(text) = read_file(name)? {
            files.push((name, text));
        }
    }
    Ok(with_variables(command, &files))
}

fn with_variables(command: Command, files: &[(&str, String)]) -> Command {
    command
        .mut_args(|arg| with_variable(arg, files))
        .mut_subcommands(|command| with_variables(command, files))
}

fn with_variable(arg: Arg, files: &[(&str, String)]) -> Arg {
    let Some(name) = arg.get_env().and_then(OsStr::to_str).map(str::to_owned) else { return arg };
    let arg = match variable(&name) {
        Some((used, _)) => arg.env(used),
        // Set, but empty.
        None if std::env::var_os(&name).is_some() => arg.env(Resettable::Reset),
        None => arg,
    };
    match files.iter().find(|(of, _)| *of == name) {
        Some((_, text)) => arg.default_value(text.clone()).hide_default_value(true),
        None => arg,
    }
}

/// The content of the file that `<name>_FILE` names, without the end of its last line.
fn read_file(name: &'static str) -> Result<Option<String>, EnvironmentError> {
    let Some((_, path)) = variable(&format!("{name}_FILE")) else { return Ok(None) };
    if variable(name).is_some() {
        return Err(EnvironmentError::Twice(name));
    }
    let path = PathBuf::from(path);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) => Err(EnvironmentError::File { name, path, error }),
    }
}

/// The text of the variable of this name that counts, prefixed or not; `None` when it is unset or empty.
pub(super) fn variable_text(name: &str) -> Option<String> {
    variable(name)?.1.into_string().ok()
}

/// The text of the prefixed variable of this name; `None` when it is unset or empty.
pub(super) fn own_variable_text(name: &str) -> Option<String> {
    let value = std::env::var(format!("{PREFIX}{name}")).ok()?;
    Some(value).filter(|value| !value.is_empty())
}

/// The variable of this name that counts, prefixed or not, and its value; `None` when it is unset or empty.
fn variable(name: &str) -> Option<(String, OsString)> {
    let names = [format!("{PREFIX}{name}"), name.to_owned()];
    let set = names.into_iter().find_map(|name| {
        Some((std::env::var_os(&name)?, name)).filter(|(value, _)| !value.is_empty())
    });
    set.map(|(value, name)| (name, value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_secret_of_a_server_may_be_in_a_file() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        let hidden = serve.get_arguments().filter(|arg| arg.is_hide_env_values_set());
        let mut names: Vec<_> = hidden.filter_map(|arg| arg.get_env()?.to_str()).collect();
        names.sort_unstable();
        assert_eq!(names, SECRETS);
    }
}
