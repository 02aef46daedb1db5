//! How the portal looks: the name, colour and logo of the organisation whose customers see it.
//!
//! The colour is used where it can be read: darker or lighter than it was set if it must be, for light and dark grounds.
//! It comes as a style sheet of its own and the logo as an image, from this server, since pages hold neither.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::ui::{Brand, Button, ConsolePage, Html, Panel, escaped, paragraph, plain_page};
use crate::auth::OpenSession;
use crate::domain::{PortalColour, PortalSettings, ReturnUrl};

/// The ratio of contrast that text needs: WCAG 2.2, success criterion 1.4.3.
const CONTRAST_MIN: f64 = 4.5;
/// The grounds in `console.css` on which links stand, those that are the hardest to read on first.
const LIGHT_GROUND: PortalColour = PortalColour([0xee, 0xf0, 0xf4]);
const DARK_GROUND: PortalColour = PortalColour([0x25, 0x29, 0x35]);
const WHITE: PortalColour = PortalColour([255; 3]);
const BLACK: PortalColour = PortalColour([0; 3]);
/// Steps from a colour to black or white.
const STEPS: u32 = 32;

/// The look of a session's pages.
pub(super) fn brand(open: &OpenSession) -> Brand {
    let looks = open.portal.clone().unwrap_or_default();
    let PortalSettings { name, colour, logo, .. } = looks;
    let tagged = |path: &str, bytes: &[u8]| {
        let tag = URL_SAFE_NO_PAD.encode(&Sha256::digest(bytes)[..6]);
        format!("/console/portal/{path}?v={tag}")
    };
    Brand {
        name: name.or_else(|| open.org_name.clone()).unwrap_or_default(),
        theme: colour.map(|colour| tagged("theme.css", &colour.0)),
        logo: logo.map(|logo| tagged("logo", logo.bytes())),
        back: return_url(open).map(|url| url.as_str().to_owned()),
    }
}

fn return_url(open: &OpenSession) -> Option<&ReturnUrl> {
    open.session.grants.portal.as_ref()?.return_url.as_ref()
}

/// What is shown once the portal was closed.
pub(super) fn closed(open: &OpenSession) -> ConsolePage {
    let mut parts = vec![paragraph("To see your webhooks again, open them where you came from.")];
    if let Some(back) = return_url(open) {
        let href = escaped(back.as_str());
        parts.push(Html(format!(
            "<p><a class=\"button\" href=\"{href}\" target=\"_top\" rel=\"noreferrer\">Back</a></p>"
        )));
    }
    let mut page = plain_page("Closed").section(Panel::html("", parts));
    page.brand = Some(Brand::named(brand(open).name));
    page
}

/// What is shown when the session of a portal has ended.
pub(super) fn ended() -> Response {
    let parts = vec![
        paragraph("This page of your webhooks has ended. Open it again where you came from."),
        Button::link("Sign in with an API key instead", "/console/sign-in", false),
    ];
    let mut page = plain_page("Ended").section(Panel::html("", parts));
    page.brand = Some(Brand::named("Webhooks".to_owned()));
    page.status(StatusCode::UNAUTHORIZED).into_response()
}

/// A file that belongs to the look of a session.
pub(super) fn file(media_type: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=86400"));
    response
}

/// The style sheet with the colours of links and buttons, for light and dark.
pub(super) fn style(colour: PortalColour) -> String {
    let (light, dark) =
        (readable(colour, LIGHT_GROUND, BLACK), readable(colour, DARK_GROUND, WHITE));
    let (on_light, on_dark) = (text_on(light), text_on(dark));
    format!(
        ":root {{\n  --accent: light-dark({light}, {dark});\n  --on-accent: light-dark({on_light}, {on_dark});\n  \
         --bar: light-dark({light}, {dark});\n}}\n"
    )
}

/// The colour, moved towards black or white until it can be read on a ground.
fn readable(colour: PortalColour, ground: PortalColour, towards: PortalColour) -> PortalColour {
    let mixed = |step: u32| {
        let mut mixed = colour.0;
        for (part, target) in mixed.iter_mut().zip(towards.0) {
            let sum = u32::from(*part) * (STEPS - step) + u32::from(target) * step;
            *part = u8::try_from(sum / STEPS).unwrap_or(target);
        }
        PortalColour(mixed)
    };
    let mut steps = (0..=STEPS).map(mixed);
    steps.find(|mixed| contrast(*mixed, ground) >= CONTRAST_MIN).unwrap_or(towards)
}

/// Black or white, whichever can be read on a colour: one of them always can.
fn text_on(colour: PortalColour) -> PortalColour {
    if contrast(WHITE, colour) >= contrast(BLACK, colour) { WHITE } else { BLACK }
}

/// The ratio of contrast of two colours, as WCAG 2.2 defines it.
fn contrast(one: PortalColour, other: PortalColour) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

fn luminance(PortalColour(parts): PortalColour) -> f64 {
    let linear = |part: u8| {
        let part = f64::from(part) / 255.0;
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    };
    let [red, green, blue] = parts.map(linear);
    0.2126 * red + 0.7152 * green + 0.0722 * blue
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_can_be_read_on_every_ground() {
        assert!((contrast(BLACK, WHITE) - 21.0).abs() < 1e-9);
        let levels = [0, 51, 102, 153, 204, 255];
        let all = levels.iter().flat_map(|red| levels.iter().map(move |green| (*red, *green)));
        for (red, green) in all {
            for blue in levels {
                let colour = PortalColour([red, green, blue]);
                for (ground, towards) in [(LIGHT_GROUND, BLACK), (DARK_GROUND, WHITE)] {
                    let shown = readable(colour, ground, towards);
                    assert!(contrast(shown, ground) >= CONTRAST_MIN, "{colour} on {ground}");
                    assert!(contrast(text_on(shown), shown) >= CONTRAST_MIN, "on {shown}");
                }
            }
        }
    }

    #[test]
    fn a_colour_that_can_be_read_stays_as_it_is() {
        let style = style("#3545b0".parse().unwrap());
        assert!(style.contains("--accent: light-dark(#3545b0, #"), "{style}");
    }
}
