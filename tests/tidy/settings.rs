//! The settings of `hookgate serve`, as its command line declares them.

use clap::{Arg, CommandFactory};
use hookgate::cli::Cli;

/// One setting.
pub(crate) struct Setting {
    /// The environment variable.
    pub(crate) variable: String,
    /// The flag, without hyphens.
    pub(crate) flag: String,
    /// The kind of value or its unit.
    pub(crate) value: String,
    /// The default; `None` if the setting is unset.
    pub(crate) default: Option<String>,
    /// The help text.
    pub(crate) help: String,
}

/// Flags for one run: as a variable, one would be forgotten and hold for every later run.
const ONE_RUN: [&str; 3] = ["help", "yes", "accept_older_store"];

/// Every setting, by section, in the order of `--help`.
pub(crate) fn sections() -> Vec<(String, Vec<Setting>)> {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    let mut sections: Vec<(String, Vec<Setting>)> = Vec::new();
    for argument in serve.get_arguments().filter(|a| !ONE_RUN.contains(&a.get_id().as_str())) {
        let heading = argument.get_help_heading().unwrap().to_owned();
        match sections.iter_mut().find(|(known, _)| *known == heading) {
            Some((_, settings)) => settings.push(setting(argument)),
            None => sections.push((heading, vec![setting(argument)])),
        }
    }
    sections
}

fn setting(argument: &Arg) -> Setting {
    let named = argument.get_env().is_some() && argument.get_long().is_some();
    assert!(named && argument.get_help().is_some(), "{}: variable, flag, help", argument.get_id());
    let default = argument.get_default_values().first();
    Setting {
        variable: argument.get_env().unwrap().to_str().unwrap().to_owned(),
        flag: argument.get_long().unwrap().to_owned(),
        value: value(argument),
        default: default.map(|value| value.to_str().unwrap().to_owned()),
        help: argument.get_help().unwrap().to_string(),
    }
}

/// The possible values, or else the placeholder of the help text.
fn value(argument: &Arg) -> String {
    let possible = argument.get_possible_values();
    if possible.is_empty() {
        let names = argument.get_value_names().unwrap_or_default();
        return names.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>().join(" ");
    }
    let names: Vec<String> =
        possible.iter().map(|value| format!("`{}`", value.get_name())).collect();
    names.join(", ")
}
