//! `/docs`: the API's document as an interactive page, from files in the binary. It needs no internet.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::LazyLock;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::http::error::ApiError;
use crate::http::extract::Id;
use crate::http::openapi::{Cacheable, HtmlPage, PageFile};
use crate::http::respond::WrittenAnswer;
use crate::http::static_answer::{StaticAnswer, Wanted};

/// Scripts, styles and requests from and to this server alone, and no script in the page. The viewer sets styles of
/// elements, and has its icons in data URLs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct FileName(&'static File);

#[derive(Debug)]
struct File {
    name: &'static str,
    answer: LazyLock<Result<StaticAnswer, ApiError>>,
}

static FILES: [File; 4] = [
    file_of("page.css", || StaticAnswer::new(CSS, &include_bytes!("../docs/page.css")[..])),
    file_of("page.js", || StaticAnswer::new(SCRIPT, &include_bytes!("../docs/page.js")[..])),
    file_of("swagger-ui.css", || {
        StaticAnswer::unpack(CSS, include_bytes!("../docs/swagger-ui.css.gz"))
    }),
    file_of("swagger-ui-bundle.js", || {
        StaticAnswer::unpack(SCRIPT, include_bytes!("../docs/swagger-ui-bundle.js.gz"))
    }),
];
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const fn file_of(name: &'static str, make: fn() -> Result<StaticAnswer, ApiError>) -> File {
    File { name, answer: LazyLock::new(make) }
}

static PAGE: LazyLock<Result<StaticAnswer, ApiError>> = LazyLock::new(|| {
    let page =
        StaticAnswer::new("text/html; charset=utf-8", &include_bytes!("../docs/page.html")[..]);
    page.map(|page| page.with_policy(POLICY))
});

/// `GET /docs`.
pub(in crate::http) async fn page(
    wanted: Wanted,
) -> Result<WrittenAnswer<Cacheable<HtmlPage>>, ApiError> {
    answer(&PAGE, &wanted).map(Into::into)
}

/// `GET /docs/{file}`: a script or style of the page.
pub(in crate::http) async fn file(
    Id(FileName(file)): Id<FileName>,
    wanted: Wanted,
) -> Result<WrittenAnswer<Cacheable<PageFile>>, ApiError> {
    answer(&file.answer, &wanted).map(Into::into)
}

fn answer(
    made: &Result<StaticAnswer, ApiError>,
    wanted: &Wanted,
) -> Result<axum::response::Response, ApiError> {
    let made = made.as_ref().map_err(|error| ApiError::internal(error.to_string()))?;
    made.answer(wanted)
}

impl FromStr for FileName {
    type Err = ApiError;

    fn from_str(name: &str) -> Result<Self, ApiError> {
        FILES.iter().find(|file| file.name == name).map(Self).ok_or(ApiError::NotFound)
    }
}

impl JsonSchema for FileName {
    fn schema_name() -> Cow<'static, str> {
        "FileName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = FILES.iter().map(|file| file.name).collect();
        json_schema!({"type": "string", "enum": names, "description": "A file of the page."})
    }
}
