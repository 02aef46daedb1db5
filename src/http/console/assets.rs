//! The files that pages need, from the binary.

use std::str::FromStr;
use std::sync::LazyLock;

use axum::response::Response;

use crate::http::error::ApiError;
use crate::http::extract::Id;
use crate::http::static_answer::{StaticAnswer, Wanted};

/// A file.
#[derive(Clone, Copy, Debug)]
pub(super) struct AssetName(&'static Asset);

#[derive(Debug)]
struct Asset {
    name: &'static str,
    answer: LazyLock<Result<StaticAnswer, ApiError>>,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

static ASSETS: [Asset; 4] = [
    asset("console.css", || {
        StaticAnswer::new("text/css; charset=utf-8", &include_bytes!("assets/console.css")[..])
    }),
    asset("console.js", || StaticAnswer::new(SCRIPT, &include_bytes!("assets/console.js")[..])),
    asset("htmx.min.js", || StaticAnswer::unpack(SCRIPT, include_bytes!("assets/htmx.min.js.gz"))),
    asset("icon.svg", || {
        StaticAnswer::new("image/svg+xml", &include_bytes!("assets/icon.svg")[..])
    }),
];

const fn asset(name: &'static str, make: fn() -> Result<StaticAnswer, ApiError>) -> Asset {
    Asset { name, answer: LazyLock::new(make) }
}

/// `GET /console/assets/{file}`.
pub(super) async fn file(
    Id(AssetName(asset)): Id<AssetName>,
    wanted: Wanted,
) -> Result<Response, ApiError> {
    let made = asset.answer.as_ref().map_err(|error| ApiError::internal(error.to_string()))?;
    made.answer(&wanted)
}

impl FromStr for AssetName {
    type Err = ApiError;

    fn from_str(name: &str) -> Result<Self, ApiError> {
        ASSETS.iter().find(|asset| asset.name == name).map(Self).ok_or(ApiError::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::io::Read;

    use flate2::read::GzDecoder;
    use sha2::{Digest, Sha256};

    #[test]
    fn vendored_script_is_the_one_in_the_table() {
        let mut script = Vec::new();
        let packed = &include_bytes!("assets/htmx.min.js.gz")[..];
        GzDecoder::new(packed).read_to_end(&mut script).unwrap();
        let mut digest = String::new();
        for byte in Sha256::digest(&script) {
            write!(digest, "{byte:02x}").unwrap();
        }
        assert!(include_str!("assets/README.md").contains(&digest), "{digest}");
    }
}
