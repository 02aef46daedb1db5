//! Commands that call the API of a server: `api`, and the commands on events, dead letters and endpoints that tenants
//! have without the store.

use std::io::{self, Read};

use clap::Args;
use reqwest::Method;
use serde_json::Value;
use serde_json::value::RawValue;

use super::CliError;
use super::output::{Output, print_line, table};
use super::printable::{indented, printable, printable_line};
use super::target::TargetArgs;

/// The server to call, and with which key.
#[derive(Args, Debug)]
pub(super) struct ServerArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// How the answer is written
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Which rows of a list are printed.
#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Of events of this type, such as user.login or user.*
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// From this time on
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The oldest first
    #[arg(long)]
    oldest_first: bool,
    /// Rows at most
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Where the list goes on
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// What `api` takes.
#[derive(Args, Debug)]
pub(super) struct ApiArgs {
    /// The method, such as GET
    method: Method,
    /// The path with its query, such as '/api/dead-letters?limit=10'
    path: String,
    /// The JSON body; - reads it from standard input
    body: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Calls the API and prints what it answers.
pub(super) async fn run(args: ApiArgs) -> Result<(), CliError> {
    let body = args.body.as_deref().map(json_argument).transpose()?;
    args.server.print(args.method, &args.path, body.map(|body| body.get().to_owned())).await
}

/// A JSON value of the command line, byte for byte; `-` is standard input.
pub(super) fn json_argument(text: &str) -> Result<Box<RawValue>, CliError> {
    let mut read = String::new();
    let text = if text == "-" {
        io::stdin().read_to_string(&mut read)?;
        &read
    } else {
        text
    };
    serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}").into())
}

/// A path with these parameters, those without a value left out.
pub(super) fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    format!("{path}?{}", query.finish())
}

impl ServerArgs {
    /// Calls the API. The answer keeps the order of its fields and the digits of its numbers.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Box<RawValue>, CliError> {
        Ok(self.target.server()?.call(method, path, body).await?)
    }

    /// Calls the API, and prints the answer as it is, or indented for people.
    pub(super) async fn print(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<(), CliError> {
        let answer = self.call(method, path, body).await?;
        if answer.get() != "null" {
            self.output.write(&answer, |answer| printable(&indented(answer.get())))?;
        }
        Ok(())
    }
}

impl ListArgs {
    /// Gets a page of the list at `path`, with these parameters besides, and prints these fields of its rows for people.
    pub(super) async fn print(
        self,
        path: &str,
        more: &[(&str, Option<String>)],
        fields: &[&str],
    ) -> Result<(), CliError> {
        let Self { event_type, since, until, oldest_first, limit, cursor, server } = self;
        let own = [
            ("type", event_type),
            ("since", since),
            ("until", until),
            ("order", oldest_first.then(|| "asc".to_owned())),
            ("limit", Some(limit.to_string())),
            ("cursor", cursor),
        ];
        let path = with_query(path, &[more, &own[..]].concat());
        let answer = server.call(Method::GET, &path, None).await?;
        if let (Output::Text, Some(cursor)) =
            (server.output, print_page(&answer, server.output, fields)?)
        {
            print_line(&format!("more: --cursor {}", printable_line(&cursor)))?;
        }
        Ok(())
    }
}

/// Prints a page as it is, or these fields of its rows for people. Returns where the list goes on.
pub(super) fn print_page(
    page: &RawValue,
    output: Output,
    fields: &[&str],
) -> Result<Option<String>, CliError> {
    let read: Value = serde_json::from_str(page.get())?;
    let rows = read["data"].as_array().map_or(&[][..], Vec::as_slice);
    output.write(&page, |_| table(rows, fields))?;
    Ok(read["next_cursor"].as_str().map(str::to_owned))
}
