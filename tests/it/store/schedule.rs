//! The schedule time: one for all servers of a database, and never set back.

use std::time::Duration;

use hookgate::domain::Timestamp;
use hookgate::runtime::Clock;
use hookgate::store::Schedule;

use super::fixtures::at;
use super::{Subject, on_both};

on_both!(schedule_time_survives_steps_and_restarts, first_schedule_time_is_that_of_the_reference,);

const DAY: i64 = 86_400_000_000;
const MINUTE: Duration = Duration::from_mins(1);

fn apart(one: Timestamp, other: Timestamp) -> Duration {
    one.since(other).max(other.since(one))
}

async fn start(subject: &Subject, clock: &Clock) -> Schedule {
    Schedule::start(subject.store.clone(), clock.clone()).await.unwrap()
}

async fn schedule_time_survives_steps_and_restarts(subject: &Subject) {
    let clock = Clock::shifted(0);
    let begin = clock.now();
    let mut schedule = start(subject, &clock).await;
    for step in [DAY, -DAY, -DAY] {
        clock.step_by(step);
        schedule.follow().await.unwrap();
        assert!(apart(clock.schedule(), begin) < MINUTE, "{step}: {}", clock.schedule());
    }
    // The database's clock goes back by a day under two servers.
    let other = Clock::shifted(DAY);
    let mut second = start(subject, &other).await;
    let back = format!("UPDATE store_clock SET ahead = ahead - {DAY}");
    subject.raw(&back, &back).await;
    schedule.follow().await.unwrap();
    second.follow().await.unwrap();
    assert!(apart(clock.schedule(), begin) < MINUTE, "{}", clock.schedule());
    if subject.is_postgres() {
        assert!(apart(other.schedule(), begin) < MINUTE, "{}", other.schedule());
    }
    // It goes back while no server runs, and the command line looks.
    subject.raw(&back, &back).await;
    let (again, command) = (Clock::shifted(0), Clock::shifted(0));
    Schedule::look(&subject.store, &command).await.unwrap();
    start(subject, &again).await;
    for clock in [again, command] {
        assert!(clock.schedule() >= begin, "{} after {begin}", clock.schedule());
    }
}

async fn first_schedule_time_is_that_of_the_reference(subject: &Subject) {
    let clock = Clock::manual(at(0));
    start(subject, &clock).await;
    let reference = if subject.is_postgres() { Clock::system().now() } else { at(0) };
    assert!(apart(clock.schedule(), reference) < MINUTE);
}
