//! Settings from the environment: `HOOKGATE_PORT` wins over `PORT`, and an empty variable means unset.

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::{Arg, Command};

/// What may stand before the name of each variable.
const PREFIX: &str = "HOOKGATE_";

/// The command, with each setting read from the variable that counts.
pub(super) fn with_environment(command: Command) -> Command {
    command.mut_args(with_variable).mut_subcommands(with_environment)
}

fn with_variable(arg: Arg) -> Arg {
    let Some(name) = arg.get_env().and_then(OsStr::to_str).map(str::to_owned) else { return arg };
    let prefixed = format!("{PREFIX}{name}");
    if value(&prefixed).is_some_and(|value| !value.is_empty()) {
        return arg.env(prefixed);
    }
    if value(&name).is_some_and(|value| value.is_empty()) {
        return arg.env(Resettable::Reset);
    }
    arg
}

fn value(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}
