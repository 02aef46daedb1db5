//! The command line: `serve`, and commands that work on the store directly.
//!
//! Answers go to standard output, as text for people or as one JSON value for programs; log lines
//! and errors go to standard error. The exit code is 0 on success, 1 on failure, 2 for a command line that
//! cannot be parsed.

mod account;
mod api;
mod audit;
mod backup;
mod completions;
mod dead_letter;
mod delivery;
mod doctor;
mod endpoint;
mod endpoint_update;
mod environment;
mod erasure;
mod event;
mod event_tail;
mod health;
mod journal;
mod key;
mod listen;
mod migrate;
mod openapi;
mod org;
mod output;
mod printable;
mod profile;
mod profiles;
mod replay;
mod seed;
mod serve;
mod server;
mod server_events;
mod settings;
mod signals;
mod store;
mod target;
mod usage;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use environment::{EnvironmentError, with_environment};
pub use output::print_line;
pub use signals::Signals;

use crate::config::Config;

/// Self-hosted, multi-tenant event ingest and webhook delivery
#[derive(Parser)]
#[command(name = "hookgate", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What `config show` shows.
    #[arg(skip)]
    settings: Vec<settings::Setting>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server; without DATABASE_URL it needs only a directory
    Serve(Box<Config>),
    /// Migrate the database schema up or down, or show its state
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Manage organisations
    #[command(subcommand)]
    Org(org::OrgCommand),
    /// Manage API keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Show which accounts were active and what one has sent, or erase it
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Show the organisations with the most events in a month, or with a key what its organisation used
    Usage(usage::UsageArgs),
    /// Show who changed what
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Manage endpoints
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// Post, list, show, replay, follow and erase events
    #[command(subcommand)]
    Event(event::EventCommand),
    /// List, replay and discard dead letters
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetterCommand),
    /// Inspect deliveries, and retry, replay or cancel one
    #[command(subcommand)]
    Delivery(delivery::DeliveryCommand),
    /// Watch erasures
    #[command(subcommand)]
    Erasure(erasure::ErasureCommand),
    /// Watch replays of dead letters
    #[command(subcommand)]
    Replay(replay::ReplayCommand),
    /// Inspect the journal, and store again what the database lacks
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// Back up the journal and the database, beside a running server
    Backup(Box<backup::BackupArgs>),
    /// Fill a store with made-up events, to try and measure reading
    Seed(Box<seed::SeedArgs>),
    /// Call the API of a server and print its answer
    Api(Box<api::ApiArgs>),
    /// Keep the URLs and API keys of servers by name, for the commands that call one
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// Ask a server whether it takes events; fails when it does not
    Health(health::HealthArgs),
    /// Examine what a server of these settings would work with; fails when it would not work
    Doctor(Box<doctor::DoctorArgs>),
    /// Show settings
    #[command(subcommand)]
    Config(settings::ConfigCommand),
    /// Print a script that completes this command line in a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page: `hookgate man | man -l -`
    Man,
    /// Print the OpenAPI document of the HTTP API
    Openapi,
    /// Receive webhooks, print each, and say whether its signature is valid
    Listen(listen::ListenArgs),
}

impl Cli {
    /// Parses the command line and the environment. Ends the process when they are wrong, and after `--help`.
    pub fn read() -> Self {
        let command = with_environment(Self::command());
        let command = command.unwrap_or_else(|error| {
            Self::command().error(ErrorKind::ValueValidation, error).exit()
        });
        let mut command = command;
        let matches = command.get_matches_mut();
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        cli.settings = settings::shown(&command, &matches);
        cli
    }
}

/// Why a command failed, worded for the person who ran it.
pub type CliError = Box<dyn std::error::Error + Send + Sync>;

/// Runs the command.
pub async fn run(cli: Cli) -> Result<(), CliError> {
    match cli.command {
        Command::Serve(config) => Box::pin(serve::run(&config)).await,
        Command::Migrate(command) => migrate::run(command).await,
        Command::Org(command) => org::run(command).await,
        Command::Key(command) => key::run(command).await,
        Command::Account(command) => account::run(command).await,
        Command::Usage(args) => usage::run(args).await,
        Command::Audit(command) => audit::run(command).await,
        Command::Endpoint(command) => endpoint::run(command).await,
        Command::Event(command) => event::run(command).await,
        Command::DeadLetter(command) => dead_letter::run(command).await,
        Command::Delivery(command) => delivery::run(command).await,
        Command::Erasure(command) => erasure::run(command).await,
        Command::Replay(command) => replay::run(command).await,
        Command::Journal(command) => journal::run(command).await,
        Command::Backup(args) => backup::run(*args).await,
        Command::Seed(args) => seed::run(*args).await,
        Command::Api(args) => api::run(*args).await,
        Command::Profile(command) => profile::run(command),
        Command::Health(args) => health::run(args).await,
        Command::Doctor(args) => doctor::run(*args).await,
        Command::Config(command) => settings::run(command, cli.settings),
        Command::Completions(args) => completions::complete(&args, Cli::command()),
        Command::Man => completions::manual(Cli::command()),
        Command::Openapi => openapi::run(),
        Command::Listen(args) => listen::run(args).await,
    }
}
