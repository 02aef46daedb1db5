//! Dead letters: the list with what is done to many at once, and one.

use axum::response::Response;

use super::replays::selecting;
use crate::api::dead_letters;
use crate::api::views::DeadLetterReplay;
use crate::domain::{DeadLetter, DeadLetterId, ErrorClass, Scope};
use crate::http::console::explain;
use crate::http::console::failure::{ConsoleError, see_other};
use crate::http::console::lists::{self, Asked};
use crate::http::console::posted::PostedForm;
use crate::http::console::ui::{
    Button, Cell, ConsoleForm, ConsolePage, DataTable, FactList, FormField, Html, Panel, Tone,
    paragraph,
};
use crate::http::console::visitor::Visitor;
use crate::http::extract::Id;
use crate::http::routes::dead_letters::DeadLetterQuery;

const PATH: &str = "/console/dead-letters";

/// `GET /console/dead-letters`.
pub(in crate::http::console) async fn list(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    let reach = visitor.reach(Scope::EventsRead)?;
    let Asked { filter, page: request, list, violations } =
        lists::asked::<DeadLetterQuery>(&visitor)?;
    let page = visitor
        .page("Dead letters")
        .lead("Deliveries that were given up, and events that the database rejected.");
    let page = lists::with_filters(page, filters(&visitor), &violations);
    if !violations.is_empty() {
        return Ok(page);
    }
    let filter = filter.filter();
    let found = dead_letters::list(visitor.app.replica_reads(), reach, &filter, request).await?;
    let is_empty = found.data.is_empty();
    let (first, next) = visitor.list_pages(&list, found.next_cursor);
    let columns = ["Event type", "Endpoint", "Reason", "Last error", "Given up", "Replayed"];
    let table = DataTable::new("Dead letters", &columns)
        .rows(found.data.iter().map(row))
        .pages(first, next)
        .empty(
            "No dead letter matches",
            "Deliveries come here when every attempt of their schedule has failed.",
        );
    let mut page = page.section(table.html());
    if visitor.is_portal() && visitor.parameter("endpoint_id").is_none() {
        // Many at once are those of one endpoint.
        return Ok(page);
    }
    if visitor.may(Scope::EndpointsManage) && !is_empty {
        page = page.section(together(&visitor));
    }
    if visitor.is_portal() {
        return Ok(page);
    }
    Ok(page.section(super::replays::latest(&visitor).await?))
}

fn filters(visitor: &Visitor) -> ConsoleForm {
    let value = |name| visitor.parameter(name).unwrap_or_default();
    let reasons = ["exhausted", "gone", "unstorable", "expired"];
    let classes: Vec<&str> = ErrorClass::ALL.iter().map(|class| class.as_str()).collect();
    let replayed = FormField::choice("replayed", "Replayed", "Either", &["true", "false"]);
    ConsoleForm::filters(PATH)
        .field(FormField::choice("reason", "Reason", "Any", &reasons).value(value("reason")))
        .field(
            FormField::line("type", "Event type").value(value("type")).hint("user.login or user.*"),
        )
        .field(
            FormField::choice("error_class", "Last error", "Any", &classes)
                .value(value("error_class")),
        )
        .field(replayed.value(value("replayed")))
        .field(FormField::line("endpoint_id", "Endpoint id").value(value("endpoint_id")))
        .field(FormField::time("since", "From").value(value("since")))
        .field(FormField::time("until", "Until").value(value("until")))
}

fn row(letter: &DeadLetter) -> Vec<Cell> {
    let name = letter.event_type.clone().unwrap_or_else(|| "rejected event".to_owned());
    let error = letter.error_class.map(|class| class.as_str().to_owned());
    vec![
        Cell::link(format!("{PATH}/{}", letter.id), name),
        Cell::maybe(letter.endpoint_url.as_deref()),
        Cell::badge(Tone::Bad, &*letter.reason),
        Cell::maybe(error),
        Cell::time(letter.created_at),
        Cell::maybe_time(letter.replayed_at),
    ]
}

/// What is done to every dead letter that the filters name.
fn together(visitor: &Visitor) -> Html {
    let selected = |button: Button| {
        let chosen = selecting().filter_map(|name| Some((name, visitor.parameter(name)?)));
        chosen.fold(button, |button, (name, value)| button.with(name, value))
    };
    let csrf = visitor.csrf();
    let is_filtered = selecting().any(|name| visitor.parameter(name).is_some());
    let whose =
        if is_filtered { "every dead letter that the filters name" } else { "every dead letter" };
    // None is replayed twice together with others.
    let replay = (visitor.parameter("replayed").as_deref() != Some("true"))
        .then(|| Button::new("Replay all", format!("{PATH}/replay"), &csrf));
    let discard = Button::new("Discard all", format!("{PATH}/discard"), &csrf);
    let parts = vec![
        paragraph(&format!("Acts on {whose}, not on this page alone, in the background.")),
        replay.map(|replay| selected(replay.main()).html()).unwrap_or_default(),
        selected(discard.danger(&format!("Deletes {whose} for good. Their deliveries stay dead.")))
            .html(),
    ];
    Panel::html("All together", parts)
}

/// `GET /console/dead-letters/{id}`.
pub(in crate::http::console) async fn one(
    visitor: Visitor,
    Id(id): Id<DeadLetterId>,
) -> Result<ConsolePage, ConsoleError> {
    let reach = visitor.reach(Scope::EventsRead)?;
    let look = |subsystems| {
        let reach = reach.clone();
        async move { dead_letters::one(&subsystems, reach, id).await }
    };
    let letter = visitor.app.look_up(look).await?;
    let title = letter.event_type.clone().unwrap_or_else(|| "Rejected event".to_owned());
    let mut page = visitor.page(title).crumb(PATH, "Dead letters");
    if visitor.may(Scope::EndpointsManage) {
        let csrf = visitor.csrf();
        let replay = Button::new("Replay", format!("{PATH}/{id}/replay"), &csrf).main();
        let discard = Button::new("Discard", format!("{PATH}/{id}/discard"), &csrf);
        let discard =
            discard.danger("The dead letter is deleted for good. Its delivery stays dead.");
        page = page.action(replay.html()).action(discard.html());
    }
    let mut facts = FactList::new("")
        .with("Reason", Cell::badge(Tone::Bad, &*letter.reason))
        .with("Meaning", Cell::text(explain::dead(&letter.reason)))
        .with_some("Detail", Cell::maybe(letter.detail.as_deref()));
    if let Some(class) = letter.error_class {
        let explained = explain::attempt(class, letter.status_code);
        facts = facts.with("What happened", Cell::text(explained.what));
        facts = facts.with("What to do", Cell::text(explained.remedy));
    }
    let event = format!("/console/events/{}", letter.event_id);
    let delivery = letter.delivery_id.map(|id| Cell::link(format!("/console/deliveries/{id}"), id));
    let endpoint = letter.endpoint_id.map(|id| {
        let url = letter.endpoint_url.clone().unwrap_or_else(|| id.to_string());
        Cell::link(format!("/console/endpoints/{id}"), url)
    });
    facts = facts
        .with("Event", Cell::link(event, letter.event_id))
        .with_some("Delivery", delivery.unwrap_or(Cell::None))
        .with_some("Endpoint", endpoint.unwrap_or(Cell::None))
        .with_some(
            "Attempts",
            letter.attempt_count.map_or(Cell::None, |count| Cell::number(count.into())),
        )
        .with("Given up", Cell::time(letter.created_at))
        .with_some("Replayed", Cell::maybe_time(letter.replayed_at));
    Ok(page.section(facts.html()))
}

/// `POST /console/dead-letters/{id}/replay`.
pub(in crate::http::console) async fn replay(
    Id(id): Id<DeadLetterId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    Ok(match dead_letters::replay(visitor.app.subsystems(), reach, id, &by).await? {
        DeadLetterReplay::Delivery(delivery) => {
            see_other(&format!("/console/deliveries/{}?done=replayed", delivery.id))
        }
        DeadLetterReplay::Stored(stored) => {
            see_other(&format!("/console/events/{}?done=replayed", stored.event_id))
        }
    })
}

/// `POST /console/dead-letters/{id}/discard`.
pub(in crate::http::console) async fn discard(
    Id(id): Id<DeadLetterId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    dead_letters::delete(visitor.app.subsystems(), reach, id, &by).await?;
    Ok(see_other(&format!("{PATH}?done=discarded")))
}
