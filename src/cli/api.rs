//! Commands that call the API of a server: `api`, and the commands on events, dead letters and endpoints that tenants
//! have without the store.

use std::io::{self, Read};

use clap::Args;
use reqwest::{Method, Url};
use serde_json::Value;
use serde_json::value::RawValue;

use super::CliError;
use super::output::{Output, print_line, table};
use super::printable::{indented, printable, printable_line};
use super::server::ApiServer;

/// The server to call, and with which key.
#[derive(Args, Debug)]
pub(super) struct ServerArgs {
    /// Base URL of the server
    #[arg(long, value_name = "URL", env = "API_URL", default_value = "http://127.0.0.1:3000")]
    url: Url,
    /// The API key to call it with
    #[arg(long, value_name = "KEY", env = "API_KEY", hide_env_values = true)]
    api_key: String,
    /// How the answer is written
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
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
        let server = ApiServer::new(&self.url, self.api_key.clone())?;
        Ok(server.call(method, path, body).await?)
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

    /// Gets a page of a list, and prints these fields of its rows for people.
    pub(super) async fn print_list(&self, path: &str, fields: &[&str]) -> Result<(), CliError> {
        let answer = self.call(Method::GET, path, None).await?;
        let page: Value = serde_json::from_str(answer.get())?;
        let rows = page["data"].as_array().map_or(&[][..], Vec::as_slice);
        self.output.write(&answer, |_| table(rows, fields))?;
        if let (Output::Text, Some(cursor)) = (self.output, page["next_cursor"].as_str()) {
            print_line(&format!("more: --cursor {}", printable_line(cursor)))?;
        }
        Ok(())
    }
}
