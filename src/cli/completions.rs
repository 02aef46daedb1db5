//! `hookgate completions` and `hookgate man`: what a shell and `man` know of the command line.

use std::io::{self, Write};

use clap::{Args, Command};
use clap_complete::Shell;

use super::CliError;

#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints a script that completes the command line in a shell.
pub(super) fn complete(args: &CompletionsArgs, mut command: Command) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "hookgate", &mut script);
    print(&script)
}

/// Prints a manual page with every command, in the format of `man`.
pub(super) fn manual(mut command: Command) -> Result<(), CliError> {
    // Gives every command its full name.
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    render_commands(&command, &mut page)?;
    print(&page)
}

/// The synopsis and the options of each command below this one.
fn render_commands(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let name = inner.get_bin_name().unwrap_or(inner.get_name());
        writeln!(page, ".SH {}", name.to_uppercase())?;
        let manual = clap_mangen::Man::new(inner.clone());
        manual.render_description_section(page)?;
        manual.render_synopsis_section(page)?;
        manual.render_options_section(page)?;
        render_commands(inner, page)?;
    }
    Ok(())
}

/// A closed pipe is not an error, so that `| head` works.
fn print(bytes: &[u8]) -> Result<(), CliError> {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
